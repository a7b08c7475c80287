"""A fit in sections of a page: model, data, method, convergence, verdict, summary, pictures, how to reproduce."""

from __future__ import annotations

import hashlib
import inspect
import platform
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import pandas as pd
import xarray as xr

from inference.diagnostics.arviz import forest_png
from inference.posterior.answer import Answer
from inference.posterior.pictures import globals_of, mixture, small
from inference.posterior.store import Record
from inference.reporting.figures import as_png, mixtures, traces
from inference.reporting.page import Section
from inference.runtime.random import seeded
from zoo.data.data import Data
from zoo.program.explain import describe
from zoo.program.program import Program

PACKAGES = ("latentzoo", "torch", "pyro-ppl", "numpy", "pandas", "arviz")
COLUMNS = 50  # of a field, described in the table of data


def model_sections(program: Program) -> list[Section]:
    """Model card, structure and data: what fits of one program share."""
    model = program.model
    with seeded(0, program.device):
        structure = describe(program)
    return [
        Section("Model", [repr(model)], inspect.getdoc(type(model)) or ""),
        Section("Structure and legal methods", text=structure),
        Section(
            "Data", [f"{len(program.data)} rows; SHA-256 {digest(program.data)}"], tables=[summary_of(program.data)]
        ),
    ]


def fit_sections(
    answer: Answer, record: Record, posterior: xr.DataTree, summary: pd.DataFrame, label: str
) -> list[Section]:
    """Method, convergence, verdict, summary and pictures of one fit.

    Parameters
    ----------
    posterior, summary
        As `Fit` gives them.
    label
        Goes before the headings and over the pictures.
    """
    method, outcome = record.method, record.outcome
    objective, lead = outcome.objective, f"{label}: "
    error = f" +- {objective.error:.2g}" if objective.error else ""
    state = "Converged" if outcome.converged else "NOT converged"
    numbers = pd.DataFrame({"value": pd.Series(outcome.diagnostics, dtype=float)})
    note = summary.attrs.get("note", "")
    sections = [
        Section(
            f"{lead}method",
            [
                f"{method!r}, seed {record.seed}, {outcome.steps} steps, {record.seconds:.2f} s, "
                f"{str(answer.program.dtype).removeprefix('torch.')} on {answer.program.device.type}",
                f"{objective.kind.replace('_', ' ')} {objective.value:.4f}{error}",
            ],
        ),
        Section(
            f"{lead}convergence",
            [
                f"{state}: {outcome.reason}.",
                *(f"Warning: {w}" for w in (*answer.program.data.notes, *outcome.warnings)),
            ],
            pictures=[("objective by step", as_png(traces({label: (outcome.trace, objective.kind)})))],
        ),
        Section(f"{lead}verdict", [outcome.verdict or "This method gives no verdict."], tables=[numbers]),
        Section(f"{lead}summary", [note] if isinstance(note, str) and note else [], tables=[summary]),
    ]
    unknown = globals_of(answer, posterior)
    if not answer.is_point and unknown.data_vars and small(unknown):
        sections.append(Section(f"{lead}intervals", pictures=[("forest", forest_png({label: unknown}))]))
    drawn = mixture(answer)
    if drawn is not None:
        sections.append(Section(f"{lead}components", pictures=[("components", as_png(mixtures({label: drawn})))]))
    return sections


def reproduction(call: str) -> Section:
    """Say how to get the same again: the call, the seed in it, and versions."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    words = ", ".join(f"{name} {number}" for name, number in versions.items())
    return Section("How to reproduce", [f"Versions: {words}."], call)


def digest(data: Data) -> str:
    """SHA-256 of the values of all fields, in order of their names, missing cells as NaN."""
    found = hashlib.sha256()
    for name in sorted(data.values):
        found.update(name.encode() + np.ascontiguousarray(_cells(data, name)).tobytes())
    return found.hexdigest()


def _cells(data: Data, name: str) -> np.ndarray:
    values = data.values[name].cpu().numpy()
    return np.where(data.missing[name].cpu().numpy(), np.nan, values) if name in data.missing else values


def summary_of(data: Data) -> pd.DataFrame:
    """Count, missing cells, mean, standard deviation and extremes of each column of each field."""
    rows = {}
    for name, dims in data.dims.items():
        cells = _cells(data, name).astype(float)
        columns = cells.reshape(len(cells), -1) if cells.ndim else cells.reshape(1, 1)
        labels = data.coords[dims[1]] if len(dims) == 2 else range(columns.shape[1])
        for k, label in list(enumerate(labels))[:COLUMNS]:
            column = columns[:, k]
            there = column[~np.isnan(column)]
            key = name if columns.shape[1] == 1 and len(dims) < 2 else f"{name}[{label}]"
            sd = there.std(ddof=1) if len(there) > 1 else np.nan
            some = len(there) > 0
            rows[key] = {
                "n": len(there),
                "missing": len(column) - len(there),
                "mean": there.mean() if some else np.nan,
                "sd": sd,
                "min": there.min() if some else np.nan,
                "max": there.max() if some else np.nan,
            }
    return pd.DataFrame.from_dict(rows, orient="index")
