"""Programs of few numbers as one straight line of C++: every number of every tensor is a variable of its own.

A loop over a handful of numbers costs more in calls, buffers and masks than in arithmetic, and takes a general compiler
seconds to make. Here recorded operations are carried out on arrays of names: those that only move numbers (views,
slices, gathers, paddings) leave nothing of themselves, sums become sums of what is not zero, and what is left is
compiled in some tenths of a second.
"""

from __future__ import annotations

import ctypes
import math
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from inference.compiled.numbers import Lines, UnsupportedError
from inference.compiled.operations import operation_of

PRELUDE = """#include <cmath>
static inline double sign(double x) { return double(x > 0) - double(x < 0); }
static inline double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }
static inline double softplus(double x) { return x > 20.0 ? x : std::log1p(std::exp(x)); }
static inline double slope(double x) { return x > 20.0 ? 1.0 : 1.0 / (1.0 + std::exp(-x)); }
static inline double larger(double x, double y) { return x != x ? x : (y != y ? y : (x > y ? x : y)); }
static inline double smaller(double x, double y) { return x != x ? x : (y != y ? y : (x < y ? x : y)); }
static inline double xlogy(double x, double y) { return y != y ? y : (x == 0 ? 0.0 : x * std::log(y)); }
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
OPTIONS = ("-fPIC", "-shared", "-std=c++17", "-w", "-fno-math-errno")
LARGEST = 2048  # numbers in a tensor
SHORT = 6_000  # operations on numbers, to which a program may always come
PER_OPERATION = 90  # and for each operation on tensors: that many cost what one costs in loops
LONGEST = 40_000  # and at most
OPTIMIZED = 3_000  # beyond them optimizing takes longer than it saves


def straight_line(
    module: fx.GraphModule, inputs: Sequence[Tensor], compiler: str
) -> Callable[..., tuple[Tensor, ...]] | None:
    """Compile a recorded program of few numbers; None if it is none, or has operations that are not known here.

    Parameters
    ----------
    module
        The program, from tensors to a list of tensors.
    inputs
        An example of its inputs.
    compiler
        The C++ compiler.
    """
    if any(t.dtype != torch.float64 or t.device.type != "cpu" for t in inputs) or _large(module):
        return None
    lines = Lines(most_lines(len(module.graph.nodes)))
    try:
        outputs = _carried_out(module, inputs, lines)
    except (UnsupportedError, ValueError, IndexError, TypeError):  # or arguments that an operation does not take here
        return None
    level = "-O1" if len(lines.all) <= OPTIMIZED else "-O0"
    run = _built(_source(lines, outputs, len(inputs)), [compiler, level, *OPTIONS])
    return _callable(run, [o.shape for o in outputs], len(inputs))


def most_lines(operations: int) -> int:
    """How many operations on numbers a program of so many operations on tensors may have to be written out."""
    return min(LONGEST, max(SHORT, PER_OPERATION * operations))


def _large(module: fx.GraphModule) -> bool:
    """Whether some tensor has many numbers, but for constants."""
    made = [n.meta.get("tensor_meta") for n in module.graph.nodes if n.op == "call_function"]
    return any(math.prod(getattr(m, "shape", ())) > LARGEST for m in made)


def _carried_out(module: fx.GraphModule, inputs: Sequence[Tensor], lines: Lines) -> list[np.ndarray]:
    """Arrays of what each number of the outputs is."""
    known: dict[fx.Node, Any] = {}
    waiting = iter(enumerate(inputs))
    for node in module.graph.nodes:
        if node.op == "placeholder":
            at, like = next(waiting)
            named = [lines.new(f"x{at}[{i}]") for i in range(like.numel())]
            known[node] = _objects(named).reshape(like.shape)
        elif node.op == "get_attr":
            known[node] = _constant(getattr(module, str(node.target)))
        elif node.op == "output":
            found = fx.map_arg(node.args[0], known.__getitem__)
            outputs = list(found) if isinstance(found, list | tuple) else [found]
            if not all(isinstance(o, np.ndarray) for o in outputs):
                raise UnsupportedError
            return outputs
        else:
            args, kwargs = fx.map_arg((node.args, node.kwargs), known.__getitem__)
            operation = operation_of(node.target)
            if operation is None:
                raise UnsupportedError(str(node.target))
            known[node] = operation(lines, *args, **kwargs)
    raise UnsupportedError


def _constant(tensor: Tensor) -> np.ndarray:
    if tensor.dtype not in (torch.float64, torch.bool, torch.int64) or tensor.device.type != "cpu":
        raise UnsupportedError
    if tensor.dtype == torch.int64:  # for indices
        return tensor.numpy()
    return _objects(tensor.flatten().tolist()).reshape(tensor.shape)


def _objects(values: Sequence[Any]) -> np.ndarray:
    made = np.empty(len(values), dtype=object)
    made[:] = values
    return made


def _source(lines: Lines, outputs: Sequence[np.ndarray], inputs: int) -> str:
    written = [
        f"  y{at}[{i}] = {lines.text(value)};" for at, o in enumerate(outputs) for i, value in enumerate(o.reshape(-1))
    ]
    return f'{PRELUDE}extern "C" void run(double** in, double** out) {{\n' + "\n".join(
        [
            *(f"  const double* x{i} = in[{i}];" for i in range(inputs)),
            *(f"  double* y{i} = out[{i}];" for i in range(len(outputs))),
            *(f"  const {'bool' if line.truth else 'double'} {line.name} = {line.text};" for line in lines.all),
            *written,
            "}\n",
        ]
    )


def _built(source: str, compiler: Sequence[str]) -> Callable[..., None]:
    """The program in machine code, loaded into this process."""
    with tempfile.TemporaryDirectory() as folder:
        text, library = Path(folder, "line.cpp"), Path(folder, "line.so")
        text.write_text(source)
        subprocess.run([*compiler, str(text), "-o", str(library)], check=True, capture_output=True)
        run: Callable[..., None] = ctypes.CDLL(str(library)).run
    return run


def _callable(
    run: Callable[..., None], shapes: Sequence[tuple[int, ...]], inputs: int
) -> Callable[..., tuple[Tensor, ...]]:
    """From tensors to tensors."""
    array_in, array_out = ctypes.c_void_p * inputs, ctypes.c_void_p * len(shapes)
    empty, double = torch.empty, torch.float64

    def call(*tensors: Tensor) -> tuple[Tensor, ...]:
        whole = [t.contiguous() for t in tensors]
        made = tuple([empty(shape, dtype=double) for shape in shapes])
        run(array_in(*[t.data_ptr() for t in whole]), array_out(*[t.data_ptr() for t in made]))
        return made

    return call
