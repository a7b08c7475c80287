"""A look around the draws of q: at tails they are too narrow for, and at modes they have none of.

Weights p / q say nothing of where q has no draws: a q that is too narrow, or sits in one of two modes, may have the
best Pareto shape. So the posterior is weighed once more, by draws of a proposal that owes little to q.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from guides.curvature import hessian
from inference.approximations.pareto import most_shape, smoothed
from inference.approximations.rows import chunk_for, log_mean_exp
from inference.coordinate.ascent import SINGULAR
from inference.diagnostics.labelling import Labelling, restricted
from inference.diagnostics.shifts import Moments, moments, scalars
from inference.sampling.climbs import climb_together
from inference.sampling.paths import log_densities
from inference.sampling.students import Students
from zoo.errors import ModelError
from zoo.program.flat_density import CHUNK, Density
from zoo.program.program import Program
from zoo.replay.evaluate import Values, many

LARGEST = 60  # coordinates up to which a Student mixture can be hoped to cover a posterior
SAMPLE = 1000  # draws that the first proposal is fitted to
PRIOR = 40  # draws of the prior that climbs are started from, and of wide draws around q
RANKS = (0.0, 0.1, 0.2, 0.35, 0.5, 0.7)  # shares of these with a higher density than those that are taken
STEPS = 80  # evaluations of all climbs together
WIDE = 4.0  # standard deviations of q that starts are spread by
GUARDS = ((3.0, 0.15), (10.0, 0.05))  # spreads and shares of the components that stay as wide as they are
MODES = 4  # most that the proposal is given components for
FLATTEST, STEEPEST = 1 / 9, 1e8  # curvatures at a mode, in those of q, beyond which they are not believed
ROUNDS = (0.2, 0.3)  # shares of the draws after which the proposal is refitted
TRIES, HEAVIEST = 2, 8  # the second time climbs start at so many draws that outweigh the others
ENOUGH = 400.0  # draws in effect from which its moments count


@dataclass(frozen=True)
class Survey:
    """What draws of a wide proposal say of the posterior.

    Attributes
    ----------
    moments
        Of the scalars, None where these draws cannot say.
    evidence, error
        The log of the mean of p / proposal, and its standard error.
    modes
        How many maxima of the density climbs have found outside of where q has its draws.
    elsewhere
        Share of the weight outside of there; rough where `moments` is None.
    """

    moments: Moments | None
    evidence: float
    error: float
    modes: int
    elsewhere: float


def survey(
    program: Program,
    points: Values,
    values: Values,
    count: int,
    labelling: Labelling | None = None,
    *,
    cuts: np.ndarray | None = None,
    most: int = 0,
    clear: Callable[[Moments], bool] = lambda _: True,
    density: Density | None = None,
) -> Survey | None:
    """Climb from afar and from draws of the prior; weigh `count` draws around q and around what was found.

    The proposal is a mixture of Student's t: one fitted to the draws, a wide one at the same place, one for each mode
    found elsewhere. It is refitted twice to its own weighted draws (population Monte Carlo, Cappé et al. 2008).

    Parameters
    ----------
    program, points
        The program, and the values of parameters and network weights.
    values
        Draws of all latents, plain ones: those that are handed out.
    count
        How many draws to weigh.
    labelling
        Of exchangeable states, the part of the posterior that is looked at.
    cuts
        Quantiles of the draws, (2, scalars), for the masses beyond them.
    most, clear
        Up to how many draws are added until moments are clear.
    density
        That of the program, if it was made already.

    Returns
    -------
    Survey or None
        None where there are too many coordinates, or matrices far out are not positive definite.
    """
    try:
        return _survey(density or Density(program, points), values, count, labelling, cuts, most, clear)
    except SINGULAR:
        return None


def _survey(
    density: Density,
    values: Values,
    count: int,
    labelling: Labelling | None,
    cuts: np.ndarray | None,
    most: int,
    clear: Callable[[Moments], bool],
) -> Survey | None:
    if density.size > LARGEST:
        return None
    total = len(next(iter(values.values())))
    some = {n: v[torch.linspace(0, total - 1, min(SAMPLE, total)).long()] for n, v in values.items()}
    u = _unconstrained(density, some)
    u = u[u.isfinite().all(1)]
    if len(u) < 2 * density.size:
        return None
    centre, spread = u.mean(0), torch.cov(u.mT).reshape(density.size, density.size)
    root, failed = torch.linalg.cholesky_ex(spread + 1e-10 * torch.diag(spread.diagonal().clamp_min(1e-30)))
    if int(failed):
        return None
    starts = _starts(density, centre, root)
    for _ in range(TRIES):
        found = _modes(density, centre, root, labelling, starts)
        proposal = _adapted(density, _around(density, centre, root, found), count, labelling)
        ratio, u = _weighed(density, proposal, count, labelling)
        weights, sound = _sound(ratio)
        if sound:
            break
        starts = torch.cat([found, u[ratio.argsort(descending=True)[:HEAVIEST]]])  # where the proposal falls short
    told = _told(density, u, weights, cuts) if sound else None
    while told is not None and 2 * len(u) <= most and not clear(told):
        more, further = _weighed(density, proposal, len(u), labelling)
        ratio, u = torch.cat([ratio, more]), torch.cat([u, further])
        weights, sound = _sound(ratio)
        told = _told(density, u, weights, cuts) if sound else None
    evidence, error = log_mean_exp(ratio)
    elsewhere = float((ratio - ratio.logsumexp(0)).exp()[_outside(u, centre, root)].sum())
    return Survey(told, float(evidence), float(error), len(found), elsewhere)


def _sound(ratio: Tensor) -> tuple[np.ndarray, bool]:
    """Smoothed weights of draws (draws,), and whether they can be believed."""
    weights, shape = smoothed(ratio.numpy())
    enough = bool(1 / np.square(weights).sum() >= ENOUGH)
    return weights, enough and (math.isnan(shape) or shape <= most_shape(len(ratio)))


def _told(density: Density, u: Tensor, weights: np.ndarray, cuts: np.ndarray | None) -> Moments:
    """Moments of all scalars by weighted vectors, (draws, size) and (draws,)."""
    program, kept = density.program, weights > 1e-12 * weights.max()
    drawn = density.constrain_all(u[torch.from_numpy(kept)].to(program.device, program.dtype))
    x, _ = scalars(program, density.points, drawn, int(kept.sum()))
    return moments(x, weights[kept] / weights[kept].sum(), cuts)


def _unconstrained(density: Density, values: Values) -> Tensor:
    """Vectors of several draws, (draws, size)."""
    count = len(next(iter(values.values())))
    u: Tensor = many(density.unconstrain, values, count, CHUNK)
    return u.double().cpu()


def _starts(density: Density, centre: Tensor, root: Tensor) -> Tensor:
    """Where climbs begin: wide draws around q, and draws of the prior, (starts, size)."""
    wide = Students(torch.ones(1).double(), centre[None], WIDE * root[None], 1).draw(PRIOR)
    return torch.cat([_ranked(density, wide), _ranked(density, _prior_draws(density))])


def _modes(density: Density, centre: Tensor, root: Tensor, labelling: Labelling | None, starts: Tensor) -> Tensor:
    """Distinct ends of climbs that lie outside of the draws of q, the highest first, (modes, size)."""
    ends, height = climb_together(density, starts, centre, root, STEPS)
    if labelling is not None and bool(height.isfinite().any()):
        ends, height = ends[height.isfinite()], height[height.isfinite()]
        ends = _unconstrained(density, labelling.moved(density.constrain_all(ends.to(density.like))))
    v = torch.linalg.solve_triangular(root, (ends - centre).mT, upper=False).mT
    outside = _outside(ends, centre, root) & height.isfinite()
    kept: list[int] = []
    for at in height.argsort(descending=True).tolist():
        if bool(outside[at]) and all(float((v[at] - v[other]).norm()) > 1 for other in kept):
            kept.append(at)
    return ends[kept[:MODES]]


def _outside(u: Tensor, centre: Tensor, root: Tensor) -> Tensor:
    """Which vectors (draws, size) are where Normal draws of this centre and root never are, (draws,)."""
    size = len(centre)
    v = torch.linalg.solve_triangular(root, (u - centre).mT, upper=False)
    far: Tensor = v.square().sum(0) > size + 6 * math.sqrt(2 * size) + 10
    return far


def _ranked(density: Density, u: Tensor) -> Tensor:
    """Some of these points: the highest, and some lower ones."""
    if not len(u):  # a flat prior has no draws
        return u
    height = log_densities(density, u, chunk_for(density.program))
    order = height.argsort(descending=True)[: int(height.isfinite().sum())]
    at = [order[int(rank * len(order))] for rank in RANKS if len(order)]
    return u[torch.stack(at)] if at else u[:0]


def _prior_draws(density: Density) -> Tensor:
    """Draws of the prior as unconstrained vectors, (draws, size); none where it cannot be drawn from."""
    program = density.program
    u = []
    try:
        with warnings.catch_warnings():  # torch warns of singular draws of a wide Wishart
            warnings.simplefilter("ignore", UserWarning)
            draws = [program.simulate(density.points, observed=False) for _ in range(PRIOR)]
    except ModelError:
        draws = []
    for drawn in draws:
        try:
            u.append(density.unconstrain({s.name: drawn[s.name] for s in program.latents}).double().cpu())
        except RuntimeError:  # a matrix without a Cholesky factor
            continue
    stacked = torch.stack(u) if u else torch.empty(0, density.size).double()
    return stacked[stacked.isfinite().all(1)]


def _around(density: Density, centre: Tensor, root: Tensor, modes: Tensor) -> Students:
    """The first proposal: around the draws of q, around each mode, and widely around the draws."""
    wide, guarding = zip(*GUARDS, strict=True)
    trils = [root, *(_curved(density, mode, root) for mode in modes), *(spread * root for spread in wide)]
    free = torch.tensor([1.0, *[0.4 / max(1, len(modes))] * len(modes)], dtype=torch.float64)
    shares = torch.cat([free / free.sum() * (1 - sum(guarding)), torch.tensor(guarding, dtype=torch.float64)])
    means = torch.cat([centre[None], modes, centre.expand(len(wide), -1)])
    return Students(shares, means, torch.stack(trils), fixed=len(wide))


def _curved(density: Density, mode: Tensor, root: Tensor) -> Tensor:
    """Cholesky factor of the covariance that the curvature at a mode stands for, within bounds."""
    second = root.mT @ hessian(density, mode.to(density.like)) @ root
    if not bool(second.isfinite().all()):
        return root
    values, vectors = torch.linalg.eigh(-second)
    scaled = root @ vectors * values.clamp(FLATTEST, STEEPEST).rsqrt()
    tril: Tensor = torch.linalg.cholesky(scaled @ scaled.mT)
    return tril


def _adapted(density: Density, proposal: Students, count: int, labelling: Labelling | None) -> Students:
    """Refit the proposal to its own weighted draws."""
    for share in ROUNDS:
        ratio, u = _weighed(density, proposal, int(share * count), labelling)
        if not bool(ratio.isfinite().any()):
            break
        weights, _ = smoothed(ratio.numpy())
        proposal = proposal.refitted(u, torch.from_numpy(weights))
    return proposal


def _weighed(density: Density, proposal: Students, count: int, labelling: Labelling | None) -> tuple[Tensor, Tensor]:
    """Weigh draws of a proposal: log p - log proposal (count,), and the draws (count, size)."""
    u = proposal.draw(count)
    return _heights(density, u, labelling) - proposal.log_prob(u), u


def _heights(density: Density, u: Tensor, labelling: Labelling | None) -> Tensor:
    """Log densities (count,) of vectors in the part of the posterior that is looked at."""
    log_p = log_densities(density, u, chunk_for(density.program))
    return log_p if labelling is None else restricted(log_p, density.constrain_all(u.to(density.like)), labelling)
