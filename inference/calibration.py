"""Calibration: whether posteriors of simulated data hold what they say."""

from __future__ import annotations

import html
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr

from inference.diagnostics.arviz import Group, ecdf_plot, read_tree, tree
from inference.diagnostics.coordinates import event_names, labels_of
from inference.diagnostics.uniformity import coverage, holm, p_value, shape_of
from inference.method import Method, as_method
from inference.posterior.fit import Fit, as_fit
from inference.posterior.folder import read
from inference.posterior.questions.arguments import positive
from inference.runtime.monitor import Told
from inference.runtime.random import as_seed, seeded
from inference.runtime.warned import warned_once
from inference.runtime.whole import as_path, whole_file
from inference.simulated.quantities import Function, Quantities
from inference.simulated.ranks import Refit
from inference.simulated.refits import Refits, cores
from inference.simulated.truths import Truths
from zoo.data.bind import Source
from zoo.data.match import Columns
from zoo.declare.function import ModelLike
from zoo.errors import DataError, FitError, MethodError
from zoo.program.prepare import as_model, prepare
from zoo.program.program import Program
from zoo.structure.failures import naming_lines

DOUBT = 0.05  # p-value below which more simulations are worth their time
LEVEL = 0.002  # at which departures are alarms: of 100 clean runs more than one then has one in 2 % of cases
BROKEN = 0.05  # share of refits that may break down; more, and ranks of the others say little
INTERVALS = (0.5, 0.9)


