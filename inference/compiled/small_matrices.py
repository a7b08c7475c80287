"""Factorizations of small matrices and sums along few entries, written out for the compiler to merge into its loops.

A library call on a handful of 2 x 2 matrices costs a hundred times its arithmetic. A matrix that is not positive
definite gives NaN here, where the library raises an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

LARGEST = 4  # rows: written out, a factorization has about n^3 / 6 operations
LONGEST = 16  # entries of a cumulative sum, which has n^2 / 2

aten = torch.ops.aten


def cholesky(matrix: Tensor, upper: bool = False, check_errors: bool = False) -> Any:
    """L with L L^T = A, row by row: L_ij = (A_ij - sum_k<j L_ik L_jk) / L_jj; A is (..., n, n).

    Every entry is a tensor of the batch's shape (...), so the compiler sees elementwise operations alone, and merges
    them with what comes before and after. The second result is the code that LAPACK would return, 0 for success.
    """
    n = matrix.shape[-1]
    if n > LARGEST:
        return NotImplemented
    rows: list[list[Tensor]] = []
    for i in range(n):
        row: list[Tensor] = []
        for j in range(i + 1):
            left = matrix[..., i, j] if not upper else matrix[..., j, i]
            for k in range(j):
                left = left - row[k] * (rows[j][k] if j < i else row[k])
            row.append(left.sqrt() if j == i else left / rows[j][j])
        rows.append(row)
    zero = torch.zeros_like(rows[0][0])
    lower = torch.stack([torch.stack([*row, *[zero] * (n - len(row))], -1) for row in rows], -2)
    return lower.mT if upper else lower, torch.zeros(matrix.shape[:-2], dtype=torch.int32, device=matrix.device)


def solve_triangular(
    factor: Tensor, right: Tensor, *, upper: bool, left: bool = True, unitriangular: bool = False
) -> Any:
    """X with A X = B by substitution (X A = B, if not `left`), A (..., n, n) triangular, B (..., n, m)."""
    n = factor.shape[-1]
    if n > LARGEST:
        return NotImplemented
    if not left:
        return solve_triangular(factor.mT, right.mT, upper=not upper, unitriangular=unitriangular).mT
    solved: dict[int, Tensor] = {}  # rows of X, (..., m), in the order of substitution
    for i in reversed(range(n)) if upper else range(n):
        x = right[..., i, :]
        for k, known in solved.items():
            x = x - factor[..., i, k, None] * known
        solved[i] = x if unitriangular else x / factor[..., i, i, None]
    shape = torch.broadcast_shapes(factor.shape[:-2], right.shape[:-2])
    return torch.stack([solved[i].expand(*shape, right.shape[-1]) for i in range(n)], -2)


def cholesky_solve(right: Tensor, factor: Tensor, upper: bool = False) -> Any:
    """X with L L^T X = B: two substitutions, where the library's own would be one call."""
    if factor.shape[-1] > LARGEST:
        return NotImplemented
    lower = factor.mT if upper else factor
    return solve_triangular(lower.mT, solve_triangular(lower, right, upper=False), upper=True)


def cholesky_inverse(factor: Tensor, upper: bool = False) -> Any:
    """(L L^T)^-1."""
    eye = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
    return cholesky_solve(eye.expand(factor.shape), factor, upper)


def cumsum(x: Tensor, dim: int, *, dtype: torch.dtype | None = None) -> Any:
    """y_k = sum_j<=k x_j along one dimension, as a product with a triangle of ones.

    More additions than there need be, but independent of each other; a running sum cannot be merged into other loops.
    """
    if not x.ndim or x.shape[dim] > LONGEST or dtype not in (None, x.dtype) or not x.is_floating_point():
        return NotImplemented  # sums of integers and truth values are of another type
    k = torch.arange(x.shape[dim], device=x.device)
    moved = x.movedim(dim, -1)
    return torch.where(k[:, None] >= k, moved[..., None, :], 0.0).sum(-1).movedim(-1, dim)


# From torch's operation to ours. Returning `NotImplemented` above leaves the operation as it is.
WRITTEN_OUT: dict[Any, Callable[..., Any]] = {
    aten.linalg_cholesky_ex.default: cholesky,
    aten.linalg_solve_triangular.default: solve_triangular,
    aten.cholesky_solve.default: cholesky_solve,
    aten.cholesky_inverse.default: cholesky_inverse,
    aten.cumsum.default: cumsum,
}


def drop_checks(graph: torch.fx.Graph) -> None:
    """Remove the checks of factorizations that are written out: of a code that is 0, whatever is factorized."""
    for node in list(graph.nodes):
        if node.target is not aten._linalg_check_errors.default:
            continue
        code = node.args[0]
        while code.target is aten.detach.default:
            code = code.args[0]
        if code.target is aten.full.default and code.args[1] == 0:  # as zeros are recorded
            graph.erase_node(node)
