"""What a Gauss-Markov chain knows before and after each row, by a tree over the rows instead of a loop.

Row t of a linear-Gaussian chain takes the state before it, h_{t-1}, to

    p(h_t | x_t, h_{t-1}) = Normal(A h_{t-1} + b, C)  and  p(x_t | h_{t-1} = h) ~ exp(eta^T h - h^T J h / 2),

and two such steps, one after the other, are one (Särkkä and García-Fernández 2021, "Temporal parallelization of
Bayesian smoothers", lemma 8). Pairs of steps are joined, then pairs of pairs; on the way down each gets
the state before it and what the rows behind it say. That is 2 log2(rows) operations over many small matrices.

A step is held as two tensors: `moves` (..., rows, d, 2 d + 1) has A, b and C side by side, `says` (..., rows, d, d + 1)
has J and eta.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Steps:
    """Steps side by side.

    Attributes
    ----------
    moves
        A, b and C, (..., rows, d, 2 d + 1).
    says
        J and eta, (..., rows, d, d + 1).
    """

    moves: Tensor
    says: Tensor

    @classmethod
    def of(cls, a: Tensor, b: Tensor, c: Tensor, j: Tensor, eta: Tensor) -> Steps:
        """Of A, C and J (..., rows, d, d), b and eta (..., rows, d)."""
        return cls(torch.cat([a, b[..., None], c], -1), torch.cat([j, eta[..., None]], -1))

    def __len__(self) -> int:
        """Return the number of steps."""
        return self.moves.shape[-3]

    @property
    def size(self) -> int:
        """Length d of the state."""
        return self.moves.shape[-2]

    def __getitem__(self, rows: slice) -> Steps:
        """Some of the steps."""
        return Steps(self.moves[..., rows, :, :], self.says[..., rows, :, :])

    def even(self) -> Steps:
        """With a step at the end that changes nothing if the number is odd."""
        if len(self) % 2 == 0:
            return self
        d = self.size
        still = torch.eye(d, 2 * d + 1, dtype=self.moves.dtype, device=self.moves.device)
        still = still.expand_as(self.moves[..., :1, :, :])
        silent = torch.zeros_like(self.says[..., :1, :, :])
        return Steps(torch.cat([self.moves, still], -3), torch.cat([self.says, silent], -3))


def joined(first: Steps, then: Steps) -> Steps:
    """Steps that are each two, one after the other."""
    d = first.size
    a = first.moves[..., :d]
    later, moved = then.moves[..., :d], _behind(first, then.says)  # A of the later step; M^-1 (A, b + C eta, C)
    out = later @ moved
    says = first.says + a.mT @ _heard(then.says, moved)
    spread = _symmetric(out[..., d + 1 :] @ later.mT + then.moves[..., d + 1 :])
    moves = torch.cat([out[..., :d], out[..., d : d + 1] + then.moves[..., d : d + 1], spread], -1)
    return Steps(moves, torch.cat([_symmetric(says[..., :d]), says[..., d:]], -1))


def before_and_after(steps: Steps, *, after: bool = True) -> tuple[Tensor, Tensor]:
    """What is known of the state before each step from the steps so far, and of that after it from those to come.

    Parameters
    ----------
    steps
        The first one begins a sequence: its A and J are 0.
    after
        Whether the second is needed.

    Returns
    -------
    tuple
        Mean and covariance of h_{t-1} given x_1 .. x_{t-1} side by side, and J and eta of p(x_{t+1}, ... | h_t), both
        (..., rows, d, d + 1). The latter is empty without `after`.
    """
    levels = [steps]
    while len(levels[-1]) > 1:
        level = levels[-1] = levels[-1].even()
        levels.append(joined(level[::2], level[1::2]))
    known = torch.zeros_like(levels[-1].says)
    ahead = known if after else known[..., :0, :, :]
    for level in levels[-2::-1]:
        pairs = slice(len(level) // 2)  # without the step that made their number even
        known = _between(known[..., pairs, :, :], _through(level[::2], known[..., pairs, :, :]))
        if after:
            ahead = ahead[..., pairs, :, :]
            ahead = _between(_back(level[1::2], ahead), ahead)
    return known[..., : len(steps), :, :], ahead[..., : len(steps), :, :]


def weighed(covariance: Tensor, precision: Tensor, right: Tensor) -> Tensor:
    """(I + P J)^-1 B, for P and J symmetric and positive semidefinite: no inverse of either is needed."""
    d = covariance.shape[-1]
    matrix = covariance @ precision + torch.eye(d, dtype=covariance.dtype, device=covariance.device)
    return solved(matrix, right)


def solved(matrix: Tensor, right: Tensor) -> Tensor:
    """M^-1 B, not a number where M is none."""
    if matrix.shape[-1] == 1:
        return right / matrix
    solution: Tensor = torch.linalg.solve_ex(matrix, right)[0]
    return solution


def _behind(first: Steps, says: Tensor) -> Tensor:
    """M^-1 (A, b + C eta, C) with M = I + C J, given what is said of the state behind the step."""
    d = first.size
    a, b, c = first.moves[..., :d], first.moves[..., d : d + 1], first.moves[..., d + 1 :]
    spread = c @ says  # C J and C eta
    eye = torch.eye(d, dtype=a.dtype, device=a.device)
    return solved(spread[..., :d] + eye, torch.cat([a, b + spread[..., d:], c], -1))


def _heard(says: Tensor, moved: Tensor) -> Tensor:
    """J M^-1 A and eta - J M^-1 (b + C eta), which A^T takes to the state before the step."""
    d = says.shape[-2]
    out = says[..., :d] @ moved[..., : d + 1]
    return torch.cat([out[..., :d], says[..., d:] - out[..., d:]], -1)


def _through(step: Steps, known: Tensor) -> Tensor:
    """Mean and covariance of the state after a step, from those of the state before it."""
    d = step.size
    mean, cov = known[..., :1], known[..., 1:]
    a, b, c = step.moves[..., :d], step.moves[..., d : d + 1], step.moves[..., d + 1 :]
    spread = cov @ step.says  # P J and P eta
    eye = torch.eye(d, dtype=a.dtype, device=a.device)
    out = a @ solved(spread[..., :d] + eye, torch.cat([mean + spread[..., d:], cov], -1))
    return torch.cat([out[..., :1] + b, _symmetric(out[..., 1:] @ a.mT + c)], -1)


def _back(step: Steps, ahead: Tensor) -> Tensor:
    """J and eta of the state before a step, from those of the state after it."""
    d = step.size
    says = step.says + step.moves[..., :d].mT @ _heard(ahead, _behind(step, ahead))
    return torch.cat([_symmetric(says[..., :d]), says[..., d:]], -1)


def _between(left: Tensor, right: Tensor) -> Tensor:
    """left_1, right_1, left_2, right_2, ... along dimension -3."""
    return torch.stack([left, right], -3).flatten(-4, -3)


def _symmetric(matrix: Tensor) -> Tensor:
    return 0.5 * (matrix + matrix.mT)


def recurrence(a: Tensor, b: Tensor) -> Tensor:
    """h_t = A_t h_{t-1} + b_t from h_0 = 0, (..., rows, d), by the same tree; A (..., rows, d, d), b (..., rows, d)."""
    d, rows = a.shape[-1], a.shape[-3]
    shape = torch.broadcast_shapes(a.shape[:-1], b.shape)
    level = torch.cat([a.expand(*shape, d), b.expand(shape)[..., None]], -1)
    levels = [level]
    still = torch.eye(d, d + 1, dtype=level.dtype, device=level.device)
    while levels[-1].shape[-3] > 1:
        level = levels[-1]
        if level.shape[-3] % 2:
            level = levels[-1] = torch.cat([level, still.expand_as(level[..., :1, :, :])], -3)
        first, then = level[..., ::2, :, :], level[..., 1::2, :, :]
        out = then[..., :d] @ first
        levels.append(torch.cat([out[..., :d], out[..., d:] + then[..., d:]], -1))
    before = torch.zeros_like(levels[-1][..., d:])
    for level in levels[-2::-1]:
        first = level[..., ::2, :, :]
        before = before[..., : first.shape[-3], :, :]
        before = _between(before, first[..., :d] @ before + first[..., d:])
    before = before[..., :rows, :, :]
    after: Tensor = (levels[0][..., :rows, :, :d] @ before + levels[0][..., :rows, :, d:])[..., 0]
    return after
