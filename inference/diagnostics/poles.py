"""Whether a posterior density has a maximum: a prior with a pole at the edge of its support has none to climb to."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions.transforms import identity_transform

from zoo.program.flat_density import Density
from zoo.program.program import Program
from zoo.program.view import Slot
from zoo.replay.bijections import CholeskyVector
from zoo.replay.evaluate import Values, many

STEPS = {torch.float64: (10.0, 20.0, 30.0), torch.float32: (4.0, 8.0, 12.0)}  # towards an edge, unconstrained
OF_A_MATRIX = 5.0  # times nearer: further out it has no Cholesky factor
SLOPE = 1e-3  # growth of the log density with each unit of the unconstrained coordinate: 1 - a for a concentration a
CHUNK = 64


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
    steps = STEPS[program.dtype]
    start = density.unconstrain(values).clamp(-steps[-1], steps[-1])
    moves = [(name, at) for name, at in _coordinates(density) if name in sites]
    for sign in (-1.0, 1.0):
        priors = _along(density, start, moves, sign, prior=True)
        rising = [move for move, heights in zip(moves, priors, strict=True) if _grows(heights, steps)]
        joints = _along(density, start, rising, sign, prior=False) if rising else priors[:0]
        for (name, _), heights in zip(rising, joints, strict=True):
            if _grows(heights, steps) or _may_be_emptied(program, name):
                return (
                    f"the posterior density has no maximum: it grows without bound as {name!r} goes to the edge of its "
                    f"support, where its {program.sites[name].family} prior has a pole (a concentration or shape below "
                    "1). Give it a prior without one, or average over it: cavi, svi, nuts or laplace, where legal"
                )
    return ""


def _may_be_emptied(program: Program, name: str) -> bool:
    """Whether a latent says something of single states only, in a sum over them that others can fill alone.

    The likelihood is then finite at the pole, though it may fall a long way before that is seen.
    """
    if any(site.family == "Evidence" for site in program.observed):
        return False
    uses = [(s, p) for s in program.sites.values() for p in s.args.values() if name in p.sites]
    return any(s.role == "enumerated" or p.index for s, p in uses)


def _coordinates(density: Density) -> list[tuple[str, Tensor]]:
    """Each global coordinate that leads to an edge, and each local one in all rows at once, with its site."""
    size, local = density.view.global_size, density.view.local_size
    rows = torch.arange(len(density.program.data)) if local else torch.zeros(0).long()
    alone = [(slot.site.name, torch.tensor([i])) for slot in density.view.globals for i in _to_edges(slot)]
    return alone + [(slot.site.name, size + j + local * rows) for slot in density.view.locals for j in _to_edges(slot)]


def _to_edges(slot: Slot) -> list[int]:
    """Coordinates of a slot that lead to an edge of its support: of a matrix the logs of its factor's diagonal only."""
    every = range(slot.start, slot.stop)
    if not isinstance(slot.transform, CholeskyVector):
        return list(every)
    length = slot.shape[-1]
    diagonal = {i * (i + 3) // 2 for i in range(length)}  # in the order of rows of a lower triangle
    return [i for i in every if (i - slot.start) % length in diagonal]


def _along(density: Density, start: Tensor, moves: list[tuple[str, Tensor]], sign: float, *, prior: bool) -> Tensor:
    """Log densities with one coordinate moved towards an edge, shape (moves, steps): of its own prior, or of all."""
    program = density.program
    steps = STEPS[program.dtype]
    names = [name for name, _ in moves for _ in steps]
    moved = start.repeat(len(names), 1)
    for i, (_, at) in enumerate(moves):
        for j, step in enumerate(steps):
            to = sign * step / (OF_A_MATRIX if program.sites[moves[i][0]].event_dim > 1 else 1.0)
            moved[i * len(steps) + j, at.to(moved.device)] = to
    own = list(dict.fromkeys(names))
    which = torch.tensor([own.index(n) for n in names], device=start.device)

    def heights(v: Values) -> Tensor:
        full = {**density.points, **density.constrain(v["u"])}
        if not prior:
            return program.log_joint(full).total(program.data.weights)
        log_probs = program.log_probs(full)
        return torch.stack([program.weigh(n, log_probs[n]) for n in own]).gather(0, v["which"][None])[0]

    with torch.no_grad():
        try:
            found: Tensor = many(heights, {"u": moved, "which": which}, len(moved), CHUNK)
        except RuntimeError:  # a matrix without a Cholesky factor
            found = torch.stack([_or_nothing(heights, {"u": u, "which": w}) for u, w in zip(moved, which, strict=True)])
    return found.reshape(len(moves), len(steps))


def _or_nothing(heights: Callable[[Values], Tensor], at: Values) -> Tensor:
    """Log density at one vector, NaN where there is none."""
    try:
        return heights(at)
    except RuntimeError:
        return torch.full_like(at["u"][0], torch.nan)


def _grows(heights: Tensor, steps: tuple[float, ...]) -> bool:
    """Whether a log density rises all the way, and no less at the end."""
    near, middle, far = map(float, heights)
    return middle - near > SLOPE * (steps[1] - steps[0]) and far - middle > SLOPE * (steps[2] - steps[1])
