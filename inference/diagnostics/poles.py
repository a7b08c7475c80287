"""Whether a posterior density has a maximum: a prior with a pole at the edge of its support has none to climb to."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Independent
from torch.distributions.transforms import identity_transform

from zoo.program.flat_density import Density
from zoo.program.program import Program
from zoo.program.view import Slot
from zoo.replay.bijections import CholeskyVector
from zoo.replay.evaluate import Values, many, model_context

STEPS = {torch.float64: (10.0, 20.0, 30.0), torch.float32: (4.0, 8.0, 12.0)}  # towards an edge, unconstrained
OF_A_MATRIX = 5.0  # times nearer, for an event of two dimensions: further out it has no Cholesky factor
CHUNK = 64
FEW = 2  # rows on which the priors of globals are looked up
FADING = 0.05  # of the growth a step before: a density that levels off keeps exp(-4) or less of it from step to step
SLOPE = 1e-3  # growth of the log density with each unit of the unconstrained coordinate: 1 - a for a concentration a


def pole(program: Program, values: Values, points: Values) -> str:
    """Say that log p(x, z) grows without bound as a latent goes to the edge of its support; empty if none is seen to.

    A Beta, Dirichlet or Gamma prior with a concentration below 1 has a pole at the edge. Unless the likelihood falls
    faster there, the posterior has one too: a mode is then no estimate of anything. (On the unconstrained scale, where
    the Jacobian takes the pole away, there is a mode; posteriors are proper all the same.)

    Parameters
    ----------
    program
        The program; enumerated sites are summed out.
    values, points
        Where the climb has ended: values of the latents; of parameters and network weights.
    """
    density = Density(program, points)
    slots = (*density.view.globals, *density.view.locals)
    sites = {s.site.name for s in slots if s.transform is not identity_transform and not s.site.countable}
    if not sites:
        return ""
    start = density.unconstrain(values).clamp(-STEPS[program.dtype][-1], STEPS[program.dtype][-1])
    with torch.no_grad():
        priors = _priors(program, {**points, **density.constrain(start)})
        for slot in (s for s in slots if s.site.name in sites):
            for sign in (-1.0, 1.0):
                if _unbounded(density, start, slot, priors[slot.site.name], sign):
                    family, name = slot.site.family, slot.site.name
                    return (
                        f"the posterior density has no maximum: it grows without bound as {name!r} goes to the edge of "
                        f"its support, where its {family} prior has a pole (a concentration or shape below 1). Give it "
                        "a prior without one, or average over it: cavi, svi, nuts or laplace, where legal"
                    )
    return ""


def _priors(program: Program, values: Values) -> dict[str, Any]:
    """Distributions of the latents; those of globals do not take all rows, unless one has an entry or state of each."""
    rows = len(program.data)
    of_rows = any(
        rows in (*s.shape, s.cardinality) for s in program.sites.values() if s.role in ("global", "enumerated")
    )
    if not (program.view.locals or program.tied or of_rows) and rows > FEW:
        program = program.rebind(program.data.take(torch.arange(FEW, device=program.device)))
    return program.replay(values).distributions


def _unbounded(density: Density, start: Tensor, slot: Slot, prior: Any, sign: float) -> bool:
    """Whether the posterior density has a pole on one side of the coordinates of a site."""
    name, steps = slot.site.name, STEPS[density.program.dtype]
    alone, batch = slot in density.view.globals, slot.site.batch_dim
    while alone and isinstance(prior, Independent):  # whose entries do not meet: all can be moved at once
        prior, batch = prior.base_dist, batch + prior.reinterpreted_batch_ndims
    moves = _coordinates(density, slot, batch)
    if not moves:
        return False
    single = prior
    while isinstance(single, Independent):
        single = single.base_dist
    reach = [sign * step / (OF_A_MATRIX if single.event_dim > 1 else 1.0) for step in steps]
    moved = torch.stack([_moved(start, at, reach) for at in moves])
    for at, heights in zip(moves, _of_prior(density, slot, prior, batch, moved), strict=True):
        if not bool(_grows(heights, steps).any()):
            continue
        if _may_be_emptied(density.program, name):
            return True
        for one in at[_grows(heights, steps).cpu()].split(1) if alone else [at]:
            if bool(_grows(_of_all(density, _moved(start, one, reach)), steps)):
                return True
    return False


def _may_be_emptied(program: Program, name: str) -> bool:
    """Whether a latent says something of single states only, in a sum over them that others can fill alone.

    The likelihood is then finite at the pole, though it may fall a long way before that is seen.
    """
    if any(site.family == "Evidence" for site in program.observed):
        return False
    uses = [(s, p) for s in program.sites.values() for p in s.args.values() if name in p.sites]
    return any(s.role == "enumerated" or p.index for s, p in uses)


def _coordinates(density: Density, slot: Slot, batch: int) -> list[Tensor]:
    """Coordinates of a site, `batch` dimensions of which are entries, that lead to an edge; of all entries together.

    Of a matrix these are the logs of its factor's diagonal.
    """
    length = math.prod(slot.shape[batch:])  # of one entry
    if slot in density.view.locals:
        rows = torch.arange(len(density.program.data)) * density.view.local_size
        return [density.view.global_size + j + rows for j in range(slot.start, slot.stop)]
    own = list(range(length))
    if isinstance(slot.transform, CholeskyVector):
        own = [i for i in own if i in {j * (j + 3) // 2 for j in own}]  # of a lower triangle, row by row
    return [torch.arange(slot.start + j, slot.stop, length) for j in own]


def _moved(start: Tensor, at: Tensor, reach: list[float]) -> Tensor:
    """Vectors with some coordinates moved towards an edge, (steps, size)."""
    moved = start.repeat(len(reach), 1)
    moved[:, at.to(start.device)] = start.new_tensor(reach)[:, None]
    return moved


def _of_prior(density: Density, slot: Slot, prior: Any, batch: int, moved: Tensor) -> Tensor:
    """Log densities under a site's prior at vectors (moves, steps, size): of each entry, (moves, steps, entries)."""
    program, name, alone = density.program, slot.site.name, slot in density.view.globals

    def height(v: Values) -> Tensor:
        value = slot.transform(v["u"].reshape(slot.shape)) if alone else density.constrain(v["u"])[name]
        with model_context(program.dtype, program.device):
            entries: Tensor = prior.log_prob(value)
        if not alone or entries.numel() != count:
            return program.weigh(name, entries).expand(count)
        return entries.reshape(-1)

    count = math.prod(slot.shape[:batch]) if alone else 1
    part = moved[..., slot.start : slot.stop] if alone else moved
    return _heights(height, part.flatten(0, 1), count).reshape(*moved.shape[:2], -1)


