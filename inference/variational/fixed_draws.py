"""The ELBO of a diagonal Normal over a fixed set of draws: a function that can be maximized to all digits."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from guides.curvature import hessian
from inference.compiled.compile import Compile, Lowered, lower_gradient
from zoo.program.flat_density import Density

CLIMB = 100  # calls of the gradient that a climb takes as a rule, for judging whether to compile
CELLS = 5_000_000  # numbers in the second derivatives of several draws at a time


class FixedDraws:
    """L(m, r) = 1/N sum_n log p(c + F (m + e^r z_n)) + sum_j r_j + log|F| + d/2 (1 + log 2 pi), z_n fixed.

    The ELBO of u = c + F (m + e^r z), z standard Normal, with the mean over z replaced by one over draws that stay the
    same ("sample average approximation"; Giordano, Ingram and Broderick 2024, section 3). Draws come in pairs z and -z
    and are scaled to mean square one, so that L has its maximum where that of the ELBO is wherever log p is quadratic
    and, in the coordinates of F, without products.

    Parameters
    ----------
    density
        log p over unconstrained vectors u (size,).
    draws
        N, even.
    how
        Whether to compile the gradient of all draws.
    near
        A vector (size,) to try the model at.

    Attributes
    ----------
    noise
        z, shape (N, size).
    calls
        Gradients of log p so far; the product of second derivatives with a vector counts as two.
    together
        Whether the model can be run for all draws in one call.
    gradient
        log p and its gradient at vectors (N, size), perhaps compiled.
    """

    def __init__(self, density: Density, draws: int, how: Compile, near: Tensor) -> None:
        self.density, self.noise, self.calls = density, pairs_of_draws(draws, density.size), 0
        self.together = _vectorizes(density, near)
        self.gradient = Lowered(self._one_by_one, False, "draws were evaluated one after the other, which is slow")
        if self.together:
            self.gradient = lower_gradient(density, how, CLIMB, draws)

    def _one_by_one(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Log density and gradient at several vectors, for control flow that depends on values."""
        each = [self.density.gradient(one) for one in u]
        return torch.stack([value for value, _ in each]), torch.stack([slope for _, slope in each])

    def at(self, centre: Tensor, factor: Tensor, eta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log p (N,), its gradients by v = m + e^r z (N, size), and d v / d r (N, size), at eta = (m, r)."""
        mean, log_scale = eta.chunk(2)
        spread = log_scale.exp() * self.noise
        value, slope = self.scores(centre, factor, mean + spread)
        return value, slope, spread

    def scores(self, centre: Tensor, factor: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """log p (N,) at u = c + F v, v of shape (N, size), and its gradients by v; NaN where a matrix breaks down."""
        u = centre + v @ factor.mT
        self.calls += len(u)
        try:
            value, slope = self.gradient(u.to(self.density.like))
        except RuntimeError as error:
            if "linalg" not in str(error):
                raise
            return u.new_full((len(u),), math.nan), torch.full_like(u, math.nan)  # a climb turns back
        return value.double().cpu(), slope.double().cpu() @ factor

    def slopes(self, centre: Tensor, factor: Tensor, eta: Tensor) -> tuple[Tensor, Tensor]:
        """L and the gradients of what each pair of draws adds to it, shape (N / 2, 2 size); their mean is that of L."""
        value, slope, spread = self.at(centre, factor, eta)
        each = torch.cat([slope, slope * spread + 1], 1)
        pairs = 0.5 * (each[: len(each) // 2] + each[len(each) // 2 :])
        size = len(centre)
        constant = 0.5 * size * (1 + math.log(2 * math.pi)) + factor.diagonal().log().sum()
        return value.mean() + eta[size:].sum() + constant, pairs

    def target(self, centre: Tensor, factor: Tensor, eta: np.ndarray) -> tuple[float, np.ndarray]:
        """L and its gradient, as the climb takes them."""
        value, pairs = self.slopes(centre, factor, torch.from_numpy(eta))
        return float(value), pairs.mean(0).numpy()

    def hessian(self, centre: Tensor, factor: Tensor, eta: Tensor) -> Tensor:
        """Second derivatives of L at eta = (m, r), shape (2 size, 2 size).

        With the Hessian H_n of log p at each draw, by v, and w_n = e^r z_n: mean H_n, mean H_n diag(w_n) and mean
        diag(w_n) H_n diag(w_n) + diag(g_n w_n). That is half as many products as one by each entry of eta.
        """
        size = len(centre)
        _, slope, spread = self.at(centre, factor, eta)
        u = (centre + (eta[:size] + spread) @ factor.mT).to(self.density.like)
        scale = factor.to(self.density.like)
        total = torch.zeros(2 * size, 2 * size, dtype=torch.float64)
        for some in torch.arange(len(u)).split(max(1, CELLS // size**2)):
            second = self._second(u[some])
            second = (scale.mT @ second @ scale).double().cpu()
            w = spread[some]
            total[:size, :size] += second.sum(0)
            total[:size, size:] += (second * w[:, None, :]).sum(0)
            total[size:, size:] += (second * w[:, None, :] * w[:, :, None]).sum(0)
        total[size:, :size] = total[:size, size:].mT
        total /= len(u)
        total[size:, size:] += torch.diag((slope * spread).mean(0))
        return 0.5 * (total + total.mT)

    def _second(self, u: Tensor) -> Tensor:
        """Second derivatives of log p at vectors (some, size), shape (some, size, size)."""
        self.calls += 2 * u.numel()
        if self.together:
            second: Tensor = torch.vmap(torch.func.jacrev(torch.func.grad(self.density.log_prob)))(u)
            return second.detach()
        return torch.stack([hessian(self.density, one) for one in u]).to(u)


def pairs_of_draws(draws: int, size: int) -> Tensor:
    """Standard Normal draws (draws, size) in pairs z and -z, scaled to mean square one in every coordinate."""
    half = torch.randn(draws // 2, size, dtype=torch.float64)
    half = half / half.square().mean(0).sqrt()
    return torch.cat([half, -half])


def _vectorizes(density: Density, near: Tensor) -> bool:
    """Whether the model can be run for several draws in one call."""
    try:
        density.gradient(near.to(density.like).expand(2, -1))
    except RuntimeError as error:
        return "linalg" in str(error)
    return True
