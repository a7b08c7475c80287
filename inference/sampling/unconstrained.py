"""Posterior densities over unconstrained vectors: which programs have one, and where to begin."""

from __future__ import annotations

import math

import numpy as np
import torch

from guides.start import Start
from inference.compiled.compile import Lowered
from zoo.errors import FitError
from zoo.program.program import Program

RADIUS = 2.0  # points are uniform within so many natural units of the starting values
HALVINGS = 20
FALL = 50.0  # a point may have a log density below that of the starting values by this, and by
FALL_EACH = 10.0  # this per coordinate; from further out the way back is long


class Target:
    """log p and its gradient as functions of numpy vectors; counts its calls.

    Parameters
    ----------
    gradient
        Of the density, for one vector.
    program
        What it is the density of.
    """

    def __init__(self, gradient: Lowered, program: Program) -> None:
        self.gradient, self.program, self.calls, self.latest = gradient, program, 0, 0.0
        self.plain = program.dtype == torch.float64 and program.device.type == "cpu"

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """Log density and gradient at x; NaN where a factorization breaks down, which ends a trajectory."""
        self.calls += 1
        u = torch.from_numpy(x)
        try:
            value, gradient = self.gradient(u if self.plain else u.to(self.program.device, self.program.dtype))
        except RuntimeError as error:
            if "linalg" not in str(error):
                raise
            return float("nan"), np.zeros_like(x)
        self.latest = float(value)
        return self.latest, gradient.numpy() if self.plain else gradient.cpu().double().numpy()


def no_density(program: Program) -> str | None:
    """Return the reason why there is no posterior density over continuous latents, None if there is one."""
    if program.networks:
        return (
            f"the weights of its networks ({', '.join(sorted(n for n in program.networks)[:2])}, ...) have no prior, "
            "and so no posterior"
        )
    if program.parameters:
        name = program.parameters[0].name
        return (
            f"parameter {name!r} has no prior, and so no posterior; give it one with pyro.sample({name!r}, ...) in "
            "place of pyro.param"
        )
    if not program.latents:
        return "there is no continuous latent to draw"
    return None


def centre_of(start: Start) -> tuple[np.ndarray, np.ndarray]:
    """Starting point and natural units of all coordinates, globals first."""
    centre = torch.cat([start.globals, start.locals.reshape(-1)]).double().cpu().numpy()
    unit = torch.cat([start.global_unit, start.local_unit.reshape(-1)]).double().cpu().numpy()
    return centre, unit


def dispersed(target: Target, centre: np.ndarray, unit: np.ndarray, count: int) -> np.ndarray:
    """Points around the starting values, shape (count, size).

    Uniform within some natural units of them, less where the density is not a finite number or far lower.

    Raises
    ------
    FitError
        If there is no such point.
    """
    lowest = target(centre)[0] - FALL - FALL_EACH * len(centre)
    points = []
    for _ in range(count):
        for halving in range(HALVINGS):
            noise = torch.rand(len(centre), dtype=torch.float64).numpy() * 2.0 - 1.0
            point = centre + RADIUS * 0.5**halving * unit * noise
            value, gradient = target(point)
            if math.isfinite(value) and value > lowest and np.isfinite(gradient).all():
                points.append(point)
                break
        else:
            raise FitError(
                "no point near the starting values has a finite log density with a finite gradient; give other "
                "starting values with an `initial` method, or correct the model"
            )
    return np.stack(points) if points else np.empty((0, len(centre)))
