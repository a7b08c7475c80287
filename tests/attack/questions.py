"""Questions to fits that have no answer, or whose answer is far out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch

from inference import EM, Exact, Fit, check, fit, update
from tests.attack.attempt import Attempt
from tests.attack.settings import VALUES
from tests.attack.subjects import FITS, fitted

ROWS: dict[str, Any] = {
    "1e300": lambda width: np.full((2, width), 1e300),
    "-1e300": lambda width: np.full((2, width), -1e300),
    "1e150": lambda width: np.full((2, width), 1e150),
    "1e30": lambda width: np.full((2, width), 1e30),
    "1e-300": lambda width: np.full((2, width), 1e-300),
    "inf": lambda width: np.full((2, width), np.inf),
    "NaN": lambda width: np.full((2, width), np.nan),
    "one NaN": lambda width: np.where(np.arange(2 * width).reshape(2, width) == 1, np.nan, 1.0),
    "another width": lambda width: np.ones((2, width + 1)),
    "three dimensions": lambda width: np.ones((2, width, 2)),
    "no rows": lambda width: np.ones((0, width)),
    "words": lambda width: [["a"] * width] * 2,
    "None cells": lambda width: [[None] * width] * 2,
    "other columns": lambda width: pd.DataFrame(np.ones((2, width)), columns=[f"q{i}" for i in range(width)]),
    "bools": lambda width: np.ones((2, width), dtype=bool),
    "halves": lambda width: np.full((2, width), 0.5),
    "negative": lambda width: -np.ones((2, width)),
    "complex": lambda width: np.full((2, width), 1j),
    "integers": lambda width: np.full((2, width), 2**62),
    "bfloat16": lambda width: torch.ones(2, width, dtype=torch.bfloat16),
    **{
        label: lambda width, value=value: value
        for label, value in VALUES.items()
        if label not in ("None", "NaN", "inf", "1e300")
    },
}
QUESTIONS = ("log_prob", "assign", "impute", "predict", "encode", "reconstruct", "interpolate")
NUMBERED = ("generate", "sample", "predict", "log_prob")


def attempts() -> Iterator[Attempt]:
    """Each question about each kind of wrong rows, each number of draws, each wrong name, and wrong calls."""
    yield from _about_rows()
    yield from _about_numbers()
    yield from _others()


def _width(name: str) -> int:
    return {"mixture": 2, "point": 2, "factors": 3, "states": 2, "codes": 3}.get(name, 1)


def _about_rows() -> Iterator[Attempt]:
    for name in FITS:
        for question in QUESTIONS:
            for label, make in ROWS.items():

                def run(name: str = name, question: str = question, make: Any = make) -> Any:
                    given = make(_width(name))
                    if (
                        name in ("draws", "beta", "counts")
                        and isinstance(given, np.ndarray | torch.Tensor)
                        and given.ndim == 2
                    ):
                        given = given[:, 0]
                    if name == "regression" and isinstance(given, np.ndarray):
                        given = {"x": given, "y": given[:, 0] if given.ndim == 2 else given}
                    found = fitted(name)
                    if question == "interpolate":
                        return found.interpolate(given, given)
                    return getattr(found, question)(given)

                yield Attempt(
                    "questions",
                    f"{name}: {question}({label})",
                    run,
                    (
                        r"\b[xy]\b",
                        "row",
                        "column",
                        "data",
                        "field",
                        "width|height",
                        question,
                        "latent",
                        "missing",
                        "count",
                    ),
                )


def _about_numbers() -> Iterator[Attempt]:
    for name in FITS:
        for question in NUMBERED:
            option = {"generate": "n", "sample": "n", "predict": "draws", "log_prob": "samples"}[question]
            for label, value in VALUES.items():
                if label in ("huge", "beyond floats"):
                    continue

                def run(name: str = name, question: str = question, option: str = option, value: Any = value) -> Any:
                    asked = getattr(fitted(name), question)
                    return asked(value) if option == "n" else asked(**{option: value})

                yield Attempt(
                    "questions", f"{name}: {question}({option}={label})", run, (option, "rows?", "draws", "number")
                )
            if question in ("generate", "predict"):
                for label, value in VALUES.items():
                    yield Attempt(
                        "questions",
                        f"{name}: {question}(seed={label})",
                        lambda name=name, question=question, value=value: (
                            fitted(name).generate(2, seed=value)
                            if question == "generate"
                            else fitted(name).predict(seed=value)
                        ),
                        ("seed", "number"),
                    )
        for label, value in VALUES.items():
            yield Attempt(
                "questions",
                f"{name}: assign(site={label})",
                lambda name=name, value=value: fitted(name).assign(site=value),
                ("site", "latent"),
            )
            yield Attempt(
                "questions",
                f"{name}: relabelled({label})",
                lambda name=name, value=value: fitted(name).relabelled(value),
                ("reference", "fit", "states", "exchangeable"),
            )


def _others() -> Iterator[Attempt]:
    calls: dict[str, Any] = {
        "Fit.load": Fit.load,
        "Fit.save": lambda value: fitted("beta").save(_place(value)),
        "Fit.report": lambda value: fitted("beta").report(_place(value)),
        "update": lambda value: update(value, [1, 0]),
        "update by": lambda value: update(fitted("beta"), value),
        "Exact().update": lambda value: Exact().update(value, [1, 0]),
        "EM().update": lambda value: EM().update(value, [1, 0]),
        "check": check,
        "fit(fit)": lambda value: fit(fitted("beta"), value, method="exact", progress=False),
    }
    for call, run in calls.items():
        for label, value in VALUES.items():
            yield Attempt(
                "questions",
                f"{call}({label})",
                lambda run=run, value=value: run(value),
                ("path", "fit", "folder", "data", r"\bx\b", "model", "row"),
                refuse=call not in ("Fit.save", "Fit.report", "update by"),
            )


def _place(value: Any) -> Any:
    """Keep what is a path out of the current folder."""
    return os.devnull + "/x" if isinstance(value, str | os.PathLike) else value
