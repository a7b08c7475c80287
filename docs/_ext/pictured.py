"""The picture on a model's page: its graph, and the data of its card's example beside data that the fit makes.

Everything is read off the fit, so that a model gets its picture by having an example.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse, FancyArrowPatch, FancyBboxPatch, Patch
from matplotlib.ticker import MaxNLocator

from inference import Fit
from zoo.replay.sites import Site, primary

SHOWN = 8  # images of each kind
LEVELS = 12  # at most of what is drawn as shares and not as points
DATA, MADE = "#3b4252", "#d08770"
FACE = {"observed": "#c9d1dc", "enumerated": "#fdf3d8", "parameter": "white", "network": "white", "field": "#c9d1dc"}


def picture(fit: Fit, path: Path) -> None:
    """Draw both and write them as PNG."""
    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(1.0, 1.0))
    graph(left, fit.program)
    beside(right, fit)
    figure.savefig(path, dpi=110)


# -- the graph -------------------------------------------------------------------------------------------------


def graph(axes: Axes, program: Any) -> None:
    """Sites as nodes, a column for each set of plates with a box around it; what is observed is grey."""
    kinds: dict[str, str] = {}
    above: dict[str, set[str]] = {}
    inside: dict[str, tuple[str, ...]] = {}
    for site in program.sites.values():
        if site.family == "Evidence":
            continue
        kinds[site.name], inside[site.name] = site.role, site.plates
        above[site.name] = set(parents(site)) - {site.name}
    for name in sorted(set().union(*above.values()) - set(kinds)):  # networks, covariates
        known = program.data.dims.get(name, ())
        kinds[name], above[name], inside[name] = ("field" if known else "network"), set(), known[:1]
    deep = {name: depth(name, above) for name in kinds}
    groups = sorted({tuple(p) for p in inside.values()}, key=lambda p: (len(p), min_depth(p, inside, deep), p))
    at: dict[str, tuple[float, float]] = {}
    left = 0.0
    for group in groups:
        members = sorted((n for n in kinds if tuple(inside[n]) == group), key=lambda n: deep[n])
        tiers = [[n for n in members if deep[n] == level] for level in sorted({deep[n] for n in members})]
        wide = max(map(len, tiers))
        for tier in tiers:
            for k, name in enumerate(tier):
                at[name] = (left + (wide - len(tier)) / 2 + k, -float(deep[name]) + 0.3 * (k % 2))
        low, high = min(at[n][1] for n in members), max(at[n][1] for n in members)
        if group:
            box = FancyBboxPatch(
                (left - 0.42, low - 0.42),
                wide - 0.16,
                high - low + 0.84,
                boxstyle="round,pad=0.02",
                fill=False,
                ec="0.6",
            )
            axes.add_patch(box)
            axes.text(left + wide - 0.62, low - 0.5, " × ".join(group), ha="right", va="top", fontsize=8, color="0.35")
        left += wide + 0.35
    nodes = {name: node(axes, x, y, name, kinds[name]) for name, (x, y) in at.items()}
    for name, place in at.items():
        for parent in above[name]:
            arrow = FancyArrowPatch(
                at[parent],
                place,
                arrowstyle="-|>",
                mutation_scale=9,
                color="0.45",
                patchA=nodes[parent],
                patchB=nodes[name],
                lw=0.9,
                zorder=1,
            )
            axes.add_patch(arrow)
    ys = [y for _, y in at.values()]
    spare = max(0.0, 4.0 - left) / 2  # so that nodes of small graphs are not large
    axes.set(xlim=(-0.6 - spare, left - 0.75 + spare), ylim=(min(ys) - 0.95, max(ys) + 0.6), title="model")
    axes.axis("off")


def parents(site: Site) -> list[str]:
    """What a site's distribution is computed from: sites, networks and data fields."""
    found = [n for parent in primary(site.args).values() for n in (*parent.sites, *parent.index, *parent.data)]
    return [n for n in found if n not in site.observes and n != site.field]


def depth(name: str, above: dict[str, set[str]]) -> int:
    """Length of the longest way down to a node."""
    return max((1 + depth(parent, above) for parent in above[name]), default=0)


def min_depth(group: tuple[str, ...], inside: dict[str, tuple[str, ...]], deep: dict[str, int]) -> int:
    """How far up a column begins."""
    return min(deep[n] for n, plates in inside.items() if tuple(plates) == group)


def node(axes: Axes, x: float, y: float, name: str, kind: str) -> Patch:
    """Draw a node: round if it is random, square if it is a parameter, a network or a covariate; dashed if discrete."""
    style = {"ec": "0.25", "lw": 1.0, "zorder": 2, "fc": FACE.get(kind, "#dbe7f3")}
    if kind in ("parameter", "network", "field"):
        patch: Patch = FancyBboxPatch((x - 0.36, y - 0.17), 0.72, 0.34, boxstyle="round,pad=0.02", **style)
    else:
        patch = Ellipse((x, y), 0.84, 0.5, ls="--" if kind == "enumerated" else "-", **style)
    axes.add_patch(patch)
    short = name.removeprefix("network ")
    axes.text(x, y, short, ha="center", va="center", fontsize=min(9.0, 80 / max(len(short), 9)), zorder=3)
    return patch


