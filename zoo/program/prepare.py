"""A model, a class or a name, and data of any kind, become a program."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch

from zoo import catalogue
from zoo.data.bind import Source, bind
from zoo.data.data import Data
from zoo.data.indexed import as_stream
from zoo.data.match import Columns
from zoo.data.precision import check_precision, check_predictors
from zoo.data.stream import Stream
from zoo.declare.function import ModelLike
from zoo.declare.model import Model, has_networks
from zoo.errors import DataError, UnknownNameError, short
from zoo.program.program import Program
from zoo.program.shared_labels import with_shared_labels
from zoo.structure.memory import within_memory
from zoo.structure.observed import blank_rows, flat_priors
from zoo.text import SUFFIXES
from zoo.text.read_model import read_model


def as_model(model: ModelLike | str) -> Model:
    """Return a model for an instance, a class with defaults, a name of the zoo's, or a path to a TOML or YAML file."""
    if isinstance(model, str) and model.endswith(SUFFIXES):
        model = read_model(model)
    if isinstance(model, str):
        model = catalogue.find("model", model)
    if isinstance(model, type) and issubclass(model, Model):
        return model()
    if not isinstance(model, Model):
        raise UnknownNameError(
            f"expected a model, found {type(model).__name__}: give a zoo.Model, a class of one, or "
            f"a name among {', '.join(catalogue.entries('model'))}"
        )
    return model


def prepare(
    model: ModelLike | str,
    data: Source | Data,
    *,
    device: str | torch.device = "auto",
    dtype: torch.dtype | None = None,
    weights: Any = None,
    columns: Columns | None = None,
) -> Program:
    """Bind a private copy of the model to data and trace it.

    float64 unless the model has networks, then float32; `dtype` selects otherwise. `device="auto"` is CUDA where
    there is one for models with networks, else CPU. `columns` are those of a table, by field.
    """
    given = as_model(model)
    data = as_stream(data, tuple(given.fields))
    if isinstance(data, Stream):
        bound = _sampled(given, data, weights, columns)
    else:
        bound = bind(given, data, weights=weights, columns=columns)
    program = _traced(given, bound, device, dtype)
    shared = with_shared_labels(program, bound)
    if shared is not bound:
        bound, program = shared, _traced(given, shared, device, dtype)
    if program.coupled and bound.weights is not None and bool((bound.weights != bound.weights[0]).any()):
        raise DataError(f"weights count each row by itself, and {program.coupled}; leave them out")
    if program.together and bound.weights is not None and bool((bound.weights != 1).any()):
        raise DataError(
            f"weights count each row by itself, and site {program.together!r} observes all rows at once; leave them "
            f"out, or observe it inside `with pyro.plate({bound.row!r}, ...)`"
        )
    noted = (*program.model.remarks, *blank_rows(program.structure, program.data), *flat_priors(program.structure))
    if noted:
        program.data = replace(program.data, notes=(*program.data.notes, *noted))
    return program


def tell(model: Model, data: Data) -> None:
    """Tell a model of the data what its `check`, `setup` and `initial` may ask besides the fields."""
    model.coords, model.data_dims = dict(data.coords), dict(data.dims)
    model.row_weights, model.missing = data.weights, data.missing


def _take_in(model: Model) -> None:
    """Make modules that a model was given, and of which its `setup` has made nothing, parts of it that are trained."""
    parts = set(model.modules())
    for name in type(model).hyperparameters:
        value = getattr(model, name)
        if isinstance(value, torch.nn.Module) and value not in parts:
            setattr(model, name, value)


def _traced(given: Model, bound: Data, device: str | torch.device, dtype: torch.dtype | None) -> Program:
    """Trace a copy of a model on data."""
    model = copy.deepcopy(given)
    tell(model, bound)
    with within_memory(given):
        wide = bound.to(torch.float64, torch.device("cpu")).values
        model.check(**wide)
        model.setup(**wide)
        del wide
        _take_in(model)
        networks = has_networks(model)
        dtype, place = _precision(dtype, networks), _device(device, networks)
        check_precision(bound, dtype)
        program = Program(model.to(place, dtype).eval(), bound.to(dtype, place))
    check_predictors(bound, predictors(program), dtype)
    return program


def predictors(program: Program) -> list[str]:
    """Return the fields that linear predictors of observed sites are made of."""
    parents = [p for s in program.observed for p in s.args.values() if p.kind == "linear"]
    return list(dict.fromkeys(name for parent in parents for name in parent.data))


def _sampled(model: Model, stream: Stream, weights: Any, columns: Columns | None) -> Data:
    """Bind a sample of the rows of a stream, on which a model is set up and started."""
    if weights is not None:
        raise DataError("weights of a stream are a column of its file: zoo.stream(path, weights='column')")
    stream = stream.seeded()
    sample, rows = stream.sample()
    data = bind(model, sample, weights=stream.weights, columns=columns)
    note = (
        f"{rows} rows were read part by part from {stream}; assign(), log_prob() and summaries without rows of "
        f"their own, and what is said of draws of q, describe a sample of {len(data)} rows"
    )
    return replace(data, stream=stream, notes=(*data.notes, note))


def _device(device: str | torch.device, networks: bool) -> torch.device:
    if isinstance(device, str) and device == "auto":
        return torch.device("cuda" if networks and torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except (RuntimeError, TypeError):
        raise UnknownNameError(f"unknown device {short(device)}; give 'auto', 'cpu' or 'cuda'") from None
    if place.type not in ("cpu", "cuda"):
        raise UnknownNameError(f"device {str(place)!r} is not supported; give 'auto', 'cpu' or 'cuda'")
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise UnknownNameError(
            f"device {str(place)!r} is not available: torch sees {torch.cuda.device_count()} CUDA devices; give 'cpu' "
            "or 'auto'"
        )
    return place


def _precision(dtype: torch.dtype | None, networks: bool) -> torch.dtype:
    if dtype is None:
        return torch.float32 if networks else torch.float64
    if dtype not in (torch.float32, torch.float64):
        raise UnknownNameError(f"dtype {dtype!r} is not supported; give torch.float64 or torch.float32")
    return dtype
