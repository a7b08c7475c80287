"""Pictures and files of several fits: the forest, traces and mixtures; the folder of a comparison."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from inference.diagnostics.arviz import forest_plot
from inference.posterior.fit import Fit
from inference.posterior.pictures import mixture
from inference.reporting.figures import as_png, mixtures, traces
from inference.runtime.output_folder import COMPARISON, claim
from zoo.errors import FitError


def forest(fits: dict[str, Fit]) -> Any:
    """Draw the global latents and parameters of every fit, method beside method; points have no interval.

    Raises
    ------
    FitError
        If no method ran, or no fit has any.
    """
    if not fits:
        raise FitError("there is nothing to plot: no method ran")
    found = {label: data for label, fitted in fits.items() if (data := _globals(fitted)).data_vars}
    if not found:
        raise FitError("there is nothing to plot: the fits have no global latents and no parameters")
    return forest_plot(found)


def _globals(fitted: Fit) -> xr.Dataset:
    """Draws of the globals and parameters, dims (chain, draw, ...); a point is repeated, for drawing only."""
    names = {s.name for s in (*fitted.program.globals, *fitted.program.parameters)}
    posterior = fitted.posterior
    lead: dict[str, Any] = {"chain": [0], "draw": range(2)}
    if "posterior" in posterior.children:
        lead = {d: posterior["posterior"].coords[d].to_numpy() for d in ("chain", "draw")}
    groups = []
    for group in ("posterior", "point_estimate"):
        if group in posterior.children:
            data = posterior[group].to_dataset()
            data = data[[n for n in data.data_vars if n in names]]
            groups.append(data if group == "posterior" else data.expand_dims(lead))
    return xr.merge([g for g in groups if g.data_vars])


def write(table: pd.DataFrame, fits: dict[str, Fit], folder: Path) -> Path:
    """Write table.csv, a folder per fit, traces.png and, for mixtures of Normals, mixtures.png.

    A comparison or a fit that was saved there before is replaced as a whole; anything else is refused.
    """
    claim(folder)
    taken, places = set(COMPARISON), {}
    for number, label in enumerate(fits, start=1):
        plain = re.sub(r"[^\w .=-]+", "_", label).strip(" ._")
        places[label] = plain if plain and plain not in taken else f"{plain or 'fit'}_{number}"
        taken.add(places[label])
    (folder / "comparison.json").write_text(json.dumps({"fits": places}, indent=2) + "\n", encoding="utf-8")
    table.to_csv(folder / "table.csv", index_label=[n or "method" for n in table.index.names])
    for label, fitted in fits.items():
        fitted.save(folder / places[label])
    for name, png in pictures(fits).items():
        (folder / name).write_bytes(png)
    return folder


def pictures(fits: dict[str, Fit]) -> dict[str, bytes]:
    """Return traces.png and, where a fit is a mixture of Normals, mixtures.png."""
    found = {}
    if fits:
        found["traces.png"] = as_png(traces({label: (f.trace, f.objective.kind) for label, f in fits.items()}))
    drawn = {label: drawing for label, fitted in fits.items() if (drawing := mixture(fitted)) is not None}
    if drawn:
        found["mixtures.png"] = as_png(mixtures(drawn))
    return found
