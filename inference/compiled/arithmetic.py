"""Operations of torch that compute, on arrays of named numbers."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.special

from inference.compiled.numbers import Line, Lines, Number, UnsupportedError
from inference.compiled.registry import OPERATIONS, each, full, named, objects, put


def _elementwise(name: str, function: Callable[..., Number]) -> None:
    """Note an operation entry by entry, with the lines first."""

    def operation(lines: Lines, *args: Any, **_: Any) -> np.ndarray:
        return each(lambda *numbers: function(lines, *numbers), *args)

    OPERATIONS[f"aten.{name}"] = operation


def _call(function: str, known: Callable[..., Any]) -> Callable[..., Number]:
    return lambda lines, *numbers: lines.call(function, known, *numbers)


def _compared(sign: str, known: Callable[..., Any]) -> Callable[..., Number]:
    return lambda lines, a, b: lines.binary(sign, known, a, b, truth=True)


def _sign(x: float) -> float:
    """Of torch: 0 where there is no number."""
    return float(x > 0) - float(x < 0)


for _name, _function, _known in (
    ("exp", "std::exp", np.exp), ("expm1", "std::expm1", np.expm1), ("log", "std::log", np.log),
    ("log1p", "std::log1p", np.log1p), ("sqrt", "std::sqrt", np.sqrt), ("abs", "std::fabs", np.abs),
    ("sgn", "sign", _sign), ("sign", "sign", _sign), ("tanh", "std::tanh", np.tanh), ("sin", "std::sin", np.sin),
    ("cos", "std::cos", np.cos), ("atan", "std::atan", np.arctan), ("erf", "std::erf", scipy.special.erf),
    ("lgamma", "std::lgamma", scipy.special.gammaln), ("digamma", "digamma", scipy.special.digamma),
    ("sigmoid", "sigmoid", scipy.special.expit), ("maximum", "larger", np.maximum), ("minimum", "smaller", np.minimum),
    ("clamp_min", "larger", np.maximum), ("clamp_max", "smaller", np.minimum), ("xlogy", "xlogy", scipy.special.xlogy),
):  # fmt: skip
    _elementwise(_name, _call(_function, _known))
for _name, _function, _known in (
    ("ge", ">=", operator.ge), ("gt", ">", operator.gt), ("le", "<=", operator.le), ("lt", "<", operator.lt),
    ("eq", "==", operator.eq), ("ne", "!=", operator.ne), ("bitwise_and", "&", operator.and_),
    ("bitwise_or", "|", operator.or_), ("logical_and", "&", operator.and_), ("logical_or", "|", operator.or_),
):  # fmt: skip
    _elementwise(_name, _compared(_function, _known))
_elementwise("mul", Lines.mul)
_elementwise("div", Lines.div)
_elementwise("neg", Lines.neg)
_elementwise("where", Lines.where)
_elementwise("square", lambda lines, a: lines.mul(a, a))
_elementwise("reciprocal", lambda lines, a: lines.div(1.0, a))
_elementwise("rsqrt", lambda lines, a: lines.div(1.0, lines.call("std::sqrt", np.sqrt, a)))
_elementwise("masked_fill", lambda lines, a, mask, value: lines.where(mask, value, a))
_elementwise("sigmoid_backward", lambda lines, g, s: lines.mul(g, lines.mul(s, lines.sub(1.0, s))))


@named("add")
def _add(lines: Lines, a: Any, b: Any, alpha: float = 1.0) -> np.ndarray:
    return each(lambda x, y: lines.add(x, lines.mul(float(alpha), y)), a, b)


@named("sub")
def _sub(lines: Lines, a: Any, b: Any, alpha: float = 1.0) -> np.ndarray:
    return each(lambda x, y: lines.sub(x, lines.mul(float(alpha), y)), a, b)


@named("rsub")
def _rsub(lines: Lines, a: Any, b: Any, alpha: float = 1.0) -> np.ndarray:
    return each(lambda x, y: lines.sub(y, lines.mul(float(alpha), x)), a, b)


@named("logical_not", "bitwise_not")
def _not(lines: Lines, a: np.ndarray) -> np.ndarray:
    return each(lambda x: lines.new(f"!{x.name}", truth=True) if isinstance(x, Line) else not x, a)


@named("pow")
def _pow(lines: Lines, a: Any, b: Any) -> np.ndarray:
    def one(x: Number, y: Number) -> Number:
        if not isinstance(y, Line) and y in (0, 1, 2):
            return [1.0, x, lines.mul(x, x)][int(y)]
        return lines.call("std::pow", np.power, x, y if isinstance(y, Line) else float(y))

    return each(one, a, b)


@named("clamp")
def _clamp(lines: Lines, a: np.ndarray, low: Any = None, high: Any = None) -> np.ndarray:
    below: np.ndarray = a if low is None else OPERATIONS["aten.clamp_min"](lines, a, low)
    return below if high is None else objects(OPERATIONS["aten.clamp_max"](lines, below, high))


@named("masked_fill_", "logical_and_")
def _in_place(lines: Lines, a: np.ndarray, *args: Any) -> np.ndarray:
    if not a.flags.writeable:  # an expanded array, whose other entries would move
        raise UnsupportedError
    put(a, ..., OPERATIONS["aten.masked_fill" if len(args) > 1 else "aten.logical_and"](lines, a, *args))
    return a


# -- sums --------------------------------------------------------------------------------------------------------------


@named("sum")
def _sum(lines: Lines, a: np.ndarray, dims: Any = None, keepdim: bool = False, **_: Any) -> np.ndarray:
    axes = tuple(range(a.ndim)) if not dims else tuple(d % max(a.ndim, 1) for d in dims)
    axes = axes if a.ndim else ()
    moved = np.moveaxis(a, axes, range(-len(axes), 0)) if axes else a
    kept = moved.shape[: a.ndim - len(axes)]
    flat = moved.reshape(-1, math.prod(moved.shape[a.ndim - len(axes) :]))
    made = full((len(flat),), 0.0)
    for i, row in enumerate(flat):
        total: Number = 0.0
        for number in row:
            total = lines.add(total, number)
        made[i] = total
    shape = tuple(1 if i in axes else n for i, n in enumerate(a.shape)) if keepdim else kept
    return made.reshape(shape)


@named("mm", "bmm", "mv", "dot")
def _product(lines: Lines, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    left = a[..., None, :] if a.ndim == 1 else a
    right = b[..., None] if b.ndim == 1 else b
    products = each(lines.mul, left[..., :, None, :], right.swapaxes(-1, -2)[..., None, :, :])
    made = _sum(lines, products, [-1])
    made = made[..., 0] if b.ndim == 1 else made
    return objects(made[..., 0, :] if a.ndim == 1 and b.ndim > 1 else made[..., 0] if a.ndim == 1 else made)


@named("tril")
def _tril(_: Lines, a: np.ndarray, diagonal: int = 0) -> np.ndarray:
    return np.where(np.tril(np.ones(a.shape[-2:], dtype=bool), diagonal), a, 0.0)


@named("softplus")
def _softplus(lines: Lines, a: np.ndarray, beta: float = 1.0, threshold: float = 20.0) -> np.ndarray:
    if beta != 1 or threshold != 20:
        raise UnsupportedError
    return each(lambda x: lines.call("softplus", lambda v: v if v > 20 else np.log1p(np.exp(v)), x), a)


@named("softplus_backward")
def _softplus_backward(lines: Lines, g: np.ndarray, a: np.ndarray, beta: float, threshold: float) -> np.ndarray:
    if beta != 1 or threshold != 20:
        raise UnsupportedError
    return each(
        lambda y, x: lines.mul(y, lines.call("slope", lambda v: 1.0 if v > 20 else 1 / (1 + np.exp(-v)), x)), g, a
    )
