"""Log evidences of models by several methods, in one table: what each number is, its error, and Bayes factors."""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from inference.approximations.pareto import KHAT_GOOD
from inference.approximations.sampled import Sampled
from inference.comparing.blocks import brief
from inference.comparing.row import yardstick
from inference.diagnostics.bridge import bridge
from inference.diagnostics.verdict import DISTRUST
from inference.fitting import fit
from inference.method import as_method, offered_name
from inference.posterior.fit import Fit
from inference.runtime.interruption import asked, interruptible, open_to_interruption
from inference.runtime.monitor import Told, check_progress
from inference.runtime.random import as_seed, seeded
from inference.runtime.threads import threads_for
from zoo.data.bind import Source
from zoo.declare.function import ModelLike
from zoo.declare.model import Model
from zoo.errors import DataError, FitError, MethodError, short
from zoo.program.collapsed import collapsed

METHODS = ("exact", "laplace", "smc", "nuts")
COLUMNS = ["model", "method", "kind", "log_evidence", "error", "khat", "note"]
ESTIMATES = ("exact", "smc", "bridge", "importance")  # with an error, the best known first
BOUNDS = ("elbo", "iwae")
WIDTH = 90  # characters of a line of text


@dataclass(frozen=True)
class Evidence:
    """Log evidences, and what they say of the models.

    Attributes
    ----------
    table
        A row per number: model, method, kind ("exact", "smc", "bridge", "importance", "laplace", or a bound), the log
        evidence with its Monte Carlo error, k-hat where there is one, and a note.
    bayes_factors
        A row per model: the estimate of it with the least error among those that are estimates, and its log Bayes
        factor against the first, with the error of both together. Bounds and Laplace's formula never enter; of models
        that explain other data than the first (other rows, or log y in place of y) there is none, but NaN.
    explained
        Model -> what it explains.

    Examples
    --------
    >>> import zoo
    >>> from inference import evidence
    >>> found = evidence(
    ...     {"flat": zoo.BetaBernoulli(), "fair": zoo.BetaBernoulli(a=20.0, b=20.0)},
    ...     [1, 0, 1, 1, 0, 1],
    ...     methods=["exact"],
    ...     seed=0,
    ... )
    >>> print(found)
    estimates of log p(x)
    model method  kind  log_evidence  error
     flat  exact exact       -4.6540 0.0000
     fair  exact exact       -4.1851 0.0000
    <BLANKLINE>
    log Bayes factors
    model            by  log_evidence  error  log_bayes_factor  its_error
     flat exact (exact)       -4.6540 0.0000            0.0000     0.0000
     fair exact (exact)       -4.1851 0.0000            0.4688     0.0000
    """

    table: pd.DataFrame
    bayes_factors: pd.DataFrame
    explained: dict[str, str]

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"

    def __str__(self) -> str:
        """Estimates, then approximations without an error, then lower bounds; Bayes factors of several models below."""
        kinds, names = self.table["kind"], self.table["model"].unique()
        parts = {
            "estimates of log p(x)": self.table[kinds.isin(ESTIMATES)],
            "approximations without an error": self.table[kinds == "laplace"],
            "lower bounds, not to be ranked with estimates": self.table[kinds.isin(BOUNDS)],
        }
        hidden = ["note", "model"] if len(names) == 1 else ["note"]
        texts = [str(names[0])] if len(names) == 1 else []
        texts += [f"{title}\n{_text(rows.drop(columns=hidden))}" for title, rows in parts.items() if len(rows)]
        said = self.table[self.table["note"] != ""]
        for _, row in said.iterrows():
            kind = f", {row['kind']}" if row["kind"] else ""
            texts.append(_wrapped(f"{row['model']}{kind} by {row['method']}: {row['note']}"))
        if len(self.bayes_factors) > 1:
            texts.append(f"log Bayes factors\n{_text(self.bayes_factors)}")
        if len(set(self.explained.values())) > 1:
            each = "\n".join(f"  {model}: {what}" for model, what in self.explained.items())
            texts.append(f"not all models explain the same data, and what differs has no Bayes factor:\n{each}")
        return "\n\n".join(texts)

    __repr__ = __str__


def _text(rows: pd.DataFrame) -> str:
    shown = rows.drop(columns=[c for c in rows if rows[c].isna().all() or (rows[c] == "").all()])
    return str(shown.to_string(index=False, na_rep="-", float_format=lambda v: f"{v:.4f}"))


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent="    ", break_long_words=False)


