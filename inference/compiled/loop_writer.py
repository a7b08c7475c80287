"""Operations on tensors as loops in C, over the addresses that the tensors of an example have."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import torch
from torch import Tensor

Write = Callable[..., None]
WRITERS: dict[str, Write] = {}
EXACT = (torch.float64, torch.bool, torch.int32, torch.int64)  # what doubles hold, but for integers beyond 2^53

PRELUDE = """#include <cmath>
static double digamma(double x) {  // recurrence up to 10, then Stirling's series (Abramowitz and Stegun 6.3.18)
  if (x <= 0.5) {
    if (x == std::floor(x)) return x == 0 ? -std::copysign(INFINITY, x) : NAN;
    const double pi = 3.14159265358979323846;
    if (x < 0) return digamma(1.0 - x) - pi / std::tan(pi * std::fmod(x, 1.0));
  }
  double less = 0.0;
  for (; x < 10.0; x += 1.0) less += 1.0 / x;
  const double z = 1.0 / (x * x);
  const double series = z * (1.0 / 12 - z * (1.0 / 120 - z * (1.0 / 252 - z * (1.0 / 240 - z * (1.0 / 132 - z *
    (691.0 / 32760 - z / 12))))));
  return std::log(x) - 0.5 / x - series - less;
}
"""
SPECIAL = re.compile(r"\b(?:exp|log|log1p|expm1|sin|cos|tanh|erf|erfc|lgamma|digamma|pow)\(")
SLOW = 8  # times as long as another number


class UnwrittenError(Exception):
    """An operation, or a use of it, that is not known here."""


class LoopWriter:
    """Lines of C, and the arrays they work on: one of doubles for each storage that the example had.

    Attributes
    ----------
    lines
        What has been written.
    inputs
        Names of the arrays that are inputs.
    numbers
        How many numbers all loops write, those by a special function counted as several.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.inputs: list[str] = []
        self.numbers = 0
        self._names: dict[int, str] = {}  # of arrays, by the address of the storage
        self._kept: list[Tensor] = []  # so that no address is given to another tensor
        self._sizes: dict[str, int] = {}
        self._constants: dict[str, Tensor] = {}
        self._number = count()

    # -- arrays --------------------------------------------------------------------------------------------------

    def input(self, x: Tensor) -> Tensor:
        """Name an input."""
        self.inputs.append(f"x{len(self.inputs)}")
        self._name(x, self.inputs[-1])
        return x

    def constant(self, x: Tensor) -> Tensor:
        """Name a constant, and keep all numbers of its storage."""
        name = f"c{next(self._number)}"
        self._name(x, name)
        self._constants[name] = _storage(x).double()
        return x

    def keep(self, x: Tensor) -> None:
        """Name what an operation has made."""
        if x.device.type != "cpu" or x.dtype not in EXACT:
            raise UnwrittenError(f"{x.dtype} on {x.device}")
        if not self.knows(x):
            name = f"b{next(self._number)}"
            self._name(x, name)
            self._sizes[name] = max(1, len(_storage(x)))

    def knows(self, x: Tensor) -> bool:
        """Whether it is a view of something named."""
        return x.untyped_storage().data_ptr() in self._names or not x.numel()

    def refuse_input(self, x: Tensor) -> None:
        """Refuse to change an input or a constant."""
        if not self._names.get(x.untyped_storage().data_ptr(), "c").startswith("b"):
            raise UnwrittenError("it changes an input")

    def is_constant(self, x: Tensor) -> bool:
        """Whether it is a view of a constant."""
        return self._names.get(x.untyped_storage().data_ptr(), "").startswith("c")

    def _name(self, x: Tensor, name: str) -> None:
        self._kept.append(x)
        self._names[x.untyped_storage().data_ptr()] = name

    def declarations(self) -> str:
        """Arrays, and pointers to constants."""
        arrays = [f"static double {name}[{size}];" for name, size in self._sizes.items()]
        return "\n".join([*arrays, *(f'extern "C" {{ const double* {name}; }}' for name in self._constants)])

    def tables(self) -> list[tuple[str, Tensor]]:
        """Constants by name."""
        return [*self._constants.items()]

    # -- loops ---------------------------------------------------------------------------------------------------

    def at(self, x: Any, shape: Sequence[int]) -> str:
        """C for the entry of x, broadcast to a shape, at the loops' indices; or for a number."""
        if not isinstance(x, Tensor):
            return _number(x)
        if not x.numel():
            return "0.0"
        strides = [0] * (len(shape) - x.ndim) + [0 if n == 1 else s for n, s in zip(x.shape, x.stride(), strict=True)]
        return self.entry(x, strides)

    def entry(self, x: Tensor, strides: Sequence[int]) -> str:
        """C for an entry of x by a stride for each loop."""
        terms = [str(x.storage_offset()), *(f"{s}*i{d}" for d, s in enumerate(strides) if s)]
        return f"{self._names[x.untyped_storage().data_ptr()]}[{'+'.join(terms)}]"

    def loop(self, shape: Sequence[int], line: str) -> None:
        """Write a line inside loops over a shape."""
        if 0 in shape:
            return
        self.numbers += math.prod(shape) * (1 + SLOW * len(SPECIAL.findall(line)))
        heads = [f"for (long i{d} = 0; i{d} < {n}; ++i{d}) " for d, n in enumerate(shape) if n != 1]
        ones = [f"const long i{d} = 0;" for d, n in enumerate(shape) if n == 1 and f"i{d}" in line]
        inside = f"{''.join(heads)}{line}"
        self.lines.append(f"{{ {' '.join(ones)} {inside} }}" if ones else inside)

    def pointwise(self, out: Tensor, formula: str, *inputs: Any) -> None:
        """out = formula of inputs, broadcast; {0}, {1}, ... stand for them."""
        values = [self.at(x, out.shape) for x in inputs]
        self.loop(out.shape, f"{self.at(out, out.shape)} = {formula.format(*values)};")

    def copy_out(self, name: str, x: Tensor) -> None:
        """Write a tensor to an output, in order."""
        strides = torch.empty(x.shape).stride()
        to = "+".join(["0", *(f"{s}*i{d}" for d, s in enumerate(strides) if x.shape[d] != 1)])
        self.loop(x.shape, f"{name}[{to}] = {self.at(x, x.shape)};")

    def gathered(self, x: Tensor, indices: Sequence[Tensor | None]) -> tuple[str, Tensor]:
        """An array of the addresses that constant indices pick, and these themselves."""
        if not all(i is None or self.is_constant(i) for i in indices):
            raise UnwrittenError("an index that is no constant")
        everywhere = torch.arange(len(_storage(x))).as_strided(x.shape, x.stride(), x.storage_offset())
        picked = everywhere[tuple(slice(None) if i is None else i for i in indices)].contiguous()
        name = f"c{next(self._number)}"
        self._constants[name] = picked.double().reshape(-1)
        return name, picked

    def array(self, x: Tensor) -> str:
        """Name of the array that x is in."""
        return self._names[x.untyped_storage().data_ptr()]


