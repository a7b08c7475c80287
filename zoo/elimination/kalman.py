"""Kalman filter and smoother of a linear-Gaussian chain over many rows, without a loop over the rows, and its gradient.

    h_t = F_t h_{t-1} + u_t + Normal(0, Q_t),    v_t = H_t h_t + Normal(0, R_t),

F and u of a first row are 0 and the mean of its state, Q is its covariance. Q may be singular, R may not. Everything
is in double precision, whatever comes in, and covariances are sums of squares (Joseph's form) or (I + P J)^-1 P.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode

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


def log_evidence(model: LinearGaussian) -> Tensor:
    """log p(x_t | x_1 .. x_{t-1}) of its sequence, cell after cell, (..., rows, p), differentiable and vectorizable."""
    if get_proxy_mode() is not None:  # the gradient looks at values, and a compiler cannot
        return filter_rows(model).log_prob
    return _density(*model.tensors)


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


# -- the gradient -----------------------------------------------------------------------------------------------------


def _differentiate(gradient: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Gradient of sum_tj g_tj log p(x_tj | ...) by torch, with no more claimed than that it is one of the density."""
    given, kept = tensors[:6], tensors[6:]
    pull = torch.func.vjp(lambda *own: filter_rows(LinearGaussian(*own, *kept)).log_prob, *given)[1]
    gradients: tuple[Tensor, ...] = pull(gradient.double())
    return gradients


def scores(model: LinearGaussian, weight: Tensor) -> tuple[Tensor, ...]:
    """Gradient of sum_t w_t log p(x_t | x_1 .. x_{t-1}) by F, u, Q, H, v, R; w is constant in each sequence.

    By Fisher's identity it is the expected gradient of log p(x, h) given all rows (Durbin and Koopman 2012, section
    7.3.3); no inverse of Q is needed, as Q^-1 (h_t - F h_{t-1} - u) is what the rows from t on say of h_t.
    """
    filtered = filter_rows(model, after=True)
    smoothed, m, d = smooth_rows(filtered), filtered.model, filtered.mean.shape[-1]
    w = weight.double()[..., None]
    both = torch.cat([m.design, m.value[..., None] - m.design @ smoothed.mean[..., None]], -1)
    weighted = torch.linalg.solve_ex(m.spread, both)[0]  # R^-1 H and R^-1 (v - H E[h])
    precise, error = weighted[..., :d], weighted[..., d]
    # What the rows from t on say of h_t, its gradient at E[h_t] and minus its second derivative.
    says = filtered.ahead[..., :d] + m.design.mT @ precise
    at = (filtered.ahead[..., :d] @ smoothed.mean[..., None])[..., 0]
    slope = filtered.ahead[..., d] - at + (m.design.mT @ error[..., None])[..., 0]
    by_state = says @ torch.cat([smoothed.cov, smoothed.cross], -1)
    before = slope[..., :, None] * smoothed.before[..., None, :] - by_state[..., d:]
    by_noise = slope[..., :, None] * slope[..., None, :] + by_state[..., :d] @ says - says
    seen = precise @ smoothed.cov
    by_design = error[..., :, None] * smoothed.mean[..., None, :] - seen
    eye = torch.eye(m.value.shape[-1], dtype=seen.dtype, device=seen.device)
    inverse = torch.linalg.solve_ex(m.spread, eye.expand_as(m.spread))[0]
    by_spread = error[..., :, None] * error[..., None, :] + seen @ precise.mT - inverse
    w2 = w[..., None]
    inside = (~m.missing).double()
    return (
        torch.where(m.first[:, None, None], 0.0, w2 * before),
        w * slope,
        0.5 * w2 * by_noise,
        w2 * by_design * inside[..., None],
        -w * error * inside,
        0.5 * w2 * by_spread * inside[..., None] * inside[..., None, :],
    )


def _sequence_weights(gradient: Tensor, missing: Tensor, first: Tensor) -> Tensor | None:
    """g of each row, (..., rows), where it is the same in all cells of a sequence that are there; else None."""
    low = torch.where(missing, math.inf, gradient).amin(-1)
    high = torch.where(missing, -math.inf, gradient).amax(-1)
    sequence = (first.cumsum(0) - 1).expand(low.shape)
    count = int(first.sum())
    low = low.new_full((*low.shape[:-1], count), math.inf).scatter_reduce(-1, sequence, low, "amin")
    high = high.new_full((*high.shape[:-1], count), -math.inf).scatter_reduce(-1, sequence, high, "amax")
    if bool((low < high).any()):
        return None
    each: Tensor = torch.where(low > high, 0.0, high)
    return each.gather(-1, sequence)


def _joined(function: Any, size: int, dims: tuple[int | None, ...], inputs: tuple[Tensor, ...]) -> tuple[Any, Any]:
    """Apply a function that takes any dimensions on the left to inputs with one more; masks and marks have none."""
    full = [
        x if x.dtype == torch.bool else (x.expand(size, *x.shape) if d is None else x.movedim(d, 0))
        for x, d in zip(inputs, dims, strict=True)
    ]
    outputs = function.apply(*full)
    return outputs, (0,) * len(outputs) if isinstance(outputs, tuple) else 0


class _Density(torch.autograd.Function):
    """log p(x_tj | ...), with its gradient from the smoothed states."""

    @staticmethod
    def forward(*tensors: Tensor) -> Tensor:
        return filter_rows(LinearGaussian(*tensors)).log_prob

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return (*_gradient(gradient, *ctx.saved_tensors), None, None)

    @staticmethod
    def vmap(info: Any, dims: tuple[int | None, ...], *inputs: Tensor) -> tuple[Any, Any]:
        return _joined(_Density, info.batch_size, dims, inputs)


class _Gradient(torch.autograd.Function):
    """Gradient of sum_tj g_tj log p(x_tj | ...), which can be differentiated once more."""

    @staticmethod
    def forward(gradient: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        model = LinearGaussian(*tensors)
        weight = _sequence_weights(gradient, model.missing, model.first)
        found = _differentiate(gradient, *tensors) if weight is None else scores(model, weight)
        return tuple(g.sum_to_size(t.shape).to(t.dtype) for g, t in zip(found, tensors[:6], strict=True))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gradient, *tensors = ctx.saved_tensors
        given, kept = tensors[:6], tensors[6:]
        pull = torch.func.vjp(lambda g, *own: _differentiate(g, *own, *kept), gradient, *given)[1]
        return (*pull(gradients), None, None)

    @staticmethod
    def vmap(info: Any, dims: tuple[int | None, ...], *inputs: Tensor) -> tuple[Any, Any]:
        return _joined(_Gradient, info.batch_size, dims, inputs)


_density: Callable[..., Tensor] = _Density.apply
_gradient: Callable[..., tuple[Tensor, ...]] = _Gradient.apply
