"""Pictures and files of several fits: the forest, traces and mixtures; the folder of a comparison."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd

from inference.diagnostics.arviz import forest_plot, forest_png
from inference.posterior.described import fit_sections, model_sections, reproduction
from inference.posterior.fit import Fit
from inference.posterior.pictures import globals_of, mixture, small
from inference.posterior.store import Record
from inference.reporting.figures import as_png, mixtures, traces
from inference.reporting.page import Section, write_page
from inference.runtime.output_folder import COMPARISON, FIT, replacing
from inference.runtime.sums import SUMS, check
from zoo.errors import DataError, FitError


def forest(fits: dict[str, Fit]) -> Any:
    """Draw the global latents and parameters of every fit, method beside method; points have no interval.

    Raises
    ------
    FitError
        If no method ran, or no fit has any.
    """
    if not fits:
        raise FitError("there is nothing to plot: no method ran")
    found = {label: data for label, fitted in fits.items() if (data := globals_of(fitted, fitted.posterior)).data_vars}
    if not found:
        raise FitError("there is nothing to plot: the fits have no global latents and no parameters")
    return forest_plot(found)


def write(table: pd.DataFrame, fits: dict[str, Fit], text: str, errors: dict[str, str], folder: Path) -> Path:
    """Write table.csv, a folder per fit, report.html, traces.png and, for mixtures of Normals, mixtures.png.

    A comparison or a fit that was saved there before is replaced as a whole; anything else is refused.

    Raises
    ------
    DataError
        If the folder is a file, holds anything else or cannot be written; what was there is as it was then.
    """
    taken, places = set(COMPARISON), {}
    for number, label in enumerate(fits, start=1):
        plain = re.sub(r"[^\w .=-]+", "_", label).strip(" ._")
        places[label] = plain if plain and plain not in taken else f"{plain or 'fit'}_{number}"
        taken.add(places[label])
    told = {"fits": places, "errors": errors, "text": text}
    with replacing(folder) as new:
        (new / "comparison.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        table.to_csv(new / "table.csv", index_label=[n or "method" for n in table.index.names])
        for label, fitted in fits.items():
            fitted.save(new / places[label])
        for name, png in pictures(fits).items():
            (new / name).write_bytes(png)
        page(text, fits, errors, new / "report.html")
    return folder


def page(text: str, fits: dict[str, Fit], errors: dict[str, str], path: Path) -> Path:
    """Write a comparison as one HTML page.

    Parameters
    ----------
    text
        The comparison as it is printed.
    fits, errors
        What ran, and what stopped the others, by label.
    """
    sections = [Section("Comparison", text=text)]
    drawn = pictures(fits)
    shown = {label: data for label, fitted in fits.items() if (data := globals_of(fitted, fitted.posterior)).data_vars}
    if shown and all(small(data) for data in shown.values()):
        drawn = {"forest": forest_png(shown), **drawn}
    sections.append(Section("All fits", pictures=list(drawn.items())))
    seen: list[str] = []
    for fitted in fits.values():
        if repr(fitted.model) not in seen:
            seen.append(repr(fitted.model))
            sections += model_sections(fitted.program)
    for label, fitted in fits.items():
        record = Record(fitted.program, fitted.method, fitted.outcome, fitted.seed, fitted.seconds)
        sections += fit_sections(fitted, record, fitted.posterior, fitted.summary(), label)
    sections += [Section(f"{label}: did not run", [reason]) for label, reason in errors.items()]
    calls = [f"fit({f.model!r}, data, method={f.method!r}, seed={f.seed})  # {label}" for label, f in fits.items()]
    return write_page(
        path, f"Comparison of {', '.join(fits) or 'nothing that ran'}", [*sections, reproduction("\n".join(calls))]
    )


def report(folder: Path) -> Path:
    """Write report.html into the folder of a saved fit or comparison.

    Raises
    ------
    DataError
        If it holds neither, or a file in it is damaged.
    """
    if (folder / SUMS).is_file():
        check(folder, [], COMPARISON if (folder / "comparison.json").is_file() else FIT)
    if (folder / "fit.json").is_file():
        return Fit.load(folder).report(folder / "report.html")
    manifest = folder / "comparison.json"
    if not manifest.is_file():
        raise DataError(f"{folder} holds no saved fit or comparison: there is no fit.json and no comparison.json in it")
    try:
        saved = json.loads(manifest.read_text(encoding="utf-8"))
        text, errors, places = str(saved["text"]), dict(saved["errors"]), dict(saved["fits"])
        if any(place != Path(place).name for place in places.values()):
            raise ValueError("a fit of it is said to be in another folder")
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{manifest} is damaged ({type(error).__name__}: {error}); run the comparison again") from error
    return page(
        text, {label: Fit.load(folder / place) for label, place in places.items()}, errors, folder / "report.html"
    )


def pictures(fits: dict[str, Fit]) -> dict[str, bytes]:
    """Return traces.png and, where a fit is a mixture of Normals, mixtures.png."""
    found = {}
    if fits:
        found["traces.png"] = as_png(traces({label: (f.trace, f.objective.kind) for label, f in fits.items()}))
    drawn = {label: drawing for label, fitted in fits.items() if (drawing := mixture(fitted)) is not None}
    if drawn:
        found["mixtures.png"] = as_png(mixtures(drawn))
    return found
