"""Operations entry by entry, as `LoopWriter` writes them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from inference.compiled.loop_writer import LARGER, SMALLER, WRITERS, LoopWriter, UnwrittenError, Write, known

_FORMULAS = {
    "neg.default": "-{0}",
    "exp.default": "exp({0})",
    "log.default": "log({0})",
    "log1p.default": "log1p({0})",
    "expm1.default": "expm1({0})",
    "sqrt.default": "sqrt({0})",
    "rsqrt.default": "1.0 / sqrt({0})",
    "reciprocal.default": "1.0 / {0}",
    "square.default": "{0} * {0}",
    "abs.default": "fabs({0})",
    "sin.default": "sin({0})",
    "cos.default": "cos({0})",
    "tanh.default": "tanh({0})",
    "erf.default": "erf({0})",
    "erfc.default": "erfc({0})",
    "lgamma.default": "lgamma({0})",
    "sigmoid.default": "1.0 / (1.0 + exp(-{0}))",
    "sgn.default": "({0} > 0) - ({0} < 0)",
    "sign.default": "({0} > 0) - ({0} < 0)",
    "isnan.default": "{0} != {0}",
    "isinf.default": "fabs({0}) == INFINITY",
    "logical_not.default": "{0} == 0",
    "clone.default": "{0}",
    "maximum.default": LARGER,
    "minimum.default": SMALLER,
    "clamp_min.default": LARGER,
    "clamp_max.default": SMALLER,
    "xlogy.Tensor": "{1} != {1} ? {1} : {0} == 0 ? 0.0 : {0} * log({1})",
    "where.self": "{0} != 0 ? {1} : {2}",
    "logical_and.default": "{0} != 0 && {1} != 0",
    "logical_or.default": "{0} != 0 || {1} != 0",
    "mul.Tensor": "{0} * {1}",
    "mul.Scalar": "{0} * {1}",
    "div.Tensor": "{0} / {1}",
    "div.Scalar": "{0} / {1}",
    "pow.Tensor_Tensor": "pow({0}, {1})",
    "pow.Scalar": "pow({0}, {1})",
    "atan2.default": "atan2({0}, {1})",
    "digamma.default": "digamma({0})",
    **{
        f"{name}.default": f"{name}({{0}})" for name in ("tan", "asin", "acos", "atan", "sinh", "cosh", "log2", "log10")
    },
    **{f"{name}.default": f"{name}({{0}})" for name in ("asinh", "acosh", "atanh", "exp2", "floor", "ceil")},
    "sigmoid_backward.default": "{0} * (1.0 - {1}) * {1}",
    "tanh_backward.default": "{0} * (1.0 - {1} * {1})",
    "softplus_backward.default": "{1} * {2} > {3} ? {0} : {0} / (1.0 + exp(-{1} * {2}))",
    "log_sigmoid_backward.default": "{1} < 0 ? {0} / (1.0 + {2}) : {0} * {2} / (1.0 + {2})",
    **{
        f"{name}.{kind}": f"{{0}} {sign} {{1}}"
        for name, sign in (("eq", "=="), ("ne", "!="), ("lt", "<"), ("le", "<="), ("gt", ">"), ("ge", ">="))
        for kind in ("Tensor", "Scalar")
    },
}


def _formula(formula: str) -> Write:
    def write(writer: LoopWriter, out: Tensor, *inputs: Any, **_: Any) -> None:
        writer.pointwise(out, formula, *inputs)

    return write


WRITERS.update({f"aten.{name}": _formula(formula) for name, formula in _FORMULAS.items()})
# In place, each entry is read before it is written.
WRITERS.update({f"aten.{name.replace('.', '_.')}": _formula(formula) for name, formula in _FORMULAS.items()})


def _of_truth(formula: str) -> Write:
    def write(writer: LoopWriter, out: Tensor, *inputs: Tensor) -> None:
        if out.dtype != torch.bool or not all(isinstance(x, Tensor) and x.dtype == torch.bool for x in inputs):
            raise UnwrittenError("bits of numbers")
        writer.pointwise(out, formula, *inputs)

    return write


for _name, _sign in (
    ("and.Tensor", "{0} != 0 && {1} != 0"),
    ("or.Tensor", "{0} != 0 || {1} != 0"),
    ("xor.Tensor", "{0} != {1}"),
    ("not.default", "{0} == 0"),
):
    WRITERS[f"aten.bitwise_{_name}"] = WRITERS[f"aten.bitwise_{_name.replace('.', '_.')}"] = _of_truth(_sign)


@known("add.Tensor", "add.Scalar", "add_.Tensor", "add_.Scalar")
def _add(writer: LoopWriter, out: Tensor, a: Any, b: Any, alpha: float = 1) -> None:
    writer.pointwise(out, "{0} + {1}" if alpha == 1 else "{0} + {2} * {1}", a, b, alpha)


@known("sub.Tensor", "sub.Scalar", "sub_.Tensor", "sub_.Scalar")
def _sub(writer: LoopWriter, out: Tensor, a: Any, b: Any, alpha: float = 1) -> None:
    writer.pointwise(out, "{0} - {1}" if alpha == 1 else "{0} - {2} * {1}", a, b, alpha)


@known("rsub.Tensor", "rsub.Scalar")
def _rsub(writer: LoopWriter, out: Tensor, a: Any, b: Any, alpha: float = 1) -> None:
    _sub(writer, out, b, a, alpha)


@known("pow.Tensor_Scalar")
def _pow(writer: LoopWriter, out: Tensor, a: Tensor, power: float) -> None:
    easy = {2: "{0} * {0}", 1: "{0}", 0.5: "sqrt({0})", -0.5: "1.0 / sqrt({0})", -1: "1.0 / {0}", 3: "{0} * {0} * {0}"}
    writer.pointwise(out, easy.get(power, "pow({0}, {1})"), a, power)


@known("clamp.default")
def _clamp(writer: LoopWriter, out: Tensor, a: Tensor, low: Any = None, high: Any = None) -> None:
    writer.pointwise(out, "{0}", a)
    for limit, formula in ((low, LARGER), (high, SMALLER)):
        if limit is not None:
            writer.pointwise(out, formula, out, limit)


@known("masked_fill.Scalar", "masked_fill_.Scalar", "masked_fill.Tensor", "masked_fill_.Tensor")
def _masked_fill(writer: LoopWriter, out: Tensor, a: Tensor, mask: Tensor, value: Any) -> None:
    writer.pointwise(out, "{1} != 0 ? {2} : {0}", a, mask, value)


@known("copy_.default")
def _copy(writer: LoopWriter, out: Tensor, _: Tensor, source: Tensor, non_blocking: bool = False) -> None:
    writer.pointwise(out, "{0}", source)


@known("_to_copy.default")
def _to_copy(writer: LoopWriter, out: Tensor, a: Tensor, **_: Any) -> None:
    whole = not out.dtype.is_floating_point and a.dtype.is_floating_point
    writer.pointwise(out, "{0} != 0" if out.dtype == torch.bool else "(double) (long) {0}" if whole else "{0}", a)


@known("zeros.default", "zeros_like.default", "new_zeros.default")
def _zeros(writer: LoopWriter, out: Tensor, *_: Any, **__: Any) -> None:
    writer.pointwise(out, "0.0")


@known("ones.default", "ones_like.default", "new_ones.default")
def _ones(writer: LoopWriter, out: Tensor, *_: Any, **__: Any) -> None:
    writer.pointwise(out, "1.0")


@known("full.default", "full_like.default", "new_full.default", "scalar_tensor.default")
def _full(writer: LoopWriter, out: Tensor, *args: Any, **_: Any) -> None:
    writer.pointwise(out, "{0}", args[-1])


def _triangle(sign: str) -> Write:
    def write(writer: LoopWriter, out: Tensor, a: Tensor, diagonal: int = 0) -> None:
        row, column = out.ndim - 2, out.ndim - 1
        writer.pointwise(out, f"i{column} - i{row} {sign} {diagonal} ? {{0}} : 0.0", a)

    return write


WRITERS.update({"aten.tril.default": _triangle("<="), "aten.triu.default": _triangle(">=")})


@known("softplus.default")
def _softplus(writer: LoopWriter, out: Tensor, a: Tensor, beta: float = 1, threshold: float = 20) -> None:
    writer.pointwise(out, "{0} * {1} > {2} ? {0} : log1p(exp({0} * {1})) / {1}", a, beta, threshold)


@known("log_sigmoid_forward.default")
def _log_sigmoid(writer: LoopWriter, out: tuple[Tensor, Tensor], a: Tensor) -> None:
    value, small = out
    if small.shape == a.shape:
        writer.pointwise(small, "exp(-fabs({0}))", a)
    writer.pointwise(value, "({0} < 0 ? {0} : 0.0) - log1p(exp(-fabs({0})))", a)


@known("cumsum.default")
def _cumsum(writer: LoopWriter, out: Tensor, a: Tensor, dim: int) -> None:
    dim %= out.ndim
    here = writer.at(out, out.shape)
    before = f"{here.removesuffix(']')}-{out.stride(dim)}]"
    writer.loop(out.shape, f"{here} = {writer.at(a, a.shape)} + (i{dim} ? {before} : 0.0);")
