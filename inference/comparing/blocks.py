"""A comparison as text and HTML: a block for each kind of number, so that kinds are never in one ranking."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from zoo.declare.model import Model
from zoo.declare.regression import Regression

WIDTH = 80
PLACES = {
    "seconds": 2,
    "khat": 2,
    "steps": 0,
    "gradients": 0,
    "gradients_to_accuracy": 0,
    "error_mean": 3,
    "+-": 3,
    "parameters": 0,
    "objective": 4,
    "evidence": 3,
    "evidence_error": 3,
}
KINDS = {
    "log_evidence": "log p(x)",
    "log_likelihood": "log p(x; theta) at a point",
    "log_posterior": "log p(x, z) at a point or averaged over draws",
    "elbo": "lower bound of log p(x)",
    "iwae": "lower bound of log p(x)",
    "elbo_at_point": "lower bound of log p(x, z*)",
    "iwae_at_point": "lower bound of log p(x, z*)",
}


@dataclass(frozen=True)
class Block:
    """Numbers of one kind.

    Attributes
    ----------
    title
        What they are, and which way is better.
    table
        Text, a row per fit.
    """

    title: str
    table: pd.DataFrame


def blocks(table: pd.DataFrame, yardsticks: Sequence[str]) -> list[Block]:
    """Fold a table into blocks.

    Parameters
    ----------
    table
        The rows of a comparison.
    yardsticks
        For each row, what it must have in common with another one for densities of data to be comparable.
    """
    table = table.set_axis(pd.Index([label_of(i) for i in table.index], name=None))
    data = pd.Series([str(y) for y in yardsticks], index=table.index)
    found = []
    for kind in dict.fromkeys(table["kind"]):
        rows = table[table["kind"] == kind] if kind else table[:0]
        if len(rows):
            shown = rows[["kind", "objective", "khat", "seconds", "steps", "converged"]]
            found.append(Block(f"objective: {kind}, {KINDS.get(kind, 'as its method says')}", _text(shown)))
    of = data[table["kind"] != ""].drop_duplicates()
    for by in of:
        found += _ranked(table[data == by], "" if len(of) == 1 else f"; {by}")
    if "error_mean" in table:
        shown = table[table["error_mean"].notna()].sort_values("error_mean")
        columns = ["error_mean", "error_mean_se", "worst", "sd_ratio", "wasserstein", "gradients"]
        shown = shown[[*columns, "gradients_to_accuracy", "seconds"]].rename(columns={"error_mean_se": "+-"})
        found.append(Block("distance to the reference, in its standard deviations", _text(shown)))
    return found


def _ranked(rows: pd.DataFrame, of: str) -> list[Block]:
    """Blocks in which rows are comparable and sorted, the best first."""
    found = []
    criterion = "bic" if rows["bic"].notna().any() else "aic"
    shown = rows[rows[criterion].notna()].sort_values(criterion)
    if len(shown):
        shown = shown[["log_likelihood", "free_parameters", "aic", "bic", "icl"]].rename(
            columns={"free_parameters": "parameters"}
        )
        shown.insert(5, f"delta_{criterion}", shown[criterion] - shown[criterion].min())
        found.append(Block(f"information criteria: smaller is better{of}", _text(shown)))
    for kind in dict.fromkeys(k for k in rows["evidence_kind"] if k):
        shown = rows[rows["evidence_kind"] == kind].sort_values("evidence", ascending=False)
        shown = shown[["evidence", "evidence_error"]]
        shown.insert(2, "delta", shown["evidence"].max() - shown["evidence"])
        found.append(Block(f"log evidence, {kind}: larger is better{of}", _text(shown)))
    for name, title in (
        ("elpd_loo", "expected log density of a left-out row (PSIS-LOO)"),
        ("held_out", "held-out log density"),
    ):
        shown = rows[rows[name].notna()].sort_values(name, ascending=False)
        if len(shown):
            stem = name.removesuffix("_loo")
            more = [f"{stem}_diff", f"{stem}_diff_se"]
            found.append(Block(f"{title}: larger is better{of}", _text(shown[[name, f"{stem}_se", *more]])))
    return found


def label_of(index: Any) -> str:
    """Return the label of a row: its method, or its model and method."""
    return ", ".join(map(str, index)) if isinstance(index, tuple) else str(index)


def _text(numbers: pd.DataFrame) -> pd.DataFrame:
    """Numbers as text, "-" where there is none; columns without any are left out."""
    shown = numbers.astype(object).copy()
    for column in numbers.columns:
        values = numbers[column]
        if values.isna().all():
            shown = shown.drop(columns=column)
            continue
        shown[column] = [_number(v, PLACES.get(column, 2)) for v in values]
    return shown


def _number(value: Any, places: int) -> str:
    if isinstance(value, str):
        return value or "-"
    if pd.isna(value):
        return "-"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    return f"{value:.{places}f}"


def as_text(found: Sequence[Block], notes: Sequence[str]) -> str:
    """Blocks one below the other, at most 80 characters wide, notes at the end."""
    parts = [f"{textwrap.fill(b.title, WIDTH)}\n{b.table.to_string(line_width=WIDTH)}" for b in found]
    lines = [textwrap.fill(note, WIDTH, subsequent_indent="  ", break_long_words=False) for note in notes]
    return "\n\n".join([*parts, *(["\n".join(lines)] if lines else [])])


def as_html(found: Sequence[Block], notes: Sequence[str]) -> str:
    """Return the same for notebooks."""
    parts = [f"<h4>{html.escape(b.title)}</h4>\n{b.table.to_html()}" for b in found]
    items = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    return "\n".join([*parts, *([f"<ul>{items}</ul>"] if items else [])])


def brief(model: Model, alike: Sequence[Model]) -> str:
    """Return the class and the settings that are not the default, or not the same in all models of the class."""
    defaults = {name: repr(default) for name, (_, default) in type(model).hyperparameters.items()}
    others = {n: {defaults[n], *(repr(m.settings.get(n)) for m in alike)} for n in model.settings}
    changed = [f"{n}={v!r}" for n, v in model.settings.items() if len(others[n]) > 1]
    formula = [repr(str(model.formula))] if isinstance(model, Regression) and model.formula is not None else []
    return f"{type(model).__name__}({', '.join([*formula, *changed])})"
