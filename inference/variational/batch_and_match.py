"""Batch and match: a Normal with full covariance, fitted to gradients of the log density by closed-form updates."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from inference.runtime.interruption import asked
from inference.variational.fixed_draws import FixedDraws, pairs_of_draws
from zoo.errors import FitError

MOST = 250  # updates
FIRST, EVERY = 16, 8  # updates after which it is asked for the first time, and then again, whether this is the end
NEAR = 0.03  # distance to the limit, in standard deviations of means and as a share of these, at which it is
FEWEST = 0.5  # of the draws of an update may have no gradient
SHRINK, SHRINKS = 0.25, 20  # of the covariance where more have none, and how often in a row


class Matched(NamedTuple):
    """The Normal at the end.

    Attributes
    ----------
    mean, tril
        Over unconstrained vectors, shapes (size,) and (size, size).
    distance
        How far its means, in standard deviations, and these, as a share, are from their limit: half of the largest gap
        between averages over either half of the updates that count.
    bounds
        log p - log q averaged over the draws of each update.
    """

    mean: Tensor
    tril: Tensor
    distance: float
    bounds: list[float]


def updated(mean: Tensor, root: Tensor, v: Tensor, slope: Tensor, rate: float) -> tuple[Tensor, Tensor]:
    """One update of Normal(m, S), S = R R^T, by draws v and gradients g of log p there, (draws, size) each.

    The Normal that minimizes the score-based divergence over these draws plus 2 / rate KL(old, new) (Cai et al. 2024,
    algorithm 1). With means and covariances (1 / draws) of v and g, and w = rate / (1 + rate),

        U = rate cov g + w (mean g)(mean g)^T,    V = S + rate cov v + w (m - mean v)(m - mean v)^T,

    the new covariance solves S U S + S = V, and the new mean is (1 - w) m + w (S mean g + mean v).

    Returns
    -------
    tuple
        The new mean, and a factor of the new covariance.
    """
    weight = rate / (1 + rate)
    middle, pull = v.mean(0), slope.mean(0)
    # V = A A^T and U = B B^T, without forming V: A's columns are those of R, centred draws and the shift.
    scale = (rate / len(v)) ** 0.5
    wide = torch.cat([root.mT, scale * (v - middle), weight**0.5 * (mean - middle)[None]])
    left = torch.linalg.qr(wide).R.mT  # (size, size), V = L L^T
    steep = torch.cat([scale * (slope - pull), weight**0.5 * pull[None]]) @ left  # (draws + 1, size)
    # S = L X L^T with X M X + X = I, M = L^T U L: X = 2 / (1 + sqrt(1 + 4 M)) in M's eigenvectors, the right singular
    # vectors of B^T L.
    _, size, turn = torch.linalg.svd(steep, full_matrices=steep.shape[0] < steep.shape[1])
    size = torch.nn.functional.pad(size, (0, len(turn) - len(size)))
    shrink = (2 / (1 + (1 + 4 * size.square()).sqrt())).sqrt()
    new = left @ (turn.mT * shrink)
    return (1 - weight) * mean + weight * (new @ (new.mT @ pull) + middle), new


def match(fixed: FixedDraws, centre: Tensor, factor: Tensor, most: int) -> Matched:
    """Update Normal(c, F F^T) by fresh draws until averages over the second half of the updates stand still.

    The rate falls as draws x size / t, as for targets that are no Normal (Cai et al. 2024, section 5); for one that is,
    the first updates come to it. u = c + F v, so that all is about v.

    Parameters
    ----------
    fixed
        Gradients of log p at as many vectors as it has draws.
    centre, factor
        First mean (size,) and factor of the covariance (size, size).
    most
        Most updates.

    Raises
    ------
    FitError
        If the density has no gradient around the start, however near.
    """
    draws, size = fixed.noise.shape
    mean, root = centre.new_zeros(size), torch.eye(size, dtype=centre.dtype)
    means: list[Tensor] = []
    covariances: list[Tensor] = []
    bounds: list[float] = []
    shrunk, distance = 0, math.inf
    volume = factor.diagonal().log().sum()
    for step in range(1, most + 1):
        noise = pairs_of_draws(draws, size)
        v = mean + noise @ root.mT
        value, slope = fixed.scores(centre, factor, v)
        good = value.isfinite() & slope.isfinite().all(1)
        if good.double().mean() < FEWEST:
            shrunk += 1
            if shrunk > SHRINKS:
                raise FitError(
                    "svi: batch-and-match found no finite gradients of the log density around the starting values; "
                    "give other starting values with an `initial` method, or use nuts"
                )
            root = SHRINK**0.5 * root
            continue
        log_q = -0.5 * (noise.square().sum(1) + size * math.log(2 * math.pi)) - torch.linalg.slogdet(root)[1] - volume
        bounds.append(float((value - log_q)[good].mean()))
        mean, root = updated(mean, root, v[good], slope[good], draws * size / step)
        shrunk = 0
        means.append(mean)
        covariances.append(root @ root.mT)
        if len(means) >= FIRST and len(means) % EVERY == 0:
            distance = apart(factor, means, covariances)
            if distance < NEAR:
                break
        if asked():
            break
    if not means:
        raise FitError(f"svi: {most} steps of batch-and-match are too few to find finite gradients; give more steps")
    keep = -(-len(means) // 2)
    average, covariance = torch.stack(means[-keep:]).mean(0), torch.stack(covariances[-keep:]).mean(0)
    tril = torch.linalg.cholesky(factor @ covariance @ factor.mT)
    return Matched(centre + factor @ average, tril, distance, bounds)


def apart(factor: Tensor, means: list[Tensor], covariances: list[Tensor]) -> float:
    """Half of the gap between averages over the third and the fourth quarter: what noise is left in one over both."""
    quarter = len(means) // 4
    late, early = (torch.stack(means[cut]).mean(0) for cut in (slice(-quarter, None), slice(-2 * quarter, -quarter)))
    now, before = (
        (factor @ torch.stack(covariances[cut]).mean(0) @ factor.mT).diagonal().sqrt()
        for cut in (slice(-quarter, None), slice(-2 * quarter, -quarter))
    )
    shift = (factor @ (late - early)).abs() / now
    return 0.5 * float(torch.maximum(shift, (now / before).log().abs()).max())
