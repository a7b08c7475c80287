"""Saving and loading fits: safetensors for numbers, JSON for settings, CSV for the trace, NetCDF for ArviZ groups.

Nothing is pickled, and no code that a folder names is run (`runtime/named.py`): any can be loaded safely.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pandas as pd
import torch
import xarray as xr
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from inference.approximations import approximation
from inference.approximations.conjugate import describe_posteriors, read_posteriors, tensors_of
from inference.conjugate import closed_form
from inference.conjugate.recognition import Frame
from inference.coordinate.ascent import distinct
from inference.coordinate.memory import Memory
from inference.diagnostics.arviz import read_tree_summary
from inference.method import Method, Objective, Outcome
from inference.posterior.fingerprint import Fingerprint
from inference.posterior.folder import DESCRIBED, DRAWS, FORMAT, TABLE, TENSORS, TRACE, opened, read
from inference.posterior.former import renamed
from inference.posterior.labels import describe_labels, read_labels
from inference.runtime.named import find, location, remedy, remember
from inference.runtime.output_folder import replacing
from inference.runtime.settings import (
    describe,
    describe_settings,
    make,
    plain,
    read_settings,
    with_networks,
)
from inference.runtime.tensor_folder import TensorFolder
from zoo.data.data import Data
from zoo.declare.formula import Formula
from zoo.declare.function import ModelLike
from zoo.declare.model import Model
from zoo.declare.regression import Regression
from zoo.errors import DataError, ModelError, ZooError
from zoo.frames.formula import Design
from zoo.program.prepare import tell
from zoo.program.program import Program
from zoo.replay.evaluate import Values
from zoo.replay.random import reseed


class Record(NamedTuple):
    """All that a fit is made of, in the order in which `Fit` takes it."""

    program: Program
    method: Method
    outcome: Outcome
    seed: int
    seconds: float


def save(record: Record, text: str, posterior: xr.DataTree, folder: Path) -> Path:
    """Write a fit to a folder, made if need be, with what it says of itself and its ArviZ groups.

    A fit or comparison that was saved there before is replaced as a whole, and a warning says so if it is another.

    Raises
    ------
    DataError
        If the folder is a file, holds anything else or cannot be written; what was there is as it was then.
    """
    tensors, described = _described(record, text)
    before = _before(folder, described)
    with replacing(folder) as new:
        save_file(tensors, new / TENSORS)
        record.outcome.trace.to_csv(new / TRACE, index=False)
        model = record.program.model
        if isinstance(model, Regression) and model.formula is not None:
            model.formula.design.frame.to_parquet(new / TABLE)
        (new / DESCRIBED).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        posterior.to_netcdf(new / DRAWS, engine="h5netcdf")
    remember(described)
    if before is not None:
        warnings.warn(f"{folder}: took the place of {before}", stacklevel=3)
    return folder


def _described(record: Record, text: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a fit as tensors and JSON."""
    program, method, outcome, seed, seconds = record
    data, model = program.data, program.model
    formula = model.formula if isinstance(model, Regression) else None
    priors = distinct(program.priors)
    tensors = TensorFolder()
    tensors.add("data", data.values)
    tensors.add("missing", data.missing)
    if data.weights is not None:
        tensors["weights"] = data.weights
    of_data = hashlib.sha256()
    for name, tensor in tensors.items():
        of_data.update(name.encode())
        of_data.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    tensors.add("buffer", dict(model.named_buffers()))
    tensors.add("point", outcome.points)
    tensors.add("q", outcome.approximation.tensors())
    tensors.add("prior", tensors_of(priors))
    if outcome.memory is not None:
        tensors.add("memory", _sums(outcome.memory))
    for statistic, by_site in outcome.shifts.items():
        tensors.add(f"shift.{statistic}", by_site)
    fingerprint = Fingerprint.of(program, outcome.points)
    tensors.add("fingerprint", fingerprint.values)
    frame = closed_form(program).frame() if outcome.memory is None else outcome.memory.frame
    tensors.add("frame", frame.tensors())
    described = {
        "format": FORMAT,
        "versions": {"python": sys.version.split()[0], "torch": torch.__version__.partition("+")[0]},
        "model": {
            **location(type(model)),
            "settings": describe_settings(model.settings),
            "formula": None if formula is None else str(formula),
            "sites": fingerprint.sites,
            "densities": fingerprint.densities,
        },
        "data": {
            "dims": data.dims,
            "row": data.row,
            "notes": data.notes,
            "levels": {n: [plain(v) for v in names] for n, names in data.levels.items()},
            "coords": {n: describe_labels(index) for n, index in data.coords.items()},
            "columns": {n: [plain(c) for c in listed] for n, listed in data.columns.items()},
            "dtype": str(data.dtype).removeprefix("torch."),
            "sha256": of_data.hexdigest(),
        },
        "method": describe("method", method),
        "approximation": approximation.describe(outcome.approximation),
        "priors": describe_posteriors(priors),
        "objective": dataclasses.asdict(outcome.objective),
        "converged": outcome.converged,
        "reason": outcome.reason,
        "warnings": [*data.notes, *outcome.warnings],
        "diagnostics": outcome.diagnostics,
        "verdict": outcome.verdict,
        "steps": outcome.steps,
        "seed": seed,
        "seconds": seconds,
        "text": text,
    }
    return {n: v.detach().cpu().contiguous().clone() for n, v in tensors.items()}, described


