"""Graphs of tensors of some hundred rows as one C function of loops, compiled in a fraction of Inductor's time.

The graph is run once on its example. The tensors seen then say where each value is kept, so that views cost nothing and
every other operation is a loop over addresses known beforehand. What is not known here is left to Inductor.
"""

from __future__ import annotations

import _ctypes
import ctypes
import math
import subprocess
import tempfile
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from inference.compiled import loop_entries, loop_matrices, loop_sums
from inference.compiled.loop_writer import PRELUDE, WRITERS, LoopWriter, UnwrittenError

KNOWN = (loop_entries, loop_sums, loop_matrices)  # which note their operations when they are imported
LARGEST = 150_000  # numbers written in one evaluation; beyond that Inductor's fused and vectorized loops are worth it
FLAGS = ("-x", "c++", "-O1", "-march=native", "-fno-math-errno", "-shared", "-fPIC")
CLOSE = 1e-8  # relative distance to what the graph itself gives
STEP = 0.37  # from the example, for a second point to compare at
CHECK = "aten._linalg_check_errors.default"  # a matrix without a factor gives NaN
CONSTANT = ("aten.arange.", "aten.eye.", "aten.lift_fresh_copy.")  # if what they are given is


@dataclass(frozen=True)
class Compiled:
    """A function in C of tensors in double precision.

    Attributes
    ----------
    run
        The function of addresses: of the inputs, then of the outputs.
    shapes
        Of the outputs.
    constants
        Memory that it reads.
    """

    run: Callable[..., None]
    shapes: list[tuple[int, ...]]
    constants: list[tuple[str, Tensor]]

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Evaluate it."""
        there = [x.contiguous() for x in inputs]
        made = tuple([torch.empty(shape, dtype=torch.float64) for shape in self.shapes])
        self.run(*(x.data_ptr() for x in (*there, *made)))
        return made

    def each(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Evaluate a function of one tensor at each of several along dimension 0, and stack what comes out."""
        there = inputs.contiguous()
        made = tuple([torch.empty((len(there), *shape), dtype=torch.float64) for shape in self.shapes])
        arrays = [(x.data_ptr(), x.stride(0) * x.element_size()) for x in (there, *made)]
        for i in range(len(there)):
            self.run(*[at + i * step for at, step in arrays])
        return made


def small_graph(graph: GraphModule, flat: Sequence[Any], compiler: str) -> Compiled | None:
    """The graph as a compiled function of the same tensors; None where it cannot be written or gives other numbers.

    Parameters
    ----------
    graph
        Operations on tensors in double precision in memory; it must not change its inputs.
    flat
        An example of its inputs.
    compiler
        The C++ compiler.
    """
    if not all(_plain(x) for x in flat):
        return None
    try:
        with torch.no_grad():
            writer, outputs = _written(graph, flat)
            function = _built(compiler, writer, outputs)
            return function if _agrees(function, graph, flat) else None
    except (UnwrittenError, subprocess.SubprocessError, OSError):
        return None


def written(operation: Any) -> bool:
    """Whether an operation of torch is known here, wherever its arguments are."""
    name = str(operation)
    return name in WRITERS or name == CHECK or name.startswith(CONSTANT)


def _plain(x: Any) -> bool:
    return isinstance(x, Tensor) and x.dtype == torch.float64 and x.device.type == "cpu" and x.is_contiguous()


def _written(graph: GraphModule, flat: Sequence[Tensor]) -> tuple[LoopWriter, list[Tensor]]:
    """Run the graph on copies of its inputs and write what it does."""
    writer, seen = LoopWriter(), {}
    inputs = iter([x.clone() for x in flat])
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            seen[node] = writer.input(next(inputs))
        elif node.op == "get_attr":
            seen[node] = writer.constant(_attribute(graph, str(node.target)))
        elif node.op == "call_function":
            seen[node] = _run(writer, node, seen)
            if writer.numbers > LARGEST:
                raise UnwrittenError("it writes too many numbers")
        elif node.op == "output":
            outputs = list(torch.fx.node.map_arg(node.args[0], lambda n: seen[n]))
            if not all(isinstance(x, Tensor) and x.dtype == torch.float64 for x in outputs):
                raise UnwrittenError("an output is no tensor in double precision")
            return writer, outputs
        else:
            raise UnwrittenError(node.op)
    raise UnwrittenError("there is no output")


