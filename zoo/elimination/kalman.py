"""Kalman filter and smoother of a linear-Gaussian chain over many rows, without a loop over the rows.

    h_t = F_t h_{t-1} + u_t + Normal(0, Q_t),    v_t = H_t h_t + Normal(0, R_t),

F and u of a first row are 0 and the mean of its state, Q is its covariance. Q may be singular, R may not. Everything
is in double precision, whatever comes in, and covariances are sums of squares (Joseph's form) or (I + P J)^-1 P.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from zoo.elimination.gaussian_scan import Steps, before_and_after, recurrence, weighed

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True)
class LinearGaussian:
    """A linear-Gaussian chain and what was observed of it, with any dimensions on the left.

    Attributes
    ----------
    transition, offset, noise
        F (..., rows, d, d), u (..., rows, d), Q (..., rows, d, d).
    design, value, spread
        H (..., rows, p, d), v (..., rows, p), R (..., rows, p, p).
    missing
        Which of v are missing, (rows, p).
    first
        Which rows begin a sequence, (rows,).
    """

    transition: Tensor
    offset: Tensor
    noise: Tensor
    design: Tensor
    value: Tensor
    spread: Tensor
    missing: Tensor
    first: Tensor

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of them, those that have a gradient first."""
        return tuple(getattr(self, f.name) for f in fields(self))

    def prepared(self) -> LinearGaussian:
        """In double precision; missing cells see nothing of the state, with variance 1; a first row has none before."""
        gone, row = self.missing[..., None], self.first[:, None]
        eye = torch.eye(self.value.shape[-1], dtype=torch.float64, device=self.value.device)
        spread = torch.where(gone | self.missing[..., None, :], eye, _symmetric(self.spread.double()))
        return LinearGaussian(
            torch.where(row[..., None], 0.0, self.transition.double()),
            self.offset.double(),
            _symmetric(self.noise.double()),
            torch.where(gone, 0.0, self.design.double()),
            torch.where(self.missing, 0.0, self.value.double()),
            spread,
            self.missing,
            self.first,
        )


@dataclass(frozen=True)
class Filtered:
    """What the rows so far say.

    Attributes
    ----------
    model
        The chain, prepared.
    before
        Mean and covariance of h_{t-1} given x_1 .. x_{t-1}, (..., rows, d, 1 + d).
    predicted, predicted_cov
        Mean and covariance of h_t given x_1 .. x_{t-1}.
    mean, cov
        Mean and covariance of h_t given x_1 .. x_t.
    keeps
        I - K H, what the prediction keeps, (..., rows, d, d).
    log_prob
        log p(x_tj | x_t1 .. x_t,j-1, x_1 .. x_{t-1}), (..., rows, p); 0 where it is missing.
    ahead
        J and eta of p(x_{t+1}, x_{t+2}, ... | h_t), (..., rows, d, d + 1); empty if it was not asked for.
    """

    model: LinearGaussian
    before: Tensor
    predicted: Tensor
    predicted_cov: Tensor
    mean: Tensor
    cov: Tensor
    keeps: Tensor
    log_prob: Tensor
    ahead: Tensor


@dataclass(frozen=True)
class Smoothed:
    """What all rows say.

    Attributes
    ----------
    mean, cov
        Of h_t, (..., rows, d) and (..., rows, d, d).
    cross
        Cov(h_t, h_{t-1}), (..., rows, d, d); 0 in a first row.
    before
        Mean of h_{t-1}, (..., rows, d); 0 in a first row.
    """

    mean: Tensor
    cov: Tensor
    cross: Tensor
    before: Tensor


def filter_rows(model: LinearGaussian, *, after: bool = False) -> Filtered:
    """Filter all rows; with `after`, find what the rows behind each say, too."""
    m = model.prepared()
    known, ahead = before_and_after(_steps(m), after=after)
    mean, cov = known[..., 0], known[..., 1:]
    predicted = (m.transition @ mean[..., None])[..., 0] + m.offset
    predicted_cov = _symmetric(m.transition @ cov @ m.transition.mT + m.noise)
    gain, root = _gain(m, predicted_cov)
    error = m.value - (m.design @ predicted[..., None])[..., 0]
    white = torch.linalg.solve_triangular(root, error[..., None], upper=False)[..., 0]
    cells = -0.5 * white.square() - root.diagonal(dim1=-2, dim2=-1).log() - HALF_LOG_2PI
    keeps, updated = _updated(m, predicted_cov, gain)
    return Filtered(
        m,
        known,
        predicted,
        predicted_cov,
        predicted + (gain @ error[..., None])[..., 0],
        updated,
        keeps,
        torch.where(m.missing, 0.0, cells),
        ahead,
    )


