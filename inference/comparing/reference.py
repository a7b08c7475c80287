"""How far a fit is from what is taken as the truth: means, spreads and margins, in standard deviations of the truth."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from scipy.stats import wasserstein_distance

from inference.diagnostics.arviz import mcse_of_mean, read_tree
from inference.posterior.fit import Fit
from zoo.errors import DataError

ACCURATE = 0.1  # error of a mean, in standard deviations of the truth
COLUMNS = [
    "error_mean",
    "error_mean_se",
    "worst",
    "sd_ratio",
    "wasserstein",
    "gradients",
    "gradients_to_accuracy",
    "seconds_to_accuracy",
]


@dataclass(frozen=True)
class Margin:
    """One scalar of the truth, or of a fit.

    Attributes
    ----------
    mean, sd, error
        Mean, standard deviation (NaN of a point) and Monte Carlo standard error of the mean.
    draws
        Shape (chains, draws), None where there are none.
    """

    mean: float
    sd: float
    error: float
    draws: np.ndarray | None = None


@dataclass(frozen=True)
class Reference:
    """Scalars by label: of ArviZ (`theta[0]`, or names in place of numbers) or counted from one, as Stan does."""

    margins: Mapping[str, Margin]

    @classmethod
    def of(cls, given: Any) -> Reference:
        """Read a fit, a DataTree, a dict from variable to draws (chain, draw, ...), or a summary as a DataFrame.

        A summary has a row per scalar, labels in the index or in a column `parameter`, and columns mean, sd and, if it
        is known, mcse_mean: that of posteriordb, or what `az.summary` returns.

        Raises
        ------
        DataError
            If it is none of these.
        """
        if isinstance(given, Fit):
            return cls(margins_of(given))
        if isinstance(given, pd.DataFrame):
            return cls(_summary(given))
        if isinstance(given, xr.DataTree) and "posterior" in given.children:
            return cls(_of_draws(given["posterior"].to_dataset()))
        if isinstance(given, Mapping):
            draws = {str(n): np.asarray(v, dtype=float) for n, v in given.items()}
            short = next((n for n, v in draws.items() if v.ndim < 2), None)
            if not draws or short is not None:
                raise DataError(f"reference: draws must have dimensions (chain, draw, ...); {short!r} has fewer")
            data = {n: (("chain", "draw", *(f"{n}_{i}" for i in range(v.ndim - 2))), v) for n, v in draws.items()}
            return cls(_of_draws(xr.Dataset(data)))
        raise DataError(
            "reference must be a fit, an ArviZ DataTree with a posterior, a dict of draws or a summary with columns "
            f"mean and sd, not {type(given).__name__}"
        )

    def distance(self, fitted: Fit) -> dict[str, Any]:
        """Return the columns that say how far a fit is.

        Raises
        ------
        DataError
            If they have no scalar in common.
        """
        own = margins_of(fitted)
        pairs = {label: (margin, own[at]) for label, margin in self.margins.items() if (at := _found(label, own))}
        pairs = {label: pair for label, pair in pairs.items() if pair[0].sd > 0}
        if not pairs:
            raise DataError(
                f"reference: it is about {', '.join(list(self.margins)[:5])}, and the fit about "
                f"{', '.join(list(own)[:5])}; give it the model's names"
            )
        off = {label: abs(b.mean - a.mean) / a.sd for label, (a, b) in pairs.items()}
        worst = max(off, key=lambda label: off[label] if math.isfinite(off[label]) else math.inf)
        truth, mine = pairs[worst]
        ratios = [b.sd / a.sd for a, b in pairs.values() if b.sd > 0]
        drawn = [(a, b) for a, b in pairs.values() if a.draws is not None and b.draws is not None]
        distances = [wasserstein_distance(_flat(a), _flat(b)) / a.sd for a, b in drawn]
        until = _gradients(fitted, [(a, b.draws) for a, b in pairs.values() if b.draws is not None])
        if "seconds_to_accuracy" not in until:  # known at the end only
            until["seconds_to_accuracy"] = fitted.seconds if off[worst] < ACCURATE else math.nan
        return {
            "error_mean": off[worst],
            "error_mean_se": math.hypot(truth.error, mine.error) / truth.sd,
            "worst": worst,
            "sd_ratio": max(ratios, key=lambda r: abs(math.log(r))) if ratios else math.nan,
            "wasserstein": max(distances) if distances else math.nan,
            **until,
        }


def read(path: Path) -> Fit | xr.DataTree | pd.DataFrame:
    """Read what is taken as the truth: the folder of a saved fit, draws as .nc, or a summary as .csv or .parquet.

    Raises
    ------
    DataError
        If it is none of these.
    """
    wanted = "give a folder that a fit was saved to, a summary with columns mean and sd (.csv, .parquet) or draws (.nc)"
    if (path / "fit.json").exists():
        return Fit.load(path)
    inside = sorted(str(p.parent) for p in path.glob("*/fit.json"))
    if inside:
        raise DataError(f"reference: {path} holds several fits; give one of {', '.join(inside)}")
    suffix = path.suffix.lower()
    if not path.is_file() or suffix not in (".nc", ".csv", ".parquet"):
        what = "no saved fit, and no summary or draws" if path.exists() else "no such folder or file"
        raise DataError(f"reference: {path}: {what}; {wanted}")
    try:
        if suffix == ".nc":
            return read_tree(path)
        table = pd.read_parquet(path) if suffix == ".parquet" else pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise DataError(f"reference: {path} cannot be read ({error}); {wanted}") from error
    return table.set_index(table.columns[0]) if suffix == ".csv" and "parameter" not in table else table


def margins_of(fitted: Fit) -> dict[str, Margin]:
    """Return every scalar of a fit's posterior, or of its point, by ArviZ's label."""
    tree, found = fitted.posterior, {}
    if "point_estimate" in tree.children:
        point = tree["point_estimate"].to_dataset().expand_dims(chain=1, draw=1)
        found = {n: Margin(m.mean, math.nan, 0.0) for n, m in _of_draws(point).items()}
    return {**found, **(_of_draws(tree["posterior"].to_dataset()) if "posterior" in tree.children else {})}


def _of_draws(data: xr.Dataset) -> dict[str, Margin]:
    found = {}
    for name, array in data.data_vars.items():
        if array.dtype.kind != "f":  # states, whose means say nothing
            continue
        moved = array.transpose("chain", "draw", ...)
        values = moved.to_numpy()
        for at in np.ndindex(values.shape[2:]):
            draws = values[(slice(None), slice(None), *at)]
            label = ", ".join(
                str(moved.coords[d].to_numpy()[i]) if d in moved.coords else str(i)
                for d, i in zip(moved.dims[2:], at, strict=True)
            )
            several = draws.size > 1
            found[f"{name}[{label}]" if label else str(name)] = Margin(
                float(draws.mean()),
                float(draws.std(ddof=1)) if several else math.nan,
                mcse_of_mean(draws) if several else 0.0,
                draws if several else None,
            )
    return found


def _summary(table: pd.DataFrame) -> dict[str, Margin]:
    named = table.set_index("parameter") if "parameter" in table else table
    if not {"mean", "sd"} <= set(named.columns):
        raise DataError(f"reference: a summary has columns mean and sd; found {', '.join(map(str, table.columns))}")
    if not named.index.is_unique:
        again = named.index[named.index.duplicated()][0]
        raise DataError(f"reference: {again!r} has several rows; keep those of one posterior")
    errors = named["mcse_mean"] if "mcse_mean" in named else pd.Series(0.0, named.index)
    values = zip(named.index, named["mean"], named["sd"], errors, strict=True)
    # A scalar that Stan knows by number is counted from 0 here.
    labels = [(*_split(str(n)), float(m), float(s), float(e)) for n, m, s, e in values]
    first: dict[str, int] = {}
    for name, numbers, *_ in labels:
        if numbers:
            first[name] = min(first.get(name, 1), *numbers)
    found = {}
    for (name, numbers, m, s, e), plain in zip(labels, named.index, strict=True):
        label = f"{name}[{', '.join(str(i - first[name]) for i in numbers)}]" if numbers else str(plain)
        found[label] = Margin(m, s, e)
    return found


def _split(label: str) -> tuple[str, tuple[int, ...]]:
    """Return "theta", (1, 2) of "theta[1,2]"; no numbers where there are none."""
    parts = re.fullmatch(r"(.+)\[\s*(\d+(?:\s*,\s*\d+)*)\s*\]", label)
    return (parts[1], tuple(int(i) for i in parts[2].split(","))) if parts else (label, ())


def _found(label: str, own: Mapping[str, Margin]) -> str:
    """Return a fit's label of a scalar: the same, or where it has names, the one that is as many entries on."""
    if label in own:
        return label
    name, numbers = _split(label)
    entries = [n for n in own if n.startswith(f"{name}[")]
    return entries[numbers[0]] if len(numbers) == 1 and numbers[0] < len(entries) else ""


