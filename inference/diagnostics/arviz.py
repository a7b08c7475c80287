"""ArviZ: the one module that imports it. Python 3.12 and later have ArviZ 1.x; 3.11 has the same API as a preview."""

from __future__ import annotations

import math
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

FEWEST_DRAWS = 8  # of a chain from which anything can be said of it
ENOUGH = 0.99  # effective draws to a draw, above which importance ratios are as good as constant
TENTH = 0.1  # effective draws to a draw, from which on ratios with ties are trusted
KHAT_GOOD = 0.7  # largest Pareto shape at which importance ratios can be trusted (Vehtari et al. 2024)

if TYPE_CHECKING:
    az: Any

__all__ = ["KHAT_GOOD", "az", "elpd_loo", "khat", "rhat", "summarize", "tree"]


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
    sampled = ("posterior", "sample_stats", "log_likelihood", "posterior_predictive")
    found = {}
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
        found[group] = xr.Dataset(data, coords=labels)
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs=dict(attrs)), **{f"/{g}": d for g, d in found.items()}})


def read_tree_summary(path: Path) -> pd.DataFrame:
    """Summarize the draws or the point of a NetCDF file."""
    with xr.open_datatree(path, engine="h5netcdf") as data:
        return summarize(data.load())


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


@dataclass(frozen=True)
class ChainCheck:
    """Whether chains agree and how much their draws are worth.

    Attributes
    ----------
    rhat, worst_rhat
        Largest rank-normalized split R-hat (Vehtari et al. 2021), and the entry it belongs to.
    ess, worst_ess
        Smallest effective sample size, of the bulk or the tails, and the entry it belongs to.
    """

    rhat: float
    worst_rhat: str
    ess: float
    worst_ess: str

    @property
    def praise(self) -> str:
        """Say that all is well."""
        return f"R-hat at most {self.rhat:.3f}, effective sample sizes at least {self.ess:.0f}"


def check_chains(draws: Mapping[str, np.ndarray]) -> ChainCheck:
    """R-hat and effective sample sizes over all entries of draws (chains, draws, ...); what never changes is left out.

    A chain on its own is checked in halves.
    """
    rhat, ess = (float("nan"), ""), (float("nan"), "")
    for name, array in draws.items():
        flat = array.reshape(*array.shape[:2], -1)
        moves = np.flatnonzero(np.ptp(flat, axis=(0, 1)) > 0)
        if flat.shape[1] < FEWEST_DRAWS or not len(moves):
            continue
        flat = flat[..., moves]
        with np.errstate(all="ignore"):  # an entry that one chain keeps
            found = azs.rhat(_halves(flat), chain_axis=0, draw_axis=1)
            bulk = azs.ess(flat, chain_axis=0, draw_axis=1, method="bulk")
            tail = azs.ess(flat, chain_axis=0, draw_axis=1, method="tail", prob=(0.05, 0.95))
        found, least = np.nan_to_num(found, nan=np.inf), np.nan_to_num(np.minimum(bulk, tail), nan=0.0)

        def label(at: int, name: str = name, array: np.ndarray = array, moves: np.ndarray = moves) -> str:
            where = np.unravel_index(moves[at], array.shape[2:])
            return f"{name}[{', '.join(str(int(i)) for i in where)}]" if array.ndim > 2 else name

        top, low = int(np.argmax(found)), int(np.argmin(least))
        rhat = rhat if rhat[0] >= found[top] else (float(found[top]), label(top))
        ess = ess if ess[0] <= least[low] else (float(least[low]), label(low))
    return ChainCheck(*rhat, *ess)


def _halves(draws: np.ndarray) -> np.ndarray:
    """A single chain as two."""
    if len(draws) > 1:
        return draws
    half = draws.shape[1] // 2
    return draws[0, : 2 * half].reshape(2, half, *draws.shape[2:])


def mean_error(draws: np.ndarray) -> float:
    """Monte Carlo standard error of the mean of draws (chains, draws)."""
    if draws.shape[1] < FEWEST_DRAWS:
        return float(draws.std() / np.sqrt(draws.size))
    return float(azs.mcse(draws, chain_axis=0, draw_axis=1, method="mean"))


