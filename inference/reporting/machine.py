"""The command line's answers as JSON for programs; `schema` is raised when a key changes its meaning or goes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from inspect import Parameter, getdoc, signature
from typing import Any

import numpy as np
import pandas as pd

from inference.runtime.settings import plain
from inference.runtime.written import model_class
from zoo import catalogue, datasets
from zoo.declare.model import Model
from zoo.errors import UnknownNameError
from zoo.program.check import ModelCheck
from zoo.program.explain import Explanation

SCHEMA = 1


def fit_text(fit: Any) -> str:
    """Say a fit and its summary as JSON: numbers that are none are null."""
    summary = fit.summary()
    return _text(
        {
            "schema": SCHEMA,
            "model": repr(fit.model),
            "method": repr(fit.method),
            "seed": fit.seed,
            "objective": {"kind": fit.objective.kind, "value": fit.objective.value, "error": fit.objective.error},
            "converged": fit.converged,
            "reason": fit.reason,
            "verdict": fit.verdict,
            "warnings": list(fit.warnings),
            "diagnostics": dict(fit.diagnostics),
            "steps": fit.steps,
            "seconds": fit.seconds,
            "summary": _records(pd.DataFrame(summary)),
        }
    )


def comparison_text(comparison: Any) -> str:
    """Say the table of a comparison as JSON, a row for each fit."""
    return _text({"schema": SCHEMA, "table": _records(pd.DataFrame(comparison.table))})


def summary_text(summaries: Mapping[str, tuple[str, Any]]) -> str:
    """Say saved fits, each as it describes itself and its summary, by folder."""
    fits = {name: {"text": text, "summary": _records(pd.DataFrame(t))} for name, (text, t) in summaries.items()}
    return _text({"schema": SCHEMA, "fits": fits})


def rows_text(table: pd.DataFrame) -> str:
    """Say a table of answers, a record for each row."""
    return _text({"schema": SCHEMA, "rows": _records(table)})


def list_text() -> str:
    """Say the models, guides, methods and datasets there are."""
    record: dict[str, Any] = {"schema": SCHEMA}
    for kind in catalogue.KINDS:
        lower = kind == "method"
        record[f"{kind}s"] = [
            {"name": entry.name.lower() if lower else entry.name, "summary": entry.summary}
            for entry in catalogue.entries(kind).values()
        ]
    record["datasets"] = [{"name": name, "summary": datasets.info(name).title} for name in datasets.names()]
    return _text(record)


def show_text(name: str) -> str:
    """Say the cards of a model, or of the guide and the method of a name, with what they can be given."""
    cards = [*_settings_of(name)] or [_card(model_class(name))]
    return _text({"schema": SCHEMA, "cards": cards})


def _settings_of(name: str) -> Iterator[dict[str, Any]]:
    for kind in ("guide", "method"):
        with suppress(UnknownNameError):
            cls = catalogue.find(kind, name)
            taken = [_parameter(p.name, str(p.annotation), p.default) for p in signature(cls).parameters.values()]
            yield {"kind": kind, "name": cls.__name__, "text": getdoc(cls), "settings": taken}


def _card(cls: type[Model]) -> dict[str, Any]:
    return {
        "kind": "model",
        "name": cls.__name__,
        "text": getdoc(cls) or "",
        "fields": {name: repr(field) for name, field in cls.fields.items()},
        "settings": [_parameter(n, str(hint), default) for n, (hint, default) in cls.hyperparameters.items()],
    }


def _parameter(name: str, hint: str, default: Any) -> dict[str, Any]:
    required = default is Parameter.empty
    return {"name": name, "type": hint, "required": required, "default": None if required else plain(default)}


def explain_text(explanation: Explanation) -> str:
    """Say the sites, the data and the methods of a model on data."""
    methods = [
        {"method": m["method"], "legal": m["legal"].startswith("yes"), "text": m["legal"]}
        for m in explanation.tables["methods"]
    ]
    return _text({"schema": SCHEMA, "model": explanation.model, **explanation.tables, "methods": methods})


def model_check_text(check: ModelCheck) -> str:
    """Say what was looked at in a model, and what was found."""
    ticks = [asdict(tick) for tick in check.ticks]
    return _text({"schema": SCHEMA, "model": check.model, "ok": check.ok, "checks": ticks})


def check_text(check: Any) -> str:
    """Say what a fit does not reproduce of its data, and what its prior did not expect."""
    tables = {name: _records(getattr(check, name)) for name in ("table", "prior", "sensitivity")}
    said = {"misfits": check.misfits, "conflicts": check.conflicts, "notes": check.notes}
    return _text({"schema": SCHEMA, **said, **tables})


def calibration_text(calibration: Any) -> str:
    """Say how true values rank among the draws of refits."""
    said = {"about": dict(calibration.about), "verdict": calibration.verdict, "alarm": calibration.alarm}
    failures = list(calibration.failures)
    return _text({"schema": SCHEMA, **said, "failures": failures, "table": _records(calibration.table)})


def evidence_text(evidence: Any) -> str:
    """Say log evidences, and log Bayes factors."""
    tables = {name: _records(getattr(evidence, name)) for name in ("table", "bayes_factors")}
    return _text({"schema": SCHEMA, **tables, "explained": evidence.explained})


def cache_text(folder: str, size: int, limit: int, removed: int) -> str:
    """Say where compiled programs are, how many bytes they have and may have, and how many were removed."""
    return _text({"schema": SCHEMA, "folder": folder, "bytes": size, "limit": limit, "removed": removed})


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    names = [str(n) if n is not None else "name" for n in table.index.names]
    rows = table.reset_index(names=names)
    return [{str(k): v for k, v in row.items()} for row in rows.to_dict("records")]


def _text(record: dict[str, Any]) -> str:
    return json.dumps(_plain(record), indent=2, allow_nan=False)


def _plain(value: Any) -> Any:
    """Replace what JSON does not know."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return None if pd.isna(value) else str(value)
