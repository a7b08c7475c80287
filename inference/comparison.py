"""Several methods on one model and data, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from inference.diagnostics.arviz import elpd_loo
from inference.diagnostics.pareto import KHAT_GOOD, khat_note
from inference.fitting import fit
from inference.method import Method, as_method
from inference.posterior.fit import Fit
from inference.report import forest, write
from inference.runtime.random import as_seed, seeded
from zoo.data.bind import Source
from zoo.declare.function import ModelLike
from zoo.errors import MethodError, UnknownNameError, ZooError
from zoo.program.exchangeable import exchangeable
from zoo.program.prepare import prepare

COLUMNS = ["objective", "kind", "elpd_loo", "elpd_se", "khat", "seconds", "steps", "converged", "note"]


@dataclass
class Comparison:
    """Fits of one model by several methods.

    Attributes
    ----------
    table
        A row per method: objective and its kind (numbers of different kinds are not comparable), ELPD by PSIS-LOO
        with its standard error, Pareto k-hat of the approximation, seconds, steps, converged, and a note.
    fits
        Label -> fit, for the methods that ran.
    errors
        Label -> what stopped the others.
    labels
        Whose labels exchangeable states have in all fits, in words; empty if nothing was relabelled.
    """

    table: pd.DataFrame
    fits: dict[str, Fit] = field(default_factory=dict)
    errors: dict[str, ZooError | Exception] = field(default_factory=dict)
    labels: str = ""

    def __getitem__(self, label: str) -> Fit:
        """Return the fit of one method."""
        if label in self.errors:
            raise MethodError(f"{label} did not run: {self.errors[label]}")
        if label not in self.fits:
            raise UnknownNameError(f"no method {label!r} in this comparison; there are {', '.join(self.fits)}")
        return self.fits[label]

    def __str__(self) -> str:
        """The table as text, notes below it."""
        shown = self._shown().drop(columns="note")
        notes = [f"{label}: {note}" for label, note in self.table["note"].items() if note]
        notes += [self.labels] if self.labels else []
        return "\n".join([shown.to_string(), *(["", *notes] if notes else [])])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return str(self._shown().to_html())

    def _shown(self) -> pd.DataFrame:
        digits = {"objective": 4, "elpd_loo": 2, "elpd_se": 2, "khat": 2, "seconds": 2}
        shown = self.table.copy().astype(object)
        for column, places in digits.items():
            shown[column] = [f"{v:.{places}f}" if pd.notna(v) else "-" for v in self.table[column]]
        shown["steps"] = ["-" if pd.isna(v) else str(int(v)) for v in self.table["steps"]]
        shown["kind"] = [k or "-" for k in self.table["kind"]]
        shown["converged"] = ["-" if pd.isna(v) else ("yes" if v else "no") for v in self.table["converged"]]
        return shown

    def plot(self) -> Any:
        """Draw, for each method, every scalar of the posterior or point estimate; return an ArviZ `PlotCollection`.

        Methods with posterior draws show as intervals; point estimates as points.
        """
        return forest(self.fits)

    def save(self, folder: str | Path) -> Path:
        """Write the table as CSV, each fit in a folder of its own, and the figures; return the folder."""
        return write(self.table, self.fits, Path(folder))


def compare(
    model: ModelLike | str,
    data: Source,
    *,
    methods: Sequence[Any] | Mapping[str, Any],
    seed: int | None = None,
    progress: bool = True,
    relabel: bool = True,
    **options: Any,
) -> Comparison:
    """Fit one model to one set of data by several methods.

    Parameters
    ----------
    model, data
        As for `fit`.
    methods
        Names and methods, or a dict from label to name or method.
    seed
        Used by every method; None draws one.
    progress
        Show progress bars on a terminal.
    relabel
        Where states are exchangeable, give them the labels of one fit in all of them (`Fit.relabelled`), so that
        parameters can be compared one by one. The table is about what labels do not change.
    **options
        `device`, `dtype` and `weights`, as for `fit`.

    Returns
    -------
    Comparison
        A method that is not legal shows its reason in its row, one that fails its error; the others still run.

    Raises
    ------
    DataError, ModelError, UnknownNameError
        For what is wrong whatever the method.
    """
    seed = as_seed(seed)
    labelled = _labelled(methods)
    with seeded(seed):
        prepare(model, data, **options)  # what is wrong whatever the method is said at once
    rows: dict[str, dict[str, Any]] = {}
    result = Comparison(pd.DataFrame())
    for label, method in labelled.items():
        try:
            fitted = fit(model, data, method=method, seed=seed, progress=progress, **options)
            result.fits[label] = fitted
            rows[label] = row(fitted)
        except Exception as error:  # the other methods still run, and the row says what happened
            result.errors[label] = error
            note = str(error) if isinstance(error, ZooError) else f"{type(error).__name__}: {error}"
            rows[label] = {"kind": "", "note": note.partition("\n")[0]}
    if relabel:
        result.fits, result.labels = _matched(result.fits)
    result.table = pd.DataFrame.from_dict(rows, orient="index").reindex(columns=COLUMNS)
    return result


def _matched(fits: dict[str, Fit]) -> tuple[dict[str, Fit], str]:
    """Return the fits with exchangeable states under the labels of one, and in words whose.

    The reference is the first fit that has converged to draws of the posterior itself, else to anything, else the first
    of all.
    """
    able = {label: fitted for label, fitted in fits.items() if exchangeable(fitted.program)}
    if not able:
        return fits, ""
    best = max(
        able, key=lambda label: able[label].converged + 2 * (able[label].converged and able[label].approximation.exact)
    )
    reference = able[best].relabelled()
    matched = {label: reference if label == best else fitted.relabelled(reference) for label, fitted in able.items()}
    sites = ", ".join(dict.fromkeys(n for g in exchangeable(reference.program) for n in g.sites))
    return {
        **fits,
        **matched,
    }, f"states of {sites} have the labels of {best} in all fits; relabel=False leaves their own"


def _labelled(methods: Sequence[Any] | Mapping[str, Any]) -> dict[str, Method]:
    """Return methods by label: the name, numbered where two are the same."""
    if isinstance(methods, str) or not isinstance(methods, Sequence | Mapping) or not methods:
        raise UnknownNameError(
            "methods must be a list of methods or their names, or a dict from label to method, and must not be "
            f"empty; found {methods!r}"
        )
    if isinstance(methods, Mapping):
        return {str(label): as_method(method) for label, method in methods.items()}
    labelled: dict[str, Method] = {}
    for given in methods:
        method = as_method(given)
        stem = label = type(method).__name__.lower()
        number = 2
        while label in labelled:
            label, number = f"{stem}_{number}", number + 1
        labelled[label] = method
    return labelled


def row(fitted: Fit) -> dict[str, Any]:
    """Return one row of the table."""
    notes = list(fitted.warnings)
    elpd = error = float("nan")
    khat = fitted.khat
    if fitted.is_point:
        notes.append("point estimate: no posterior draws, so no elpd_loo and no khat")
    elif fitted.program.shared:
        notes.append(f"rows share the discrete latent {fitted.program.shared[0].name!r}: no elpd_loo")
    elif not fitted.has_draws:
        notes.append("the parameters are point estimates: no elpd_loo")
    elif "log_likelihood" not in fitted.posterior.children:
        notes.append("too many rows to keep the log likelihood of each under every draw: no elpd_loo")
    else:
        elpd, error, largest = elpd_loo(fitted.posterior)
        if largest > KHAT_GOOD:
            notes.append(f"elpd_loo is unreliable: largest Pareto k of a left-out row {largest:.2f} > {KHAT_GOOD}")
    if khat > KHAT_GOOD and not any(note.startswith("khat") for note in notes):
        notes.append(khat_note(khat))
    return {
        "objective": fitted.objective.value,
        "kind": fitted.objective.kind,
        "elpd_loo": elpd,
        "elpd_se": error,
        "khat": khat,
        "seconds": fitted.seconds,
        "steps": fitted.steps,
        "converged": fitted.converged,
        "note": "; ".join(notes),
    }
