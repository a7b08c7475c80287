"""Forward-backward for a chain over many rows, without a loop over the rows.

With transition matrix A and emission densities e_t the unnormalized filter is a product of one matrix per row,

    alpha_t(k) = sum_j alpha_{t-1}(j) A_jk e_t(k).

The rows are split in blocks. The matrices inside all blocks are multiplied up side by side, a prefix product over the
blocks says how each begins and ends, and then all blocks are filtered and smoothed side by side (the parallel scan of
Särkkä and García-Fernández 2021, "Temporal parallelization of Bayesian smoothers", in blocks that fit in cache).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

WIDTH = 1 << 13  # numbers in one step over all blocks: enough to outweigh the call, few enough for the cache
LONGEST = 256  # rows in a block
CELLS = 1 << 20  # numbers that one product of logarithms may hold at once


class Scaled:
    """Sums of products in plain numbers, brought back to size from block to block.

    Parameters
    ----------
    longest
        How many rows may pass before numbers have to be brought back to size.
    """

    one, zero = 1.0, 0.0

    def __init__(self, longest: int = LONGEST) -> None:
        self.longest = longest

    def of(self, logs: Tensor) -> Tensor:
        """Take numbers that are given by their logarithms."""
        return logs.exp()

    def log(self, x: Tensor) -> Tensor:
        """Give the logarithm back."""
        return x.log()

    def product(self, x: Tensor, y: Tensor, out: Tensor | None = None) -> Tensor:
        """Matrix product over the last two dimensions."""
        return torch.matmul(x.contiguous(), y.contiguous(), out=out)

    def times(self, x: Tensor, y: Tensor, out: Tensor | None = None) -> Tensor:
        """Product entry by entry."""
        return torch.mul(x, y, out=out)

    def over(self, x: Tensor, y: Tensor) -> Tensor:
        """Quotient entry by entry, in place of the first."""
        return x.div_(y)

    def total(self, x: Tensor) -> Tensor:
        """Sum over the states, dimension -2, which is kept."""
        return x.sum(-2, keepdim=True)

    def unit(self, x: Tensor) -> Tensor:
        """Divide matrices by their largest entry, which is not differentiated: only their directions matter."""
        return x / x.detach().amax((-2, -1), keepdim=True)

    def plain(self, x: Tensor) -> Tensor:
        """Give plain numbers."""
        return x

    def pairs(self, before: Tensor, step: Tensor, after: Tensor) -> Tensor:
        """sum_t before_t(j) A_jk after_t(k), with `step` the transpose of A and t the last dimension."""
        return step.mT * (before @ after.mT)


class Logs(Scaled):
    """The same in logarithms: slower, and nothing is ever lost, whatever is impossible."""

    one, zero = 0.0, -math.inf

    def of(self, logs: Tensor) -> Tensor:
        """Keep logarithms."""
        return logs

    def log(self, x: Tensor) -> Tensor:
        """Keep logarithms."""
        return x

    def product(self, x: Tensor, y: Tensor, out: Tensor | None = None) -> Tensor:
        """log sum_j exp(x_ij + y_jk), some columns at a time."""
        width = max(1, CELLS // max(1, x.numel()))
        parts = [(x[..., None] + p[..., None, :, :]).logsumexp(-2) for p in y.split(width, -1)]
        return torch.cat(parts, -1, out=out)

    def times(self, x: Tensor, y: Tensor, out: Tensor | None = None) -> Tensor:
        """Sum of the logarithms."""
        return torch.add(x, y, out=out)

    def over(self, x: Tensor, y: Tensor) -> Tensor:
        """Difference of the logarithms."""
        return x.sub_(y)

    def total(self, x: Tensor) -> Tensor:
        """log sum exp over the states."""
        return x.logsumexp(-2, keepdim=True)

    def unit(self, x: Tensor) -> Tensor:
        """Subtract the largest entry."""
        return x - x.amax((-2, -1), keepdim=True)

    def plain(self, x: Tensor) -> Tensor:
        """Exponentiate."""
        return x.exp_()

    def pairs(self, before: Tensor, step: Tensor, after: Tensor) -> Tensor:
        """sum_t exp(before_t(j) + log A_jk + after_t(k)), one state j at a time."""
        rows = [
            (before[..., j, None, :] + step[..., j, None] + after).exp_().sum(-1) for j in range(before.shape[-2])
        ]
        return torch.stack(rows, -2)


def arithmetic(transition: Tensor) -> Scaled:
    """Choose plain numbers where every transition is possible enough, logarithms elsewhere.

    Let a be the smallest transition probability relative to the largest. A state whose weight is lost to underflow is
    refilled by the next row with a share of at least a, so over m rows what is lost stays below rounding if
    a^(m + 1) > tiny / eps.
    """
    kind = torch.finfo(transition.dtype)
    depth = float(transition.amax() - transition.amin())
    room = math.log(kind.eps / kind.tiny)
    return Scaled(int(min(LONGEST, room / max(depth, 1e-3) - 1))) if 2 * depth < room else Logs(LONGEST)


def prefix(ring: Scaled, matrices: Tensor) -> Tensor:
    """Product of the first 1, 2, ... matrices along dimension -3, each up to a factor, in log2(length) rounds."""
    count = matrices.shape[-3]
    if count == 1:
        return matrices
    even, odd = matrices[..., 0::2, :, :], matrices[..., 1::2, :, :]
    done = prefix(ring, ring.unit(ring.product(even[..., : count // 2, :, :], odd)))
    rest = ring.unit(ring.product(done[..., : (count - 1) // 2, :, :], even[..., 1:, :, :]))
    even = torch.cat([even[..., :1, :, :], rest], -3)
    woven = torch.stack([even[..., : count // 2, :, :], done], -3).flatten(-4, -3)
    return torch.cat([woven, even[..., -1:, :, :]], -3) if count % 2 else woven


def smooth(table: Tensor, evidence: Tensor, first: Tensor, weight: Tensor | None = None) -> tuple[Tensor, ...]:
    """Filter and smooth a chain.

    Parameters
    ----------
    table
        log initial probabilities, then log transition probabilities, shape (batch, states + 1, states).
    evidence
        log p(x_t | z_t = k), shape (batch, states, rows).
    first
        Which rows begin a sequence, shape (rows,).
    weight
        Weight of each row in the counts, shape (batch, rows); constant within a sequence.

    Returns
    -------
    tuple
        log p(x_t | x_1 .. x_{t-1}) of the row's sequence, (batch, rows); p(z_t = k | x), (batch, states, rows); and the
        expected counts of what `table` holds, in its shape.
    """
    batch, states, rows = evidence.shape
    shift = table[:, 1:].amax((-2, -1))[:, None]
    ring = arithmetic(table[:, 1:] - shift[..., None])
    step = ring.of(table[:, 1:] - shift[..., None]).mT.contiguous()  # columns: from the second state to the first
    starts = first.nonzero()[:, 0]
    begin = evidence[..., starts] + table[:, 0, :, None]
    top = evidence.amax(-2, keepdim=True)
    top[..., starts] = begin.amax(-2, keepdim=True)
    top = torch.where(top.isneginf(), 0.0, top)  # a row that is impossible in every state
    density = evidence - top
    density[..., starts] = begin - top[..., starts]
    density = ring.of(density)

    size = min(ring.longest, max(1, batch * rows * states**2 // WIDTH))
    count, tail = -(-rows // size), rows % size

    def fold(x: Tensor, fill: Any) -> Tensor:
        """Lay out (..., rows) as (row in block, ..., block), the last block filled up."""
        whole = x[..., : rows - tail].unflatten(-1, (-1, size)).movedim(-1, 0)
        if not tail:
            return whole.contiguous()
        out = x.new_empty(size, *x.shape[:-1], count)
        out[..., :-1] = whole
        out[:tail, ..., -1] = x[..., rows - tail :].movedim(-1, 0)
        out[tail:, ..., -1] = fill
        return out

    def unfold(x: Tensor) -> Tensor:
        return x.movedim(0, -1).flatten(-2)[..., :rows]

    begins, ends = fold(first, False), fold(torch.cat([first[1:], first.new_ones(1)]), False)
    begins[0, 0] = True
    if tail:
        begins[tail, -1] = True
    density = fold(density, ring.one)
    edges = _edges(ring, step, density, begins, ends)
    start, end = edges[:batch], edges[batch:]

    filtered, future = torch.empty_like(density), torch.empty_like(density)
    x = start
    for at, any_begins in enumerate(begins.any(-1).tolist()):
        x = ring.product(step, x, out=filtered[at])
        if any_begins:
            x.masked_fill_(begins[at], ring.one)
        ring.times(x, density[at], out=x)
    x, back = end, step.mT.contiguous()
    for at, any_ends in reversed(list(enumerate(ends.any(-1).tolist()))):
        ring.product(back, x, out=future[at])
        if any_ends:
            future[at].masked_fill_(ends[at], ring.one)
        x = ring.times(future[at], density[at])

    mass = ring.log(ring.total(filtered))
    before = torch.cat([ring.log(ring.total(start))[None], mass[:-1]]).masked_fill_(begins[:, None, None], 0.0)
    conditional = unfold((mass - before)[:, :, 0]) + top[:, 0] + torch.where(first, 0.0, shift)
    dead = conditional.isneginf()
    if bool(dead.any()):  # what follows an impossible row is conditioned on nothing
        conditional = torch.where(conditional.isnan() & (dead.cumsum(-1) > 0), -math.inf, conditional)

    joint = ring.times(filtered, future)
    norm = ring.total(joint)
    smoothed = unfold(ring.plain(ring.over(joint, norm)))
    after = ring.over(ring.times(density, future, out=density), norm)
    at, block = begins.nonzero(as_tuple=True)
    after[at, ..., block] = ring.zero
    if tail:
        after[tail:, ..., -1] = ring.zero
    opening = smoothed[..., starts]
    if weight is not None:
        after = ring.times(after, ring.of(fold(weight, 1.0).log())[:, :, None])
        opening = opening * weight[:, None, starts]
    moves = ring.pairs(start, step, after[0]) + ring.pairs(filtered[:-1], step, after[1:]).sum(0)
    return conditional, smoothed, torch.cat([opening.sum(-1)[:, None], moves], 1)


def _edges(ring: Scaled, step: Tensor, density: Tensor, begins: Tensor, ends: Tensor) -> Tensor:
    """Filter at the row before each block, then the future at the row behind it, (2 * batch, states, blocks)."""
    size, batch, states, count = density.shape
    edges = density.new_full((2 * batch, states, count), ring.one)
    if count == 1:
        return edges
    eye = torch.eye(states, dtype=torch.bool, device=density.device)[..., None]
    held = torch.where(eye, density[0][:, :, None], ring.zero)  # (batch, state now, state at the block's first row, block)
    moved = torch.empty_like(held)
    for at, any_begins in enumerate(begins.any(-1).tolist()):
        if at:
            ring.product(step, held.flatten(2), out=moved.view(batch, states, -1))
            if any_begins:
                moved = torch.where(begins[at], ring.total(held.transpose(1, 2)).transpose(1, 2), moved)
            held, moved = ring.times(moved, density[at][:, :, None], out=moved), held
    held = ring.unit(held.permute(0, 3, 1, 2))
    enter = torch.where(begins[0][:, None, None], ring.one, step[:, None])
    leave = torch.where(ends[-1][:, None, None], ring.one, step.mT[:, None])
    forward = ring.product(held, enter).mT
    backward = ring.product(held.mT, leave).mT.flip(1)
    vectors = prefix(ring, torch.cat([forward, backward]))[..., 0, :].mT
    edges[:batch, :, 1:] = vectors[:batch, :, :-1]
    edges[batch:, :, :-1] = vectors[batch:, :, :-1].flip(-1)
    return edges


def scan(table: Tensor, evidence: Tensor, first: Tensor) -> Tensor:
    """`smooth`'s log p(x_t | x_1 .. x_{t-1}) as plain products of one matrix per row, which torch differentiates."""
    ring = Scaled()
    transition = table[:, 1:].exp()
    begin = table[:, 0, :, None] + evidence
    top = torch.where(first, begin, evidence).detach().amax(-2, keepdim=True)
    density = (torch.where(first, begin, evidence) - top).exp().mT[:, :, None]
    steps = torch.where(first[:, None, None], 1.0, transition[:, None]) * density
    filtered = prefix(ring, steps)[..., 0, :]
    filtered = filtered / filtered.sum(-1, keepdim=True)
    before = torch.cat([torch.full_like(filtered[:, :1], 1 / filtered.shape[-1]), filtered[:, :-1]], 1)
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
    rows, _, _ = _Chain.apply(table.expand(len(flat), *table.shape), flat, first)
    found: Tensor = rows.reshape(*evidence.shape[:-2], -1)
    return found


