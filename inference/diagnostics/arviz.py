"""ArviZ: the one module that imports it. Python 3.12 and later have ArviZ 1.x; 3.11 has the same API as a preview."""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import arviz_base
import numpy as np
import pandas as pd
import xarray as xr

from inference.diagnostics.contained import check_contained
from inference.diagnostics.coordinates import entry_name
from inference.diagnostics.deferred import Deferred
from inference.diagnostics.summary import Summary

azb: Any = arviz_base

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


def _stats() -> Any:
    """Return ArviZ's statistics; SciPy's, which they build on, take most of a second to import."""
    import arviz_stats

    return arviz_stats


WITHOUT_DRAWS = ("point_estimate", "shifts")  # groups besides those of data


class Group(NamedTuple):
    """One group of an ArviZ tree.

    Attributes
    ----------
    variables
        Name -> array; one that is `Deferred` is worked out when it is looked at. Variables lead with (chain, draw),
        but in groups of data and of a point estimate.
    dims
        Variable -> names of its own dimensions, from the left; those that are left get a name of their own.
    coords
        Dimension -> labels, where they differ from those of other groups.
    attrs
        Noted on the group.
    notes
        Variable -> what is noted on it.
    """

    variables: Mapping[str, np.ndarray | Deferred]
    dims: Mapping[str, tuple[str, ...]]
    coords: Mapping[str, Any] = MappingProxyType({})
    attrs: Mapping[str, Any] = MappingProxyType({})
    notes: Mapping[str, str] = MappingProxyType({})


def tree(groups: Mapping[str, Group], coords: Mapping[str, Any], attrs: Mapping[str, Any]) -> xr.DataTree:
    """Build a DataTree by `arviz_base.from_dict`: every dimension has labels, 0, 1, ... where there are no others.

    Parameters
    ----------
    groups
        Name -> group.
    coords
        Dimension -> labels.
    attrs
        Noted on the tree.
    """
    parts = {f"/{name}": _dataset(name, group, coords) for name, group in groups.items()}
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs=dict(attrs)), **parts})


def _dataset(name: str, group: Group, coords: Mapping[str, Any]) -> xr.Dataset:
    alone = name.endswith("_data") or name in WITHOUT_DRAWS
    lead = () if alone else ("chain", "draw")
    arrays = {n: v.placeholder() if isinstance(v, Deferred) else v for n, v in group.variables.items()}
    dims = {}
    for variable, array in arrays.items():
        own = group.dims.get(variable, ())[: array.ndim - len(lead)]
        dims[variable] = [*own, *(f"{variable}_dim_{i}" for i in range(len(own), array.ndim - len(lead)))]
    made = azb.from_dict(
        {name: arrays},
        sample_dims=list(lead),
        coords={d: np.asarray(v) for d, v in {**coords, **group.coords}.items()},
        dims=dims,
        check_conventions=False,  # a single draw of several chains is no mistake here
    )
    data: xr.Dataset = made[name].to_dataset()
    for variable, values in group.variables.items():
        if isinstance(values, Deferred):
            data[variable] = xr.Variable(data[variable].dims, values.lazy())
    for variable, note in group.notes.items():
        data[variable].attrs["note"] = note
    data.attrs = dict(group.attrs)  # without the time of day, so that the same seed gives the same bytes
    return data


def read_tree_summary(path: Path) -> Summary:
    """Summarize the draws or the point of a NetCDF file."""
    check_contained(path)
    with xr.open_datatree(path, engine="h5netcdf") as data:
        return summarize(data.load())


def read_tree(path: Path) -> xr.DataTree:
    """Read a NetCDF file into memory."""
    check_contained(path)
    with xr.open_datatree(path, engine="h5netcdf") as data:
        return data.load()


def summarize(data: xr.DataTree) -> Summary:
    """Summarize draws (mean, sd, intervals), or list the values of a point estimate.

    Draws of Markov chains come with their effective sizes, R-hat and Monte Carlo errors. States have no mean, so they
    are left out; of nothing but states, the table has the most frequent one of each entry and its share of the draws.
    """
    if "posterior" not in data.children:
        point = data["point_estimate"].to_dataset() if "point_estimate" in data.children else xr.Dataset()
        table = Summary(listed(point))
        if "standard_error" in data.children:
            errors = data["standard_error"].to_dataset()
            if errors.data_vars:
                table["se"] = listed(errors)["value"].reindex(table.index)
            table.attrs["note"] = errors.attrs["note"]
        return table
    draws = data["posterior"].to_dataset()
    if all(v.dtype.kind != "f" for v in draws.values()):
        return Summary(_states(draws))
    numbers = xr.DataTree.from_dict({"/posterior": draws[[n for n, v in draws.items() if v.dtype.kind == "f"]]})
    with np.errstate(invalid="ignore"):  # R-hat of an entry that is always the same
        kind = "all" if "diverging" in data["sample_stats"] else "stats"
        return Summary(_stats().summary(numbers, kind=kind, round_to="none"))