def _of_all(density: Density, moved: Tensor) -> Tensor:
    """Log joint densities at vectors (steps, size)."""
    program = density.program

    def height(v: Values) -> Tensor:
        full = {**density.points, **density.constrain(v["u"])}
        return program.log_joint(full).total(program.data.weights)[None]

    return _heights(height, moved, 1)


def _heights(height: Callable[[Values], Tensor], u: Tensor, entries: int) -> Tensor:
    """Log densities at vectors (count, size): (count, entries), NaN where there is none."""
    try:
        found: Tensor = many(height, {"u": u}, len(u), CHUNK)
    except RuntimeError:  # a matrix without a Cholesky factor
        found = torch.stack([_or_nothing(height, {"u": each}, entries) for each in u])
    return found


def _or_nothing(height: Callable[[Values], Tensor], at: Values, entries: int) -> Tensor:
    """Log densities at one vector, NaN where there is none."""
    try:
        return height(at)
    except RuntimeError:
        return at["u"].new_full((entries,), torch.nan)


def _grows(heights: Tensor, steps: tuple[float, ...]) -> Tensor:
    """Whether log densities (steps, entries) rise all the way, and hardly less at the end; (entries,)."""
    near, middle, far = heights
    first, second = middle - near, far - middle
    rising: Tensor = (first > SLOPE * (steps[1] - steps[0])) & (second > SLOPE * (steps[2] - steps[1]))
    rising &= second > FADING * first
    return rising
