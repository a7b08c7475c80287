"""Factorizations and triangular systems, as `LoopWriter` writes them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from inference.compiled.loop_writer import LoopWriter, known


@known("linalg_cholesky_ex.default")
def _cholesky(writer: LoopWriter, out: tuple[Tensor, Tensor], a: Tensor, *_: Any, **__: Any) -> None:
    """L row by row; NaN where a matrix has none, as a root of a negative number is."""
    factor, info = out
    size, lead = a.shape[-1], a.ndim - 2
    writer.pointwise(info, "0.0")
    writer.pointwise(factor, "0.0")

    def entry(x: Tensor, row: str, column: str) -> str:
        base = writer.entry(x, x.stride()[:lead]).removesuffix("]")
        return f"{base}+{x.stride()[-2]}*{row}+{x.stride()[-1]}*{column}]"

    line = (
        f"for (long r = 0; r < {size}; ++r) for (long c = 0; c <= r; ++c) {{ "
        f"double rest = {entry(a, 'r', 'c')}; "
        f"for (long k = 0; k < c; ++k) rest -= {entry(factor, 'r', 'k')} * {entry(factor, 'c', 'k')}; "
        f"{entry(factor, 'r', 'c')} = r == c ? sqrt(rest) : rest / {entry(factor, 'c', 'c')}; }}"
    )
    writer.loop(a.shape[:-2], line)


@known("linalg_solve_triangular.default")
def _solve(
    writer: LoopWriter,
    out: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    upper: bool,
    left: bool = True,
    unitriangular: bool = False,
) -> None:
    """X with A X = B, or X A = B, by substitution."""
    if not left:  # A^T X^T = B^T
        _solve(writer, out.mT, a.mT, b.mT, upper=not upper, unitriangular=unitriangular)
        return
    size, lead = a.shape[-1], out.shape[:-2]
    dims = len(lead)

    def entry(x: Tensor, row: str, column: str) -> str:
        strides = [0] * (dims - (x.ndim - 2)) + [
            0 if n == 1 else s for n, s in zip(x.shape[:-2], x.stride()[:-2], strict=True)
        ]
        return f"{writer.entry(x, strides).removesuffix(']')}+{x.stride()[-2]}*{row}+{x.stride()[-1]}*{column}]"

    row = f"{size - 1} - q" if upper else "q"
    inner = f"for (long k = r + 1; k < {size}; ++k)" if upper else "for (long k = 0; k < r; ++k)"
    line = (
        f"for (long c = 0; c < {out.shape[-1]}; ++c) for (long q = 0; q < {size}; ++q) {{ const long r = {row}; "
        f"double rest = {entry(b, 'r', 'c')}; {inner} rest -= {entry(a, 'r', 'k')} * {entry(out, 'k', 'c')}; "
        f"{entry(out, 'r', 'c')} = {'rest' if unitriangular else 'rest / ' + entry(a, 'r', 'r')}; }}"
    )
    writer.loop(lead, line)