def _states(draws: xr.Dataset) -> pd.DataFrame:
    """The state that most draws are in, for each entry of each variable: its share of them, and its standard error."""
    made = {}
    for name, values in draws.items():
        stacked = values.stack(all=("chain", "draw")).transpose("all", ...)
        counts = np.stack([(stacked == k).sum("all") for k in range(int(stacked.max()) + 1)])
        made[name] = xr.Dataset(
            {"state": (stacked.dims[1:], counts.argmax(0)), "share": (stacked.dims[1:], counts.max(0) / len(stacked))},
            {d: values[d] for d in stacked.dims[1:]},
        )
    table = pd.DataFrame(
        {of: listed(xr.Dataset({n: one[of] for n, one in made.items()}))["value"] for of in ("state", "share")}
    )
    count = draws.sizes["chain"] * draws.sizes["draw"]
    table["mcse"] = np.sqrt(table["share"] * (1 - table["share"]) / count)
    return table.astype({"state": int})


def listed(data: xr.Dataset) -> pd.DataFrame:
    """One row per entry of each variable, labelled as ArviZ labels them, with its value."""
    rows = {}
    for name, array in data.data_vars.items():
        values = array.to_numpy()
        for at in np.ndindex(values.shape):
            labels = (
                array.coords[d].to_numpy()[i] if d in array.coords else i for d, i in zip(array.dims, at, strict=True)
            )
            rows[entry_name(str(name), labels)] = float(values[at])
    return pd.DataFrame({"value": pd.Series(rows, dtype=float)})


def split_rhat(draws: np.ndarray) -> np.ndarray:
    """Rank-normalized split R-hat over draws (chains, draws, ...), for each entry (Vehtari et al. 2021).

    NaN for an entry that a chain keeps.
    """
    with np.errstate(all="ignore"):
        return np.asarray(_stats().rhat(draws, chain_axis=0, draw_axis=1))


def effective_sizes(draws: np.ndarray) -> np.ndarray:
    """Effective sample size over draws (chains, draws, ...), for each entry: of its bulk or its tails, the smaller."""
    with np.errstate(all="ignore"):  # an entry that one chain keeps
        bulk = _stats().ess(draws, chain_axis=0, draw_axis=1, method="bulk")
        tail = _stats().ess(draws, chain_axis=0, draw_axis=1, method="tail", prob=(0.05, 0.95))
    return np.asarray(np.minimum(bulk, tail))


def mcse_of_mean(draws: np.ndarray) -> float:
    """Monte Carlo standard error of the mean of draws (chains, draws)."""
    return float(_stats().mcse(draws, chain_axis=0, draw_axis=1, method="mean"))


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
    stats, name = data["sample_stats"], "rows"
    kept = {f"/{group}": xr.Dataset(data[group].data_vars) for group in ("posterior", "sample_stats")}
    data = xr.DataTree.from_dict({**kept, "/log_likelihood": xr.Dataset({name: row_likelihood(data)})})
    with warnings.catch_warnings():  # the largest Pareto shape is returned, and reported, instead
        warnings.simplefilter("ignore", UserWarning)
        corrected = "corrected" in stats.attrs  # draws that were resampled by p / q are not to be weighed by it again
        if not corrected and float(np.ptp((stats["log_p"] - stats["log_q"]).to_numpy())) > 1e-8:
            found = _stats().loo_approximate_posterior(
                data, log_p=stats["log_p"], log_q=stats["log_q"], var_name=name, pointwise=True
            )
        else:
            found = _stats().loo(data, var_name=name, pointwise=True)
    return RowDensities(np.asarray(found.elpd_i).ravel(), float(np.max(np.asarray(found.pareto_k))))


def row_likelihood(data: xr.DataTree) -> xr.DataArray:
    """Log likelihood of each row, dims (chain, draw, row): what the observed sites of a row say of it, added up.

    Of a model whose data have no rows, that of each entry.
    """
    group = data["log_likelihood"]
    row = group.attrs["row"]
    parts = [
        v.rename({v.dims[2]: "row"}) for n, v in group.data_vars.items() if v.dims[2:] in ((row,), (f"{row}_{n}",))
    ]
    if not parts:
        entries = [v.to_numpy().reshape(*v.shape[:2], -1) for v in group.data_vars.values()]
        return xr.DataArray(np.concatenate(entries, -1), dims=("chain", "draw", "row"))
    if any(v.sizes["row"] < parts[0].sizes["row"] for v in parts) or parts[0].sizes["row"] < parts[-1].sizes["row"]:
        whole = [v if v.indexes["row"].is_unique else v.assign_coords(row=np.arange(v.sizes["row"])) for v in parts]
        parts = list(xr.align(*whole, join="outer", fill_value=0.0))
    total: xr.DataArray = sum(parts[1:], start=parts[0])
    return total