def smooth_rows(filtered: Filtered) -> Smoothed:
    """Smooth rows that were filtered, with what the rows behind each say."""
    m, d = filtered.model, filtered.mean.shape[-1]
    precision, eta = filtered.ahead[..., :d], filtered.ahead[..., d]
    pull = eta - (precision @ filtered.mean[..., None])[..., 0]
    cross = filtered.keeps @ m.transition @ filtered.before[..., 1:]  # Cov(h_t, h_{t-1} | x_1 .. x_t)
    out = weighed(filtered.cov, precision, torch.cat([filtered.cov, cross], -1))
    cov, cross = _symmetric(out[..., :d]), out[..., d:]
    mean = filtered.mean + (cov @ pull[..., None])[..., 0]
    before = torch.where(m.first[:, None], 0.0, mean.roll(1, -2))
    return Smoothed(mean, cov, cross, before)


def posterior_chain(filtered: Filtered) -> tuple[Tensor, Tensor, Tensor]:
    """The chain given all rows, which is one again, h_t = F h_{t-1} + u + L e_t: F, u and L.

    Given h_{t-1}, the state has precision Q^-1 + J with J what x_t and all rows behind say; L L^T = (I + Q J)^-1 Q.
    """
    m, d = filtered.model, filtered.mean.shape[-1]
    weight = torch.linalg.solve(m.spread, torch.cat([m.design, m.value[..., None]], -1))
    says = filtered.ahead + m.design.mT @ weight
    precision, eta = says[..., :d], says[..., d:]
    right = torch.cat([m.transition, m.offset[..., None] + m.noise @ eta], -1)
    out = weighed(m.noise, precision, right)
    root = square_root(m.noise)
    eye = torch.eye(d, dtype=root.dtype, device=root.device)
    inner = torch.linalg.cholesky(_symmetric(root.mT @ precision @ root) + eye)
    spread = torch.linalg.solve_triangular(inner, root.mT, upper=False).mT
    return out[..., :d], out[..., d], spread


def draw_chain(transition: Tensor, offset: Tensor, root: Tensor) -> Tensor:
    """Draw h_t = F_t h_{t-1} + u_t + L_t e_t, (..., rows, d); the F of a first row is 0."""
    shape = torch.broadcast_shapes(offset.shape, transition.shape[:-1])
    noise = torch.randn(shape, dtype=offset.dtype, device=offset.device)
    return recurrence(transition, offset + (root @ noise[..., None])[..., 0])


def square_root(cov: Tensor) -> Tensor:
    """L with L L^T = C, for C positive semidefinite, (..., d, d)."""
    values, vectors = torch.linalg.eigh(cov)
    root: Tensor = vectors * values.clamp_min(0.0).sqrt()[..., None, :]
    return root


def _steps(m: LinearGaussian) -> Steps:
    """Each row as a step from the state before it."""
    gain, root = _gain(m, m.noise)
    keeps, cov = _updated(m, m.noise, gain)
    error = m.value - (m.design @ m.offset[..., None])[..., 0]
    seen = torch.cat([m.design @ m.transition, error[..., None]], -1)
    d = m.transition.shape[-1]
    white = torch.linalg.solve_triangular(root, seen, upper=False)
    says = white[..., :d].mT @ white
    b = m.offset + (gain @ error[..., None])[..., 0]
    return Steps.of(keeps @ m.transition, b, cov, says[..., :d], says[..., d])


def _gain(m: LinearGaussian, cov: Tensor) -> tuple[Tensor, Tensor]:
    """K = P H^T S^-1, (..., d, p), and the Cholesky factor of S = H P H^T + R; not numbers where S has none."""
    seen = m.design @ cov
    root, failed = torch.linalg.cholesky_ex(_symmetric(seen @ m.design.mT + m.spread))
    root = torch.where((failed > 0)[..., None, None], torch.nan, root)
    return torch.cholesky_solve(seen, root).mT, root


def _updated(m: LinearGaussian, cov: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
    """I - K H and (I - K H) P (I - K H)^T + K R K^T."""
    keeps = torch.eye(cov.shape[-1], dtype=cov.dtype, device=cov.device) - gain @ m.design
    return keeps, _symmetric(keeps @ cov @ keeps.mT + gain @ m.spread @ gain.mT)


def _symmetric(matrix: Tensor) -> Tensor:
    return 0.5 * (matrix + matrix.mT)
