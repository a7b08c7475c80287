"""ArviZ: the one module that imports it. Python 3.12 and later have ArviZ 1.x; 3.11 has the same API as a preview."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import arviz_stats
import numpy as np
import pandas as pd
import xarray as xr

azs: Any = arviz_stats  # it fills its namespace at run time, which type checkers cannot see

if TYPE_CHECKING:
    az: Any


def __getattr__(name: str) -> Any:
    """Return ArviZ as `az`; its plots take a second to import, so it is when somebody asks for it."""
    if name == "az":
        return _arviz()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _arviz() -> Any:
    if sys.version_info >= (3, 12):
        import arviz
    else:
        import arviz.preview as arviz
    return arviz


def tree(
    groups: Mapping[str, Mapping[str, np.ndarray]],
    dims: Mapping[str, tuple[str, ...]],
    coords: Mapping[str, Any],
    attrs: Mapping[str, Any],
) -> xr.DataTree:
    """Build a DataTree from arrays.

    Parameters
    ----------
    groups
        Group name -> variable -> array. Variables of posterior, sample_stats and log_likelihood lead with (chain,
        draw).
    dims
        Variable -> names of its own dimensions.
    coords
        Dimension -> labels.
    attrs
        Noted on the tree.
    """
    sampled = (
        "posterior",
        "sample_stats",
        "log_likelihood",
        "posterior_predictive",
        "prior_sbc",
        "posterior_sbc",
    )
    datasets = {}
    for group, variables in groups.items():
        lead = ("chain", "draw") if group in sampled else ()
        data = {}
        for name, array in variables.items():
            own = dims.get(name, ())
            own = (*own, *(f"{name}_dim_{i}" for i in range(len(own), array.ndim - len(lead))))
            data[name] = ((*lead, *own[: array.ndim - len(lead)]), array)
        used = {d for d, _ in data.values() for d in d}
        labels = {d: np.asarray(v) for d, v in coords.items() if d in used}
        for dim in lead:
            size = next(iter(variables.values())).shape[lead.index(dim)]
            labels[dim] = np.arange(size)
        datasets[group] = xr.Dataset(data, coords=labels)
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs=dict(attrs)), **{f"/{g}": d for g, d in datasets.items()}})


def read_tree_summary(path: Path) -> pd.DataFrame:
    """Summarize the draws or the point of a NetCDF file."""
    with xr.open_datatree(path, engine="h5netcdf") as data:
        return summarize(data.load())


def read_tree(path: Path) -> xr.DataTree:
    """Read a NetCDF file into memory."""
    with xr.open_datatree(path, engine="h5netcdf") as data:
        return data.load()


def summarize(data: xr.DataTree) -> pd.DataFrame:
    """Summarize draws (mean, sd, intervals), or list the values of a point estimate.

    Draws of Markov chains come with their effective sizes, R-hat and Monte Carlo errors. States have no mean, so they
    are left out.
    """
    if "posterior" not in data.children:
        return listed(data["point_estimate"].to_dataset())
    draws = data["posterior"].to_dataset()
    numbers = xr.DataTree.from_dict({"/posterior": draws[[n for n, v in draws.items() if v.dtype.kind == "f"]]})
    with np.errstate(invalid="ignore"):  # R-hat of an entry that is always the same
        kind = "all" if "diverging" in data["sample_stats"] else "stats"
        return pd.DataFrame(azs.summary(numbers, kind=kind, round_to="none"))


def listed(data: xr.Dataset) -> pd.DataFrame:
    """One row per entry of each variable, labelled as ArviZ labels them, with its value."""
    rows = {}
    for name, array in data.data_vars.items():
        values = array.to_numpy()
        for at in np.ndindex(values.shape):
            where = ", ".join(
                str(array.coords[d].to_numpy()[i]) if d in array.coords else str(i)
                for d, i in zip(array.dims, at, strict=True)
            )
            rows[f"{name}[{where}]" if where else str(name)] = float(values[at])
    return pd.DataFrame({"value": pd.Series(rows, dtype=float)})


def split_rhat(draws: np.ndarray) -> np.ndarray:
    """Rank-normalized split R-hat over draws (chains, draws, ...), for each entry (Vehtari et al. 2021).

    NaN for an entry that a chain keeps.
    """
    with np.errstate(all="ignore"):
        return np.asarray(azs.rhat(draws, chain_axis=0, draw_axis=1))


def effective_sizes(draws: np.ndarray) -> np.ndarray:
    """Effective sample size over draws (chains, draws, ...), for each entry: of its bulk or its tails, the smaller."""
    with np.errstate(all="ignore"):  # an entry that one chain keeps
        bulk = azs.ess(draws, chain_axis=0, draw_axis=1, method="bulk")
        tail = azs.ess(draws, chain_axis=0, draw_axis=1, method="tail", prob=(0.05, 0.95))
    return np.asarray(np.minimum(bulk, tail))


def mcse_of_mean(draws: np.ndarray) -> float:
    """Monte Carlo standard error of the mean of draws (chains, draws)."""
    return float(azs.mcse(draws, chain_axis=0, draw_axis=1, method="mean"))


def psis(log_ratio: np.ndarray) -> tuple[np.ndarray, float]:
    """Pareto-smoothed log importance weights of log ratios log p - log q, and their Pareto shape."""
    array = xr.DataArray(
        -log_ratio[None, :], dims=("chain", "draw")
    )  # ArviZ takes log likelihoods: 1 / p is their ratio
    with np.errstate(all="ignore"):  # where one ratio outweighs all others by more than a float holds
        logs, shape = array.azstats.psislw(dim=["chain", "draw"])
    return logs.to_numpy()[0], float(shape)


@dataclass(frozen=True)
class RowDensities:
    """The log density that each row has under a fit that did not see it.

    Attributes
    ----------
    rows
        elpd_i = log p(x_i | other rows), shape (rows,).
    largest
        The largest Pareto shape of a row, where they come by importance sampling.
    """

    rows: np.ndarray
    largest: float = float("nan")

    @property
    def elpd(self) -> float:
        """Sum over the rows."""
        return float(self.rows.sum())

    @property
    def error(self) -> float:
        """Its standard error, sqrt(n var(elpd_i)) (Vehtari, Gelman and Gabry 2017, equation 23)."""
        # ArviZ 0.x and 1.x divide by n and by n - 1; here it is n - 1 in both.
        return float(np.sqrt(len(self.rows) * self.rows.var(ddof=1))) if len(self.rows) > 1 else float("nan")

    def below(self, best: RowDensities) -> tuple[float, float]:
        """Return how far the sum is below that of another fit, and sqrt(n var(difference_i)) (equation 24 there)."""
        difference = RowDensities(best.rows - self.rows)
        return difference.elpd, difference.error


def loo(data: xr.DataTree) -> RowDensities:
    """ELPD by PSIS-LOO, row by row; corrected for q where log q is known."""
    stats = data["sample_stats"]
    name = next(iter(data["log_likelihood"].data_vars))
    with warnings.catch_warnings():  # the largest Pareto shape is returned, and reported, instead
        warnings.simplefilter("ignore", UserWarning)
        corrected = "weight" in stats  # draws that were resampled by p / q are not to be weighed by it again
        if not corrected and float(np.ptp((stats["log_p"] - stats["log_q"]).to_numpy())) > 1e-8:
            found = azs.loo_approximate_posterior(
                data, log_p=stats["log_p"], log_q=stats["log_q"], var_name=name, pointwise=True
            )
        else:
            found = azs.loo(data, var_name=name, pointwise=True)
    return RowDensities(np.asarray(found.elpd_i).ravel(), float(np.max(np.asarray(found.pareto_k))))


def forest_plot(data: Mapping[str, xr.Dataset]) -> Any:
    """Draw intervals of several fits side by side; return ArviZ's `PlotCollection`."""
    trees = {label: xr.DataTree.from_dict({"/posterior": dataset}) for label, dataset in data.items()}
    return _arviz().plot_forest(trees if len(trees) > 1 else next(iter(trees.values())), backend="matplotlib")


def ecdf_plot(data: xr.DataTree, group: str) -> Any:
    """Draw ECDFs of numbers that should be uniform, less theirs, in their envelope; return a `PlotCollection`."""
    return _arviz().plot_ecdf_pit(data, group=group, backend="matplotlib")