def _storage(x: Tensor) -> Tensor:
    """All numbers of the storage of x, in order."""
    return x.as_strided((x.untyped_storage().nbytes() // x.element_size(),), (1,), 0)


def _number(x: Any) -> str:
    value = float(x)
    if value != value:
        return "NAN"
    if value in (float("inf"), float("-inf")):
        return "INFINITY" if value > 0 else "(-INFINITY)"
    return f"({value!r})"


def _known(*names: str) -> Callable[[Write], Write]:
    def noted(write: Write) -> Write:
        WRITERS.update(dict.fromkeys((f"aten.{n}" for n in names), write))
        return write

    return noted


# -- entry by entry ----------------------------------------------------------------------------------------------------

_MAX, _MIN = "({0} > {1} || {0} != {0} ? {0} : {1})", "({0} < {1} || {0} != {0} ? {0} : {1})"
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
    "maximum.default": _MAX,
    "minimum.default": _MIN,
    "clamp_min.default": _MAX,
    "clamp_max.default": _MIN,
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


@_known("add.Tensor", "add.Scalar", "add_.Tensor", "add_.Scalar")
def _add(writer: LoopWriter, out: Tensor, a: Any, b: Any, alpha: float = 1) -> None:
    writer.pointwise(out, "{0} + {1}" if alpha == 1 else "{0} + {2} * {1}", a, b, alpha)


@_known("sub.Tensor", "sub.Scalar", "sub_.Tensor", "sub_.Scalar")
def _sub(writer: LoopWriter, out: Tensor, a: Any, b: Any, alpha: float = 1) -> None:
    writer.pointwise(out, "{0} - {1}" if alpha == 1 else "{0} - {2} * {1}", a, b, alpha)


@_known("rsub.Tensor", "rsub.Scalar")
def _rsub(writer: LoopWriter, out: Tensor, a: Any, b: Any, alpha: float = 1) -> None:
    _sub(writer, out, b, a, alpha)


@_known("pow.Tensor_Scalar")
def _pow(writer: LoopWriter, out: Tensor, a: Tensor, power: float) -> None:
    easy = {2: "{0} * {0}", 1: "{0}", 0.5: "sqrt({0})", -0.5: "1.0 / sqrt({0})", -1: "1.0 / {0}", 3: "{0} * {0} * {0}"}
    writer.pointwise(out, easy.get(power, "pow({0}, {1})"), a, power)


@_known("clamp.default")
def _clamp(writer: LoopWriter, out: Tensor, a: Tensor, low: Any = None, high: Any = None) -> None:
    writer.pointwise(out, "{0}", a)
    for limit, formula in ((low, _MAX), (high, _MIN)):
        if limit is not None:
            writer.pointwise(out, formula, out, limit)


@_known("masked_fill.Scalar", "masked_fill_.Scalar", "masked_fill.Tensor", "masked_fill_.Tensor")
def _masked_fill(writer: LoopWriter, out: Tensor, a: Tensor, mask: Tensor, value: Any) -> None:
    writer.pointwise(out, "{1} != 0 ? {2} : {0}", a, mask, value)


@_known("copy_.default")
def _copy(writer: LoopWriter, out: Tensor, _: Tensor, source: Tensor, non_blocking: bool = False) -> None:
    writer.pointwise(out, "{0}", source)


@_known("_to_copy.default")
def _to_copy(writer: LoopWriter, out: Tensor, a: Tensor, **_: Any) -> None:
    whole = not out.dtype.is_floating_point and a.dtype.is_floating_point
    writer.pointwise(out, "{0} != 0" if out.dtype == torch.bool else "(double) (long) {0}" if whole else "{0}", a)


@_known("zeros.default", "zeros_like.default", "new_zeros.default")
def _zeros(writer: LoopWriter, out: Tensor, *_: Any, **__: Any) -> None:
    writer.pointwise(out, "0.0")


@_known("ones.default", "ones_like.default", "new_ones.default")
def _ones(writer: LoopWriter, out: Tensor, *_: Any, **__: Any) -> None:
    writer.pointwise(out, "1.0")


@_known("full.default", "full_like.default", "new_full.default", "scalar_tensor.default")
def _full(writer: LoopWriter, out: Tensor, *args: Any, **_: Any) -> None:
    writer.pointwise(out, "{0}", args[-1])


def _triangle(sign: str) -> Write:
    def write(writer: LoopWriter, out: Tensor, a: Tensor, diagonal: int = 0) -> None:
        row, column = out.ndim - 2, out.ndim - 1
        writer.pointwise(out, f"i{column} - i{row} {sign} {diagonal} ? {{0}} : 0.0", a)

    return write


WRITERS.update({"aten.tril.default": _triangle("<="), "aten.triu.default": _triangle(">=")})


@_known("softplus.default")
def _softplus(writer: LoopWriter, out: Tensor, a: Tensor, beta: float = 1, threshold: float = 20) -> None:
    writer.pointwise(out, "{0} * {1} > {2} ? {0} : log1p(exp({0} * {1})) / {1}", a, beta, threshold)


@_known("log_sigmoid_forward.default")
def _log_sigmoid(writer: LoopWriter, out: tuple[Tensor, Tensor], a: Tensor) -> None:
    value, small = out
    if small.shape == a.shape:
        writer.pointwise(small, "exp(-fabs({0}))", a)
    writer.pointwise(value, "({0} < 0 ? {0} : 0.0) - log1p(exp(-fabs({0})))", a)


@_known("cumsum.default")
def _cumsum(writer: LoopWriter, out: Tensor, a: Tensor, dim: int) -> None:
    dim %= out.ndim
    here = writer.at(out, out.shape)
    before = f"{here.removesuffix(']')}-{out.stride(dim)}]"
    writer.loop(out.shape, f"{here} = {writer.at(a, a.shape)} + (i{dim} ? {before} : 0.0);")


# -- sums, products, pieces --------------------------------------------------------------------------------------------


@_known("sum.default", "sum.dim_IntList")
def _sum(writer: LoopWriter, out: Tensor, a: Tensor, dims: Any = None, keepdim: bool = False, **_: Any) -> None:
    writer.pointwise(out, "0.0")
    _reduce(writer, out, a, dims, keepdim, "{0} += {1}")


@_known("amax.default")
def _amax(writer: LoopWriter, out: Tensor, a: Tensor, dims: Any = None, keepdim: bool = False) -> None:
    writer.pointwise(out, "(-INFINITY)")
    _reduce(writer, out, a, dims, keepdim, "{0} = " + _MAX.format("{1}", "{0}"))


@_known("logsumexp.default")
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


@_known("mm.default", "bmm.default")
def _product(writer: LoopWriter, out: Tensor, a: Tensor, b: Tensor) -> None:
    shape = (*out.shape, a.shape[-1])  # ..., row, column, inner
    lead = a.ndim - 2
    left = [*a.stride()[: lead + 1], 0, a.stride()[-1]]
    right = [*b.stride()[:lead], 0, b.stride()[-1], b.stride()[-2]]
    writer.pointwise(out, "0.0")
    line = f"{writer.entry(out, [*out.stride(), 0])} += {writer.entry(a, left)} * {writer.entry(b, right)};"
    writer.loop(shape, line)


@_known("mv.default", "dot.default")
def _vector_product(writer: LoopWriter, out: Tensor, a: Tensor, b: Tensor) -> None:
    writer.pointwise(out, "0.0")
    to, along = [*out.stride(), 0], [0] * out.ndim + [b.stride(0)]
    writer.loop(a.shape, f"{writer.entry(out, to)} += {writer.entry(a, a.stride())} * {writer.entry(b, along)};")


@_known("flip.default")
def _flip(writer: LoopWriter, out: Tensor, a: Tensor, dims: Sequence[int]) -> None:
    turned = {d % a.ndim for d in dims}
    strides = [-s if d in turned else s for d, s in enumerate(a.stride())]
    last = sum((a.shape[d] - 1) * a.stride(d) for d in turned)
    from_end = f"{writer.entry(a, strides).removesuffix(']')}+{last}]"
    writer.loop(out.shape, f"{writer.at(out, out.shape)} = {from_end};")


@_known("stack.default", "cat.default")
def _joined(writer: LoopWriter, out: Tensor, parts: Sequence[Tensor], dim: int = 0) -> None:
    start, stacked = 0, bool(parts) and parts[0].ndim < out.ndim
    for part in parts:
        piece = part.unsqueeze(dim) if stacked else part
        if not piece.numel():
            continue
        length = piece.shape[dim]
        writer.pointwise(out.narrow(dim, start, length), "{0}", piece)
        start += length


@_known("select_backward.default", "slice_backward.default", "diagonal_backward.default")
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


@_known("index.Tensor")
def _index(writer: LoopWriter, out: Tensor, a: Tensor, indices: Sequence[Tensor | None]) -> None:
    name, picked = writer.gathered(a, indices)
    strides = torch.empty(picked.shape).stride()
    at = "+".join(["0", *(f"{s}*i{d}" for d, s in enumerate(strides) if picked.shape[d] != 1)])
    writer.loop(out.shape, f"{writer.at(out, out.shape)} = {writer.array(a)}[(long) {name}[{at}]];")


@_known("index_put.default")
def _index_put(
    writer: LoopWriter, out: Tensor, a: Tensor, indices: Any, values: Tensor, accumulate: bool = False
) -> None:
    writer.pointwise(out, "{0}", a)
    name, picked = writer.gathered(out, indices)
    strides = torch.empty(picked.shape).stride()
    at = "+".join(["0", *(f"{s}*i{d}" for d, s in enumerate(strides) if picked.shape[d] != 1)])
    sign = "+=" if accumulate else "="
    writer.loop(picked.shape, f"{writer.array(out)}[(long) {name}[{at}]] {sign} {writer.at(values, picked.shape)};")


@_known("index_add.default")
def _index_add(
    writer: LoopWriter, out: Tensor, a: Tensor, dim: int, index: Tensor, source: Tensor, alpha: float = 1
) -> None:
    writer.pointwise(out, "{0}", a)
    along = index.reshape([-1 if d == dim % source.ndim else 1 for d in range(source.ndim)]).expand(source.shape)
    term = writer.at(source, source.shape)
    writer.loop(source.shape, f"{_picked(writer, out, dim, along)} += {_number(alpha)} * {term};")


@_known("constant_pad_nd.default")
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


@_known("gather.default")
def _gather(writer: LoopWriter, out: Tensor, a: Tensor, dim: int, index: Tensor, **_: Any) -> None:
    writer.loop(out.shape, f"{writer.at(out, out.shape)} = {_picked(writer, a, dim, index)};")


@_known("scatter_add.default")
def _scatter_add(writer: LoopWriter, out: Tensor, a: Tensor, dim: int, index: Tensor, source: Tensor) -> None:
    if source.shape != index.shape:
        raise UnwrittenError("scatter_add of a part")
    writer.pointwise(out, "{0}", a)
    writer.loop(index.shape, f"{_picked(writer, out, dim, index)} += {writer.at(source, index.shape)};")


# -- matrices ----------------------------------------------------------------------------------------------------------


@_known("linalg_cholesky_ex.default")
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


@_known("linalg_solve_triangular.default")
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
