"""Functions recorded as graphs of plain tensors, and played back without the model's code, Pyro's handlers or autograd.

A model that is run by Pyro's handlers costs some microseconds for every operation. Played back operation by operation
the same numbers, bit for bit, come in half of the time, if the tensors are small, and nothing has to be compiled.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from inference.compiled.constants import check_branches, fold_constants, state_types
from inference.compiled.record import recorded
from inference.compiled.trees import leaves, rebuilt
from zoo.program.program import Program
from zoo.replay.evaluate import model_context

FEWEST = 100  # evaluations that are worth a recording, which takes as long as some thirty
MOST = 1 << 28  # bytes of the results that are kept while a function is recorded


@dataclass(frozen=True)
class Recording:
    """What a function did when it was evaluated.

    Attributes
    ----------
    graph
        From a list of tensors to a list of tensors.
    flat
        The tensors that it was recorded with.
    plain
        Whether the function itself takes and gives a list of tensors.
    like
        An example of what it gives.
    """

    graph: fx.GraphModule
    flat: list[Tensor]
    plain: bool
    like: Any

    def shaped(self, made: Callable[..., Any]) -> Callable[..., Any]:
        """Give a program of flat tensors the function's own arguments and results."""

        def call(*inputs: Any) -> Any:
            with torch.no_grad():
                return rebuilt(self.like, iter(made(*leaves(inputs))))

        return call


def recording(
    function: Callable[..., Any],
    inputs: Sequence[Any],
    written_out: Mapping[Any, Callable[..., Any]],
    most: int | None = None,
) -> Recording:
    """Record one evaluation; run it in the program's context.

    Parameters
    ----------
    function, inputs
        As `lower` takes them.
    written_out, most
        As `recorded` takes them.

    Raises
    ------
    RuntimeError
        If it cannot be recorded: control flow depends on values, or on Python's random numbers.
    """
    flat, results = [*leaves(inputs)], list[Any]()  # what the function returned, for how it is nested

    def inside(*tensors: Tensor) -> Any:
        results[:] = [function(*rebuilt(inputs, iter(tensors)))]
        return leaves(results[0])

    before = random.getstate()
    graph = recorded(inside, flat, written_out, most)
    if random.getstate() != before:
        random.setstate(before)
        raise RuntimeError("the model draws from Python's `random`, which is not recorded; draw by torch")
    check_branches(graph)
    state_types(graph)
    plain = type(results[0]) is tuple and all(isinstance(t, Tensor) for t in (*inputs, *results[0]))
    return Recording(graph, flat, plain, torch.utils._pytree.tree_map(lambda _: torch.empty(0), results[0]))


def played_back(
    function: Callable[..., Any], inputs: Sequence[Any], others: Sequence[Any], program: Program
) -> Callable[..., Any] | None:
    """Record a function, and return what plays it back; None where it cannot be, or takes too much memory for it.

    Parameters
    ----------
    function, inputs, program
        As `lower` takes them.
    others
        Other inputs, at which the recording has to give the function's own numbers: what a model does outside of
        torch is not recorded.
    """
    try:
        with model_context(program.dtype, program.device):
            with torch.random.fork_rng(devices=[]):
                found = recording(function, inputs, {}, MOST)
            fold_constants(found.graph)
            found.graph.recompile()
        call = found.shaped(found.graph.forward)
        found_there = []
        for evaluated in (call, function):
            with torch.random.fork_rng(devices=[]):
                found_there.append(leaves(evaluated(*rebuilt(others, (t.clone() for t in leaves(others))))))
    except Exception:  # whatever the tracer stumbles over: the function itself tells of its own failures
        return None
    alike = all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(*found_there, strict=True))
    return call if alike else None
