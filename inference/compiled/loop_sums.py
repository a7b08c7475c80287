"""Sums, products, pieces and places, as `LoopWriter` writes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from inference.compiled.loop_writer import LARGER, LoopWriter, UnwrittenError, known, number


@known("sum.default", "sum.dim_IntList")
def _sum(writer: LoopWriter, out: Tensor, a: Tensor, dims: Any = None, keepdim: bool = False, **_: Any) -> None:
    writer.pointwise(out, "0.0")
    _reduce(writer, out, a, dims, keepdim, "{0} += {1}")


@known("amax.default")
def _amax(writer: LoopWriter, out: Tensor, a: Tensor, dims: Any = None, keepdim: bool = False) -> None:
    writer.pointwise(out, "(-INFINITY)")
    _reduce(writer, out, a, dims, keepdim, "{0} = " + LARGER.format("{1}", "{0}"))


@known("logsumexp.default")
def _logsumexp(writer: LoopWriter, out: Tensor, a: Tensor, dims: Any, keepdim: bool = False) -> None:
    highest = torch.empty_like(out)
    writer.keep(highest)
    _amax(writer, highest, a, dims, keepdim)
    writer.pointwise(highest, "fabs({0}) == INFINITY ? 0.0 : {0}", highest)
    writer.pointwise(out, "0.0")
    wide = highest if keepdim else highest.expand(highest.shape)
    for d in sorted(d % a.ndim for d in dims):
        wide = wide if keepdim else wide.unsqueeze(d)
    _reduce(writer, out, a, dims, keepdim, f"{{0}} += exp({{1}} - {writer.at(wide, a.shape)})")
    writer.pointwise(out, "log({0}) + {1}", out, highest)


def _reduce(writer: LoopWriter, out: Tensor, a: Tensor, dims: Any, keepdim: bool, formula: str) -> None:
    """Take all entries of a into those of out that they belong to."""
    over = {d % max(1, a.ndim) for d in dims} if dims else set(range(a.ndim))
    strides, kept = [], iter(out.stride())
    for d in range(a.ndim):
        stride = next(kept) if keepdim or d not in over else 0
        strides.append(0 if d in over or a.shape[d] == 1 else stride)
    writer.loop(a.shape, f"{formula.format(writer.entry(out, strides), writer.at(a, a.shape))};")


@known("mm.default", "bmm.default")
def _product(writer: LoopWriter, out: Tensor, a: Tensor, b: Tensor) -> None:
    shape = (*out.shape, a.shape[-1])  # ..., row, column, inner
    lead = a.ndim - 2
    left = [*a.stride()[: lead + 1], 0, a.stride()[-1]]
    right = [*b.stride()[:lead], 0, b.stride()[-1], b.stride()[-2]]
    writer.pointwise(out, "0.0")
    line = f"{writer.entry(out, [*out.stride(), 0])} += {writer.entry(a, left)} * {writer.entry(b, right)};"
    writer.loop(shape, line)


@known("mv.default", "dot.default")
def _vector_product(writer: LoopWriter, out: Tensor, a: Tensor, b: Tensor) -> None:
    writer.pointwise(out, "0.0")
    to, along = [*out.stride(), 0], [0] * out.ndim + [b.stride(0)]
    writer.loop(a.shape, f"{writer.entry(out, to)} += {writer.entry(a, a.stride())} * {writer.entry(b, along)};")


@known("flip.default")
def _flip(writer: LoopWriter, out: Tensor, a: Tensor, dims: Sequence[int]) -> None:
    turned = {d % a.ndim for d in dims}
    strides = [-s if d in turned else s for d, s in enumerate(a.stride())]
    last = sum((a.shape[d] - 1) * a.stride(d) for d in turned)
    from_end = f"{writer.entry(a, strides).removesuffix(']')}+{last}]"
    writer.loop(out.shape, f"{writer.at(out, out.shape)} = {from_end};")


@known("stack.default", "cat.default")
def _joined(writer: LoopWriter, out: Tensor, parts: Sequence[Tensor], dim: int = 0) -> None:
    start, stacked = 0, bool(parts) and parts[0].ndim < out.ndim
    for part in parts:
        piece = part.unsqueeze(dim) if stacked else part
        if not piece.numel():
            continue
        length = piece.shape[dim]
        writer.pointwise(out.narrow(dim, start, length), "{0}", piece)
        start += length


@known("select_backward.default", "slice_backward.default", "diagonal_backward.default")
def _scattered(writer: LoopWriter, out: Tensor, gradient: Tensor, sizes: Any, *where: int) -> None:
    writer.pointwise(out, "0.0")
    if len(where) == 2:
        view = out.select(*where)
    elif len(where) == 4:
        dim, start, end, step = where
        view = out[(slice(None),) * (dim % out.ndim) + (slice(start, end, step),)]
    else:
        view = out.diagonal(*where)
    writer.pointwise(view, "{0}", gradient)


@known("index.Tensor")
def _index(writer: LoopWriter, out: Tensor, a: Tensor, indices: Sequence[Tensor | None]) -> None:
    name, picked = writer.gathered(a, indices)
    strides = torch.empty(picked.shape).stride()
    at = "+".join(["0", *(f"{s}*i{d}" for d, s in enumerate(strides) if picked.shape[d] != 1)])
    writer.loop(out.shape, f"{writer.at(out, out.shape)} = {writer.array(a)}[(long) {name}[{at}]];")


@known("index_put.default")
def _index_put(
    writer: LoopWriter, out: Tensor, a: Tensor, indices: Any, values: Tensor, accumulate: bool = False
) -> None:
    writer.pointwise(out, "{0}", a)
    name, picked = writer.gathered(out, indices)
    strides = torch.empty(picked.shape).stride()
    at = "+".join(["0", *(f"{s}*i{d}" for d, s in enumerate(strides) if picked.shape[d] != 1)])
    sign = "+=" if accumulate else "="
    writer.loop(picked.shape, f"{writer.array(out)}[(long) {name}[{at}]] {sign} {writer.at(values, picked.shape)};")


@known("index_add.default")
def _index_add(
    writer: LoopWriter, out: Tensor, a: Tensor, dim: int, index: Tensor, source: Tensor, alpha: float = 1
) -> None:
    writer.pointwise(out, "{0}", a)
    along = index.reshape([-1 if d == dim % source.ndim else 1 for d in range(source.ndim)]).expand(source.shape)
    term = writer.at(source, source.shape)
    writer.loop(source.shape, f"{_picked(writer, out, dim, along)} += {number(alpha)} * {term};")


@known("constant_pad_nd.default")
def _pad(writer: LoopWriter, out: Tensor, a: Tensor, pad: Sequence[int], value: float = 0) -> None:
    inner = out
    for at, (low, high) in enumerate(zip(pad[::2], pad[1::2], strict=True)):
        dim = out.ndim - 1 - at
        inner = inner.narrow(dim, max(0, low), out.shape[dim] - max(0, low) - max(0, high))
        a = a.narrow(dim, max(0, -low), a.shape[dim] - max(0, -low) - max(0, -high))
    writer.pointwise(out, "{0}", value)
    writer.pointwise(inner, "{0}", a)


def _picked(writer: LoopWriter, x: Tensor, dim: int, index: Tensor) -> str:
    """C for the entry of x whose index along one dimension is another tensor's entry."""
    dim %= max(1, x.ndim)
    strides = [0 if d == dim else s for d, s in enumerate(x.stride())]
    return f"{writer.entry(x, strides).removesuffix(']')}+{x.stride(dim)}*(long) {writer.at(index, index.shape)}]"


@known("gather.default")
def _gather(writer: LoopWriter, out: Tensor, a: Tensor, dim: int, index: Tensor, **_: Any) -> None:
    writer.loop(out.shape, f"{writer.at(out, out.shape)} = {_picked(writer, a, dim, index)};")


@known("scatter_add.default")
def _scatter_add(writer: LoopWriter, out: Tensor, a: Tensor, dim: int, index: Tensor, source: Tensor) -> None:
    if source.shape != index.shape:
        raise UnwrittenError("scatter_add of a part")
    writer.pointwise(out, "{0}", a)
    writer.loop(index.shape, f"{_picked(writer, out, dim, index)} += {writer.at(source, index.shape)};")