def _flat(margin: Margin) -> np.ndarray:
    assert margin.draws is not None
    return margin.draws.ravel()


def _gradients(fitted: Fit, drawn: list[tuple[Margin, np.ndarray]]) -> dict[str, float]:
    """Return gradients of the log density after warm-up, of chains that count them, and how many until all means hold.

    They hold when the means of all draws so far are within 0.1 standard deviations of the truth, and stay so; and the
    seconds until then, warm-up included. NaN where that cannot be measured.
    """
    groups = fitted.posterior.children
    if not drawn or "sample_stats" not in groups or "n_steps" not in groups["sample_stats"]:
        return {"gradients": math.nan, "gradients_to_accuracy": math.nan}
    counts = (
        np.asarray(groups["sample_stats"]["n_steps"]).sum(0).cumsum()
    )  # over the chains, which run side by side; (draws,)
    so_far = np.arange(1, len(counts) + 1)
    near = np.ones(len(counts), dtype=bool)
    for truth, draws in drawn:
        running = draws.mean(0).cumsum() / so_far
        near &= np.abs(running - truth.mean) < ACCURATE * truth.sd
    away = np.flatnonzero(~near)
    first = 0 if len(away) == 0 else int(away[-1]) + 1
    reached = float(counts[first]) if first < len(counts) else math.nan
    made, trace = first + 1 + int(getattr(fitted.method, "warmup", 0)), fitted.trace
    seconds = float(np.interp(made, trace["step"], trace["seconds"])) if first < len(counts) else math.nan
    return {"gradients": float(counts[-1]), "gradients_to_accuracy": reached, "seconds_to_accuracy": seconds}
