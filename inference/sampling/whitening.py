"""Coordinates in which particles are nearly standard Normal: covariances, and scales that other coordinates drive."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from inference.sampling.roots import CLIP, Root, RootAlong, root_along, root_of

RIDGE = 1e-8  # share of its own that is added to the diagonal of normal equations
PASSES = 3  # of least squares, each with the scales of the one before
DRIVEN = 0.1  # correlation of log |deviation| with another coordinate from which on the scale is taken to depend on it


@dataclass(frozen=True)
class Whitening:
    """A bijection u(z) that makes particles u of vectors z that are nearly standard Normal.

    With x = (u - centre) / spread, some coordinates D have scales that depend on others, as effects do on their
    standard deviation (Neal's funnel), and regression coefficients on that of the noise:

        x_N = y_N,    x_D = A y_N + y_D exp(a),    a_i = g_i clip(y_j(i)),    y = L z,

    where N are the others, one of which, j(i), drives i. L, too, changes along the coordinate that drives most:
    where that scale goes from far below to far above that of a prior, no one slope and no one covariance fit. Such
    maps are fixed while particles move, so that Hamiltonian trajectories in z leave what they should as it is; how
    well a map fits matters for their speed only.

    Attributes
    ----------
    centre, spread
        Medians and robust standard deviations, shape (size,) each.
    root
        L.
    driven
        D, shape (driven,).
    shift
        A, shape (driven, size), zero in columns of D.
    driver, slope
        j(i) and g_i, shape (driven,) each.
    """

    centre: Tensor
    spread: Tensor
    root: Root | RootAlong
    driven: Tensor
    shift: Tensor
    driver: Tensor
    slope: Tensor

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return u (count, size), and the log determinant of its derivatives up to a constant (count,)."""
        y, log_scale = self.root.forward(z)
        x = y
        if len(self.driven):
            a = self._log_scales(y)
            x = y.index_copy(1, self.driven, y @ self.shift.mT + y[:, self.driven] * a.exp())
            log_scale = log_scale + a.sum(1)
        return self.centre + self.spread * x, log_scale

    def inverse(self, u: Tensor) -> Tensor:
        """Return z (count, size)."""
        x = (u - self.centre) / self.spread
        if len(self.driven):
            off = x[:, self.driven] - x @ self.shift.mT
            x = x.index_copy(1, self.driven, off * (-self._log_scales(x)).exp())
        return self.root.inverse(x)

    def pull(self, z: Tensor, gradient: Tensor) -> Tensor:
        """Gradient in z of f(u(z)) plus the log determinant, from that of f in u: (count, size) each."""
        of_x = gradient * self.spread
        of_y = of_x
        if len(self.driven):
            y, _ = self.root.forward(z)
            a = self._log_scales(y)
            mine = of_x[:, self.driven]
            along = mine * a.exp()
            of_y = of_x.index_copy(1, self.driven, along) + mine @ self.shift
            inside = y[:, self.driver].abs() < CLIP
            of_y = of_y.index_add(1, self.driver, self.slope * inside * (along * y[:, self.driven] + 1))
        return self.root.pull(z, of_y)

    def _log_scales(self, y: Tensor) -> Tensor:
        return self.slope * y[:, self.driver].clamp(-CLIP, CLIP)


def whitening(u: Tensor) -> Whitening:
    """Fit a bijection to particles (count, size).

    Particles far out are clipped; the covariance of `count` particles is shrunk towards its diagonal by size / (size +
    count), so that it has full rank however few there are.
    """
    quarters = torch.quantile(u, torch.tensor([0.25, 0.5, 0.75], dtype=u.dtype, device=u.device), dim=0)
    spread = (quarters[2] - quarters[0]) / 1.349
    spread = torch.where(spread > 0, spread, u.std(0))
    spread = torch.where(spread > 0, spread, torch.ones_like(spread))
    x = (u - quarters[1]) / spread
    driven, driver = _driven(x)
    shift, slope = x.new_zeros(len(driven), x.shape[1]), x.new_zeros(len(driven))
    if len(driven):
        others = torch.ones(x.shape[1], dtype=torch.bool, device=x.device)
        others[driven] = False
        base, t = x[:, others].clamp(-CLIP, CLIP), x[:, driver].clamp(-CLIP, CLIP)
        columns = torch.cat([base, torch.ones_like(base[:, :1])], 1)
        a = torch.zeros_like(t)
        for _ in range(PASSES):  # least squares, weighted by the scales once these are known
            weight = (-a.mean(1, keepdim=True)).exp()
            weight = weight / weight.max()
            target = (x[:, driven] * weight).clamp(-CLIP, CLIP)
            shift[:, others] = _solved(columns * weight, target)[:-1].mT
            off = x[:, driven] - x @ shift.mT
            slope = (_centred(t) * _centred(_log(off))).mean(0) / t.var(0)
            a = slope * t
        x = x.index_copy(1, driven, off * (-a).exp())
    root = root_along(x, int(driver.mode().values)) if len(driven) else root_of(x)
    return Whitening(quarters[1], spread, root, driven, shift, driver, slope)


def _solved(columns: Tensor, target: Tensor) -> Tensor:
    """Least squares by normal equations, (columns, targets): of LAPACK's the last bits depend on where memory lies."""
    gram = columns.mT @ columns
    root = torch.linalg.cholesky(gram + torch.diag(RIDGE * gram.diagonal().clamp_min(1e-300)))
    return torch.cholesky_solve(columns.mT @ target, root)


def _driven(x: Tensor) -> tuple[Tensor, Tensor]:
    """Which coordinates have a scale that another drives, and which that is: the one with the largest correlation.

    What drives others is not driven itself.
    """
    pair = x.clamp(-CLIP, CLIP), _log(x)
    t, log = (v / v.square().mean(0).sqrt().clamp_min(1e-12) for v in map(_centred, pair))
    correlation = (log.mT @ t / len(x)).abs().fill_diagonal_(0)  # (size, size): of the scale of one with another
    largest, driver = correlation.max(1)
    driven = largest > DRIVEN
    # Of two that look as if each drove the other, and in longer chains, the one that drives more strongly does.
    strength = torch.where(driven[:, None], correlation.square(), 0).sum(0)
    driven &= strength[driver] > strength
    driven &= ~torch.zeros_like(driven).index_fill(0, driver[driven], True)
    at = driven.nonzero()[:, 0]
    return at, driver[at]


def _log(off: Tensor) -> Tensor:
    return off.abs().clamp_min(1e-12).log()


def _centred(x: Tensor) -> Tensor:
    return x - x.mean(0)