@interruptible()
@open_to_interruption()
def evidence(
    of: ModelLike | Fit | Sequence[Any] | Mapping[str, Any],
    data: Source | None = None,
    *,
    methods: Sequence[Any] = METHODS,
    seed: int | None = None,
    progress: Told | bool = True,
    **options: Any,
) -> Evidence:
    """Collect the log evidence of fits, or of models fitted to data by several methods.

    Parameters
    ----------
    of
        A fit, a model or its name, several of them, or a dict of such by label.
    data
        What models are fitted to; of no use to fits.
    methods
        Names or methods; those that are not legal for a model are noted.
    seed
        As for `fit`.
    progress
        Show progress bars on a terminal.
    **options
        `device`, `dtype`, `weights` and `columns`, as for `fit`.

    Returns
    -------
    Evidence

    Raises
    ------
    DataError
        If a model comes without data.

    Examples
    --------
    ``evidence({"one": zoo.BayesianGMM(1), "two": zoo.BayesianGMM(2)}, geyser)``

    >>> import zoo
    >>> from inference import evidence
    >>> found = evidence(
    ...     {"flat": zoo.BetaBernoulli(), "fair": zoo.BetaBernoulli(a=20.0, b=20.0)},
    ...     [1, 0, 1, 1, 0, 1],
    ...     methods=["exact"],
    ...     seed=0,
    ... )
    >>> found.table[["model", "kind", "log_evidence"]].round(3)
      model   kind  log_evidence
    0  flat  exact        -4.654
    1  fair  exact        -4.185
    """
    if isinstance(methods, str) or not isinstance(methods, Sequence) or not methods:
        raise MethodError(f"methods must be a list of methods or their names, and not empty; found {short(methods)}")
    check_progress(progress)
    seed, rows, explained = as_seed(seed), [], {}
    for label, item in _labelled(of):
        if isinstance(item, Fit):
            rows += _rows(label, offered_name(item.method), item)
            explained[label] = yardstick(item)
            continue
        if data is None:
            raise DataError(f"evidence({label}): a model needs data, as in evidence(model, data); fits bring their own")
        for given in methods:
            method, name = as_method(given), offered_name(given)
            try:
                fitted = fit(item, data, method=method, seed=seed, progress=progress, **options)
            except (MethodError, FitError) as error:
                rows.append(_row(label, name, "", note=str(error)))
                continue
            if asked():  # numbers of a fit that ended before its time are none of its evidence
                raise KeyboardInterrupt
            rows += _rows(label, name, fitted)
            explained[label] = yardstick(fitted)
    table = pd.DataFrame(rows, columns=COLUMNS)
    return Evidence(table, _bayes_factors(table, explained), explained)


def _labelled(of: Any) -> list[tuple[str, Any]]:
    if isinstance(of, Mapping):
        return [(str(label), item) for label, item in of.items()]
    items = list(of) if isinstance(of, list | tuple) else [of]
    # Fits of one model by several methods are of one model.
    models = [item.model if isinstance(item, Fit) else item for item in items]
    return [(_name(model, models), item) for model, item in zip(models, items, strict=True)]


def _name(model: Any, others: Sequence[Any]) -> str:
    if isinstance(model, Model):
        return brief(model, [m for m in others if type(m) is type(model)])
    return model.__name__ if isinstance(model, type) else str(model)


def _row(label: str, method: str, kind: str, value: float = math.nan, error: float = math.nan, **more: Any) -> Any:
    more = {"khat": math.nan, "note": "", **more}
    return {"model": label, "method": method, "kind": kind, "log_evidence": value, "error": error, **more}


def _rows(label: str, method: str, fitted: Fit) -> list[Any]:
    """All that one fit says of the evidence."""
    objective, said, q = fitted.objective, fitted.diagnostics, fitted.approximation
    rows = []
    if objective.kind == "log_evidence":
        kind, note = ("smc", "" if fitted.converged else fitted.reason) if objective.error else ("exact", "")
        rows.append(_row(label, method, kind, objective.value, objective.error, note=note))
    elif "evidence" in said:
        shape = said.get("khat", math.nan)
        doubt, _, why = fitted.verdict.partition(": ")
        note = why if doubt == DISTRUST else ""
        note = f"k-hat above {KHAT_GOOD}: not an estimate to rely on" if shape > KHAT_GOOD else note
        rows.append(_row(label, method, "importance", said["evidence"], said["evidence_error"], khat=shape, note=note))
    if isinstance(q, Sampled) and q.chains > 1:
        rows.append(_bridge(label, method, fitted, q))
    if "laplace_evidence" in said:
        rows.append(_row(label, method, "laplace", said["laplace_evidence"]))
    if objective.kind in BOUNDS:
        rows.append(_row(label, method, objective.kind, objective.value, objective.error))
    return rows or [_row(label, method, "", note=f"its {objective.kind} says nothing of log p(x)")]


def _bridge(label: str, method: str, fitted: Fit, q: Sampled) -> Any:
    try:
        with seeded(fitted.seed, fitted.program.device), threads_for(fitted.program):
            value, error = bridge(collapsed(fitted.program), q)
    except FitError as stopped:
        return _row(label, method, "", note=str(stopped))
    note = "" if fitted.converged else f"from draws that are in doubt: {fitted.reason}"
    return _row(label, method, "bridge", value, error, note=note)


def _bayes_factors(table: pd.DataFrame, explained: Mapping[str, str]) -> pd.DataFrame:
    """The best estimate of each model, and log Bayes factors against the first."""
    rows: list[dict[str, Any]] = []
    good = table[table["kind"].isin(ESTIMATES) & (table["note"] == "")]
    for model in table["model"].unique():
        mine = good[good["model"] == model]
        if not len(mine):
            continue
        best = mine.loc[mine["error"].idxmin()]
        first = rows[0] if rows else best
        alike = explained[model] == explained[first["model"]]
        rows.append(
            {
                "model": model,
                "by": f"{best['kind']} ({best['method']})",
                "log_evidence": best["log_evidence"],
                "error": best["error"],
                "log_bayes_factor": best["log_evidence"] - first["log_evidence"] if alike else math.nan,
                "its_error": (math.hypot(best["error"], first["error"]) if rows else 0.0) if alike else math.nan,
            }
        )
    columns = ["model", "by", "log_evidence", "error", "log_bayes_factor", "its_error"]
    return pd.DataFrame(rows, columns=columns)
