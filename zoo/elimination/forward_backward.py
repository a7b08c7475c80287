"""Forward-backward for a chain over many rows, without a loop over the rows, which torch can differentiate."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from zoo.elimination.blocks import pieces
from zoo.elimination.recording import recording
from zoo.elimination.semirings import CELLS, Best, Scaled, arithmetic, before_each, compose


def smooth(table: Tensor, evidence: Tensor, first: Tensor, weight: Tensor | None = None) -> tuple[Tensor, ...]:
    """Filter and smooth a chain.

    Parameters
    ----------
    table
        log initial probabilities, then log transition probabilities, shape (batch, states + 1, states).
    evidence
        log p(x_t | z_t = k), shape (batch, states, rows).
    first
        Which rows begin a sequence, shape (rows,); the first row does.
    weight
        Weight of each row in the counts, shape (batch, rows); constant within a sequence.

    Returns
    -------
    tuple
        log p(x_t | x_1 .. x_{t-1}) of the row's sequence, (batch, rows); p(z_t = k | x), (batch, states, rows); and the
        expected counts of what `table` holds, in its shape.
    """
    # Relative to its largest entry, so that long products do not overflow; how far the smallest is below decides which
    # arithmetic is safe. Rows that are no first rows get the factor back at the end.
    shift = table[:, 1:].amax((-2, -1), keepdim=True)  # (batch, 1, 1)
    table = torch.cat([table[:, :1], table[:, 1:] - shift], 1)
    ring = arithmetic(table[:, 1:])
    conditional, smoothed = torch.empty_like(evidence[:, 0]), torch.empty_like(evidence)
    moves, at = torch.zeros_like(table[:, 1:]), 0
    parts, edges = pieces(ring, table, evidence, first)
    for part, (start, end) in zip(parts, edges, strict=True):
        rows = slice(at, at + part.rows)
        at += part.rows
        # alpha and beta, (row in block, batch, states, block), up to a factor per block that cancels in each line below
        filtered, future = part.filter(start), part.future(end)
        begins = part.begins[:, None, None]
        # log p(x_t | earlier rows) = log sum_k alpha_t(k) - log sum_k alpha_{t-1}(k); for a first row only the former.
        mass = ring.log(ring.total(filtered))  # (row in block, batch, 1, block)
        before = torch.cat([ring.log(ring.total(start))[None], mass[:-1]]).masked_fill_(begins, 0.0)
        conditional[:, rows] = part.unfold((mass - before)[:, :, 0]) + part.top
        # p(z_t = k | x) = alpha_t(k) beta_t(k) / sum_k
        joint = ring.times(filtered, future)
        norm = ring.total(joint)
        smoothed[..., rows] = part.unfold(ring.plain(ring.over(joint, norm)))
        # p(z_{t-1} = j, z_t = k | x) = alpha_{t-1}(j) A_jk after_t(k), with after_t(k) = e_t(k) beta_t(k) / norm_t, in
        # the memory of `future`. Moves into a first row and into the filling of the last block do not count.
        after = ring.over(ring.times(part.density, future, out=future), norm).masked_fill_(begins, ring.zero)
        if part.tail:
            after[part.tail :, ..., -1] = ring.zero
        if weight is not None:
            after = ring.times(after, ring.of(part.fold(weight[:, rows], 1.0).log())[:, :, None])
        moves += ring.pairs(start, part.step, after[0]) + ring.pairs(filtered[:-1], part.step, after[1:]).sum(0)
    conditional += torch.where(first, 0.0, shift[:, 0])
    dead = conditional.isneginf()
    if bool(dead.any()):  # what follows an impossible row is conditioned on nothing: 0 / 0 there
        conditional = torch.where(conditional.isnan() & (dead.cumsum(-1) > 0), -math.inf, conditional)
    opening = smoothed[..., first] if weight is None else smoothed[..., first] * weight[:, None, first]
    return conditional, smoothed, torch.cat([opening.sum(-1)[:, None], moves], 1)


def scan(table: Tensor, evidence: Tensor, first: Tensor) -> Tensor:
    """`smooth`'s log p(x_t | x_1 .. x_{t-1}) as plain products of one matrix per row, which torch differentiates.

    It makes a matrix for each row, and torch keeps all products for the way back; fits run on `smooth`.
    """
    begin = table[:, 0, :, None] + evidence
    top = torch.where(first, begin, evidence).detach().amax(-2, keepdim=True)  # (batch, 1, rows), no path for gradients
    density = (torch.where(first, begin, evidence) - top).exp().mT[:, :, None]  # (batch, rows, 1, states)
    # steps[t] = A diag(e_t); into the first row of a sequence every state leads alike, its density holds the rest.
    steps = torch.where(first[:, None, None], 1.0, table[:, None, 1:].exp()) * density
    before = before_each(Scaled(), torch.ones_like(table[:, 0]), steps[:, :-1])  # the filter, (batch, rows, states)
    before = before / before.sum(-1, keepdim=True)
    return (before[:, :, None] @ steps).sum((-2, -1)).log() + top[:, 0]


def log_evidence(table: Tensor, evidence: Tensor, first: Tensor) -> Tensor:
    """log p(x_t | x_1 .. x_{t-1}) of each row of a chain, differentiable and vectorizable.

    Parameters
    ----------
    table
        log initial probabilities, then log transition probabilities, shape (states + 1, states).
    evidence
        log p(x_t | z_t = k), shape (..., states, rows).
    first
        Which rows begin a sequence, shape (rows,).

    Returns
    -------
    Tensor
        Shape (..., rows).
    """
    flat = evidence.reshape(-1, *evidence.shape[-2:])
    if recording():  # `smooth` looks at values to choose its arithmetic, and a compiler cannot
        return scan(table.expand(len(flat), *table.shape), flat, first).reshape(*evidence.shape[:-2], -1)
    rows, _, _ = _chain(table.expand(len(flat), *table.shape), flat, first)
    return rows.reshape(*evidence.shape[:-2], -1)


def _batched(function: Any, size: int, dims: tuple[int | None, ...], inputs: tuple[Tensor, ...]) -> tuple[Any, Any]:
    """Apply a function that has a batch dimension of its own to inputs with one more, by joining the two."""
    full = [
        x if x.dtype == torch.bool else (x.expand(size, *x.shape) if d is None else x.movedim(d, 0)).flatten(0, 1)
        for x, d in zip(inputs, dims, strict=True)
    ]
    outputs = function.apply(*full)
    return tuple(o.unflatten(0, (size, -1)) for o in outputs), (0,) * len(outputs)


class _Chain(torch.autograd.Function):
    """`smooth` with its gradient: the posterior probabilities, which it has worked out on the way.

    d log p(x) / d log e_t(k) = p(z_t = k | x), and d log p(x) / d log A_jk is the expected count of such moves.
    """

    @staticmethod
    def forward(table: Tensor, evidence: Tensor, first: Tensor) -> tuple[Tensor, ...]:
        return smooth(table, evidence, first)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs, *output[1:])
        ctx.mark_non_differentiable(*output[1:])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        return (*_chain_gradient(*ctx.saved_tensors, gradient), None)

    @staticmethod
    def vmap(info: Any, dims: tuple[int | None, ...], *inputs: Tensor) -> tuple[Any, Any]:
        return _batched(_Chain, info.batch_size, dims, inputs)


class _Gradient(torch.autograd.Function):
    """Gradient of sum_t g_t log p(x_t | x_1 .. x_{t-1}): what is constant in a sequence weighs its probabilities."""

    @staticmethod
    def forward(
        table: Tensor, evidence: Tensor, first: Tensor, smoothed: Tensor, counts: Tensor, gradient: Tensor
    ) -> tuple[Tensor, ...]:
        # Three cases, cheapest first. One g for all rows: the posterior probabilities times g.
        scale = gradient[:, :1]  # (batch, 1)
        if bool((gradient == scale).all()):
            return scale[..., None] * counts, scale[..., None] * smoothed
        # One g for all rows of a sequence (row weights): counts are taken again, with the weights.
        weight = gradient / scale
        if bool(((weight == weight[:, first][:, first.cumsum(0) - 1]) & (weight >= 0)).all()):
            moves = smooth(table, evidence, first, weight)[2]
            return scale[..., None] * moves, gradient[:, None] * smoothed
        # Rows of a sequence that count differently, as in a density of some rows given others: no posterior says that.
        return _differentiate(table, evidence, first, gradient)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        table, evidence, first, _, _, gradient = inputs
        ctx.save_for_backward(table, evidence, first, gradient)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        table, evidence, first, gradient = ctx.saved_tensors
        pull = torch.func.vjp(lambda t, e, g: _differentiate(t, e, first, g), table, evidence, gradient)[1]
        second = pull(gradients)
        return second[0], second[1], None, None, None, second[2]

    @staticmethod
    def vmap(info: Any, dims: tuple[int | None, ...], *inputs: Tensor) -> tuple[Any, Any]:
        return _batched(_Gradient, info.batch_size, dims, inputs)


def _differentiate(table: Tensor, evidence: Tensor, first: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient of sum_t g_t log p(x_t | x_1 .. x_{t-1}) in general, which can be differentiated once more."""
    pull = torch.func.vjp(lambda t, e: scan(t, e, first), table, evidence)[1]
    gradients: tuple[Tensor, Tensor] = pull(gradient)
    return gradients


