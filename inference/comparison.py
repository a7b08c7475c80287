"""Several models by several methods on the same data, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from inference.comparing.blocks import as_html, as_text, blocks, brief, label_of
from inference.comparing.held_out import Rows, held_out, splits
from inference.comparing.labels import matched
from inference.comparing.reference import COLUMNS as DISTANCES
from inference.comparing.reference import Reference
from inference.comparing.row import COLUMNS, differences, leave_one_out, row, yardstick
from inference.diagnostics.arviz import RowDensities
from inference.fitting import fit
from inference.method import Method, as_method, offered_name
from inference.posterior.fit import Fit
from inference.report import forest, page, write
from inference.runtime.interruption import asked, asked_once, interruptible, keep, open_to_interruption
from inference.runtime.monitor import Told, check_progress
from inference.runtime.random import as_seed, seeded
from inference.runtime.warned import warned_once
from inference.runtime.whole import as_path
from zoo.data.bind import Source
from zoo.declare.function import ModelLike
from zoo.declare.model import Model
from zoo.errors import DataError, FitError, MethodError, ModelError, UnknownNameError, ZooError, short
from zoo.program.prepare import as_model, prepare
from zoo.program.program import Program

Models = ModelLike | str | Sequence[ModelLike | str] | Mapping[Any, ModelLike | str]


@dataclass
class Comparison:
    """Fits of models by methods, in one table.

    Attributes
    ----------
    table
        A row per method, or per (model, method) where several models are compared. `objective` and its `kind`;
        `log_likelihood`, `free_parameters`, `aic`, `bic`, `icl` of point estimates (smaller is better); `evidence`, an
        exact value, an estimate by importance weighting or a bound of log p(x) as `evidence_kind` says, with its Monte
        Carlo error; `elpd_loo` by PSIS-LOO with its standard error `elpd_se`, and `elpd_diff`, how far it is below the
        best one, with its own, `elpd_diff_se`; `held_out` log density likewise; Pareto `khat` of the
        approximation, `seconds`, `steps`, `converged`, `verdict`, and a `note`. Numbers of different kinds are not
        comparable; printed, each kind is a block of its own, and those that can be ranked are, the best first.
    fits
        Label -> fit, for what ran; with several models the label is "model, method".
    errors
        Label -> what stopped the others.
    labels
        Whose labels exchangeable states have in all fits, in words; empty if nothing was relabelled.

    Examples
    --------
    >>> import zoo
    >>> from inference import compare
    >>> table = compare(zoo.GMM(components=2), zoo.datasets.load("faithful"), methods=["em"], seed=0)
    >>> print(table.fits["em"].reason)
    within 1e-06 of the limit after 5 steps
    """

    table: pd.DataFrame
    fits: dict[str, Fit] = field(default_factory=dict)
    errors: dict[str, ZooError | Exception] = field(default_factory=dict)
    labels: str = ""

    def __getitem__(self, label: Any) -> Fit:
        """Return the fit of one method, of one (model, method), or of one model where there is one method."""
        found = label_of(label)
        if found not in self.fits and found not in self.errors and self.table.index.nlevels > 1:
            rows = [i for i in self.table.index if label in (i[0], str(i[0]))]
            found = label_of(rows[0]) if len(rows) == 1 else found
        if found in self.errors:
            raise MethodError(f"{found} did not run: {self.errors[found]}")
        if found not in self.fits:
            kind = "method" if self.table.index.nlevels == 1 else "model and method"
            raise UnknownNameError(f"no {kind} {found!r} in this comparison; there are {'; '.join(self.fits)}")
        return self.fits[found]

    def __str__(self) -> str:
        """Return a block of text for each kind of number, verdicts and notes below."""
        return as_text(*self._shown())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return as_html(*self._shown())

    def _shown(self) -> tuple[Any, list[str]]:
        labels = [label_of(i) for i in self.table.index]
        yardsticks = [yardstick(self.fits[label]) if label in self.fits else "" for label in labels]
        lines = []
        for column in ("verdict", "note"):
            for said in dict.fromkeys(s for s in self.table[column] if isinstance(s, str) and s):
                of = "; ".join(n for n, s in zip(labels, self.table[column], strict=True) if s == said)
                lines.append(f"{of}: {said}")
        return blocks(self.table, yardsticks), [*lines, *self.labels.splitlines()]

    def plot(self) -> Any:
        """Draw, for each method, every scalar of the posterior or point estimate; return an ArviZ `PlotCollection`.

        Methods with posterior draws show as intervals; point estimates as points.

        Examples
        --------
        >>> import zoo
        >>> from inference import compare
        >>> table = compare(zoo.BetaBernoulli(), [1, 0, 1, 1, 0, 1], methods=["exact", "laplace"], seed=0)
        >>> type(table.plot()).__name__
        'PlotCollection'
        """
        return forest(self.fits)

    def report(self, path: str | Path) -> Path:
        """Write one self-contained HTML page to a file; return its path.

        The table, verdicts, all fits in one picture, and for each fit what its own `report` says.

        Examples
        --------
        >>> import tempfile
        >>> import zoo
        >>> from inference import compare
        >>> table = compare(zoo.BetaBernoulli(), [1, 0, 1, 1, 0, 1], methods=["exact"], seed=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     table.report(f"{folder}/coin.html").name
        'coin.html'
        """
        return page(str(self), self.fits, {n: str(e) for n, e in self.errors.items()}, as_path(path, "report(path)"))

    def save(self, folder: str | Path) -> Path:
        """Write the table, each fit in a folder of its own, the figures and report.html; return the folder.

        A fit or comparison that was saved there before is replaced as a whole; a folder that holds anything else is
        refused with a `DataError`.

        Examples
        --------
        >>> import tempfile
        >>> import zoo
        >>> from inference import compare
        >>> table = compare(zoo.BetaBernoulli(), [1, 0, 1, 1, 0, 1], methods=["exact"], seed=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sorted(p.name for p in table.save(f"{folder}/coin").iterdir())
        ['SHA256SUMS', 'comparison.json', 'exact', 'report.html', 'table.csv', 'traces.png']
        """
        return write(
            self.table,
            self.fits,
            str(self),
            {n: str(e) for n, e in self.errors.items()},
            as_path(folder, "save(folder)"),
        )


@interruptible()
@warned_once()
@open_to_interruption()
def compare(
    model: Models | None = None,
    data: Source | None = None,
    *,
    methods: Sequence[Any] | Mapping[str, Any],
    models: Models | None = None,
    holdout: Rows | None = None,
    folds: int | None = None,
    reference: Any = None,
    seed: int | None = None,
    progress: Told | bool = True,
    relabel: bool = True,
    **options: Any,
) -> Comparison:
    """Fit one model, or several, to one set of data by several methods.

    Parameters
    ----------
    model, data
        As for `fit`.
    methods
        Names and methods, or a dict from label to name or method.
    models
        In place of `model`: a list of models, or a dict from label to model, such as
        ``{k: zoo.GMM(components=k) for k in range(1, 9)}``.
    holdout
        Rows that are left out of another fit, whose log density is then evaluated: a fraction, or their positions.
    folds
        In place of `holdout`: every row is left out once, with the others of its fold; so many refits of each.
    reference
        What is taken as the truth: a fit, an ArviZ DataTree, a dict from variable to draws (chain, draw, ...), or a
        summary with columns mean, sd and mcse_mean, as posteriordb has them. It adds the columns `error_mean`, the
        largest error of a mean in standard deviations of the truth, its Monte Carlo error `error_mean_se` and `worst`,
        which scalar it is of; `sd_ratio`, the ratio of standard deviations that is farthest from 1; `wasserstein`, the
        largest distance of margins, where there are draws of both; `gradients` that chains took after warm-up, and
        `gradients_to_accuracy`, until means stay within 0.1 standard deviations; NaN where these are not measured.
        `seconds_to_accuracy` of chains is likewise until then, with the warm-up; of another method it is the time of
        the fit, NaN if its means are further off.
    seed
        Used by every method; None draws one.
    progress
        Show progress bars on a terminal.
    relabel
        Where states are exchangeable, give them the labels of one fit in all fits of a model (`Fit.relabelled`), so
        that parameters can be compared one by one. The table is about what labels do not change.
    **options
        `device`, `dtype`, `weights` and `columns`, as for `fit`.

    Returns
    -------
    Comparison
        A method that is not legal shows its reason in its row, one that fails its error; the others still run. So does
        one of several models that does not fit the data. At Ctrl-C the fit that is running ends with the best so far,
        and rows of those that are left say that they were not run; a second one raises `KeyboardInterrupt`.

    Raises
    ------
    DataError, ModelError, UnknownNameError
        For what is wrong whatever the method.

    Examples
    --------
    >>> import zoo
    >>> geyser = zoo.datasets.load("faithful")
    >>> mixtures = {k: zoo.GMM(components=k) for k in (1, 2, 3)}
    >>> int(compare(models=mixtures, data=geyser, methods=["em"], seed=0).table["bic"].idxmin()[0])
    2
    """
    check_progress(progress)
    seed = as_seed(seed)
    labelled, several = _labelled(methods), _several(model, models)
    if data is None:
        raise DataError("compare needs data: compare(model, data, methods=[...])")
    programs = _programs(several, data, seed, options)
    whole = next(p for p in programs.values() if not isinstance(p, ZooError))
    parts = splits(whole, holdout, folds, seed)
    truth = None if reference is None else Reference.of(reference)
    result = Comparison(pd.DataFrame())
    rows: dict[Any, dict[str, Any]] = {}
    fits: dict[Any, Fit] = {}
    densities: dict[str, dict[Any, RowDensities]] = {"elpd": {}, "held_out": {}}
    grid = models is not None or isinstance(model, Mapping | list | tuple)
    for (name, one), (of, method) in product(several.items(), labelled.items()):
        index, program = (name, of) if grid else of, programs[name]
        try:
            if asked():
                raise FitError("not run: ended by Ctrl-C")
            if isinstance(program, ZooError):
                raise program
            fits[index] = fit(one, data, method=method, seed=seed, progress=progress, **options)
            keep()
            left_out, why = leave_one_out(fits[index])
            rows[index] = row(fits[index], left_out, why)
        except (Exception, KeyboardInterrupt) as failure:  # the others still run, and the row says what happened
            error = failure if isinstance(failure, Exception) else FitError("ended by Ctrl-C, with nothing so far")
            if error is not failure and not (fits and asked_once()):
                raise
            result.errors[label_of(index)] = error
            rows[index] = {"kind": "", "evidence_kind": "", "verdict": "", "note": _said(error)}
            continue
        result.fits[label_of(index)] = fits[index]
        if left_out is not None:
            densities["elpd"][index] = left_out
        if parts:
            unseen = _unseen(rows[index], one, program, method, parts, seed)
            densities["held_out"] |= {} if unseen is None else {index: unseen}
    for column, found in densities.items():
        for index, more in differences(column, found, fits).items():
            rows[index] |= more
    if relabel:
        of_reference = reference if isinstance(reference, Fit) else None
        by_model = [{label_of(i): f for i, f in fits.items() if not grid or i[0] == name} for name in several]
        for same, text in (matched(own, of_reference) for own in by_model):
            result.fits |= same
            result.labels = "\n".join(dict.fromkeys(filter(None, [*result.labels.splitlines(), text])))
    if truth is not None:
        for index in fits:
            _add_distance(rows[index], truth, result.fits[label_of(index)])
    keys = list(rows)
    labels = pd.MultiIndex.from_tuples(keys, names=["model", "method"]) if grid else pd.Index(keys)
    result.table = pd.DataFrame(list(rows.values()), index=labels).reindex(
        columns=[*COLUMNS[:-2], *([] if truth is None else DISTANCES), *COLUMNS[-2:]]
    )
    return result


def _unseen(row: dict[str, Any], *of: Any) -> RowDensities | None:
    """Density of the rows held out, which is put into a row of the table; None where it says why there is none."""
    try:
        unseen = held_out(*of)
        if asked():  # refits may have ended before their time
            raise FitError("ended by Ctrl-C")
    except Exception as error:  # a fit to fewer rows may break down where that to all did not
        row["note"] = "; ".join(filter(None, [row["note"], f"no held-out density: {_said(error)}"]))
        return None
    row |= {"held_out": unseen.elpd, "held_out_se": unseen.error}
    return unseen


def _programs(several: Mapping[Any, Model], data: Source, seed: int, options: Any) -> dict[Any, Program | ZooError]:
    """Return each model on the data, or what is wrong with that; what is wrong with all of them is said at once."""
    programs: dict[Any, Program | ZooError] = {}
    for name, one in several.items():
        try:
            with seeded(seed):
                programs[name] = prepare(one, data, **options)
        except (DataError, ModelError) as error:
            programs[name] = error
    wrong = [p for p in programs.values() if isinstance(p, ZooError)]
    if len(wrong) == len(programs):
        raise wrong[0]
    return programs


def _add_distance(row: dict[str, Any], truth: Reference, fitted: Fit) -> None:
    try:
        row |= truth.distance(fitted)
    except DataError as error:  # a model may have none of the scalars that another one has
        row["note"] = "; ".join(filter(None, [row["note"], str(error)]))


def _said(error: Exception) -> str:
    """Return the first line of an error."""
    text = str(error) if isinstance(error, ZooError) else f"{type(error).__name__}: {error}"
    return text.partition("\n")[0]


def _several(model: Models | None, models: Models | None) -> dict[Any, Model]:
    """Return models by label: their class, with what they were given where several are of one class."""
    given = model if models is None else models
    if given is None or (model is not None and models is not None):
        raise UnknownNameError(
            f"compare needs one model, or models=, a list or a dict from label to model; found model={model!r} and "
            f"models={models!r}"
        )
    if isinstance(given, Mapping):
        found = {label: as_model(one) for label, one in given.items()}
    elif isinstance(given, Sequence) and not isinstance(given, str):
        made = [as_model(one) for one in given]
        found = {}
        for one in made:
            name = type(one).__name__
            alike = [other for other in made if type(other).__name__ == name]
            label = stem = name if len(alike) == 1 else brief(one, alike)
            number = 2
            while label in found:
                label, number = f"{stem} {number}", number + 1
            found[label] = one
    else:
        return {"": as_model(given)} if models is None else {type(one := as_model(given)).__name__: one}
    if not found:
        raise UnknownNameError("models must not be empty: give a list of models, or a dict from label to model")
    return found


def _labelled(methods: Sequence[Any] | Mapping[str, Any]) -> dict[str, Method]:
    """Return methods by label: the name, numbered where two are the same."""
    if isinstance(methods, str) or not isinstance(methods, Sequence | Mapping) or not methods:
        raise UnknownNameError(
            "methods must be a list of methods or their names, or a dict from label to method, and must not be "
            f"empty; found {short(methods)}"
        )
    if isinstance(methods, Mapping):
        return {str(label): as_method(method) for label, method in methods.items()}
    labelled: dict[str, Method] = {}
    for given in methods:
        method = as_method(given)
        stem = label = offered_name(given)
        number = 2
        while label in labelled:
            label, number = f"{stem}_{number}", number + 1
        labelled[label] = method
    return labelled
