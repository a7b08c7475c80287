"""The operations of one evaluation as a graph, noted while they run.

`make_fx` does the same, and makes a fake tensor for each result besides, which takes longer than all the rest of the
compilation of a small density.
"""

from __future__ import annotations

import linecache
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx
from torch.fx import graph_module
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from zoo.elimination.recording import while_recording

aten = torch.ops.aten
# Tensors of one number, whatever they are like -> the number, None if it is their last argument.
FILLED: dict[Any, float | None] = {
    **dict.fromkeys((aten.zeros.default, aten.zeros_like.default, aten.new_zeros.default), 0),
    **dict.fromkeys((aten.ones.default, aten.ones_like.default, aten.new_ones.default), 1),
    **dict.fromkeys((aten.full.default, aten.full_like.default, aten.new_full.default), None),
}

OF_VALUES = (aten._local_scalar_dense.default, aten.is_nonzero.default, aten.equal.default)  # give plain numbers


def recorded(
    function: Callable[..., Sequence[Tensor]],
    inputs: Sequence[Tensor],
    written_out: Mapping[Any, Callable[..., Any]],
    most: int | None = None,
) -> fx.GraphModule:
    """Evaluate a function of tensors once, and return what was done: below autograd and vmap, on plain tensors.

    Parameters
    ----------
    function
        The function, from tensors to tensors. Others that it uses are constants of the graph.
    inputs
        Its arguments; what it changes in place is changed.
    written_out
        Operation -> function of the same arguments that is recorded in its place, unless it returns `NotImplemented`.
    most
        Bytes that the results of its operations may take, which are all kept until it is recorded.

    Raises
    ------
    RuntimeError
        If values decide what is done, or the results are larger.
    """
    recorder = _Recorder(inputs, written_out, most)
    with recorder, _Unchecked(), while_recording():
        outputs = function(*inputs)
    return recorder.finished(outputs)


class _Graph(fx.GraphModule):
    """A graph whose generated source goes with it: torch keeps every source of a process, for tracebacks."""

    def recompile(self) -> Any:
        made = super().recompile()
        name = cast(Any, type(self).forward).__code__.co_filename
        linecache.cache.pop(name, None)
        # Torch's own list of sources is private to it: where it is no longer there, nothing is to be taken out.
        kept = getattr(getattr(graph_module, "_loader", None), "eval_cache", {})
        kept.pop(name, None)
        return made


class _Unchecked(TorchFunctionMode):
    """Writes out functions that look at values only to check them, which data were when they came in."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.one_hot:
            return _one_hot(*args, **kwargs or {})
        return func(*args, **kwargs or {})


def _one_hot(input: Tensor, num_classes: int = -1) -> Tensor:
    if num_classes == -1:  # as many as the largest value says: not to be recorded
        return torch.nn.functional.one_hot(input)
    return (input[..., None] == torch.arange(num_classes, device=input.device)).long()


class _Recorder(TorchDispatchMode):
    def __init__(
        self, inputs: Sequence[Tensor], written_out: Mapping[Any, Callable[..., Any]], most: int | None
    ) -> None:
        cast(Any, super()).__init__()  # torch leaves it without types
        self.most, self.bytes = most, 0
        self.graph, self.written_out = fx.Graph(), written_out
        self.constants = torch.nn.Module()
        self.nodes: dict[int, fx.Node] = {}  # by the identity of a tensor
        self.kept: list[Tensor] = []  # so that no identity is given twice
        for i, x in enumerate(inputs):
            self._note(x, self.graph.placeholder(f"x{i}"))
            self.nodes[id(x)].meta["varies"] = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self.written_out:
            with self:
                made = self.written_out[func](*args, **kwargs)
            if made is not NotImplemented:
                return made
        given, named = (tree_map_only(Tensor, self._node, x) for x in (args, kwargs))
        if func in OF_VALUES:
            self._check_constant(func, given)
        # What a number is made into is made anew by every run, which may change it.
        target = aten.lift_fresh_copy.default if func is aten.lift_fresh.default else func
        result = func(*args, **kwargs)
        if self.most is not None and isinstance(result, Tensor) and result._base is None:
            self.bytes += result.numel() * result.element_size()
            if self.bytes > self.most:
                raise RuntimeError(f"the results of its operations take more than {self.most:,} bytes")
        if func in FILLED and result.is_contiguous():
            value = FILLED[func] if FILLED[func] is not None else args[-1]
            settings = {"dtype": result.dtype, "device": result.device}
            self._note(result, self.graph.call_function(aten.full.default, ([*result.shape], value), settings))
            return result
        node = self.graph.call_function(target, given, named)
        node.meta["varies"] = any(n.meta.get("varies") for n in node.all_input_nodes)
        if isinstance(result, (tuple, list)):
            for i, part in enumerate(result):
                if isinstance(part, Tensor):
                    self._note(part, self.graph.call_function(operator.getitem, (node, i)))
                    self.nodes[id(part)].meta["varies"] = node.meta["varies"]
        elif isinstance(result, Tensor):
            self._note(result, node)
        return result

    @staticmethod
    def _check_constant(func: Any, given: Sequence[Any]) -> None:
        """Raise if what leaves the tensors here, for a branch or a loop, follows from the inputs."""
        if any(isinstance(n, fx.Node) and n.meta.get("varies") for n in given):
            raise RuntimeError(f"control flow depends on values, by {func}")

    def _note(self, x: Tensor, node: fx.Node) -> None:
        node.meta["dtype"], node.meta["shape"] = x.dtype, x.shape
        self.nodes[id(x)] = node
        self.kept.append(x)

    def _node(self, x: Tensor) -> fx.Node:
        """The node of a tensor; what was not made here is a constant."""
        if id(x) not in self.nodes:
            name = f"constant{len(self.kept)}"
            self.constants.register_buffer(name, x.detach())
            self._note(x, self.graph.get_attr(name))
        return self.nodes[id(x)]

    def finished(self, outputs: Sequence[Tensor]) -> fx.GraphModule:
        """Return all that the outputs need."""
        self.graph.output([self._node(x) for x in outputs])
        self.graph.eliminate_dead_code()
        return _Graph(self.constants, self.graph)
