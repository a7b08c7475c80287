"""Figures: objectives by step, mixtures as their fitted components, rows beside them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from inference.reporting.components import Components

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MASSES = (0.5, 0.9)  # of a component inside its contours
STATES = 10  # named in a legend; a component more has a colour, and no entry


@dataclass(frozen=True)
class Rows:
    """What is drawn beside the components of a mixture.

    Attributes
    ----------
    x
        Cells of the rows, (rows, columns), NaN where one is missing.
    columns
        Their names.
    probability
        Responsibilities, (rows, states).
    """

    x: np.ndarray
    columns: list[str]
    probability: np.ndarray


def as_png(figure: Figure) -> bytes:
    """Render a figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def panels(count: int) -> tuple[Figure, list[Any]]:
    """Return a figure of its own, which pyplot does not know, with so many axes, four in a line."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across = min(count, 4)
    down = -(-count // across)
    figure = Figure(figsize=(4.2 * across, 3.8 * down), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(down, across, squeeze=False).flat)
    for axis in axes[count:]:
        axis.remove()
    return figure, axes[:count]


def traces(found: Mapping[str, tuple[pd.DataFrame, str]]) -> Figure:
    """Draw objectives by step, a panel per fit (their kinds differ, so they share no axis).

    Parameters
    ----------
    found
        Label -> trace and kind of objective. An axis ends where the values after the first quarter of the steps do:
        the first steps of a climb would flatten the rest.
    """
    from matplotlib.ticker import MaxNLocator

    figure, axes = panels(len(found))
    for axis, (label, (trace, kind)) in zip(axes, found.items(), strict=True):
        axis.plot(trace["step"], trace["value"], marker="." if len(trace) < 50 else None)
        axis.set(title=label, xlabel="step", ylabel=f"{kind.replace('_', ' ')} (nats)")
        later = trace["value"].to_numpy()[len(trace) // 4 :]
        low, high = later.min(), trace["value"].max()
        if high > low:
            axis.set_ylim(low - 0.1 * (high - low), high + 0.1 * (high - low))
        axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axis.ticklabel_format(useOffset=False, style="plain")
    return figure


def mixtures(found: Mapping[str, tuple[Components, Rows]]) -> Figure:
    """Draw the fitted components over the rows, a panel per fit.

    In a plane, of the first two columns: contours that hold 50 % and 90 % of a component, of the parameters at a
    point, or of some draws of them, so that their spread is seen; rows have the colour of their most probable state.
    Of one column: each component's density times the share of rows that it holds, over a histogram. Rows with a
    missing cell among those drawn are left out, and counted in the title.
    """
    figure, axes = panels(len(found))
    for axis, (label, (fitted, rows)) in zip(axes, found.items(), strict=True):
        seen = ~np.isnan(rows.x[:, :2]).any(1)
        gone = int((~seen).sum())
        axis.set_title(label + (f"\n{gone} rows with a missing cell not shown" if gone else ""))
        share = rows.probability.mean(0)
        drawn = _plane if rows.x.shape[1] > 1 else _line
        drawn(axis, fitted, rows.x[seen], rows.probability[seen].argmax(1), share)
        axis.set(xlabel=rows.columns[0], ylabel=rows.columns[1] if rows.x.shape[1] > 1 else "density")
        axis.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.15))  # not over the rows
    return figure


def _name(state: str, k: int, share: np.ndarray) -> str | None:
    return f"{state} = {k}: {100 * share[k]:.0f} % of rows" if k < STATES else None


def _plane(axis: Any, fitted: Components, x: np.ndarray, states: np.ndarray, share: np.ndarray) -> None:
    from matplotlib.collections import LineCollection

    contours = ellipses(fitted)
    values = contours.shape[0]
    for k in range(len(share)):
        colour = f"C{k % 10}"
        own = x[states == k]
        axis.scatter(
            own[:, 0], own[:, 1], s=8, alpha=0.5, color=colour, linewidths=0, label=_name(fitted.state, k, share)
        )
        lines = contours[:, k].reshape(-1, *contours.shape[-2:])
        alpha = 1.0 if values == 1 else 0.25
        axis.add_collection(
            LineCollection(list(lines), colors=colour, linewidths=1.5 if values == 1 else 0.7, alpha=alpha)
        )
    of = "a component" if values == 1 else f"a component, in {values} draws"
    axis.plot([], [], color="0.3", linewidth=1.5, label=f"50 % and 90 % of {of}")
    axis.autoscale_view()


def ellipses(fitted: Components) -> np.ndarray:
    """Contours around 50 % and 90 % of each component in the plane of the first two columns.

    x(t) = m + r L (cos t, sin t) with L L' = S and r^2 = -2 log(1 - mass), the quantile of chi-squared with 2 degrees.

    Returns
    -------
    array
        Shape (values, states, masses, points, 2).
    """
    angle = torch.linspace(0, 2 * torch.pi, 100, dtype=torch.float64)
    circle = torch.stack([angle.cos(), angle.sin()], -1)  # (points, 2)
    radius = (-2 * torch.log1p(-torch.tensor(MASSES, dtype=torch.float64))).sqrt()
    spread = torch.linalg.cholesky(fitted.covariances[..., :2, :2].double().cpu())
    mean = fitted.means[..., :2].double().cpu()
    around = torch.einsum("vkij,pj,m->vkmpi", spread, circle, radius)
    return (mean[:, :, None, None] + around).numpy()


def _line(axis: Any, fitted: Components, x: np.ndarray, states: np.ndarray, share: np.ndarray) -> None:
    axis.hist(x[:, 0], bins="auto", density=True, color="0.85", label="rows")
    mean, sd = fitted.means[..., 0].double().cpu().numpy(), fitted.covariances[..., 0, 0].double().sqrt().cpu().numpy()
    grid = np.linspace(x.min(), x.max(), 400)
    for k in range(len(share)):
        z = (grid - mean[:, k, None]) / sd[:, k, None]
        density = share[k] * np.exp(-0.5 * z**2) / (sd[:, k, None] * np.sqrt(2 * np.pi))
        lines = axis.plot(grid, density.T, color=f"C{k % 10}", linewidth=1, alpha=1.0 if len(z) == 1 else 0.25)
        lines[0].set_label(_name(fitted.state, k, share))
