"""Figures and files of a comparison."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
import xarray as xr

from inference.diagnostics.arviz import forest_plot
from inference.posterior.fit import Fit
from zoo.errors import FitError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def forest(fits: dict[str, Fit]) -> Any:
    """Draw the global latents and parameters of every fit, method beside method; points have no interval.

    Raises
    ------
    FitError
        If no method ran.
    """
    if not fits:
        raise FitError("there is nothing to plot: no method ran")
    draws = max([2, *(len(f.posterior["posterior"].draw) for f in fits.values() if not f.is_point)])
    return forest_plot({label: _globals(fitted, draws) for label, fitted in fits.items()})


def _globals(fitted: Fit, draws: int) -> xr.Dataset:
    """Draws of the globals and parameters, dims (chain, draw, ...); a point is repeated, for drawing only."""
    names = {s.name for s in (*fitted.program.globals, *fitted.program.parameters)}
    groups = []
    for group in ("posterior", "point_estimate"):
        if group in fitted.posterior.children:
            data = fitted.posterior[group].to_dataset()
            data = data[[n for n in data.data_vars if n in names]]
            groups.append(data if group == "posterior" else data.expand_dims(chain=[0], draw=range(draws)))
    return groups[0] if len(groups) == 1 else xr.merge([g for g in groups if g.data_vars], join="outer")


def write(table: pd.DataFrame, fits: dict[str, Fit], folder: Path) -> Path:
    """Write table.csv, a folder per fit, traces.png and, for mixtures of real columns, scatter.png."""
    folder.mkdir(parents=True, exist_ok=True)
    taken = {"table.csv", "traces.png", "scatter.png"}
    table.to_csv(folder / "table.csv", index_label=[n or "method" for n in table.index.names])
    for number, (label, fitted) in enumerate(fits.items(), start=1):
        plain = re.sub(r"[^\w .=-]+", "_", label).strip(" ._")
        name = plain if plain and plain not in taken else f"{plain or 'fit'}_{number}"
        taken.add(name)
        fitted.save(folder / name)
    if fits:
        _write(traces(fits), folder / "traces.png")
        figure = scatter(fits)
        if figure is not None:
            _write(figure, folder / "scatter.png")
    return folder


def _write(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=150)


def _figure(columns: int) -> tuple[Figure, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * columns, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def traces(fits: dict[str, Fit]) -> Figure:
    """Draw the objective by step, a panel per method (their kinds differ, so they share no axis)."""
    figure, axes = _figure(len(fits))
    for axis, (label, fitted) in zip(axes, fits.items(), strict=True):
        trace = fitted.trace
        axis.plot(trace["step"], trace["value"], marker="." if len(trace) < 50 else None)
        axis.set(title=label, xlabel="step", ylabel=fitted.objective.kind.replace("_", " "))
        low, high = np.quantile(trace["value"], [0.1, 1.0])
        if high > low:
            axis.set_ylim(low - 0.1 * (high - low), high + 0.1 * (high - low))
    return figure


def scatter(fits: dict[str, Fit]) -> Figure | None:
    """Draw the first two columns, rows coloured by state, with each state's ellipses at 1 and 2 standard deviations.

    The ellipses are those of the rows weighted by their responsibilities, so any mixture of real columns can be drawn.
    None if there are no two columns or no state per row.
    """
    first = next(iter(fits.values()))
    program = first.program
    matrix = next((n for n, d in program.data.dims.items() if len(d) == 2 and d[0] == program.row), None)
    if matrix is None or program.data.values[matrix].shape[1] < 2 or not program.assigned:
        return None
    x = program.data.values[matrix][:, :2].double().cpu().numpy()
    names = list(program.data.coords[program.data.dims[matrix][1]][:2])
    figure, axes = _figure(len(fits))
    for axis, (label, fitted) in zip(axes, fits.items(), strict=True):
        probability = fitted.assign().to_numpy()
        order = np.argsort([float(p @ x[:, 0] / max(p.sum(), 1e-12)) for p in probability.T])  # colours that match
        probability = probability[:, order]
        colours = [f"C{k % 10}" for k in range(probability.shape[1])]
        state = probability.argmax(1)
        for k, colour in enumerate(colours):
            axis.scatter(*x[state == k].T, s=8, alpha=0.5, color=colour, linewidths=0)
            _ellipses(axis, x, probability[:, k], colour)
        axis.set(title=label, xlabel=str(names[0]), ylabel=str(names[1]))
    return figure


def _ellipses(axis: Any, x: np.ndarray, weight: np.ndarray, colour: str) -> None:
    from matplotlib.patches import Ellipse

    if weight.sum() < 2:
        return
    mean = weight @ x / weight.sum()
    covariance = (x - mean).T @ (weight[:, None] * (x - mean)) / weight.sum()
    values, vectors = torch.linalg.eigh(torch.as_tensor(covariance))
    angle = float(torch.rad2deg(torch.atan2(vectors[1, 1], vectors[0, 1])))
    minor, major = values.clamp_min(0).sqrt().tolist()
    for deviations in (1, 2):
        axis.add_patch(
            Ellipse(
                tuple(mean),
                2 * deviations * major,
                2 * deviations * minor,
                angle=angle,
                fill=False,
                edgecolor=colour,
                linewidth=1.5,
            )
        )