def _batched(function: Any, size: int, dims: tuple[int | None, ...], inputs: tuple[Tensor, ...]) -> tuple[Any, Any]:
    """Apply a function that has a batch dimension of its own to inputs with one more, by joining the two."""
    full = [
        x if x.dtype == torch.bool else (x.expand(size, *x.shape) if d is None else x.movedim(d, 0)).flatten(0, 1)
        for x, d in zip(inputs, dims, strict=True)
    ]
    outputs = function.apply(*full)
    return tuple(o.unflatten(0, (size, -1)) for o in outputs), (0,) * len(outputs)


class _Chain(torch.autograd.Function):
    """`smooth` with its gradient, which are the posterior probabilities it has found on the way."""

    @staticmethod
    def forward(table: Tensor, evidence: Tensor, first: Tensor) -> tuple[Tensor, ...]:
        return smooth(table, evidence, first)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs, *output[1:])
        ctx.mark_non_differentiable(*output[1:])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        return (*_Gradient.apply(*ctx.saved_tensors, gradient), None)

    @staticmethod
    def vmap(info: Any, dims: tuple[int | None, ...], *inputs: Tensor) -> tuple[Any, Any]:
        return _batched(_Chain, info.batch_size, dims, inputs)


class _Gradient(torch.autograd.Function):
    """Gradient of sum_t g_t log p(x_t | x_1 .. x_{t-1}): what is constant in a sequence weighs its probabilities."""

    @staticmethod
    def forward(
        table: Tensor, evidence: Tensor, first: Tensor, smoothed: Tensor, counts: Tensor, gradient: Tensor
    ) -> tuple[Tensor, ...]:
        begins = first.clone()
        begins[0] = True
        own = gradient[:, begins]
        if bool((own == own[:, :1]).all()) and bool((gradient == own[:, :1]).all()):
            return own[:, :1, None] * counts, own[:, :1, None] * smoothed
        if bool((gradient == own[:, begins.cumsum(0) - 1]).all()):
            return smooth(table, evidence, first, gradient)[2], gradient[:, None] * smoothed
        return _differentiate(table, evidence, first, gradient)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        table, evidence, first, _, _, gradient = inputs
        ctx.save_for_backward(table, evidence, first, gradient)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        table, evidence, first, gradient = ctx.saved_tensors
        _, pull = torch.func.vjp(lambda t, e, g: _differentiate(t, e, first, g), table, evidence, gradient)
        second = pull(gradients)
        return second[0], second[1], None, None, None, second[2]

    @staticmethod
    def vmap(info: Any, dims: tuple[int | None, ...], *inputs: Tensor) -> tuple[Any, Any]:
        return _batched(_Gradient, info.batch_size, dims, inputs)


def _differentiate(table: Tensor, evidence: Tensor, first: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient of sum_t g_t log p(x_t | x_1 .. x_{t-1}) in general, which can be differentiated once more."""
    _, pull = torch.func.vjp(lambda t, e: scan(t, e, first), table, evidence)
    found: tuple[Tensor, Tensor] = pull(gradient)
    return found