def _attribute(graph: GraphModule, path: str) -> Tensor:
    value: Any = graph
    for part in path.split("."):
        value = getattr(value, part)
    if not isinstance(value, Tensor) or value.device.type != "cpu":
        raise UnwrittenError(path)
    return value.detach().clone(memory_format=torch.preserve_format)


def _run(writer: LoopWriter, node: Node, seen: dict[Node, Any]) -> Any:
    """Evaluate one operation, and write it unless what comes out is a view of what went in."""
    target: Any = node.target
    if str(target).startswith(CONSTANT) and all(writer.is_constant(seen[n]) for n in node.all_input_nodes):
        return writer.constant(target(*torch.fx.node.map_arg(node.args, lambda n: seen[n]), **node.kwargs))
    if str(target) == CHECK:
        return None
    given: Any = torch.fx.node.map_arg((node.args, node.kwargs), lambda n: seen[n])
    args, kwargs = given
    changes = hasattr(target, "_schema") and any(
        a.alias_info and a.alias_info.is_write for a in target._schema.arguments
    )
    write = WRITERS.get(str(target))
    if changes:
        writer.refuse_input(args[0])
    if changes and write is None:
        raise UnwrittenError(str(target))
    result = target(*args, **kwargs)
    parts: list[Any] = list(result) if isinstance(result, (tuple, list)) else [result]
    if not all(isinstance(x, Tensor) for x in parts):
        raise UnwrittenError(str(target))
    if not changes and all(writer.knows(x) for x in parts):
        return result  # views of what is there
    if write is None:
        raise UnwrittenError(str(target))
    for x in parts:
        writer.keep(x)
    write(writer, result, *args, **kwargs)
    return result


def _built(compiler: str, writer: LoopWriter, outputs: list[Tensor]) -> Compiled:
    """Compile and load what was written."""
    shapes = [tuple(x.shape) for x in outputs]
    for number, x in enumerate(outputs):
        writer.copy_out(f"y{number}", x)
    count = len(writer.inputs)
    names = [f"const double* x{i}" for i in range(count)] + [f"double* y{i}" for i in range(len(outputs))]
    body = "\n".join([writer.numbers_alone(), *writer.lines])
    source = f'{PRELUDE}{writer.declarations()}\nextern "C" void run({", ".join(names)}) {{\n{body}\n}}\n'
    with tempfile.TemporaryDirectory(prefix="latentzoo") as folder:
        file, library = Path(folder) / "graph.c", Path(folder) / "graph.so"
        file.write_text(source, encoding="utf-8")
        subprocess.run(
            [compiler, *FLAGS, str(file), "-o", str(library), "-lm"], check=True, capture_output=True, timeout=120
        )
        loaded = ctypes.PyDLL(str(library))  # which keeps other threads out: all calls share the arrays
    for name, values in writer.tables():
        pointer = ctypes.c_void_p.in_dll(loaded, name)
        pointer.value = values.data_ptr()
    run = loaded.run
    run.argtypes, run.restype = [ctypes.c_void_p] * len(names), None
    made = Compiled(run, shapes, writer.tables())
    weakref.finalize(made, _ctypes.dlclose, loaded._handle)  # which ctypes leaves open, and a process has but so many
    return made


def _agrees(function: Compiled, graph: GraphModule, flat: Sequence[Tensor]) -> bool:
    """Whether it gives what the graph gives, at the example and beside it."""
    for step in (0.0, STEP):
        there = [x + step * torch.cos(torch.arange(x.numel(), dtype=x.dtype)).reshape(x.shape) for x in flat]
        pairs = zip(function(*there), graph(*[x.clone() for x in there]), strict=True)
        for found, expected in pairs:
            size = expected[expected.isfinite()].abs().max() if bool(expected.isfinite().any()) else 1.0
            near = torch.allclose(found, expected, rtol=CLOSE, atol=CLOSE * float(size) + math.ulp(0), equal_nan=True)
            if found.shape != expected.shape or not near:
                return False
    return True