@dataclass(frozen=True)
class Calibration:
    """Ranks of true values among the draws of refits of data simulated from them.

    Where the method is right these are uniform, for every quantity (Cook, Gelman and Rubin 2006; Talts et al. 2018).

    Attributes
    ----------
    tree
        ArviZ group "prior_sbc" ("posterior_sbc" for the posterior form): quantity -> normalized ranks in (0, 1), dims
        (chain, draw, ...), a draw for each simulation. ``az.plot_ecdf_pit(c.tree)`` draws it, as `plot` does.
    failures
        What broke refits down, which have no ranks.
    about
        What was calibrated: "model", "method", "seed", "simulations", "seconds", "sorted" (quantities whose entries are
        sorted, because labels of exchangeable states mean nothing).

    Examples
    --------
    >>> import zoo
    >>> from inference import calibrate
    >>> found = calibrate(zoo.BetaBernoulli(), "exact", like=[1, 0, 1, 1, 0, 1], simulations=20, seed=0)
    >>> list(found.ranks.columns)
    ['p', 'log_joint', 'log_likelihood']
    """

    tree: xr.DataTree
    failures: tuple[str, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def group(self) -> str:
        """Name of the group of ranks.

        Examples
        --------
        >>> import zoo
        >>> from inference import calibrate
        >>> checked = calibrate(zoo.BetaBernoulli(), "exact", like=[1, 0, 1, 1, 0, 1], simulations=20, seed=0)
        >>> checked.group
        'prior_sbc'
        """
        return next(iter(self.tree.children))

    @property
    def ranks(self) -> pd.DataFrame:
        """Normalized ranks: a row for each simulation that was refitted, a column for each scalar.

        Examples
        --------
        >>> import zoo
        >>> from inference import calibrate
        >>> checked = calibrate(zoo.BetaBernoulli(), "exact", like=[1, 0, 1, 1, 0, 1], simulations=20, seed=0)
        >>> checked.ranks.shape
        (20, 3)
        """
        return pd.DataFrame(dict(_scalars(self.tree[self.group].to_dataset())))

    @property
    def table(self) -> pd.DataFrame:
        """One row per scalar.

        p_value
            That ranks are uniform, by the simultaneous envelope of their ECDF.
        adjusted
            The same, for the number of scalars (Holm 1979): an alarm below 0.002.
        holds_50, holds_90
            Share of simulations whose central 50 % and 90 % intervals hold the true value.
        reading
            What the ranks say of the draws, where there is an alarm.

        Examples
        --------
        >>> import zoo
        >>> from inference import calibrate
        >>> checked = calibrate(zoo.BetaBernoulli(), "exact", like=[1, 0, 1, 1, 0, 1], simulations=20, seed=0)
        >>> checked.table.index.tolist()
        ['p', 'log_joint', 'log_likelihood']
        """
        ranks = self.ranks
        p = np.array([p_value(v.to_numpy()) for _, v in ranks.items()])
        adjusted = holm(p)
        rows = {
            name: {
                "p_value": p[i],
                "adjusted": adjusted[i],
                **{f"holds_{100 * level:.0f}": coverage(v.to_numpy(), level) for level in INTERVALS},
                "reading": shape_of(v.to_numpy()) if adjusted[i] < LEVEL else "",
            }
            for i, (name, v) in enumerate(ranks.items())
        }
        return pd.DataFrame.from_dict(rows, orient="index")

    @property
    def alarm(self) -> bool:
        """Whether ranks of some quantity are not uniform.

        Examples
        --------
        >>> import zoo
        >>> from inference import calibrate
        >>> checked = calibrate(zoo.BetaBernoulli(), "exact", like=[1, 0, 1, 1, 0, 1], simulations=20, seed=0)
        >>> checked.alarm
        False
        """
        return bool((self.table["adjusted"] < LEVEL).any())

    @property
    def verdict(self) -> str:
        """In words, whether the method is calibrated, and how draws differ where it is not.

        Examples
        --------
        >>> import zoo
        >>> from inference import calibrate
        >>> checked = calibrate(zoo.BetaBernoulli(), "exact", like=[1, 0, 1, 1, 0, 1], simulations=20, seed=0)
        >>> checked.verdict.partition(" in ")[0]
        'no fault found'
        """
        return self._verdict(self.table)

    def _verdict(self, table: pd.DataFrame) -> str:
        refits = len(self.ranks)
        broken = len(self.failures) / (refits + len(self.failures))
        worst = table["adjusted"].idxmin()
        least = float(table["adjusted"].min())
        p = f"smallest adjusted p-value {least:.2g}, of {worst} (an alarm is one below {LEVEL:g})"
        alarms = table[table["adjusted"] < LEVEL].sort_values("p_value")
        if len(alarms):
            readings = [
                f"{name}: {row['reading']} (its 90 % intervals hold {100 * row['holds_90']:.0f} % of true values)"
                for name, row in alarms.head(3).iterrows()
            ]
            more = f"; and {len(alarms) - 3} more" if len(alarms) > 3 else ""
            words = f"not calibrated: {'; '.join(readings)}{more}; {p}"
        elif broken > BROKEN:
            words = f"cannot be said: too many refits broke down, and the others are no fair sample; {p}"
        else:
            words = f"no fault found in {refits} refits of simulated data; {p}"
            words += "; more simulations would tell" if least < DOUBT else ""
        if self.failures:
            words += f". {len(self.failures)} of {refits + len(self.failures)} refits broke down: {self.failures[0]}"
        return words

    def __str__(self) -> str:
        """The table and the verdict as text."""
        table, about = self.table, self.about
        lines = [
            f"Calibration of {about.get('method', 'a method')} on {about.get('model', 'a model')}",
            f"  {self._form()}, {len(self.ranks)} refits ({about.get('seconds', 0.0):.0f} s, seed {about.get('seed')})",
            "",
            *(line.rstrip() for line in _shown(table).to_string().splitlines()),
            "",
            self._verdict(table),
        ]
        return "\n".join([*lines, *self._notes()])

    __repr__ = __str__

    def _form(self) -> str:
        prior = self.group == "prior_sbc"
        return "true values from the prior" if prior else "true values from the posterior given the data"

    def _notes(self) -> list[str]:
        names = self.about.get("sorted", [])
        return [f"Sorted, because labels of exchangeable states mean nothing: {', '.join(names)}"] if names else []

    def _repr_html_(self) -> str:
        table = self.table
        words = "".join(f"<p>{html.escape(line)}</p>" for line in (self._verdict(table), *self._notes()))
        return f"{_shown(table).to_html()}{words}"

    def plot(self) -> Any:
        """Draw the ECDF of the ranks less that of uniform ones, in their envelope; return ArviZ's `PlotCollection`.

        Examples
        --------
        >>> import zoo
        >>> from inference import calibrate
        >>> checked = calibrate(zoo.BetaBernoulli(), "exact", like=[1, 0, 1, 1, 0, 1], simulations=20, seed=0)
        >>> type(checked.plot()).__name__
        'PlotCollection'
        """
        return ecdf_plot(self.tree, self.group)

    def save(self, folder: str | Path) -> Path:
        """Write the ranks as NetCDF, the table as CSV and what was calibrated as JSON; return the folder.

        Examples
        --------
        >>> import tempfile
        >>> import zoo
        >>> from inference import Calibration, calibrate
        >>> checked = calibrate(zoo.BetaBernoulli(), "exact", like=[1, 0, 1, 1, 0, 1], simulations=20, seed=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sorted(p.name for p in checked.save(f"{folder}/coin").iterdir())
        ['calibration.json', 'calibration.nc', 'table.csv']
        """
        place = as_path(folder, "save(folder)")
        table = self.table
        told = {**self.about, "failures": list(self.failures), "verdict": self._verdict(table)}
        with whole_file(place / "calibration.nc") as new:
            self.tree.to_netcdf(new, engine="h5netcdf")
        with whole_file(place / "table.csv") as new:
            table.to_csv(new, index_label="quantity")
        with whole_file(place / "calibration.json") as new:
            new.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        return place

    @classmethod
    def load(cls, folder: str | Path) -> Calibration:
        """Read what `save` wrote.

        Raises
        ------
        DataError
            If the folder holds no calibration.

        Examples
        --------
        >>> import tempfile
        >>> import zoo
        >>> from inference import Calibration, calibrate
        >>> checked = calibrate(zoo.BetaBernoulli(), "exact", like=[1, 0, 1, 1, 0, 1], simulations=20, seed=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     again = Calibration.load(checked.save(f"{folder}/coin"))
        >>> again.alarm == checked.alarm
        True
        """
        place = as_path(folder, "Calibration.load(folder)")
        about = read(place / "calibration.json", lambda p: json.loads(p.read_text(encoding="utf-8")))
        tree = read(place / "calibration.nc", read_tree)
        try:
            failures = tuple(about.pop("failures"))
            about.pop("verdict")
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{place / 'calibration.json'} is damaged: it lacks {error}") from error
        return cls(tree, failures, about)


@naming_lines()
@warned_once()
def calibrate(
    model: ModelLike | str | None = None,
    method: Method | type[Method] | str = "exact",
    *,
    like: Source | None = None,
    posterior: Fit | None = None,
    simulations: int = 200,
    quantities: Mapping[str, Function] | Sequence[str] | None = None,
    seed: int | None = None,
    processes: int | None = None,
    folder: str | Path | None = None,
    weights: Any = None,
    columns: Columns | None = None,
    dtype: torch.dtype | None = None,
    progress: Told | bool = True,
) -> Calibration:
    """Check by simulation that true values are just another draw from what a method takes for their posterior.

    theta' ~ p(theta), x' ~ p(x | theta'), theta_1, ..., theta_L ~ q(theta | x'): the rank of f(theta', x') among
    f(theta_l, x') is uniform for every f if q is the posterior (Talts et al. 2018). Quantities f are all entries of the
    global latents, the log joint density and the log likelihood (Modrák et al. 2023), and what you add.

    With `posterior`, theta' are draws from a fit given real data y, and each refit sees y and new rows x' beside them:
    that asks whether the method is right where these data are, which a wide prior hardly visits (Säilynoja et al.
    2025). It takes the fit's draws for right; a fit that is too narrow shows as well.

    Parameters
    ----------
    model
        As for `fit`. Left out with `posterior`, it is the fit's.
    method
        One that gives draws, with its settings, or its name.
    like
        Data as for `fit`: their shapes, covariates, labels and missing cells are those of the simulated data; values of
        what the model explains are not looked at, except for priors that scale with the data. Left out with
        `posterior`, it is the fit's data.
    posterior
        A fit of the model, whose draws are the truths.
    simulations
        How many. Shares in the tails are known to sqrt(0.09 / simulations): 200 show gross faults, 1000 fine ones.
    quantities
        Functions to add, ``{"range": lambda latents, data: ...}``, of dicts of tensors; or the names to keep.
    seed
        Fixes all randomness, whatever the number of processes; None draws one.
    processes
        How many refit; None for one on each core. One on machines with a GPU, and where a process cannot be forked.
    folder
        Where each block of refits is written as it is done. A run that was interrupted goes on from there, and ends as
        one that was not. The result is saved there, too.
    weights
        As for `fit`; whole numbers, for a row of weight w is simulated as w rows.
    columns, dtype
        As for `fit`.
    progress
        Show a progress bar on a terminal.

    Returns
    -------
    Calibration

    Raises
    ------
    MethodError
        If the method is not legal for the model.
    ModelError
        If data cannot be simulated from it: parameters without a prior, or sites that observe no field.
    FitError
        If the method gives points, or every refit breaks down.

    Examples
    --------
    >>> from inference import calibrate
    >>> result = calibrate("beta_bernoulli", "exact", like=[0, 1, 1, 0, 1], simulations=50, seed=0, processes=1)
    >>> result.alarm
    False
    """
    method, seed, began = as_method(method), as_seed(seed), time.perf_counter()
    simulations = positive("calibrate(simulations)", simulations)
    processes = None if processes is None else positive("calibrate(processes)", processes)
    if simulations < 2:
        raise MethodError(f"calibrate needs simulations=2 or more, not {simulations}")
    with seeded(seed):
        program = _program(model, like, posterior, dtype, {"weights": weights, "columns": columns})
        method.check(program)
        truths = Truths(program, posterior)
        chosen = Quantities(truths.program, quantities)
    place = None if folder is None else as_path(folder, "calibrate(..., folder=...)")
    refits = Refits(truths, method, chosen, seed)
    results = refits.run(simulations, processes=processes or cores(), folder=place, progress=progress)
    failures = tuple(r.failure for r in results if r.failure)
    if len(failures) == len(results):
        raise FitError(f"calibrate: every refit broke down. {failures[0]}")
    about = {
        "model": repr(program.model),
        "method": _told(method),
        "seed": seed,
        "simulations": simulations,
        "sorted": chosen.sorted,
        "seconds": time.perf_counter() - began,
    }
    group = "prior_sbc" if posterior is None else "posterior_sbc"
    result = Calibration(_tree(truths.program, results, group, about), failures, about)
    if place is not None:
        result.save(place)
    return result


def _program(
    model: ModelLike | str | None,
    like: Source | None,
    posterior: Fit | None,
    dtype: torch.dtype | None,
    options: Mapping[str, Any],
) -> Program:
    """The program on the data that simulated ones are to be like, with a model of its own."""
    if posterior is None:
        if model is None or like is None:
            raise DataError("calibrate needs a model and like=data, whose shapes and covariates simulated data have")
        return prepare(model, like, device="cpu" if not torch.cuda.is_available() else "auto", dtype=dtype, **options)
    given = {"like": like, "dtype": dtype, **options}
    if any(value is not None for value in given.values()):
        raise DataError(f"calibrate: with posterior=fit the data are those of the fit; leave out {', '.join(given)}")
    posterior = as_fit(posterior, "calibrate(method=..., posterior=fit(model, data, method=...))")
    if model is not None and repr(as_model(model)) != repr(posterior.model):
        raise DataError(f"calibrate: posterior is a fit of {posterior.model!r}, not of {as_model(model)!r}")
    return posterior.program


def _told(method: Any) -> str:
    """The method with what is not at its defaults."""
    given = []
    for f in fields(method):
        usual = f.default if f.default_factory is MISSING else f.default_factory()
        if (value := getattr(method, f.name)) != usual:
            given.append(f"{f.name}={value!r}")
    return f"{type(method).__name__}({', '.join(given)})"


def _tree(program: Program, results: Sequence[Refit], group: str, about: Mapping[str, Any]) -> xr.DataTree:
    """Ranks as an ArviZ group, a draw for each refit."""
    done = [r.ranks for r in results if not r.failure]
    arrays = {n: np.stack([r[n] for r in done])[None] for n in done[0]}
    dims = {
        n: event_names(program, program.sites[n])
        for n, v in arrays.items()
        if n in program.sites and v.shape[2:] == program.sites[n].shape
    }
    attributes = {n: about[n] for n in ("model", "method", "seed", "simulations")}
    return tree({group: Group(arrays, dims)}, labels_of(program, dims), {"created_by": "latentzoo", **attributes})


def _scalars(data: xr.Dataset) -> list[tuple[str, np.ndarray]]:
    """Ranks of each scalar, (simulations,), with its label."""
    found = []
    for name, array in data.data_vars.items():
        values = array.to_numpy()[0]
        for at in np.ndindex(values.shape[1:]):
            labels = [
                str(array.coords[d].to_numpy()[i]) if d in array.coords else str(i)
                for d, i in zip(array.dims[2:], at, strict=True)
            ]
            found.append((f"{name}[{', '.join(labels)}]" if labels else str(name), values[:, *at]))
    return found


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    """The table as it is printed."""
    shown = table.astype(object)
    for column in ("p_value", "adjusted"):
        shown[column] = [f"{v:.2g}" for v in table[column]]
    for column in ("holds_50", "holds_90"):
        shown[column] = [f"{100 * v:.0f} %" for v in table[column]]
    return shown if any(table["reading"]) else shown.drop(columns="reading")
