"""Which basin of a posterior to begin in: starting values may lie where only a low mode can be reached."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch

from inference.sampling.paths import climb
from inference.sampling.unconstrained import Target, centre_of
from inference.starts.natural import natural_start
from zoo.errors import ZooError
from zoo.program.flat_density import Density
from zoo.program.program import Program
from zoo.program.recentred import location_scale

FEW, MANY = 6, 40  # climbs: where all come to about the same height, and where they do not
WIDTH = 2.0  # half of them are from points uniform in (-2, 2), as Stan's starts are, and half from draws of the prior
STEPS, FLAT = 100, 3e-2  # of each climb: to see which mode it comes to, and not its digits
LEAST = 15.0  # nats by which a mode is far lower; less than that its width may make up for
SHARE = 0.02  # of the gradients that a run will take may be spent on this


def bounded(program: Program) -> bool:
    """Whether a high mode tells of much mass: no funnels of latents with scales, no components that fall onto a row."""
    if program.degrees or location_scale(program):
        return False
    if program.locals or program.enumerated or program.parameters or program.networks or program.proposes:
        return False
    return not program.structure.improper and not any(site.countable for site in program.latents)


def highest(
    program: Program, target: Target, centre: np.ndarray, unit: np.ndarray, gradients: int
) -> tuple[np.ndarray, np.ndarray]:
    """Where to begin, and the natural units there: as given, or at the highest mode where others are far lower.

    Curves that oscillate, as those of differential equations do, fit data in step and out of step, and chains do not
    cross from one to the other, wherever they begin. Where log densities differ by so much, a low mode has no mass to
    speak of. Climbs are from anywhere, and not from the highest of many points: these lie where noise explains the data
    and curves do not.

    Parameters
    ----------
    program
        The program; others than `bounded` ones begin as given.
    target
        Its log density and gradient.
    centre, unit
        Starting point and natural units, (size,).
    gradients
        How many the run will take, about; a small share of them is spent.
    """
    budget = target.calls + int(SHARE * gradients)
    if not bounded(program) or gradients * SHARE < 2 * STEPS:
        return centre, unit
    with torch.random.fork_rng(devices=[]):  # what is drawn here leaves the draws of the run as they are
        paths, low = [climb(target, centre, unit, STEPS, FLAT)], False
        for tried, point in enumerate(_points(Density(program), len(centre))):
            if target.calls > budget or not math.isfinite(paths[0].value) or (tried >= FEW and not low):
                break
            paths.append(climb(target, point, unit, STEPS, FLAT))
            best = max(paths, key=lambda path: path.value)
            low = min(path.value for path in paths) < best.value - LEAST
        if not low or target(centre)[0] > best.value - LEAST:
            return centre, unit
        density = Density(program)
        values = density.constrain(torch.from_numpy(best.end).to(density.like))
        try:
            return centre_of(natural_start(program, values))
        except ZooError:
            return centre, unit


def _points(density: Density, size: int) -> Iterator[np.ndarray]:
    """Unconstrained vectors (size,) far from each other."""
    for _ in range(MANY // 2):
        with torch.no_grad():
            drawn = density.unconstrain(density.program.simulate({}, observed=False))
        yield drawn.double().cpu().numpy()
        yield WIDTH * (2 * torch.rand(size, dtype=torch.float64).numpy() - 1)
