"""Say what a model is on some data: its sites, its plates, what feeds what, and which methods are legal."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from zoo import catalogue
from zoo.declare.data import Source, bind
from zoo.declare.missing import blank_rows, check_observed
from zoo.declare.model import Model, has_networks
from zoo.declare.program import Program
from zoo.declare.read import read
from zoo.declare.sites import primary
from zoo.declare.stream import Stream
from zoo.declare.weights import as_weights
from zoo.errors import DataError, UnknownNameError, ZooError


def as_model(model: Model | type[Model] | str) -> Model:
    """Return a model instance for an instance, a class with defaults, or the name of a model of the zoo."""
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
    model: Model | type[Model] | str,
    data: Source,
    *,
    device: str | torch.device = "auto",
    dtype: torch.dtype | None = None,
    weights: Any = None,
) -> Program:
    """Bind a private copy of the model to data and trace it.

    float64 unless the model has networks, then float32; `dtype` selects otherwise. `device="auto"` is CUDA where
    there is one for models with networks, else CPU.
    """
    model = copy.deepcopy(as_model(model))
    stream, rows_there = (data, 0) if isinstance(data, Stream) else (None, 0)
    if stream is not None:
        if weights is not None:
            raise DataError("weights of a stream are a column of its file: zoo.stream(path, weights='column')")
        (data, rows_there), weights = stream.sample(), stream.weights
    if isinstance(weights, str) and isinstance(data, str | Path):
        data = read(data)
    rows = data
    if isinstance(weights, str) and isinstance(data, pd.DataFrame) and weights in data.columns:
        rows = data.drop(columns=weights)
    bound = bind(model, rows)
    if weights is not None:
        bound = as_weights(bound, weights, data)
        for name, gone in bound.missing.items():  # rows of weight 0 are gone
            check_observed(name, gone, bound.coords[bound.dims[name][-1]] if bound.dims[name] else None)
    if stream is not None:
        note = (
            f"{rows_there} rows were read in chunks from {stream.path}; assign(), log_prob() and summaries without "
            f"rows of their own speak of a sample of {len(bound)}"
        )
        bound = replace(bound, stream=stream, notes=(*bound.notes, note))
    model.coords, model.row_weights, model.missing = bound.coords, bound.weights, bound.missing
    model.check(**bound.values)
    model.setup(**bound.to(torch.float64, torch.device("cpu")).values)
    networks = has_networks(model)
    dtype, place = _precision(dtype, networks), _device(device, networks)
    program = Program(model.to(place, dtype).eval(), bound.to(dtype, place))
    blank = blank_rows(program.structure, program.data)
    if blank:
        program.data = replace(program.data, notes=(*program.data.notes, *blank))
    return program


def _device(device: str | torch.device, networks: bool) -> torch.device:
    if isinstance(device, str) and device == "auto":
        return torch.device("cuda" if networks and torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except (RuntimeError, TypeError):
        raise UnknownNameError(f"unknown device {device!r}; give 'auto', 'cpu' or 'cuda'") from None
    if place.type not in ("cpu", "cuda"):
        raise UnknownNameError(f"device {str(place)!r} is not supported; give 'auto', 'cpu' or 'cuda'")
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise UnknownNameError(
            f"device {str(place)!r} is not there: torch sees {torch.cuda.device_count()} CUDA devices; give 'cpu' or "
            "'auto'"
        )
    return place


def _precision(dtype: torch.dtype | None, networks: bool) -> torch.dtype:
    if dtype is None:
        return torch.float32 if networks else torch.float64
    if dtype not in (torch.float32, torch.float64):
        raise UnknownNameError(f"dtype {dtype!r} is not supported; give torch.float64 or torch.float32")
    return dtype


def _table(rows: Sequence[tuple[str, ...]], header: tuple[str, ...]) -> list[str]:
    widths = [max(len(r[i]) for r in [header, *rows]) for i in range(len(header))]
    return ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in [header, *rows]]


def _count(missing: torch.Tensor | None) -> str:
    return "" if missing is None else str(int(missing.sum()))


def legality(program: Program) -> dict[str, str | None]:
    """For each method, None if it is legal for this program with its default settings, else the reason why not."""
    return {entry.name: entry.load()().why_not(program) for entry in catalogue.entries("method").values()}


def _verdict(program: Program, name: str, why_not: str | None) -> str:
    """Say "yes", and how the method goes about it, or "no" and why."""
    if why_not is not None:
        return f"no: {why_not}"
    how = catalogue.find("method", name)().how(program)
    return f"yes ({how})" if how else "yes"


def explain(model: Model | type[Model] | str, data: Source) -> str:
    """Describe a model on data: sites, plates, what feeds each argument, and for each method "yes" or why not.

    Returns
    -------
    str
        Text to print.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        program = prepare(model, data, device="cpu")
        lines = [repr(program.model), ""]
        rows = []
        for site in program.sites.values():
            shape = str(tuple(site.shape)).replace(",)", ")")
            args = ", ".join(f"{k}={v}" for k, v in primary(site.args).items())
            role = site.role + (f" ({site.cardinality})" if site.role == "enumerated" else "")
            rows.append(
                (
                    site.name,
                    role,
                    f"{site.family}({args})" if site.family else str(site.support),
                    ", ".join(site.plates) or "-",
                    shape,
                )
            )
        lines += _table(rows, ("site", "role", "distribution", "plates", "shape"))
        lines += [""]
        gone = program.data.missing
        data_rows = [
            (n, repr(program.model.fields[n]), str(tuple(v.shape)).replace(",)", ")"), _count(gone.get(n)))
            for n, v in program.data.values.items()
        ]
        lines += _table(data_rows, ("data", "field", "shape", "missing" if gone else ""))
        lines += [""]
        try:
            verdicts = [(n.lower(), _verdict(program, n, why)) for n, why in legality(program).items()]
        except ZooError as error:  # a model no method can start on
            verdicts = [("", str(error))]
        lines += _table(verdicts, ("method", "legal"))
    return "\n".join(lines)
