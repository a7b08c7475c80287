"""Operations of torch that move numbers or make them of nothing, on arrays of named numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from inference.compiled.numbers import Line, Lines, Number, UnsupportedError
from inference.compiled.registry import each, full, named, objects, put, typed

# -- moving numbers ----------------------------------------------------------------------------------------------------


@named("alias", "detach", "clone", "contiguous", "lift_fresh_copy")
def _same(_: Lines, a: np.ndarray, **__: Any) -> np.ndarray:
    return a


@named("view", "reshape", "_unsafe_view")
def _view(_: Lines, a: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    return a.reshape(tuple(shape))


@named("expand")
def _expand(_: Lines, a: np.ndarray, shape: Sequence[int], **__: Any) -> np.ndarray:
    own = (1,) * (len(shape) - a.ndim) + a.shape
    return np.broadcast_to(a, tuple(o if s == -1 else s for o, s in zip(own, shape, strict=True)))


@named("permute")
def _permute(_: Lines, a: np.ndarray, dims: Sequence[int]) -> np.ndarray:
    return a.transpose(tuple(dims))


@named("transpose")
def _transpose(_: Lines, a: np.ndarray, one: int, other: int) -> np.ndarray:
    return a.swapaxes(one, other) if a.ndim else a


@named("t")
def _t(_: Lines, a: np.ndarray) -> np.ndarray:
    return a.T


@named("flip")
def _flip(_: Lines, a: np.ndarray, dims: Sequence[int]) -> np.ndarray:
    return np.flip(a, tuple(dims))


@named("unsqueeze")
def _unsqueeze(_: Lines, a: np.ndarray, dim: int) -> np.ndarray:
    return np.expand_dims(a, dim)


@named("squeeze")
def _squeeze(_: Lines, a: np.ndarray, dims: Any = None) -> np.ndarray:
    if dims is None:
        return a.squeeze()
    axes = tuple(d % max(a.ndim, 1) for d in ([dims] if isinstance(dims, int) else dims))
    return a.squeeze(tuple(d for d in axes if a.ndim and a.shape[d] == 1))


def _at(a: np.ndarray, dim: int, where: Any) -> tuple[Any, ...]:
    return (slice(None),) * (dim % a.ndim) + (where,)


@named("select")
def _select(_: Lines, a: np.ndarray, dim: int, at: int) -> np.ndarray:
    return objects(a[_at(a, dim, at)])


@named("slice")
def _slice(_: Lines, a: np.ndarray, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> np.ndarray:
    return objects(a[_at(a, dim, slice(start, end, step))])


@named("select_backward")
def _select_backward(_: Lines, a: np.ndarray, shape: Sequence[int], dim: int, at: int) -> np.ndarray:
    made = full(shape, 0.0)
    put(made, _at(made, dim, at), a)
    return made


@named("slice_backward")
def _slice_backward(
    _: Lines, a: np.ndarray, shape: Sequence[int], dim: int, start: int, end: int, step: int
) -> np.ndarray:
    made = full(shape, 0.0)
    put(made, _at(made, dim, slice(start, end, step)), a)
    return made


@named("diagonal")
def _diagonal(_: Lines, a: np.ndarray, offset: int = 0, one: int = 0, other: int = 1) -> np.ndarray:
    return a.diagonal(offset, one, other)


@named("cat")
def _cat(_: Lines, parts: Sequence[np.ndarray], dim: int = 0) -> np.ndarray:
    return np.concatenate([p for p in parts if p.shape != (0,)], dim)


@named("stack")
def _stack(_: Lines, parts: Sequence[np.ndarray], dim: int = 0) -> np.ndarray:
    return np.stack(parts, dim)


@named("split_with_sizes")
def _split(_: Lines, a: np.ndarray, sizes: Sequence[int], dim: int = 0) -> list[np.ndarray]:
    return np.split(a, np.cumsum(sizes)[:-1], dim)


@named("index")
def _index(_: Lines, a: np.ndarray, at: Sequence[Any]) -> np.ndarray:
    return objects(a[_places(at)])


@named("index_select")
def _index_select(_: Lines, a: np.ndarray, dim: int, at: np.ndarray) -> np.ndarray:
    return objects(a.take(_whole(at), dim))


@named("index_put")
def _indexput(
    lines: Lines, a: np.ndarray, at: Sequence[Any], values: np.ndarray, accumulate: bool = False
) -> np.ndarray:
    made = np.array(a, dtype=object)
    if not accumulate:
        put(made, _places(at), values)
        return made
    numbers = np.arange(made.size).reshape(made.shape)[_places(at)]
    for place, value in zip(numbers.reshape(-1), np.broadcast_to(values, numbers.shape).reshape(-1), strict=True):
        made.reshape(-1)[place] = lines.add(made.reshape(-1)[place], value)
    return made


@named("index_add")
def _index_add(lines: Lines, a: np.ndarray, dim: int, at: np.ndarray, values: np.ndarray) -> np.ndarray:
    made = np.array(a, dtype=object)
    for i, place in enumerate(_whole(at)):
        where = _at(made, dim, place)
        put(made, where, each(lines.add, made[where], values[_at(values, dim, i)]))
    return made


def _places(at: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(slice(None) if i is None else _whole(i) for i in at)


def _whole(at: Any) -> np.ndarray:
    if not isinstance(at, np.ndarray) or at.dtype == object:
        raise UnsupportedError("an index depends on values")
    return at


# -- making numbers ----------------------------------------------------------------------------------------------------


@named("new_zeros", "zeros_like")
def _new_zeros(_: Lines, a: np.ndarray, shape: Any = None, **kwargs: Any) -> np.ndarray:
    return full(a.shape if shape is None else shape, typed(0.0, kwargs))


@named("new_ones", "ones_like")
def _new_ones(_: Lines, a: np.ndarray, shape: Any = None, **kwargs: Any) -> np.ndarray:
    return full(a.shape if shape is None else shape, typed(1.0, kwargs))


@named("zeros")
def _zeros(_: Lines, shape: Sequence[int], **kwargs: Any) -> np.ndarray:
    return full(shape, typed(0.0, kwargs))


@named("ones")
def _ones(_: Lines, shape: Sequence[int], **kwargs: Any) -> np.ndarray:
    return full(shape, typed(1.0, kwargs))


@named("full")
def _full_of(_: Lines, shape: Sequence[int], value: float, **kwargs: Any) -> np.ndarray:
    return full(shape, typed(value, kwargs))


@named("full_like")
def _full_like(_: Lines, a: np.ndarray, value: float, **kwargs: Any) -> np.ndarray:
    return full(a.shape, typed(value, kwargs))


@named("eye")
def _eye(_: Lines, rows: int, columns: int | None = None, **kwargs: Any) -> np.ndarray:
    made = full((rows, rows if columns is None else columns), typed(0.0, kwargs))
    np.fill_diagonal(made, typed(1.0, kwargs))
    return made


@named("_to_copy")
def _to_copy(lines: Lines, a: np.ndarray, **kwargs: Any) -> np.ndarray:
    if kwargs.get("dtype") not in (None, torch.float64):
        raise UnsupportedError

    def one(x: Any) -> Number:
        truth = isinstance(x, bool) or (isinstance(x, Line) and x.truth)
        return lines.where(x, 1.0, 0.0) if truth and kwargs.get("dtype") else x

    return each(one, a)


@named("scalar_tensor")
def _scalar(_: Lines, value: float, **kwargs: Any) -> np.ndarray:
    return full((), typed(value, kwargs))