_chain: Callable[..., tuple[Tensor, Tensor, Tensor]] = _Chain.apply
_chain_gradient: Callable[..., tuple[Tensor, Tensor]] = _Gradient.apply


def best_path(table: Tensor, evidence: Tensor, first: Tensor) -> Tensor:
    """log p(x_t, z_t | z_{t-1}) along the most probable path (Viterbi 1967); arguments as for `log_evidence`.

    Its gradient marks the path.
    """
    path = viterbi(table.detach(), evidence.detach(), first)
    before = torch.where(first, 0, path.roll(1) + 1)  # row of the table: the initial probabilities, or a state's moves
    return table[before, path] + evidence.gather(0, path[None])[0]


def viterbi(table: Tensor, evidence: Tensor, first: Tensor) -> Tensor:
    """Most probable path given all rows of its sequence, shape (rows,); each row is traced back from the next."""
    # score[k, t]: log density of the best path that ends in state k at row t, up to a constant that all k share
    parts, edges = pieces(Best(), table[None], evidence[None], first)
    score = torch.cat([p.unfold(p.filter(start)) for p, (start, _) in zip(parts, edges, strict=True)], -1)[0]
    last = torch.cat([first[1:], first.new_ones(1)])
    # before[k, t]: the best state at row t if row t + 1 is in state k; some rows at a time, states^2 numbers for each
    width = max(1, CELLS // table.numel())
    before = torch.cat([(s[:, None] + table[1:, :, None]).argmax(0) for s in score.split(width, -1)], -1)
    # From the last row of a sequence on, back is a map from states to states, and the path its composition.
    back = torch.where(last, score.argmax(0), before)  # state at a row by the state at the next
    return compose(back.T.flip(0)[None])[0].flip(0)
