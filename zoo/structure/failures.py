"""What a model's own code does wrong: where it failed, of what, and the remedy where the cause can be told."""

from __future__ import annotations

import inspect
import linecache
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoo.data.data import Data
from zoo.declare.model import Model
from zoo.errors import ModelError, ZooError
from zoo.structure.memory import REMEDY, too_much

OUT_OF_BOUNDS = re.compile(r"index \d+ is out of bounds for dimension \d+ with size (\d+)|index out of range in self")
CHECK = "Check that every data plate has the length of its data and that sites inside it have that shape"
STATES = (
    "States are summed over laid out along a dimension of their own, left of the plates and with one entry for a whole "
    "plate, so use them entry by entry; what mixes the entries of a plate (x @ (z * beta), a sum) depends on all their "
    "states at once. Let a continuous latent carry the state, beta ~ Normal(0, torch.where(z > 0, slab, spike)), or "
    "make each a site of its own in a loop, if they are few"
)
INDEXED = (
    "While its states are summed over, a discrete latent has them along a dimension of their own and one entry for a "
    "whole plate. Let its plate be a dimension of the data: declare the field with that dimension and one for what is "
    "repeated, Count('item', 'rater', 'answer') for example, into which a long table is counted (see zoo.DawidSkene)"
)
SHAPES = re.compile(r"\b(shapes?|sizes?|broadcast\w*|dimensions?|elements)\b", re.IGNORECASE)
NAMES = (NameError, AttributeError, KeyError, ImportError, SyntaxError)  # of which the shapes of data say nothing
ONE_VALUE = re.compile(
    r"Boolean value of Tensor with more than one value|only integer tensors of a single element|"
    r"elements cannot be converted to Scalar|only one element tensors can be converted"
)
CHOOSE = (
    "A discrete latent holds all its states at once while they are summed out: choose by torch.where(z == 1, a, b) in "
    "place of if, and by indexing a tensor, rates[z], in place of a list or .item()"
)
BESIDE = ("setup", "check", "initial")  # what models have beside `forward`
INSTALLED = tuple(sysconfig.get_paths()[key] for key in ("stdlib", "platstdlib", "purelib", "platlib"))
OURS = tuple(str(Path(__file__).parents[2] / name) for name in ("zoo", "guides", "inference"))


def failure(
    model: Model,
    data: Data,
    place: str,
    error: BaseException,
    again: Callable[[Data], Any],
    side_by_side: tuple[str, ...] = (),
) -> ModelError:
    """Return the error that says where `model` failed, of what, and what to do about it.

    Parameters
    ----------
    model, data
        What was run.
    place
        Where it failed, such as "at site 'x'".
    error
        What was raised there.
    again
        Runs the model on other data; raises what it raises.
    side_by_side
        Discrete latents that had all their states in this run, along a dimension each: it went well with one state.
    """
    cause = error.__cause__ or error
    name, first = type(model).__name__, str(cause).strip().partition("\n")[0]
    line = line_of(model, error)
    if not isinstance(cause, ArithmeticError) and (much := too_much(cause)) is not None:  # 9.0**999 needs no memory
        return ModelError(f"{name} needs more memory than there is on these data{much}, {place}{line}; {REMEDY}")
    if through_numpy(error):
        return ModelError(
            f"{name} hands a latent or parameter to NumPy {place}{line}, where gradients do not pass; use torch's "
            "functions on latents and parameters, such as torch.exp in place of np.exp"
        )
    beyond = OUT_OF_BOUNDS.search(first)
    if beyond and beyond[1] == "1" and side_by_side:
        names = " and ".join(map(repr, side_by_side))
        return ModelError(f"{name} failed {place}{line}: {names} cannot be indexed by data ({first}). {INDEXED}")
    if beyond:
        size = None if beyond[1] is None else int(beyond[1])
        if field := _index(model, data, size, again):
            said = f"{_too_few(field, data, size)} ({type(cause).__name__}: {first})"
            return ModelError(f"{name} failed {place}{line}: {said}")
    shapes = {n: tuple(v.shape) for n, v in data.values.items()}
    on = "" if isinstance(cause, NAMES) else f" on data of shapes {shapes}"
    text = f"{name} failed {place}{on}{line}: {type(cause).__name__}: {first}"
    if ONE_VALUE.search(first):
        text += f". {CHOOSE}"
    elif side_by_side and isinstance(cause, RuntimeError | ValueError | IndexError) and SHAPES.search(first):
        names = ", ".join(map(repr, side_by_side))
        text += f". It runs at one state of each discrete latent, but not with those of {names} side by side. {STATES}"
    elif not beyond and isinstance(cause, RuntimeError | ValueError | IndexError) and SHAPES.search(first):
        text += f". {CHECK}"
    elif isinstance(cause, TypeError) and not _takes_fields(model):
        text += f". Declare it with an argument for each data field: forward(self, {', '.join(model.fields)})"
    return ModelError(text)


