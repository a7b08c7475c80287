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

from zoo.declare.rings import CELLS, Best, Scaled, arithmetic, before_each, compose

WIDTH = 1 << 13  # numbers in one step over all blocks: enough to outweigh the call, few enough for the cache
PIECE = 1 << 19  # numbers in one piece of the rows, which is filtered and smoothed before the next is


class Blocks:
    """A piece of the rows of a chain in blocks, (row in block, batch, states, block), which are filtered side by side.

    Parameters
    ----------
    ring
        Arithmetic.
    step
        Transition matrices from the second state to the first, (batch, states, states).
    initial
        log initial probabilities, shape (batch, states).
    evidence
        log p(x_t | z_t = k), shape (batch, states, rows).
    begins, ends
        Which rows are the first and the last of their sequence, shape (rows,).
    size
        Rows in a block.
    """

    def __init__(
        self, ring: Scaled, step: Tensor, initial: Tensor, evidence: Tensor, begins: Tensor, ends: Tensor, size: int
    ) -> None:
        self.ring, self.step, self.size, self.rows = ring, step, size, evidence.shape[-1]
        self.count, self.tail = -(-self.rows // size), self.rows % size
        begin = evidence[..., begins] + initial[..., None]
        top = evidence.amax(-2, keepdim=True)
        top[..., begins] = begin.amax(-2, keepdim=True)
        top = torch.where(top.isneginf(), 0.0, top)  # a row that is impossible in every state
        density = evidence - top
        density[..., begins] = begin - top[..., begins]
        self.top = top[:, 0]
        self.density = self.fold(ring.of(density), ring.one)  # relative to the largest of each row
        self.begins, self.ends = self.fold(begins, False), self.fold(ends, False)
        if self.tail:
            self.begins[self.tail, -1] = True  # the filling, which is none of the chain's rows

    def fold(self, x: Tensor, fill: Any) -> Tensor:
        """Lay out (..., rows) as (row in block, ..., block), the last block filled up."""
        whole: Tensor = x[..., : self.rows - self.tail].unflatten(-1, (-1, self.size)).movedim(-1, 0)
        if not self.tail:
            return whole.contiguous()
        out = x.new_empty(self.size, *x.shape[:-1], self.count)
        out[..., :-1] = whole
        out[: self.tail, ..., -1] = x[..., self.rows - self.tail :].movedim(-1, 0)
        out[self.tail :, ..., -1] = fill
        return out

    def unfold(self, x: Tensor) -> Tensor:
        """Undo `fold`."""
        return x.movedim(0, -1).flatten(-2)[..., : self.rows]

    def matrices(self) -> tuple[Tensor, Tensor]:
        """What takes the filter before each block to its end, and the future behind it to its beginning.

        To be multiplied from the left by row vectors, (batch, blocks, states, states) each.
        """
        ring, step = self.ring, self.step
        eye = torch.eye(step.shape[-1], dtype=torch.bool, device=step.device)[..., None]
        held = torch.where(eye, self.density[0][:, :, None], ring.zero)  # (batch, state now, state at first, block)
        moved = torch.empty_like(held)
        for at, begins in enumerate(self.begins.any(-1).tolist()):
            if at:
                ring.product(step, held.flatten(2), out=moved.flatten(2))
                if begins:
                    moved = torch.where(self.begins[at], ring.total(held, 1), moved)
                held, moved = ring.times(moved, self.density[at][:, :, None], out=moved), held
        held = ring.unit(held.permute(0, 3, 1, 2))
        enter = torch.where(self.begins[0][:, None, None], ring.one, step[:, None])
        leave = torch.where(self.ends[-1][:, None, None], ring.one, step.mT[:, None])
        return ring.product(held, enter).mT, ring.product(held.mT, leave).mT

    def filter(self, start: Tensor) -> Tensor:
        """alpha_t(k) up to a factor per block, from the filter before each block, (batch, states, blocks)."""
        x, found = start, torch.empty_like(self.density)
        for at, begins in enumerate(self.begins.any(-1).tolist()):
            x = self.ring.product(self.step, x, out=found[at])
            if begins:
                x.masked_fill_(self.begins[at], self.ring.one)
            self.ring.times(x, self.density[at], out=x)
        return found

    def future(self, end: Tensor) -> Tensor:
        """p(x_{t+1}, x_{t+2}, ... | z_t = k) up to a factor per block, from the future behind each block."""
        x, found, step = end, torch.empty_like(self.density), self.step.mT.contiguous()
        for at, ends in reversed(list(enumerate(self.ends.any(-1).tolist()))):
            self.ring.product(step, x, out=found[at])
            if ends:
                found[at].masked_fill_(self.ends[at], self.ring.one)
            x = self.ring.times(found[at], self.density[at])
        return found


def pieces(
    ring: Scaled, table: Tensor, evidence: Tensor, first: Tensor
) -> tuple[list[Blocks], list[tuple[Tensor, Tensor]]]:
    """Lay out a chain in pieces, and find the filter before and the future behind each block of each piece."""
    batch, states, rows = evidence.shape
    step = ring.of(table[:, 1:]).mT.contiguous()
    size = min(ring.longest, max(1, batch * rows * states**2 // WIDTH))
    width = max(1, PIECE // (batch * states * size)) * size
    last = torch.cat([first[1:], first.new_ones(1)])
    parts = [
        Blocks(ring, step, table[:, 0], *(x[..., at : at + width] for x in (evidence, first, last)), size)
        for at in range(0, rows, width)
    ]
    edge = evidence.new_full((2 * batch, states), ring.one)
    counts = [p.count for p in parts]
    if sum(counts) == 1:
        return parts, [(edge[:batch, :, None], edge[batch:, :, None])]
    forward, backward = (torch.cat(m, 1) for m in zip(*(p.matrices() for p in parts), strict=True))
    edges = before_each(ring, edge, torch.cat([forward[:, :-1], backward.flip(1)[:, :-1]])).mT
    starts, ends = edges[:batch].split(counts, -1), edges[batch:].flip(-1).split(counts, -1)
    return parts, list(zip(starts, ends, strict=True))


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
    shift = torch.zeros_like(table[:, :1, :1]) + table[:, 1:].amax((-2, -1), keepdim=True)
    table = torch.cat([table[:, :1], table[:, 1:] - shift], 1)
    ring = arithmetic(table[:, 1:])
    conditional, smoothed = torch.empty_like(evidence[:, 0]), torch.empty_like(evidence)
    moves, at = torch.zeros_like(table[:, 1:]), 0
    parts, edges = pieces(ring, table, evidence, first)
    for part, (start, end) in zip(parts, edges, strict=True):
        rows = slice(at, at + part.rows)
        at += part.rows
        filtered, future = part.filter(start), part.future(end)
        begins = part.begins[:, None, None]
        mass = ring.log(ring.total(filtered))
        before = torch.cat([ring.log(ring.total(start))[None], mass[:-1]]).masked_fill_(begins, 0.0)
        conditional[:, rows] = part.unfold((mass - before)[:, :, 0]) + part.top
        joint = ring.times(filtered, future)
        norm = ring.total(joint)
        smoothed[..., rows] = part.unfold(ring.plain(ring.over(joint, norm)))
        after = ring.over(ring.times(part.density, future, out=future), norm).masked_fill_(begins, ring.zero)
        if part.tail:
            after[part.tail :, ..., -1] = ring.zero
        if weight is not None:
            after = ring.times(after, ring.of(part.fold(weight[:, rows], 1.0).log())[:, :, None])
        moves += ring.pairs(start, part.step, after[0]) + ring.pairs(filtered[:-1], part.step, after[1:]).sum(0)
    conditional += torch.where(first, 0.0, shift[:, 0])
    dead = conditional.isneginf()
    if bool(dead.any()):  # what follows an impossible row is conditioned on nothing
        conditional = torch.where(conditional.isnan() & (dead.cumsum(-1) > 0), -math.inf, conditional)
    opening = smoothed[..., first] if weight is None else smoothed[..., first] * weight[:, None, first]
    return conditional, smoothed, torch.cat([opening.sum(-1)[:, None], moves], 1)


def scan(table: Tensor, evidence: Tensor, first: Tensor) -> Tensor:
    """`smooth`'s log p(x_t | x_1 .. x_{t-1}) as plain products of one matrix per row, which torch differentiates."""
    begin = table[:, 0, :, None] + evidence
    top = torch.where(first, begin, evidence).detach().amax(-2, keepdim=True)
    density = (torch.where(first, begin, evidence) - top).exp().mT[:, :, None]
    steps = torch.where(first[:, None, None], 1.0, table[:, None, 1:].exp()) * density
    before = before_each(Scaled(), torch.ones_like(table[:, 0]), steps[:, :-1])
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
    rows, _, _ = _Chain.apply(table.expand(len(flat), *table.shape), flat, first)  # type: ignore[no-untyped-call]
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
        return (*_Gradient.apply(*ctx.saved_tensors, gradient), None)  # type: ignore[no-untyped-call]

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
        if bool((gradient == 1).all()):
            return counts.clone(), smoothed.clone()
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
        pull = torch.func.vjp(lambda t, e, g: _differentiate(t, e, first, g), table, evidence, gradient)[1]
        second = pull(gradients)
        return second[0], second[1], None, None, None, second[2]

    @staticmethod
    def vmap(info: Any, dims: tuple[int | None, ...], *inputs: Tensor) -> tuple[Any, Any]:
        return _batched(_Gradient, info.batch_size, dims, inputs)


def _differentiate(table: Tensor, evidence: Tensor, first: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient of sum_t g_t log p(x_t | x_1 .. x_{t-1}) in general, which can be differentiated once more."""
    pull = torch.func.vjp(lambda t, e: scan(t, e, first), table, evidence)[1]
    found: tuple[Tensor, Tensor] = pull(gradient)
    return found


def best_path(table: Tensor, evidence: Tensor, first: Tensor) -> Tensor:
    """log p(x_t, z_t | z_{t-1}) along the most probable path (Viterbi 1967); arguments as for `log_evidence`.

    Its gradient marks the path.
    """
    path = viterbi(table.detach(), evidence.detach(), first)
    before = torch.where(first, 0, path.roll(1) + 1)
    return table[before, path] + evidence.gather(0, path[None])[0]


def viterbi(table: Tensor, evidence: Tensor, first: Tensor) -> Tensor:
    """Most probable path given all rows of its sequence, shape (rows,); each row is traced back from the next."""
    parts, edges = pieces(Best(), table[None], evidence[None], first)
    score = torch.cat([p.unfold(p.filter(start)) for p, (start, _) in zip(parts, edges, strict=True)], -1)[0]
    last = torch.cat([first[1:], first.new_ones(1)])
    width = max(1, CELLS // table.numel())
    before = torch.cat([(s[:, None] + table[1:, :, None]).argmax(0) for s in score.split(width, -1)], -1)
    back = torch.where(last, score.argmax(0), before)  # state at a row by the state at the next
    return compose(back.T.flip(0)[None])[0].flip(0)
