"""The rows of a chain in blocks, which are filtered and smoothed side by side.

With transition matrix A and emission densities e_t the unnormalized filter is a product of one matrix per row,

    alpha_t(k) = sum_j alpha_{t-1}(j) A_jk e_t(k).

Row by row that is as many small operations as there are rows, each of which costs more to call than to do. So the rows
are split in blocks, and three passes are made over the rows of a block, all blocks side by side in one operation: the
matrices inside each block are multiplied up; a product over the blocks says how each begins and ends; then all are
filtered and smoothed (the parallel scan of Särkkä and García-Fernández 2021, "Temporal parallelization of Bayesian
smoothers", in blocks that fit in cache).

Filters and futures are right up to a factor per block and batch: whoever uses them divides it out, row by row. The last
dimension is always that of the blocks, so that a product with the same small transition matrix is one matrix product
over everything else.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zoo.elimination.semirings import Scaled, before_each

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
        # A first row has no row before: its log initial probabilities join its evidence, (batch, states, firsts).
        begin = evidence[..., begins] + initial[..., None]
        # Relative to the largest of each row, (batch, 1, rows), densities can leave logarithms without underflow.
        top = evidence.amax(-2, keepdim=True)
        top[..., begins] = begin.amax(-2, keepdim=True)
        top = torch.where(top.isneginf(), 0.0, top)  # a row that is impossible in every state: -inf - -inf is NaN
        density = evidence - top
        density[..., begins] = begin - top[..., begins]
        self.top = top[:, 0]
        self.density = self.fold(ring.of(density), ring.one)  # (row in block, batch, states, block)
        self.begins, self.ends = self.fold(begins, False), self.fold(ends, False)
        if self.tail:
            # The filling of the last block is a sequence of its own: what it says does not reach the chain's rows.
            self.begins[self.tail, -1] = True

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
        # held[b, k, j, i] is the mass at state k of the present row for each unit at state j of block i's first row.
        # It begins as diag(e_first), and a row multiplies it by diag(e_t) A^T from the left.
        eye = torch.eye(step.shape[-1], dtype=torch.bool, device=step.device)[..., None]
        held = torch.where(eye, self.density[0][:, :, None], ring.zero)
        moved = torch.empty_like(held)  # two buffers take turns, so that no row allocates
        for at, begins in enumerate(self.begins.any(-1).tolist()):
            if at:
                ring.product(step, held.flatten(2), out=moved.flatten(2))
                if begins:  # a new sequence forgets the state, but not how probable what went before is
                    moved = torch.where(self.begins[at], ring.total(held, 1), moved)
                held, moved = ring.times(moved, self.density[at][:, :, None], out=moved), held
        held = ring.unit(held.permute(0, 3, 1, 2))  # (batch, block, state at last, state at first)
        # The move from the row before into the first row, and from the row behind into the last: to a sequence that
        # begins there every state leads alike.
        enter = torch.where(self.begins[0][:, None, None], ring.one, step[:, None])
        leave = torch.where(self.ends[-1][:, None, None], ring.one, step.mT[:, None])
        return ring.product(held, enter).mT, ring.product(held.mT, leave).mT

    def filter(self, start: Tensor) -> Tensor:
        """alpha_t(k) up to a factor per block, from the filter before each block, (batch, states, blocks)."""
        x, alpha = start, torch.empty_like(self.density)  # (row in block, batch, states, block)
        for at, begins in enumerate(self.begins.any(-1).tolist()):
            x = self.ring.product(self.step, x, out=alpha[at])
            if begins:  # the density of a first row holds its initial probabilities
                x.masked_fill_(self.begins[at], self.ring.one)
            self.ring.times(x, self.density[at], out=x)
        return alpha

    def future(self, end: Tensor) -> Tensor:
        """p(x_{t+1}, x_{t+2}, ... | z_t = k) up to a factor per block, from the future behind each block.

        `end` is that future times the density of the row it begins with, (batch, states, blocks).
        """
        x, beta, step = end, torch.empty_like(self.density), self.step.mT.contiguous()
        for at, ends in reversed(list(enumerate(self.ends.any(-1).tolist()))):
            self.ring.product(step, x, out=beta[at])
            if ends:  # nothing follows the last row of a sequence
                beta[at].masked_fill_(self.ends[at], self.ring.one)
            x = self.ring.times(beta[at], self.density[at])
        return beta


def pieces(
    ring: Scaled, table: Tensor, evidence: Tensor, first: Tensor
) -> tuple[list[Blocks], list[tuple[Tensor, Tensor]]]:
    """Lay out a chain in pieces, and find the filter before and the future behind each block of each piece.

    Parameters
    ----------
    ring
        Arithmetic.
    table, evidence, first
        As for `forward_backward.smooth`.

    Returns
    -------
    tuple
        The pieces, and for each the filter before and the future behind its blocks, (batch, states, blocks) both.
    """
    batch, states, rows = evidence.shape
    step = ring.of(table[:, 1:]).mT.contiguous()
    # As many blocks as make one step over all of them, batch x states^2 x blocks numbers, WIDTH long.
    size = min(ring.longest, max(1, batch * rows * states**2 // WIDTH))
    width = max(1, PIECE // (batch * states * size)) * size  # rows in a piece: whole blocks
    last = torch.cat([first[1:], first.new_ones(1)])
    cuts = [slice(at, at + width) for at in range(0, rows, width)]
    parts = [Blocks(ring, step, table[:, 0], evidence[..., c], first[c], last[c], size) for c in cuts]
    # Before the first block and behind the last there is nothing, so any vector will do. Forwards over the blocks and
    # backwards are one scan, joined along the batch.
    edge = evidence.new_full((2 * batch, states), ring.one)
    counts = [p.count for p in parts]
    if sum(counts) == 1:
        return parts, [(edge[:batch, :, None], edge[batch:, :, None])]
    forward, backward = (torch.cat(m, 1) for m in zip(*(p.matrices() for p in parts), strict=True))
    edges = before_each(ring, edge, torch.cat([forward[:, :-1], backward.flip(1)[:, :-1]])).mT
    starts, ends = edges[:batch].split(counts, -1), edges[batch:].flip(-1).split(counts, -1)
    return parts, list(zip(starts, ends, strict=True))
