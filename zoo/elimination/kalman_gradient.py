"""The log density of a linear-Gaussian chain row by row, with its gradient from the smoothed states."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from zoo.elimination.kalman import LinearGaussian, filter_rows, smooth_rows
from zoo.elimination.recording import recording

GIVEN = 6  # tensors of a chain that have a gradient: F, u, Q, H, v, R


def log_evidence(model: LinearGaussian) -> Tensor:
    """log p(x_t | x_1 .. x_{t-1}) of its sequence, cell after cell, (..., rows, p), differentiable and vectorizable."""
    if not torch.is_grad_enabled():
        return filter_rows(model).log_prob
    return _density(*model.tensors)[0]


def density_and_scores(model: LinearGaussian) -> tuple[Tensor, ...]:
    """log p(x_tj | ...), and the gradient of its sum by F, u, Q, H, v and R.

    By Fisher's identity the gradient is the expected one of log p(x, h) given all rows (Durbin and Koopman 2012,
    section 7.3.3); no inverse of Q is needed, as Q^-1 (h_t - F h_{t-1} - u) is what the rows from t on say of h_t.
    """
    filtered = filter_rows(model, after=True)
    smoothed, m, d = smooth_rows(filtered), filtered.model, filtered.mean.shape[-1]
    eye = torch.eye(m.value.shape[-1], dtype=m.value.dtype, device=m.value.device).expand_as(m.spread)
    left = m.value[..., None] - m.design @ smoothed.mean[..., None]
    # R^-1 H, R^-1 (v - H E[h]) and R^-1
    weighted = torch.linalg.solve_ex(m.spread, torch.cat([m.design, left, eye], -1))[0]
    precise, error, inverse = weighted[..., :d], weighted[..., d], weighted[..., d + 1 :]
    # What the rows from t on say of h_t, its gradient at E[h_t] and minus its second derivative.
    says = filtered.ahead[..., :d] + m.design.mT @ precise
    at = (filtered.ahead[..., :d] @ smoothed.mean[..., None])[..., 0]
    slope = filtered.ahead[..., d] - at + (m.design.mT @ error[..., None])[..., 0]
    by_state = says @ torch.cat([smoothed.cov, smoothed.cross], -1)
    before = slope[..., :, None] * smoothed.before[..., None, :] - by_state[..., d:]
    by_noise = slope[..., :, None] * slope[..., None, :] + by_state[..., :d] @ says - says
    seen = precise @ smoothed.cov
    by_design = error[..., :, None] * smoothed.mean[..., None, :] - seen
    by_spread = error[..., :, None] * error[..., None, :] + seen @ precise.mT - inverse
    gone = m.missing[..., None]
    return (
        filtered.log_prob,
        torch.where(m.first[:, None, None], 0.0, before),
        slope,
        0.5 * by_noise,
        torch.where(gone, 0.0, by_design),
        torch.where(m.missing, 0.0, -error),
        torch.where(gone | m.missing[..., None, :], 0.0, 0.5 * by_spread),
    )


@torch.library.custom_op(
    "latentzoo::linear_gaussian",
    mutates_args=(),
    schema="(Tensor f, Tensor u, Tensor q, Tensor h, Tensor v, Tensor r, Tensor missing, Tensor first) -> Tensor[]",
)
def _opaque(*tensors: Tensor) -> list[Tensor]:
    """`density_and_scores` as one operation to a compiler, which would take minutes over all that it is made of."""
    return [t.clone() for t in density_and_scores(LinearGaussian(*tensors))]


@_opaque.register_fake
def _shapes(*tensors: Tensor) -> list[Tensor]:
    return [torch.empty_like(t, dtype=torch.float64) for t in (tensors[4], *tensors[:GIVEN])]


def _differentiate(gradient: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Gradient of sum_tj g_tj log p(x_tj | ...) by torch, with no more claimed than that it is one of the density."""
    given, kept = tensors[:GIVEN], tensors[GIVEN:]
    pull = torch.func.vjp(lambda *own: filter_rows(LinearGaussian(*own, *kept)).log_prob, *given)[1]
    gradients: tuple[Tensor, ...] = pull(gradient.double())
    return gradients


def _sequence_weights(gradient: Tensor, missing: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    """g of each row, (..., rows), and whether it is the same in all cells of each sequence that are there."""
    low = torch.where(missing, math.inf, gradient).amin(-1)
    high = torch.where(missing, -math.inf, gradient).amax(-1)
    sequence = (first.cumsum(0) - 1).expand(low.shape)
    low = torch.full_like(low, math.inf).scatter_reduce(-1, sequence, low, "amin")
    high = torch.full_like(high, -math.inf).scatter_reduce(-1, sequence, high, "amax")
    each: Tensor = torch.where(low > high, 0.0, high)
    return each.gather(-1, sequence), (low >= high).all()


def _joined(function: Any, size: int, dims: tuple[int | None, ...], inputs: tuple[Tensor, ...]) -> tuple[Any, Any]:
    """Apply a function that takes any dimensions on the left to inputs with one more; masks and marks have none."""
    full = [
        x if x.dtype == torch.bool else (x.expand(size, *x.shape) if d is None else x.movedim(d, 0))
        for x, d in zip(inputs, dims, strict=True)
    ]
    outputs = function.apply(*full)
    return outputs, (0,) * len(outputs)


class _Density(torch.autograd.Function):
    """log p(x_tj | ...), with its gradient, which is worked out on the way."""

    @staticmethod
    def forward(*tensors: Tensor) -> tuple[Tensor, ...]:
        if recording():
            return tuple(_opaque(*(t.contiguous() for t in tensors)))
        return density_and_scores(LinearGaussian(*tensors))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs, *output[1:])
        ctx.mark_non_differentiable(*output[1:])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        return (*_gradient(gradient, *ctx.saved_tensors), None, None)

    @staticmethod
    def vmap(info: Any, dims: tuple[int | None, ...], *inputs: Tensor) -> tuple[Any, Any]:
        return _joined(_Density, info.batch_size, dims, inputs)


class _Gradient(torch.autograd.Function):
    """Gradient of sum_tj g_tj log p(x_tj | ...), which can be differentiated once more."""

    @staticmethod
    def forward(gradient: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        inputs, scores = tensors[: GIVEN + 2], tensors[GIVEN + 2 :]
        weight, even = _sequence_weights(gradient, *inputs[GIVEN:])
        # A compiled gradient is that of all rows, which count the same in a sequence; a compiler cannot look.
        if not recording() and not bool(even):
            # Rows that count differently, as in a density of some rows given others: no posterior says that.
            scores, weight = _differentiate(gradient, *inputs), torch.ones_like(weight)
        found = (
            weight.reshape(*weight.shape, *[1] * (2 - k)) * g for g, k in zip(scores, (0, 1, 0, 0, 1, 0), strict=True)
        )
        return tuple(g.sum_to_size(t.shape).to(t.dtype) for g, t in zip(found, inputs, strict=False))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs[: GIVEN + 3])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gradient, *tensors = ctx.saved_tensors
        given, kept = tensors[:GIVEN], tensors[GIVEN:]
        pull = torch.func.vjp(lambda g, *own: _differentiate(g, *own, *kept), gradient, *given)[1]
        return (*pull(gradients), *[None] * (2 + GIVEN))

    @staticmethod
    def vmap(info: Any, dims: tuple[int | None, ...], *inputs: Tensor) -> tuple[Any, Any]:
        return _joined(_Gradient, info.batch_size, dims, inputs)


_density: Callable[..., tuple[Tensor, ...]] = _Density.apply
_gradient: Callable[..., tuple[Tensor, ...]] = _Gradient.apply
