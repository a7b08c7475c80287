"""Saving and loading fits: safetensors for numbers, JSON for settings, CSV for the trace, NetCDF for ArviZ groups.

Nothing is pickled, so a folder from elsewhere can be loaded safely; the model's class is imported by its name.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from inference.approximations import approximation
from inference.approximations.conjugate import describe_posteriors, read_posteriors, tensors_of
from inference.conjugate import closed_form
from inference.coordinate.ascent import distinct
from inference.coordinate.memory import Memory
from inference.diagnostics.arviz import read_tree_summary
from inference.method import Objective, Outcome
from inference.runtime.settings import describe, find, location, make, plain
from zoo.data.data import Data
from zoo.declare.model import Model
from zoo.errors import DataError, ModelError, ZooError
from zoo.program.program import Program

if TYPE_CHECKING:
    from inference.posterior.fit import Fit

FORMAT = 4


def save(fit: Fit, folder: Path) -> Path:
    """Write a fit to a folder, made if need be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise DataError(f"{folder} is a file; give a folder to save to") from None
    data, cls = fit.program.data, type(fit.model)
    tensors: dict[str, Tensor] = {f"data.{n}": v for n, v in data.values.items()}
    tensors |= {f"point.{n}": v for n, v in fit.points.items()}
    tensors |= {f"buffer.{n}": v for n, v in fit.model.named_buffers()}
    tensors |= {f"missing.{n}": v for n, v in data.missing.items()}
    if data.weights is not None:
        tensors["weights"] = data.weights
    if fit.memory is not None:
        for name, (count, parts) in fit.memory.sums.items():
            tensors |= {f"memory.{name}.{i}": t for i, t in enumerate((count, *parts))}
        tensors |= {f"frame.{n}": t for n, t in fit.memory.frame.items()}
    priors = distinct(fit.program.priors)
    tensors |= {f"q.{n}": v for n, v in fit.approximation.tensors().items()}
    tensors |= {f"prior.{n}": v for n, v in tensors_of(priors).items()}
    save_file({n: v.detach().cpu().contiguous().clone() for n, v in tensors.items()}, folder / "tensors.safetensors")
    fit.trace.to_csv(folder / "trace.csv", index=False)
    described = {
        "format": FORMAT,
        "versions": {"python": sys.version.split()[0], "torch": torch.__version__.partition("+")[0]},
        "model": {
            **location(cls),
            "settings": {n: plain(v) for n, v in fit.model.settings.items()},
        },
        "data": {
            "dims": data.dims,
            "row": data.row,
            "notes": data.notes,
            "levels": {n: [plain(v) for v in names] for n, names in data.levels.items()},
            "coords": {n: _describe_index(index) for n, index in data.coords.items()},
            "dtype": str(data.dtype).removeprefix("torch."),
        },
        "method": describe("method", fit.method),
        "approximation": approximation.describe(fit.approximation),
        "priors": describe_posteriors(priors),
        "objective": dataclasses.asdict(fit.objective),
        "converged": fit.converged,
        "reason": fit.reason,
        "warnings": fit.warnings,
        "diagnostics": fit.diagnostics,
        "verdict": fit.verdict,
        "steps": fit.steps,
        "seed": fit.seed,
        "seconds": fit.seconds,
        "text": repr(fit),
        "trace_sha256": _digest(folder / "trace.csv"),
    }
    (folder / "fit.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    fit.posterior.to_netcdf(folder / "posterior.nc", engine="h5netcdf")
    return folder


def read_summary(folder: Path) -> tuple[str, pd.DataFrame]:
    """Read what a saved fit says of itself and its summary from its files, without its model.

    Raises
    ------
    DataError
        If the folder does not hold a saved fit, or a file in it is damaged.
    """
    described = _read(folder / "fit.json", lambda p: json.loads(p.read_text(encoding="utf-8")))
    table = _read(folder / "posterior.nc", read_tree_summary)
    try:
        return described["text"], table
    except (KeyError, TypeError) as error:
        raise DataError(f"{folder / 'fit.json'} is damaged: it lacks {error}") from error


def load(folder: Path, model: type[Model] | Model | None) -> Fit:
    """Read a fit back.

    Raises
    ------
    DataError
        If the folder or a file in it is missing or damaged.
    ModelError
        If the model's class cannot be found.
    """
    from inference.posterior.fit import Fit

    described = _read(folder / "fit.json", lambda p: json.loads(p.read_text(encoding="utf-8")))
    tensors: dict[str, Tensor] = _read(folder / "tensors.safetensors", load_file)
    # As text first: not every version of pandas reads the last digit of a number right.
    trace = _read(folder / "trace.csv", lambda p: pd.read_csv(p, dtype=str))
    try:
        if described["format"] != FORMAT:
            raise DataError(f"{folder} was saved in format {described['format']}, this version reads {FORMAT}")
        if _digest(folder / "trace.csv") != described["trace_sha256"]:
            raise DataError(f"{folder / 'trace.csv'} is not what was saved; is it truncated?")
        trace = trace.astype({"step": int, "seconds": float, "value": float})
        return _rebuild(Fit, folder, described, tensors, trace, model)
    except ZooError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError, IndexError) as error:
        first = str(error).strip().partition("\n")[0]
        raise DataError(f"{folder}: the saved fit is damaged ({type(error).__name__}: {first})") from error


