"""Pictures of rows that are images, and maps of their codes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from inference.reporting.figures import panels
from zoo.errors import DataError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMED = 20  # labels in a legend, beyond which codes are coloured along a scale


def as_images(rows: np.ndarray) -> np.ndarray:
    """Lay out rows as images, (rows, height, width) or (rows, height, width, 3).

    Parameters
    ----------
    rows
        (rows, height, width), (rows, channels, height, width), or (rows, pixels) of square images.

    Raises
    ------
    DataError
        If rows are no images.
    """
    if rows.ndim == 2 and math.isqrt(rows.shape[1]) ** 2 == rows.shape[1]:
        side = math.isqrt(rows.shape[1])
        return rows.reshape(len(rows), side, side)
    if rows.ndim == 4 and rows.shape[1] in (1, 3):
        return rows[:, 0] if rows.shape[1] == 1 else np.moveaxis(rows, 1, -1)
    if rows.ndim == 3:
        return rows
    raise DataError(
        f"rows of shape {rows.shape[1:]} are no images: expected (height, width), (1 or 3 channels, height, width) or "
        "a square number of pixels"
    )


def image_grid(found: Mapping[str, np.ndarray]) -> Figure:
    """Draw images in lines, each with its name on the left; all in one scale of grey, from the least to the largest.

    Parameters
    ----------
    found
        Name of a line -> rows that are images, as `as_images` takes them.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = {name: as_images(rows) for name, rows in found.items()}
    across = max(len(images) for images in lines.values())
    low = min(float(images.min()) for images in lines.values())
    high = max(float(images.max()) for images in lines.values())
    figure = Figure(figsize=(0.8 * across + 1.2, 0.85 * len(lines)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(lines), across, squeeze=False)
    for line, (name, images) in zip(axes, lines.items(), strict=True):
        for axis in line:
            axis.set(xticks=[], yticks=[])
            axis.set_frame_on(False)
        for axis, image in zip(line, images, strict=False):
            axis.imshow((image - low) / ((high - low) or 1.0), cmap="gray_r", vmin=0.0, vmax=1.0)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    return figure


def latent_map(codes: np.ndarray, names: tuple[str, str], labels: np.ndarray | None = None) -> Figure:
    """Draw codes in a plane, coloured by label: one colour each of a few labels, a scale of many numbers.

    Parameters
    ----------
    codes
        (rows, 2).
    names
        Of the two coordinates.
    labels
        Of the rows; None for one colour.
    """
    from matplotlib import colormaps

    figure, (axis,) = panels(1)
    axis.set(xlabel=names[0], ylabel=names[1])
    known = None if labels is None else np.unique(labels)
    style: dict[str, Any] = {"s": 6, "alpha": 0.6, "linewidths": 0}
    if labels is None or known is None:
        axis.scatter(codes[:, 0], codes[:, 1], **style)
    elif len(known) <= NAMED or labels.dtype.kind not in "iuf":
        for k, label in enumerate(known):
            own = codes[labels == label]
            colour = f"C{k}" if len(known) <= 10 else colormaps["turbo"](k / len(known))
            axis.scatter(own[:, 0], own[:, 1], color=colour, label=str(label), **style)
        axis.legend(fontsize="small", markerscale=2, loc="center left", bbox_to_anchor=(1.0, 0.5))
    else:
        figure.colorbar(axis.scatter(codes[:, 0], codes[:, 1], c=labels, **style), ax=axis)
    return figure
