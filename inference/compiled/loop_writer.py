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

FUNCTIONS = "exp log log1p expm1 sqrt fabs sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh erf erfc lgamma"
FUNCTIONS += " log2 log10 exp2 floor ceil"
# Declared here: reading <cmath> takes a compiler longer than the function of a small density.
PRELUDE = (
    """#define INFINITY __builtin_inf()
#define NAN __builtin_nan("")
extern "C" {
double pow(double, double); double fmod(double, double); double atan2(double, double); double copysign(double, double);
"""
    + "".join(f"double {name}(double); " for name in FUNCTIONS.split())
    + """}
static double digamma(double x) {  // recurrence up to 10, then Stirling's (Abramowitz and Stegun 6.3.18)
  if (x <= 0.5) {
    if (x == floor(x)) return x == 0 ? -copysign(INFINITY, x) : NAN;
    const double pi = 3.14159265358979323846;
    if (x < 0) return digamma(1.0 - x) - pi / tan(pi * fmod(x, 1.0));
  }
  double less = 0.0;
  for (; x < 10.0; x += 1.0) less += 1.0 / x;
  const double z = 1.0 / (x * x);
  const double series = z * (1.0 / 12 - z * (1.0 / 120 - z * (1.0 / 252 - z * (1.0 / 240 - z * (1.0 / 132 - z *
    (691.0 / 32760 - z / 12))))));
  return log(x) - 0.5 / x - series - less;
}
"""
)
SPECIAL = re.compile(r"\b(?:exp|log|log1p|expm1|sin|cos|tanh|erf|erfc|lgamma|digamma|pow)\(")
LARGER, SMALLER = "({0} > {1} || {0} != {0} ? {0} : {1})", "({0} < {1} || {0} != {0} ? {0} : {1})"
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
        self._alone: set[int] = set()  # addresses of constants of one number, which are written as they are
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
        if len(self._constants[name]) == 1:
            self._alone.add(x.untyped_storage().data_ptr())
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
        arrays = [f"static double {name}[{size}];" for name, size in self._sizes.items() if size > 1]
        return "\n".join([*arrays, *(f'extern "C" {{ const double* {name}; }}' for name in self._constants)])

    def numbers_alone(self) -> str:
        """Arrays of one number, which are kept in registers where they are local."""
        alone = [f"{name}[1]" for name, size in self._sizes.items() if size == 1]
        return f"double {', '.join(alone)};" if alone else ""

    def tables(self) -> list[tuple[str, Tensor]]:
        """Constants by name."""
        return [*self._constants.items()]

    # -- loops ---------------------------------------------------------------------------------------------------

    def at(self, x: Any, shape: Sequence[int]) -> str:
        """C for the entry of x, broadcast to a shape, at the loops' indices; or for a number."""
        if not isinstance(x, Tensor):
            return number(x)
        if not x.numel():
            return "0.0"
        if x.untyped_storage().data_ptr() in self._alone:
            return number(x.reshape(-1)[0])
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
        first = out
        if SPECIAL.search(formula):  # what is the same along a dimension is worked out once
            inputs = tuple(x.expand(out.shape) if isinstance(x, Tensor) else x for x in inputs)
            for d, n in enumerate(out.shape):
                if n > 1 and not any(isinstance(x, Tensor) and x.stride(d) for x in inputs):
                    first = first.narrow(d, 0, 1)
                    inputs = tuple(x.narrow(d, 0, 1) if isinstance(x, Tensor) else x for x in inputs)
        values = [self.at(x, first.shape) for x in inputs]
        self.loop(first.shape, f"{self.at(first, first.shape)} = {formula.format(*values)};")
        if first.shape != out.shape:
            self.pointwise(out, "{0}", first)

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


def number(x: Any) -> str:
    """C for a number."""
    value = float(x)
    if value != value:
        return "NAN"
    if value in (float("inf"), float("-inf")):
        return "INFINITY" if value > 0 else "(-INFINITY)"
    return f"({value!r})"


def known(*names: str) -> Callable[[Write], Write]:
    """Note what writes operations of these names."""

    def noted(write: Write) -> Write:
        WRITERS.update(dict.fromkeys((f"aten.{n}" for n in names), write))
        return write

    return noted