def forest_plot(data: Mapping[str, xr.Dataset]) -> Any:
    """Draw intervals of several fits side by side, with a legend of which is which; return a `PlotCollection`.

    ArviZ lines up fits by chain and draw and takes what one of them lacks as missing, which would leave it out of the
    picture; so all have one chain here, of the length of the longest.
    """
    count = max(max(2, d.sizes["chain"] * d.sizes["draw"]) for d in data.values())
    trees = {label: xr.DataTree.from_dict({"/posterior": _one_chain(d, count)}) for label, d in data.items()}
    with warnings.catch_warnings():  # fits lack variables that others have: xarray says how it will join them one day
        warnings.simplefilter("ignore", FutureWarning)
        plot = _arviz().plot_forest(trees if len(trees) > 1 else next(iter(trees.values())), backend="matplotlib")
    if len(trees) > 1:
        plot.add_legend("model", title="")
    return plot


def forest_png(data: Mapping[str, xr.Dataset]) -> bytes:
    """Return the same as a picture, and leave no figure open."""
    from matplotlib.pyplot import close

    buffer, plot = io.BytesIO(), forest_plot(data)
    figure = plot.viz["figure"].item()
    figure.savefig(buffer, format="png", dpi=100, bbox_inches="tight")
    close(figure)
    return buffer.getvalue()


def _one_chain(data: xr.Dataset, count: int) -> xr.Dataset:
    """Lay out draws as one chain of `count`, each draw as often as any other, as far as the numbers allow."""
    total = data.sizes["chain"] * data.sizes["draw"]
    rows = np.arange(count) * total // count
    at = {
        "chain": xr.DataArray(rows // data.sizes["draw"], dims="at"),
        "draw": xr.DataArray(rows % data.sizes["draw"], dims="at"),
    }
    flat = data.drop_vars(["chain", "draw"], errors="ignore").isel(at).rename(at="draw")
    return flat.expand_dims(chain=[0]).assign_coords(draw=np.arange(count))


def ecdf_plot(data: xr.DataTree, group: str) -> Any:
    """Draw ECDFs of numbers that should be uniform, less theirs, in their envelope; return a `PlotCollection`."""
    return _arviz().plot_ecdf_pit(data, group=group, backend="matplotlib")


def power_scaling(data: xr.DataTree, names: Sequence[str]) -> pd.DataFrame:
    """How far each scalar of some variables moves if the prior or the likelihood is raised to a power near 1.

    Columns prior and likelihood: the cumulative Jensen-Shannon distance per power (Kallioinen et al. 2023).
    """
    found = {}
    for part, group in (("prior", "log_prior"), ("likelihood", "log_likelihood")):
        density = sum(v.sum(v.dims[2:]) for v in data[group].data_vars.values())
        if float(np.ptp(np.asarray(density))) > 0:
            with warnings.catch_warnings():  # of few draws in a tail
                warnings.simplefilter("ignore", UserWarning)
                # not by psense_summary, which cannot take variables with a dimension called `component`
                moved = _stats().psense(data, var_names=list(names), group=part)
        else:  # the same everywhere: a power of it is, too
            moved = xr.zeros_like(data["posterior"].to_dataset()[list(names)].isel(chain=0, draw=0, drop=True))
        found[part] = listed(moved)["value"]
    return pd.DataFrame(found)


def reference_plot(drawn: Mapping[str, np.ndarray], at: Mapping[str, float]) -> Any:
    """Draw the distribution of each of several numbers, with a line where one value stands; return ArviZ's collection.

    Parameters
    ----------
    drawn
        Name -> draws of the number, shape (draws,).
    at
        Name -> the value.
    """
    plots = _arviz()
    made = tree({"posterior": Group({n: v[None] for n, v in drawn.items()}, {})}, {}, {})
    rows = -(-len(drawn) // 4)
    collection = plots.plot_dist(
        made,
        backend="matplotlib",
        visuals={"point_estimate_text": False},
        figure_kwargs={"figsize": (14, 2.6 * rows), "layout": "constrained"},
    )
    return plots.add_lines(collection, values=xr.Dataset(at))
