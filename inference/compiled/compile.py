"""Functions of tensors, traced through Pyro's handlers once and compiled.

A model that is run by Pyro's handlers costs some microseconds for every operation, however few numbers it touches.
Here the operations of one run are recorded (`record.py`) and compiled into a few loops (Inductor), which run without
Python, Pyro or autograd. Random numbers enter as inputs, so compiled and eager give the same numbers to rounding.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch

from inference.compiled.constants import fold_constants
from inference.compiled.kept import keeping, passing
from inference.compiled.recording import recording
from inference.compiled.small_first import small_first
from inference.compiled.small_graphs import small_graph
from inference.compiled.small_matrices import WRITTEN_OUT, drop_checks
from inference.compiled.worth import pays, work
from zoo.program.flat_density import Density
from zoo.program.program import Program
from zoo.replay.evaluate import model_context

Compile = Literal["auto"] | bool

OPTIONS = {
    "fallback_random": True,  # what is random inside (dropout, say) draws the numbers that it would without compilation
    "size_asserts": False,  # each check costs a microsecond; the shapes of all inputs are those of the example
    "alignment_asserts": False,
    "scalar_asserts": False,
}
# The compiler is taken to know the vectors that the processor has. Torch builds programs to try each: six seconds.
QUICK = {**OPTIONS, "cpp.vec_isa_ok": True}
COMPILERS = ("g++", "c++", "clang++")


@dataclass(frozen=True)
class Lowered:
    """A function that may have been compiled.

    Attributes
    ----------
    call
        The function.
    compiled
        Whether it was.
    note
        Why it was not, where that was asked for; empty otherwise.
    """

    call: Callable[..., Any]
    compiled: bool
    note: str = ""

    def __call__(self, *inputs: Any) -> Any:
        """Evaluate the function."""
        return self.call(*inputs)


def worth(function: Callable[..., Any], inputs: Sequence[Any], how: Compile, calls: int) -> bool:
    """Whether to compile a function, as for `lower`."""
    if how != "auto":
        return how
    try:
        return pays(work(function, inputs), calls)
    except RuntimeError as error:
        if "linalg" not in str(error):
            raise
        return False  # a factorization breaks down at the example, which steps can do with


def has_compiler() -> bool:
    """Whether there is a C++ compiler."""
    return bool(compiler())


def compiler() -> str:
    """Where the C++ compiler is; empty if there is none."""
    return next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), *COMPILERS))), "")


def lower(function: Callable[..., Any], inputs: Sequence[Any], program: Program, how: Compile, calls: int) -> Lowered:
    """Compile a function, if that is asked for and possible.

    Parameters
    ----------
    function
        Of tensors, and dicts or tuples of them; what it does must not depend on their values.
    inputs
        An example of its arguments; later ones must have the same shapes.
    program
        What it evaluates.
    how
        True, False, or "auto": where it is expected to save more time than it takes.
    calls
        How often it will be called.

    Returns
    -------
    Lowered
        The function itself, with the reason in its note, where it was to be compiled and could not.
    """
    if not worth(function, inputs, how, calls):
        return Lowered(function, False)
    if program.device.type == "cpu" and not has_compiler():
        return Lowered(function, False, f"not compiled: no C++ compiler ({', '.join(COMPILERS)}) was found")
    try:
        with keeping():
            return Lowered(_compiled(function, inputs, program), True)
    except Exception as error:  # whatever the tracer or the compiler stumbles over: the function itself still works
        if not _of_files(error):
            return Lowered(function, False, f"not compiled: {_reason(error)}")
        unusable = _reason(error)
    with passing() as folder:
        try:
            call = _compiled(function, inputs, program)
        except Exception as error:  # of the same kind, or another
            return Lowered(function, False, f"not compiled: {_reason(error)}")
    return Lowered(call, True, f"compiled in {folder}, because the compiler's own folder cannot be used: {unusable}")


def _reason(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _of_files(error: BaseException | None) -> bool:
    """Whether files could not be written or read: the cache is full, another user's, or damaged."""
    while error is not None:
        if isinstance(error, OSError | ImportError | EOFError):
            return True
        error = getattr(error, "inner_exception", None) or error.__cause__ or error.__context__
    return False


def _compiled(function: Callable[..., Any], inputs: Sequence[Any], program: Program) -> Callable[..., Any]:
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(), model_context(program.dtype, program.device):
        warnings.simplefilter("ignore")  # of torch's own making, about itself
        found = recording(function, inputs, WRITTEN_OUT)
        graph, flat = found.graph, cast(list[Any], found.flat)
        # The checks of factorizations that are written out test a constant, and each would end a fused loop.
        drop_checks(graph.graph)
        fold_constants(graph)
        graph.recompile()
        if program.device.type == "cpu":
            made: Any = small_graph(graph, flat, compiler())
            if made is not None:
                return cast(Callable[..., Any], made) if found.plain else found.shaped(made)
        small_first(graph)
        graph.recompile()
        with torch.no_grad():
            from torch._inductor import compile as inductor
            from torch._inductor.exc import CppCompileError

            # Channels last is what GPUs like; processors only turn images over and back between convolutions.
            layout = {"layout_optimization": program.device.type != "cpu"}
            try:
                with vectors_as_they_are():
                    made = inductor(graph, flat, options={**QUICK, **layout})
            except CppCompileError:  # it is too old for this processor
                made = inductor(graph, flat, options={**OPTIONS, **layout})
                made(*flat)  # the first call loads what was compiled; it moves what the function moves in place
    return found.shaped(made)


@contextmanager
def vectors_as_they_are() -> Iterator[None]:
    """Let Inductor take the widest plain vectors that torch says the processor has, without building programs to try.

    Its own list is made by building and loading a program for each extension (matrix tiles, products of
    bytes and bfloat16), which takes longer than all kernels of a density and is of no use to float64.
    """
    from torch._inductor import cpu_vec_isa

    module: Any = cpu_vec_isa
    has = cast(Any, torch.cpu)
    if has._is_avx512_supported():
        known: Any = type(
            "Vectors512", (module.VecAVX512,), {"__bool__": lambda self: True, "__hash__": module.VecISA.__hash__}
        )()
    elif has._is_avx2_supported():
        known = module.VecAVX2()
    else:  # another kind of processor
        yield
        return
    before = module.valid_vec_isa_list
    module.valid_vec_isa_list = lambda: [known]
    try:
        yield
    finally:
        module.valid_vec_isa_list = before


def lower_gradient(density: Density, how: Compile, calls: int, chains: int | None = None) -> Lowered:
    """Compile `density.gradient` for vectors (size,), or for several at once (chains, size)."""
    shape = (density.size,) if chains is None else (chains, density.size)
    example = torch.zeros(shape, dtype=density.program.dtype, device=density.program.device)
    return lower(density.gradient, (example,), density.program, how, calls)