def line_of(model: Model, error: BaseException) -> str:
    """Say in which line of the model's own code an error came up: ", in FILE, line 12, `y = pyro.sample(...)`".

    That is the innermost line on the way to the error that is in no installed library but the file of the model itself;
    empty if there is none. Of a model that is written as text it is the line that was noted on the error.
    """
    notes = getattr(error.__cause__ or error, "__notes__", ()) or getattr(error, "__notes__", ())
    if hasattr(model, "__text__") and notes:
        return f", in {notes[0]}"
    found = None
    classes = type(model).__mro__[: type(model).__mro__.index(Model)]
    files = {getattr(sys.modules.get(cls.__module__), "__file__", None) for cls in classes}
    for frame, number in traceback.walk_tb((error.__cause__ or error).__traceback__):
        path = frame.f_code.co_filename
        if path in files or not path.startswith((*INSTALLED, *OURS, "<frozen")):
            found = (path, number)
    if found is None:
        return ""
    source = linecache.getline(*found).strip()
    return f", in {found[0]}, line {found[1]}" + (f", `{source}`" if source else "")


@contextmanager
def naming_lines() -> Iterator[None]:
    """Turn what a model's own code raises inside, after it was traced or beside `forward`, into an error with its line.

    Raises
    ------
    ModelError
        In place of what was raised, which is its cause.
    """
    try:
        yield
    except ZooError:
        raise
    except Exception as error:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            model = frame.f_locals.get("self")
            line = line_of(model, error) if isinstance(model, Model) else ""
            if line and not line.startswith(tuple(f", in {home}" for home in OURS)):
                first = str(error).strip().partition("\n")[0]
                called = frame.f_code.co_name
                where = f"{type(model).__name__}: {called if called in BESIDE else 'forward'} failed{line}"
                raise ModelError(f"{where}: {type(error).__name__}: {first}") from error
        raise


def _takes_fields(model: Model) -> bool:
    """Tell whether the model's `forward` can be called with its data fields."""
    try:
        inspect.signature(model.forward).bind(**dict.fromkeys(model.fields))
    except TypeError:
        return False
    return True


def through_numpy(error: BaseException) -> bool:
    """Tell whether an error is that a value whose gradient is needed was handed to NumPy."""
    return "call numpy() on Tensor that requires grad" in str(error.__cause__ or error)


def _index(model: Model, data: Data, size: int | None, again: Callable[[Data], Any]) -> str | None:
    """Return the field of whole numbers that indexes too few entries: with smaller numbers in it the model gets on."""
    most = 0 if size is None else size - 1
    for name, kind in model.fields.items():
        value = data.values[name]
        if not kind.support.is_discrete or not bool((value > most).any()):
            continue
        try:
            again(replace(data, values={**data.values, name: value.clamp_max(most)}))
        except Exception as error:
            found = OUT_OF_BOUNDS.search(str(error.__cause__ or error))
            if found and found[1] == (None if size is None else str(size)):
                continue
        return name
    return None


def _too_few(field: str, data: Data, size: int | None) -> str:
    """Say that the codes of a field go beyond what they index."""
    smallest, largest = int(data.values[field].min()), int(data.values[field].max())
    lower = "subtract 1, or give words, which are coded in sorted order, or " if smallest > 0 else ""
    entries = "fewer entries" if size is None else "1 entry" if size == 1 else f"{size} entries"
    return (
        f"field {field!r} holds codes up to {largest}, and what they index has {entries}; codes count from 0: {lower}"
        f"let what they index have {largest + 1} entries"
    )
