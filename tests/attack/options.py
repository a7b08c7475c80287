"""Settings of methods and guides, and options of calls, that make no sense."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

import zoo
from guides import Encoder, FullRank, LowRank, MeanField
from inference import EM, SVI, calibrate, compare, evidence, fit
from tests.attack.attempt import Attempt
from tests.attack.settings import VALUES
from tests.attack.subjects import QUICK, TABLE
from zoo import catalogue

MODEL = zoo.BayesianGMM(components=2, covariance="diag")
TRIVIAL = ("steps", "max_steps", "warmup", "draws", "chains", "particles", "restarts", "paths", "populations", "moves")


def attempts() -> Iterator[Attempt]:
    """Each setting of each method and guide at each value; guides with what is none; options of the calls."""
    yield from _settings()
    yield from _guides()
    yield from _calls()


def _settings() -> Iterator[Attempt]:
    for entry in catalogue.entries("method").values():
        cls: Any = catalogue.find("method", entry.name)
        start = QUICK.get(entry.name.lower()) or (cls(steps=15) if "steps" in cls.__dataclass_fields__ else cls())
        for field in dataclasses.fields(cls):
            for label, value in VALUES.items():
                if label in ("huge", "beyond floats", "1e300") and field.name in TRIVIAL:
                    continue  # as long as was asked for
                yield Attempt(
                    "options",
                    f"{entry.name}({field.name}={label})",
                    lambda cls=cls, start=start, name=field.name, value=value: fit(
                        MODEL, TABLE, method=_changed(cls, start, name, value), seed=0, progress=False
                    ),
                    (field.name, "guide", "Gaussian|normal"),
                )


def _changed(cls: Any, start: Any, name: str, value: Any) -> Any:
    return cls(**{**{f.name: getattr(start, f.name) for f in dataclasses.fields(cls) if f.init}, name: value})


def _guides() -> Iterator[Attempt]:
    for entry in catalogue.entries("guide").values():
        cls: Any = catalogue.find("guide", entry.name)
        for name in inspect.signature(cls).parameters:
            for label, value in VALUES.items():
                yield Attempt(
                    "options",
                    f"{entry.name}({name}={label})",
                    lambda cls=cls, name=name, value=value: fit(
                        MODEL,
                        TABLE,
                        method=SVI(
                            guide=cls(value) if name in ("names", "function") else cls(**{name: value}), steps=5
                        ),
                        seed=0,
                        progress=False,
                    ),
                    (name, cls.__name__, "guide", "site", "latent"),
                )
        for label, value in VALUES.items() if cls.__name__ != "Guides" else ():
            for sides in ("after", "before"):
                yield Attempt(
                    "options",
                    f"{entry.name} & {label}, {sides}",
                    lambda cls=cls, value=value, sides=sides: _joined(cls, value, sides),
                    ("guide", "&"),
                    refuse=True,
                )
    for label, make in {
        "a rank of a million": lambda: LowRank(10**6),
        "a layer of 10^9": lambda: Encoder(hidden=(10**9,)),
        "an unknown site": lambda: FullRank("nowhere") & MeanField(),
        "one site twice": lambda: FullRank("loc") & FullRank("loc"),
        "nothing for the rest": lambda: FullRank("loc"),
    }.items():
        yield Attempt(
            "options",
            f"a guide with {label}",
            lambda make=make: fit(MODEL, TABLE, method=SVI(guide=make(), steps=5), seed=0, progress=False),
            ("rank", "hidden", "nowhere", "loc", "memory", "latent", "site"),
        )


def _joined(cls: Any, value: Any, sides: str) -> Any:
    own = cls(lambda: None) if cls.__name__ == "Custom" else cls()
    return own & value if sides == "after" else value & own


def _calls() -> Iterator[Attempt]:
    calls: dict[str, Any] = {
        "fit": lambda **given: fit(
            **{"model": MODEL, "data": TABLE, "method": EM(max_steps=9), "seed": 0, "progress": False, **given}
        ),
        "compare": lambda **given: compare(
            **{"model": MODEL, "data": TABLE, "methods": [EM(max_steps=9)], "seed": 0, "progress": False, **given}
        ).table["objective"],
        "calibrate": lambda **given: (
            calibrate(
                **{
                    "model": zoo.BetaBernoulli(),
                    "method": "exact",
                    "like": [1, 0, 1],
                    "simulations": 3,
                    "seed": 0,
                    "progress": False,
                    **given,
                }
            ).table
        ),
        "evidence": lambda **given: evidence(
            **{"of": zoo.BetaBernoulli(), "data": [1, 0, 1], "methods": ["exact"], "seed": 0, **given}
        ).table["log_evidence"],
    }
    names = {
        "fit": ("model", "data", "method", "seed", "device", "dtype", "weights", "progress", "columns"),
        "compare": ("methods", "holdout", "folds", "reference", "seed", "weights", "columns", "device"),
        "calibrate": ("method", "simulations", "seed", "weights", "columns", "folder"),
        "evidence": ("methods", "seed", "device", "weights", "columns"),
    }
    more = {
        "negative weights": -np.ones(len(TABLE)),
        "weights of zero": np.zeros(len(TABLE)),
        "too many weights": np.ones(100),
        "unknown column": "nowhere",
        "a dtype": torch.int64,
        "a device": "tpu",
        "a fold": 1,
        "an empty list": [],
        "a list of None": [None],
    }
    for call, options in names.items():
        for option in options:
            for label, value in {**VALUES, **more}.items():
                if option == "simulations" and label in ("huge", "beyond floats"):
                    continue
                yield Attempt(
                    "options",
                    f"{call}({option}={label})",
                    lambda call=call, option=option, value=value: calls[call](**{option: value}),
                    (option.rstrip("s"), "model", "row", "data", "folder|path"),
                )