def _before(folder: Path, described: dict[str, Any]) -> str | None:
    """Say which run a folder holds; None if none, or a fit of the same model, data, method and seed."""
    if (folder / "comparison.json").is_file():
        return "a saved comparison"
    try:
        saved = json.loads((folder / DESCRIBED).read_bytes())
        then, now = _identity(saved), _identity(json.loads(json.dumps(described)))
        differ = [f"its {name}" for name, value in now.items() if then[name] != value]
        first = str(saved["text"]).partition("\n")[0]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return "a saved fit that could not be read"
    return f"another saved fit, which differed in {' and '.join(differ)}: {first}" if differ else None


def _identity(described: dict[str, Any]) -> dict[str, Any]:
    """Return what makes two fits the same: what was fitted to what, how, and from which seed."""
    model = {n: v for n, v in described["model"].items() if n not in ("sites", "densities")}
    return {"model": model, **{n: described[n] for n in ("data", "method", "seed")}}


def read_summary(folder: Path) -> tuple[str, pd.DataFrame]:
    """Read what a saved fit says of itself and its summary from its files, without its model.

    Raises
    ------
    DataError
        If the folder does not hold a saved fit, or a file in it is damaged.
    """
    described = opened(folder, [DRAWS])
    table = read(folder / DRAWS, read_tree_summary)
    try:
        return described["text"], table
    except (KeyError, TypeError) as error:
        raise DataError(f"{folder / DESCRIBED} is damaged: it lacks {error}") from error


def load(folder: Path, model: ModelLike | None, networks: Mapping[str, nn.Module] = MappingProxyType({})) -> Record:
    """Read what `save` wrote, with networks like those that were given as instances.

    Raises
    ------
    DataError
        If the folder or a file in it is missing or damaged.
    ModelError
        If the model's class cannot be found, or is not what it was.
    """
    described = opened(folder, [TENSORS, TRACE])
    stored = read(folder / TENSORS, load_file)
    # As text first: not every version of pandas reads the last digit of a number right.
    trace = read(folder / TRACE, lambda p: pd.read_csv(p, dtype=str))
    try:
        trace = trace.astype({"step": int, "seconds": float, "value": float})
        # Copied, so that they are laid out in memory as those of a fit are: how sums round depends on it.
        tensors = TensorFolder({n: v.clone() for n, v in renamed(described, stored).items()})
        return _rebuild(folder, with_networks(described, networks), tensors, trace, model)
    except ZooError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError, IndexError) as error:
        first = str(error).strip().partition("\n")[0]
        raise DataError(f"{folder}: the saved fit is damaged ({type(error).__name__}: {first})") from error