def _rebuild(
    cls: type[Fit],
    folder: Path,
    described: dict[str, Any],
    tensors: dict[str, Tensor],
    trace: pd.DataFrame,
    model: type[Model] | Model | None,
) -> Fit:
    def part(prefix: str) -> dict[str, Tensor]:
        return {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}

    saved = described["data"]
    dtype = getattr(torch, saved["dtype"])
    coords = {n: _read_index(saved_index) for n, saved_index in saved["coords"].items()}
    data = Data(
        part("data."),
        {n: tuple(d) for n, d in saved["dims"].items()},
        coords,
        saved["row"],
        {n: tuple(v) for n, v in saved["levels"].items()},
        tensors.get("weights"),
        tuple(saved["notes"]),
        dtype,
        missing=part("missing."),
    )
    method = make("method", described["method"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(described["seed"])
        instance = _model(folder, described["model"], model)
        instance.coords, instance.missing = coords, data.missing
        instance.setup(**data.to(torch.float64, torch.device("cpu")).values)
        instance = instance.to(dtype)
        buffers = dict(instance.named_buffers())
        for name, value in part("buffer.").items():
            buffers[name].copy_(value)
        priors = {n: q for q in read_posteriors(described["priors"], part("prior.")) for n in q.names}
        program = Program(instance.eval(), data, priors)
        closed_form(program)  # planned on the rows it was fitted to, whatever rows are asked about later
        q = approximation.read(described["approximation"], part("q."), program)
    objective = Objective(**described["objective"])
    outcome = Outcome(
        approximation=q,
        points=part("point."),
        objective=objective,
        trace=trace,
        steps=described["steps"],
        converged=described["converged"],
        reason=described["reason"],
        warnings=[w for w in described["warnings"] if w not in data.notes],
        memory=_memory(part("memory."), part("frame.")),
        diagnostics=described["diagnostics"],
        verdict=described["verdict"],
    )
    return cls(program, method, outcome, described["seed"], described["seconds"])


def _memory(tensors: dict[str, Tensor], frame: dict[str, Tensor]) -> Memory | None:
    """Expected statistics by site, None if there were none."""
    if not tensors:
        return None
    names = dict.fromkeys(key.rpartition(".")[0] for key in tensors)
    counts = {n: sum(key.rpartition(".")[0] == n for key in tensors) for n in names}
    sums = {n: (tensors[f"{n}.0"], tuple(tensors[f"{n}.{i}"] for i in range(1, counts[n]))) for n in names}
    return Memory(sums, frame)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _read(path: Path, reader: Callable[[Path], Any]) -> Any:
    if not path.is_file():
        raise DataError(f"{path}: no such file; {path.parent} does not hold a saved fit")
    try:
        return reader(path)
    except (OSError, ValueError, SafetensorError) as error:
        first = str(error).partition("\n")[0]
        raise DataError(f"{path}: cannot be read ({first}); is it truncated?") from error


def _describe_index(index: pd.Index) -> dict[str, Any]:
    """Return the labels of a dimension as JSON."""
    kind = {pd.RangeIndex: "range", pd.DatetimeIndex: "dates", pd.MultiIndex: "levels"}.get(type(index), "plain")
    found: dict[str, Any] = {"kind": kind, "labels": [plain(v) for v in index], "name": plain(index.name)}
    if isinstance(index, pd.DatetimeIndex):
        found |= {"unit": index.unit, "freq": index.freqstr}
    if isinstance(index, pd.MultiIndex):
        found["names"] = list(index.names)
    return found


def _read_index(saved: dict[str, Any]) -> pd.Index:
    labels, name = saved["labels"], saved["name"]
    if saved["kind"] == "range":
        return pd.RangeIndex(len(labels), name=name)
    if saved["kind"] == "dates":
        dates: pd.DatetimeIndex = pd.DatetimeIndex(labels, name=name, freq=saved["freq"]).as_unit(saved["unit"])
        return dates
    if saved["kind"] == "levels":
        return pd.MultiIndex.from_tuples([tuple(entry) for entry in labels], names=saved["names"])
    index: pd.Index = pd.Index(labels, name=name)
    return index


def _model(folder: Path, saved: dict[str, Any], given: type[Model] | Model | None) -> Model:
    if isinstance(given, Model):
        return copy.deepcopy(given)
    cls: Any = given
    if cls is None:
        cls = find(saved)
    if not (isinstance(cls, type) and issubclass(cls, Model)):
        raise ModelError(
            f"{folder}: the model {saved['module']}.{saved['name']} cannot be imported; give its class: "
            f"Fit.load({str(folder)!r}, model={saved['name']})"
        )
    made: Model = cls(**saved["settings"])
    return made
