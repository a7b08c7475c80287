"""Fits and comparisons as JSON for other programs; `schema` is raised when a key changes its meaning or goes."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pandas as pd

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