def khat(log_ratio: np.ndarray) -> float:
    """Pareto shape of importance ratios log p - log q: below 0.7, q is close enough to p to be corrected.

    Yao et al. (2018), "Yes, but did it work?". NaN if all ratios are the same: q is exact. 0 if they are so nearly the
    same that the draws are worth 99 % of as many from p: the shape would be that of differences which do not matter.
    Where most of the largest ratios are equal, as those of counts are, no Pareto distribution fits: it is 0 if the
    draws are worth at least a tenth of as many from p, else infinite.
    """
    if np.ptp(log_ratio) < 1e-8 * max(1.0, float(np.abs(log_ratio).max())):
        return float("nan")
    ratio = np.exp(log_ratio - log_ratio.max())
    if ratio.sum() ** 2 >= ENOUGH * len(ratio) * np.square(ratio).sum():
        return 0.0
    if _tied(log_ratio):
        return 0.0 if ratio.sum() ** 2 >= TENTH * len(ratio) * np.square(ratio).sum() else float("inf")
    array = xr.DataArray(-log_ratio[None, :], dims=("chain", "draw"))
    with np.errstate(all="ignore"):  # where one ratio outweighs all others by more than a float holds
        _, shape = array.azstats.psislw(dim=["chain", "draw"])  # it takes log likelihoods, whose ratio is 1 / p
    return float(shape) if np.isfinite(shape) else float("inf")


def _tied(log_ratio: np.ndarray) -> bool:
    """Whether the tail that a Pareto distribution is fitted to has few different values."""
    count = math.ceil(min(0.2 * len(log_ratio), 3 * math.sqrt(len(log_ratio))))  # Vehtari et al. 2024, section 3
    return 2 * len(np.unique(np.sort(log_ratio)[-count:])) < count


def rhat(draws: np.ndarray) -> float:
    """Rank-normalized split R-hat of one quantity, draws of shape (chains, draws) (Vehtari et al. 2021)."""
    array = xr.DataArray(draws, dims=("chain", "draw"))
    return float(array.azstats.rhat())


def smoothed(log_ratio: np.ndarray) -> tuple[np.ndarray, float]:
    """Pareto-smoothed importance weights, summing to 1 (Vehtari et al. 2024), and k-hat as by `khat`."""
    least = log_ratio[np.isfinite(log_ratio)].min() - 700.0  # as good as 0, where p is
    ratio = np.maximum(log_ratio, least)
    logs, shape = ratio, khat(ratio)
    if np.isfinite(shape) and not _tied(ratio):  # else there is no tail to smooth
        array = xr.DataArray(-ratio[None, :], dims=("chain", "draw"))
        with np.errstate(all="ignore"):
            logs = array.azstats.psislw(dim=["chain", "draw"])[0].to_numpy()[0]
    weights = np.exp(logs - logs.max())
    return weights / weights.sum(), shape


def khat_note(shape: float) -> str:
    """Say what a large Pareto shape of an approximation means."""
    return (
        f"khat {shape:.2f} > {KHAT_GOOD}: the ratios of posterior to approximation have a heavy tail, so the "
        "approximation may miss part of the posterior"
    )


def elpd_loo(data: xr.DataTree) -> tuple[float, float, float]:
    """ELPD by PSIS-LOO, its standard error, and the largest Pareto shape; corrected for q where log q is known.

    The standard error is sqrt(n var(elpd_i)) (Vehtari, Gelman and Gabry 2017, equation 23).
    """
    with warnings.catch_warnings():  # the largest Pareto shape is returned, and reported, instead
        warnings.simplefilter("ignore", UserWarning)
        return _elpd_loo(data)


def _elpd_loo(data: xr.DataTree) -> tuple[float, float, float]:
    stats = data["sample_stats"]
    name = next(iter(data["log_likelihood"].data_vars))
    if float(np.ptp((stats["log_p"] - stats["log_q"]).to_numpy())) > 1e-8:
        found = azs.loo_approximate_posterior(
            data, log_p=stats["log_p"], log_q=stats["log_q"], var_name=name, pointwise=True
        )
    else:
        found = azs.loo(data, var_name=name, pointwise=True)
    rows = np.asarray(found.elpd_i).ravel()  # ArviZ 0.x and 1.x divide by n and by n - 1; here it is n - 1 in both
    error = float(np.sqrt(len(rows) * rows.var(ddof=1))) if len(rows) > 1 else float("nan")
    return float(found.elpd), error, float(np.max(np.asarray(found.pareto_k)))


def forest_plot(data: Mapping[str, xr.Dataset]) -> Any:
    """Draw intervals of several fits side by side; return ArviZ's `PlotCollection`."""
    trees = {label: xr.DataTree.from_dict({"/posterior": dataset}) for label, dataset in data.items()}
    return _arviz().plot_forest(trees if len(trees) > 1 else next(iter(trees.values())), backend="matplotlib")