def _rebuild(
    folder: Path,
    described: dict[str, Any],
    tensors: TensorFolder,
    trace: pd.DataFrame,
    model: ModelLike | None,
) -> Record:
    data = _data(described["data"], tensors)
    method = make("method", described["method"], Method)
    with torch.random.fork_rng(devices=[]):
        reseed(described["seed"])
        instance = _model(folder, described["model"], model)
        tell(instance, data)
        instance.setup(**data.to(torch.float64, torch.device("cpu")).values)
        instance = instance.to(data.dtype).eval()  # a run of it moves nothing, such as what batch norm notes
        buffers = dict(instance.named_buffers())
        for name, value in tensors.folder("buffer").items():
            buffers[name].copy_(value)
        written = None
        if "sites" in described["model"]:  # which version 0.1.0 did not write
            looked = {n: described["model"][n] for n in ("sites", "densities")}
            written = Fingerprint(**looked, values=tensors.folder("fingerprint"))
            written.check_shapes(instance, data)
        priors = read_posteriors(described["priors"], tensors.folder("prior"))
        program = Program(instance, data, {n: q for q in priors for n in q.names})
        # Planned on the rows it was fitted to, whatever rows are asked about later; statistics are about the first.
        closed_form(program).set_frame(Frame.read(tensors.folder("frame")))
        if written is not None:
            written.check(program, tensors.folder("point"))
        q = approximation.read(described["approximation"], tensors.folder("q"), program)
        q = q.at(tensors.folder("point"))
    outcome = Outcome(
        approximation=q,
        points=tensors.folder("point"),
        objective=Objective(**described["objective"]),
        trace=trace,
        steps=described["steps"],
        converged=described["converged"],
        reason=described["reason"],
        warnings=[w for w in described["warnings"] if w not in data.notes],
        memory=_memory(tensors),
        diagnostics=described["diagnostics"],
        verdict=described["verdict"],
        shifts=_shifts(tensors),
    )
    return Record(program, method, outcome, described["seed"], described["seconds"])


def _data(saved: dict[str, Any], tensors: TensorFolder) -> Data:
    values = tensors.folder("data")
    return Data(
        values=values,
        dims={n: tuple(saved["dims"][n]) for n in values},
        coords={n: read_labels(index) for n, index in saved["coords"].items()},
        row=saved["row"],
        levels={n: tuple(v) for n, v in saved["levels"].items()},
        weights=tensors.get("weights"),
        notes=tuple(saved["notes"]),
        dtype=getattr(torch, saved["dtype"]),
        missing=tensors.folder("missing"),
        columns={n: tuple(c) for n, c in saved.get("columns", {}).items()},  # which version 0.1.0 did not write
    )


def _sums(memory: Memory) -> TensorFolder:
    """Expected statistics as tensors: those of each site are numbered, the count first."""
    tensors = TensorFolder()
    for site, (count, sums) in memory.sums.items():
        tensors.add(site, {str(i): t for i, t in enumerate((count, *sums))})
    return tensors


def _memory(tensors: TensorFolder) -> Memory | None:
    """Read expected statistics back; None if there were none."""
    saved = TensorFolder(tensors.folder("memory"))
    sites = {site: saved.folder(site) for site in saved.folders()}
    sums = {n: (own["0"], tuple(own[str(i)] for i in range(1, len(own)))) for n, own in sites.items()}
    return Memory(sums, Frame.read(tensors.folder("frame"))) if sums else None


def _shifts(tensors: TensorFolder) -> dict[str, Values]:
    """Read back how far q is from its weighted draws; nothing if that was not saved."""
    saved = TensorFolder(tensors.folder("shift"))
    return {statistic: saved.folder(statistic) for statistic in dict.fromkeys(n.partition(".")[0] for n in saved)}


def _model(folder: Path, saved: dict[str, Any], given: ModelLike | None) -> Model:
    if isinstance(given, Model):
        return copy.deepcopy(given)
    cls: Any = given
    if cls is None:
        cls = find(saved, Model)
    if not (isinstance(cls, type) and issubclass(cls, Model)):
        raise ModelError(
            f"{folder}: the model {saved['module']}.{saved['name']} {remedy(saved)}, or give its class: "
            f"Fit.load({str(folder)!r}, model={saved['name']})"
        )
    made: Model = cls(**read_settings(saved["settings"]))
    if isinstance(made, Regression) and saved.get("formula") is not None:  # which version 0.1.0 did not write
        frame = read(folder / TABLE, pd.read_parquet)
        made.formula = Formula(cls.__name__, cls.fields, Design(saved["formula"], frame))
    return made
