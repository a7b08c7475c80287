"""Second derivatives of a log density at its mode: Newton steps to it, and the covariance that they stand for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from zoo.errors import FitError

NEWTON = 20  # most steps from where a climb ends
NEAR = 1e-8  # distance to the mode, in standard deviations of the approximation, at which they end
FAR = 1e-2  # at which it is none
ROUNDING = 16  # units in the last place of a log density that say nothing
CHUNK = 64  # rows of the Hessian at a time


class Surface(Protocol):
    """A log density over one unconstrained vector."""

    @property
    def like(self) -> Tensor:
        """An empty tensor in its precision and on its device."""

    def log_prob(self, u: Tensor) -> Tensor:
        """Log density at one vector."""

    def name(self, coordinate: int) -> str:
        """Name of the site that a coordinate belongs to."""


def slope(surface: Surface, u: Tensor) -> tuple[float, Tensor]:
    """Log density and its gradient at one vector (size,), in double precision on the CPU."""
    with torch.enable_grad():
        leaf = u.to(surface.like).detach().requires_grad_()
        value = surface.log_prob(leaf)
        (gradient,) = torch.autograd.grad(value, leaf)
    return float(value.detach()), gradient.double().cpu()


def hessian(surface: Surface, u: Tensor) -> Tensor:
    """Second derivatives of the log density at one vector, (size, size)."""
    with torch.enable_grad():  # torch.func does the same, and takes a second to be imported
        leaf = u.to(surface.like).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(surface.log_prob(leaf), leaf, create_graph=True)
        if not gradient.requires_grad:  # it is linear
            return torch.zeros(len(u), len(u), dtype=torch.float64)
        along = torch.eye(len(leaf), dtype=leaf.dtype, device=leaf.device)
        again = partial(torch.autograd.grad, gradient, leaf, retain_graph=True, materialize_grads=True)
        try:  # many rows at a time, each a vector product with the gradient's own derivative
            rows = [again(part, is_grads_batched=True)[0] for part in along.split(CHUNK)]
        except RuntimeError:  # an operation that knows no batches
            rows = [again(one)[0][None] for one in along]
    curvature: Tensor = torch.cat(rows).detach().double().cpu()
    return 0.5 * (curvature + curvature.mT)  # symmetric but for rounding, which a Cholesky factor would see one half of


def jacobians(function: Callable[[Tensor], Mapping[str, Tensor]], u: Tensor) -> dict[str, Tensor]:
    """First derivatives of each of several named tensors at one vector (size,): name -> (*shape, size)."""
    names: list[str] = []

    def listed(u: Tensor) -> tuple[Tensor, ...]:
        found = function(u)
        names[:] = found
        return tuple([found[n] for n in names])

    slopes = torch.autograd.functional.jacobian(listed, u.detach(), vectorize=True)
    return dict(zip(names, slopes, strict=True))


def polish(surface: Surface, u: Tensor) -> tuple[Tensor, Tensor, float]:
    """Newton steps to the mode: the mode, the Cholesky factor of -H there, and how long the last of them is.

    The last in standard deviations of the approximation, sqrt(g^T (-H)^-1 g).

    Raises
    ------
    FitError
        If this is no maximum, naming a site along which the density does not fall.
    """
    value, gradient = slope(surface, u)
    before = math.inf
    for _ in range(NEWTON):
        root = factor(surface, u)
        step = torch.cholesky_solve(gradient[:, None], root)[:, 0]
        distance = float((gradient @ step).clamp_min(0).sqrt())
        # A Newton step promises a gain of distance^2 / 2. Once that is below the rounding of the log density, whether a
        # step gained can only be told from the distance, which has to fall.
        blind = 0.5 * distance**2 < ROUNDING * torch.finfo(surface.like.dtype).eps * abs(value)
        if distance < NEAR:  # the curvature does not change over such a step
            return u + step, root, distance
        if blind and not distance < 0.5 * before:
            break
        before = distance
        there, along = slope(surface, u + step)
        if not (there > value or (blind and math.isfinite(there))):  # too far: the climb was as close as it gets
            break
        u, value, gradient = u + step, there, along
    if not (distance < FAR or blind):
        name = surface.name(int((gradient * step).abs().argmax()))
        raise FitError(
            f"laplace: the climb ends at a log density of {value:.4g} without coming to a maximum: it still rises "
            f"along {name!r}, without bound or to the edge of what can be represented. Give {name!r} a prior that "
            "keeps it away from there, another parameterization or starting values, more steps, or use nuts"
        )
    return u, root, distance


def factor(surface: Surface, u: Tensor) -> Tensor:
    """Cholesky factor of -H at one vector (size,), shape (size, size).

    Raises
    ------
    FitError
        If -H is not positive definite, naming the site along which it is least so.
    """
    precision = -hessian(surface, u)
    root: Tensor
    root, failed = torch.linalg.cholesky_ex(precision)
    if not int(failed) and bool(root.isfinite().all()):
        return root
    if not bool(precision.isfinite().all()):
        row = int((~precision.isfinite()).any(1).nonzero()[0])
        raise FitError(
            f"laplace: the curvature of {surface.name(row)!r} at the mode is not a number; its density has no second "
            "derivative there. Use nuts, or svi with another guide"
        )
    # In units of each coordinate's own curvature, so that the direction found is not just that of the largest unit.
    size = precision.diagonal().abs().clamp_min(1e-300).sqrt()
    values, vectors = torch.linalg.eigh(precision / size[:, None] / size)
    name = surface.name(int(vectors[:, 0].abs().argmax()))
    raise FitError(
        f"laplace: the posterior has no maximum along {name!r} where the climb ends (the smallest eigenvalue of the "
        f"scaled curvature is {float(values[0]):.2g}, where a positive one is needed): it is flat, a saddle, or rises "
        "without bound there. Give it a more informative prior, another parameterization or starting values, or use "
        "nuts"
    )


def triangular_of_inverse(root: Tensor) -> Tensor:
    """Cholesky factor L of P^-1, L L^T = P^-1, from that of P, without forming P^-1.

    P = R R^T gives P^-1 = R^-T R^-1, where R^-T is upper triangular and no Cholesky factor. Factorized from the last
    coordinate to the first, P = U U^T with U upper triangular, P^-1 = U^-T U^-1 has the lower triangular L = U^-T.
    """
    precision = root @ root.mT
    upper = torch.linalg.cholesky(precision.flip(0, 1)).flip(0, 1)
    eye = torch.eye(len(root), dtype=root.dtype)
    inverse: Tensor = torch.linalg.solve_triangular(upper, eye, upper=True)
    return inverse.mT
