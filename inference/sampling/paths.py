"""Climbing the log density from a point by L-BFGS, and the Normal approximations along the way."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from inference.runtime.interruption import asked
from zoo.program.flat_density import Density

HISTORY = 6  # pairs of steps and changes of the gradient that an estimate is made from
FLATTEST = 1e-12  # smallest curvature along a step, relative to the change of the gradient, that is taken into account
Gradient = Callable[[np.ndarray], tuple[float, np.ndarray]]  # log density and its gradient
BROKEN = 1e10  # what a density that is not a number counts as


@dataclass
class Path:
    """Points of a climb, in natural units from its start: u = start + unit * v.

    Attributes
    ----------
    start, unit
        Shape (size,).
    v, gradients
        Points and gradients of the log density with respect to v, shape (points, size).
    value
        log density at the last.
    message
        Why it stopped.
    """

    start: np.ndarray
    unit: np.ndarray
    v: np.ndarray
    gradients: np.ndarray
    value: float
    message: str

    @property
    def end(self) -> np.ndarray:
        """The last point."""
        u: np.ndarray = self.start + self.unit * self.v[-1]
        return u


def climb(
    target: Gradient, start: np.ndarray, unit: np.ndarray, steps: int, flat: float = 1e-7, history: int = HISTORY
) -> Path:
    """Climb by L-BFGS (Liu and Nocedal 1989) from `start` (size,) for at most `steps` steps, in natural units.

    L-BFGS begins with steps along the gradient itself, which are good only where all coordinates have like scales. The
    climb ends where no entry of the gradient in these units is above `flat`, and where the run is to end. Curvature is
    estimated from the last `history` steps.
    """
    # Gradients by the bytes of the point: the optimizer tells its callback the points it has accepted, not their
    # gradients, and a second evaluation of each would cost as much as the climb.
    seen: dict[bytes, tuple[float, np.ndarray]] = {}

    def fall(v: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = target(start + unit * v)
        seen[v.tobytes()] = value, unit * gradient
        if not math.isfinite(value) or not np.isfinite(gradient).all():
            return BROKEN, np.zeros_like(v)  # so high that the line search turns back; not NaN, at which it would end
        return -value, -unit * gradient

    def reached(v: np.ndarray) -> None:
        points.append(v.copy())
        if asked():
            raise StopIteration

    origin = np.zeros_like(start)
    points = [origin]
    fall(origin)
    from scipy.optimize import minimize  # it takes long to import

    done = minimize(
        fall,
        origin,
        jac=True,
        method="L-BFGS-B",
        callback=reached,
        options={"maxcor": history, "maxiter": steps, "maxfun": 20 * steps, "ftol": 1e-13, "gtol": flat},
    )
    gradients = np.stack([(seen.get(v.tobytes()) or (0.0, unit * target(start + unit * v)[1]))[1] for v in points])
    return Path(start, unit, np.stack(points), gradients, -float(done.fun), str(done.message))


@dataclass
class Normal:
    """Normal(mean, L L^T) over unconstrained vectors.

    Attributes
    ----------
    mean, tril
        Shapes (size,) and (size, size).
    """

    mean: Tensor
    tril: Tensor

    def draw(self, count: int) -> Tensor:
        """Draws, shape (count, size)."""
        noise = torch.randn(count, len(self.mean), dtype=self.mean.dtype)
        return self.mean + noise @ self.tril.mT

    def log_prob(self, u: Tensor) -> Tensor:
        """Log density of vectors (count, size)."""
        back = torch.linalg.solve_triangular(self.tril, (u - self.mean).mT, upper=False)
        constant = math.log(2 * math.pi) * len(self.mean)
        log_q: Tensor = -0.5 * (back.square().sum(0) + constant) - self.tril.diagonal().log().sum()
        return log_q


def along(path: Path) -> list[Normal]:
    """Normal approximations at the points of a climb (Zhang, Carpenter, Gelman and Vehtari 2022, algorithms 3 and 4).

    The covariance is the inverse Hessian of L-BFGS, diag(a) + B C B^T with B = [diag(a) Y, S] from the last steps S and
    changes of the gradient Y, its diagonal a updated as by Gilbert and Lemaréchal (1989). Steps along which the
    density is not concave are left out.
    """
    diagonal = np.ones(path.v.shape[1])  # a, in natural units
    steps: list[np.ndarray] = []
    changes: list[np.ndarray] = []
    normals = []
    for at in range(1, len(path.v)):
        s, y = path.v[at] - path.v[at - 1], path.gradients[at - 1] - path.gradients[at]
        bend = float(s @ y)  # positive where the density is concave along the step; else no covariance has it
        if bend > FLATTEST * float(y @ y) and math.isfinite(bend):
            a, c = float(y @ (diagonal * y)), float(s @ (s / diagonal))
            updated = 1 / (a / (bend * diagonal) + y**2 / bend - a * s**2 / (bend * c * diagonal**2))
            if np.isfinite(updated).all() and (updated > 0).all():
                diagonal = updated
            steps, changes = [*steps, s][-HISTORY:], [*changes, y][-HISTORY:]
        if (normal := _normal(path, at, diagonal, steps, changes)) is not None:
            normals.append(normal)
    return normals


def _normal(
    path: Path, at: int, diagonal: np.ndarray, steps: list[np.ndarray], changes: list[np.ndarray]
) -> Normal | None:
    """Normal at one point; None where rounding leaves its covariance indefinite.

    With S and Y the last steps and changes, (size, pairs), R the upper triangle of S^T Y and D its diagonal, the
    inverse Hessian of -log p is (Byrd, Nocedal and Schnabel 1994, theorem 2.2)

        diag(a) + S R^-T (D + Y^T diag(a) Y) R^-1 S^T - diag(a) Y R^-1 S^T - S R^-T Y^T diag(a).
    """
    covariance = np.diag(diagonal)
    if steps:
        s, y = np.stack(steps, 1), np.stack(changes, 1)
        product = s.T @ y
        try:
            inverse = np.linalg.inv(np.triu(product))  # R^-1, at most HISTORY rows
        except np.linalg.LinAlgError:
            return None
        scaled = diagonal[:, None] * y
        corner = inverse.T @ (np.diag(product.diagonal()) + y.T @ scaled) @ inverse
        covariance = covariance + s @ corner @ s.T - scaled @ inverse @ s.T - s @ inverse.T @ scaled.T
    # One Newton step from the point: the mode of the quadratic that has this gradient and this curvature.
    mean = path.start + path.unit * (path.v[at] + covariance @ path.gradients[at])
    tril, failed = torch.linalg.cholesky_ex(torch.from_numpy(covariance))
    if int(failed) or not np.isfinite(mean).all():
        return None
    return Normal(torch.from_numpy(mean), torch.from_numpy(path.unit)[:, None] * tril)


def log_densities(density: Density, u: Tensor, chunk: int) -> Tensor:
    """log p at many vectors (count, size), in float64 on the CPU; -inf where it is not a number."""
    program = density.program
    with torch.no_grad():
        there = u.to(program.device, program.dtype)
        value = torch.cat([_log_densities(density, part) for part in there.split(max(1, chunk))]).double().cpu()
    return torch.where(value.isfinite(), value, -math.inf)


def _log_densities(density: Density, u: Tensor) -> Tensor:
    """log p at vectors (count, size) in one call, halved until those whose factorization breaks down stand alone."""
    try:
        value: Tensor = density.gradient(u)[0] if density.compiled else torch.vmap(density.log_prob)(u)
    except RuntimeError as error:
        if "linalg" not in str(error):  # control flow that depends on values
            return torch.stack([_log_density(density, one) for one in u])
        if len(u) == 1:
            return u.new_full((1,), -math.inf)
        return torch.cat([_log_densities(density, half) for half in u.split(-(-len(u) // 2))])
    return value


def _log_density(density: Density, u: Tensor) -> Tensor:
    try:
        return density.log_prob(u)
    except RuntimeError as error:
        if "linalg" not in str(error):
            raise
        return u.new_full((), -math.inf)
