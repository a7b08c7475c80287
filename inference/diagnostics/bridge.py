"""Bridge sampling: the log evidence from draws of the posterior."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from inference.approximations.rows import chunk_for
from inference.approximations.sampled import Sampled
from inference.diagnostics.agreement import mean_error
from inference.diagnostics.labelling import Labelling, restricted
from inference.diagnostics.one_labelling import one_labelling
from zoo.errors import FitError
from zoo.program.flat_density import Density
from zoo.program.program import Program
from zoo.replay.evaluate import many

STEPS = 1000
TOLERANCE = 1e-10
FEWEST = 20  # draws of a chain, so that each half says something


def bridge(program: Program, sampled: Sampled) -> tuple[float, float]:
    """log p(x) and its Monte Carlo standard error, by the optimal bridge between draws and a Normal.

    With p the joint density, g a Normal of the moments of one half of the draws, and the other half u_i and draws w_j
    of g, the evidence is the r that solves (Meng and Wong 1996)

        r = mean_j[p(w_j) / (s1 p(w_j) + s2 r g(w_j))] / mean_i[g(u_i) / (s1 p(u_i) + s2 r g(u_i))],

    s1 and s2 being the shares of both sets, posterior draws counted by their effective size (Gronau et al. 2020). p is
    made symmetric about the mean first (warp III, Meng and Schilling 2002). Each half takes each part, and the two
    results are averaged. The error is that of Frühwirth-Schnatter (2004). Exchangeable states get one labelling.

    Parameters
    ----------
    program
        The program.
    sampled
        Draws, chain after chain.

    Raises
    ------
    FitError
        If there are too few draws, or the iteration does not end.
    """
    density, each = Density(program), len(sampled.log_p) // sampled.chains
    if each < FEWEST:
        raise FitError(f"bridge sampling needs at least {FEWEST} draws of each chain, not {each}")
    with torch.no_grad():
        values, labelling = one_labelling(program, sampled.values, sampled.log_p)
        u = many(density.unconstrain, values, len(sampled.log_p), each).double().cpu()
        u = u.reshape(sampled.chains, each, -1)
        half = each // 2
        first, second = u[:, :half], u[:, half : 2 * half]
        found = [_one_way(density, labelling, a, b) for a, b in ((first, second), (second, first))]
    (a, error_a), (b, error_b) = found
    # The halves differ, but a common error of the labelling or the chains would not average out: no credit for two.
    return (a + b) / 2, max(math.hypot(error_a, error_b) / math.sqrt(2), abs(a - b) / 2)


def _one_way(density: Density, labelling: Labelling | None, fitted: Tensor, used: Tensor) -> tuple[float, float]:
    """Log evidence and error from the draws `used`, g being fitted to the others; (chains, draws, size) both."""
    chains, count, size = used.shape
    flat = fitted.reshape(-1, size)
    centre = flat.mean(0)
    off = flat - centre
    covariance = off.mT @ off / len(flat)
    shrink = size / (size + len(flat))
    covariance = (1 - shrink) * covariance + shrink * torch.diag(covariance.diagonal())
    root = torch.linalg.cholesky(covariance)
    constant = root.diagonal().log().sum() - math.log(2.0)

    def ratio(z: Tensor) -> Tensor:
        """Log ratio of the warped p and g at standardized vectors (count, size)."""
        sides = [_log_p(density, labelling, centre + sign * z @ root.mT) for sign in (1.0, -1.0)]
        log_g = -0.5 * (z.square().sum(1) + size * math.log(2 * math.pi))
        value: Tensor = torch.logaddexp(*sides) + constant - log_g
        return value

    z = torch.linalg.solve_triangular(root, (used.reshape(-1, size) - centre).mT, upper=False).mT
    at_draws, at_normal = ratio(z), ratio(torch.randn_like(z))
    effective = _effective(at_draws.reshape(chains, count))
    s1, s2 = effective / (effective + len(z)), len(z) / (effective + len(z))
    shift = float(at_draws.median())
    p1, p2 = at_draws - shift, at_normal - shift
    log_r, log_s1, log_s2 = 0.0, math.log(s1), math.log(s2)
    for _ in range(STEPS):
        last = log_r
        bottom = (-torch.logaddexp(log_s1 + p1, torch.full_like(p1, log_s2 + log_r))).logsumexp(0)
        top = (p2 - torch.logaddexp(log_s1 + p2, torch.full_like(p2, log_s2 + log_r))).logsumexp(0)
        log_r = float(top - bottom)
        if not abs(log_r - last) > TOLERANCE * max(1.0, abs(log_r)):
            break
    if not math.isfinite(log_r):
        raise FitError("bridge sampling breaks down: a Normal fitted to the draws does not meet the posterior")
    under_g = 1 / (s1 + s2 * (log_r - p2).exp())
    under_p = 1 / (s2 + s1 * (p1 - log_r).exp())
    error = float(under_g.var() / under_g.mean().square()) / len(z)
    error += (mean_error(under_p.reshape(chains, count).numpy()) / float(under_p.mean())) ** 2
    return log_r + shift, math.sqrt(error)


def _log_p(density: Density, labelling: Labelling | None, u: Tensor) -> Tensor:
    """Log density at vectors (count, size), of one labelling as high as all together; in float64 on the CPU."""
    program = density.program
    there = u.to(program.device, program.dtype)
    value: Tensor = many(lambda v: density.log_prob(v["u"]), {"u": there}, len(u), chunk_for(program)).double().cpu()
    value = torch.where(value.isfinite(), value, -math.inf)
    return value if labelling is None else restricted(value, density.constrain_all(there), labelling)


def _effective(logs: Tensor) -> float:
    """Effective size of draws by chain (chains, draws), from the error of the mean of their ranks."""
    ranks = logs.flatten().argsort().argsort().double().reshape(logs.shape).numpy()
    error = mean_error(ranks)
    return float(np.clip(ranks.var() / error**2 if error > 0 else ranks.size, 1.0, ranks.size))