# -- data ------------------------------------------------------------------------------------------------------


def beside(axes: Axes, fit: Fit) -> None:
    """Draw what is observed of the first field of numbers, and once more as the fit makes it."""
    seen = fit.posterior["observed_data"].to_dataset()
    name = next(n for n, values in seen.data_vars.items() if values.dtype.kind in "bif")
    data = np.asarray(seen[name])
    made = np.asarray(fit.generate(len(data), seed=0)) if fit.program.not_drawn else replicate(fit, name)
    made = made.reshape(-1, *data.shape[1:]) if made.size % max(1, data[0].size) == 0 else made
    data, made = (array.astype(float) if array.dtype.kind in "bif" else array for array in (data, made))
    if data.ndim == 2 and data.shape[1] == 1:
        data, made = data[:, 0], made[:, 0]
    axes.set_title(f"{name}: data, and made by the fit")
    covariate = next((v for n, v in fit.program.data.values.items() if n not in seen and v.ndim), None)
    side = math.isqrt(math.prod(data.shape[1:]))
    if "time" in fit.program.data.dims[name][1:]:
        images(axes, *(rows[:SHOWN].reshape(1, -1, data.shape[1]) for rows in (data, made)))
    elif side * side == math.prod(data.shape[1:]) and side > 3:
        images(axes, data.reshape(-1, side, side), made.reshape(-1, side, side))
    elif covariate is not None and data.ndim == 1 and covariate.is_floating_point():
        points(axes, covariate.reshape(len(data), -1)[:, 0].cpu().numpy(), data, made)
        axes.set(
            xlabel=labels(fit, next(n for n, v in fit.program.data.values.items() if v is covariate))[0], ylabel=name
        )
    elif data.ndim > 1 and (data.dtype.kind not in "f" or len(np.unique(data)) <= LEVELS):
        shares(axes, data.reshape(len(data), -1), made.reshape(len(made), -1))
    elif data.ndim > 1:
        for rows, colour, label in ((data, DATA, "data"), (made, MADE, "made")):
            axes.scatter(rows[:, 0], rows[:, 1], s=10, color=colour, alpha=0.6, lw=0, label=label)
        axes.set(**dict(zip(("xlabel", "ylabel"), labels(fit, name), strict=False)))
        axes.legend(fontsize=8)
    else:
        bins = np.histogram_bin_edges(np.concatenate([data, made]), bins=15)
        if (data == data.round()).all() and bins[-1] - bins[0] < 40:
            bins = np.arange(min(data.min(), made.min()) - 0.5, max(data.max(), made.max()) + 1)
        axes.hist([data, made], bins=bins, color=[DATA, MADE], label=["data", "made"])
        axes.set(xlabel=name, ylabel="rows")
        axes.xaxis.set_major_locator(MaxNLocator(integer=bool((data == data.round()).all())))
        axes.legend(fontsize=8)


def labels(fit: Fit, name: str) -> list[str]:
    """What the columns of a field are called; the field itself if it is one column."""
    data = fit.program.data
    columns = data.coords.get(data.dims[name][1]) if len(data.dims[name]) > 1 else None
    if columns is None:
        return [name]
    return [str(label) if isinstance(label, str) else f"{name}[{label}]" for label in columns]


def replicate(fit: Fit, name: str) -> np.ndarray:
    """The fitted rows, drawn once more."""
    return np.asarray(fit.predict(draws=1, seed=0)["posterior_predictive"][name])[0, 0]


def images(axes: Axes, data: np.ndarray, made: np.ndarray) -> None:
    """Some images above each other."""
    rows = [np.concatenate([np.pad(i, 1, constant_values=np.nan) for i in each[:SHOWN]], 1) for each in (data, made)]
    shown = np.concatenate([*(row[:, : min(r.shape[1] for r in rows)] for row in rows)])
    axes.imshow(shown, cmap="gray_r", interpolation="nearest")
    half = len(rows[0])
    axes.set_yticks([half / 2, 3 * half / 2], ["data", "made"])
    axes.set_xticks([])
    axes.spines[:].set_visible(False)


def points(axes: Axes, x: np.ndarray, y: np.ndarray, made: np.ndarray) -> None:
    """A response by its first covariate."""
    aside = 0.05 if set(np.unique(y)) <= {0.0, 1.0} else 0.0  # where one would hide the other
    for rows, colour, label in ((y, DATA, "data"), (made + aside, MADE, "made")):
        axes.scatter(x, rows, s=10, color=colour, alpha=0.6, lw=0, label=label)
    axes.legend(fontsize=8)


def shares(axes: Axes, data: np.ndarray, made: np.ndarray) -> None:
    """The mean of each column: of zeros and ones, of counts."""
    where = np.arange(data.shape[1])
    levels = np.unique(data)
    means = [(each == levels[-1]).mean(0) if data.dtype.kind not in "f" else each.mean(0) for each in (data, made)]
    for shift, (mean, colour, label) in enumerate(zip(means, (DATA, MADE), ("data", "made"), strict=True)):
        axes.bar(where + 0.4 * shift - 0.2, mean, 0.38, color=colour, label=label)
    axes.set(xlabel="column", ylabel="mean")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=8)
