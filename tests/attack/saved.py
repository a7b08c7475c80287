"""Folders of saved fits in which something is wrong."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from inference import Fit
from inference.posterior.store import read_summary
from inference.runtime.sums import seal
from tests.attack.attempt import Attempt
from tests.attack.subjects import fitted

FILES = ("fit.json", "tensors.safetensors", "trace.csv", "posterior.nc", "SHA256SUMS")
FITS = ("point", "draws", "beta", "codes")


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="attack-")


@cache
def _saved(name: str) -> Path:
    return fitted(name).save(Path(_folder().name) / name)


def _flip(path: Path, rng: np.random.Generator) -> None:
    content = bytearray(path.read_bytes())
    place = int(rng.integers(8 * len(content)))
    content[place // 8] ^= 1 << place % 8
    path.write_bytes(content)


def _cut(path: Path, rng: np.random.Generator) -> None:
    path.write_bytes(path.read_bytes()[: int(rng.integers(path.stat().st_size))])


def _pickled(path: Path, rng: np.random.Generator) -> None:
    path.write_bytes(pickle.dumps({"a": 1}))


def _deep(path: Path, rng: np.random.Generator) -> None:
    path.write_text("[" * 100_000)


DAMAGE: dict[str, Callable[[Path, np.random.Generator], Any]] = {
    "a flipped bit": _flip,
    "an end cut off": _cut,
    "nothing": lambda path, rng: path.write_bytes(b""),
    "a pickle": _pickled,
    "noise": lambda path, rng: path.write_bytes(rng.bytes(500)),
    "deep brackets": _deep,
    "zeros": lambda path, rng: path.write_bytes(b"\0" * 5000),
    "more at the end": lambda path, rng: path.write_bytes(path.read_bytes() + b"x"),
    "no file": lambda path, rng: path.unlink(),
    "a folder": lambda path, rng: (path.unlink(), path.mkdir()),
    "a broken link": lambda path, rng: (path.unlink(), path.symlink_to("nowhere")),
    "a link to itself": lambda path, rng: (path.unlink(), path.symlink_to(path.name)),
    "a pipe": lambda path, rng: (path.unlink(), os.mkfifo(path)),
}


def attempts() -> Iterator[Attempt]:
    """Each damage to each file; and in a sealed folder, each entry of `fit.json` taken out or made another."""
    for name in FITS:
        for file in FILES:
            for label, damage in DAMAGE.items():
                for turn in range(12 if label in ("a flipped bit", "an end cut off") else 1):
                    gone = label in ("no file", "a folder", "a broken link", "a link to itself", "a pipe")
                    yield Attempt(
                        "saved fits",
                        f"{name}: {label} in {file}, {turn}",
                        lambda name=name, file=file, damage=damage, turn=turn: _load(name, file, damage, turn),
                        (file, "SHA256SUMS"),
                        refuse=not (gone and file == "posterior.nc"),
                    )
        for label, change in _edits(name):
            yield Attempt(
                "saved fits",
                f"{name}: fit.json sealed with {label}",
                lambda name=name, change=change: _edited(name, change),
                ("fit", "model", "method"),
            )


def _load(name: str, file: str, damage: Callable[[Path, np.random.Generator], Any], turn: int) -> Any:
    with tempfile.TemporaryDirectory() as place:
        copy = Path(shutil.copytree(_saved(name), Path(place) / "copy"))
        damage(copy / file, np.random.default_rng([turn, *file.encode(), *name.encode()]))
        if turn % 2:
            read_summary(copy)
        return Fit.load(copy)


def _edits(name: str) -> Iterator[tuple[str, Callable[[dict[str, Any]], None]]]:
    """Take out, or change, each entry down to the second level; the fits have the same ones."""
    for path in (
        ("format",), ("versions",), ("model",), ("data",), ("method",), ("approximation",), ("priors",), ("objective",),
        ("converged",), ("reason",), ("warnings",), ("diagnostics",), ("verdict",), ("steps",), ("seed",), ("seconds",),
        ("text",), ("model", "module"), ("model", "name"), ("model", "settings"), ("model", "sites"),
        ("model", "densities"), ("data", "dims"), ("data", "row"), ("data", "levels"), ("data", "coords"),
        ("data", "dtype"), ("method", "name"), ("method", "module"), ("method", "settings"), ("objective", "value"),
        ("objective", "kind"),
    ):  # fmt: skip
        for label, value in {
            "gone": KeyError,
            "null": None,
            "text": "x",
            "list": [],
            "dict": {},
            "number": 3,
            "huge": 10**30,
        }.items():

            def change(described: dict[str, Any], path: tuple[str, ...] = path, value: Any = value) -> None:
                at = described
                for key in path[:-1]:
                    at = at[key]
                if value is KeyError:
                    at.pop(path[-1], None)
                else:
                    at[path[-1]] = value

            yield f"{'.'.join(path)} {label}", change


def _edited(name: str, change: Callable[[dict[str, Any]], None]) -> Any:
    with tempfile.TemporaryDirectory() as place:
        copy = Path(shutil.copytree(_saved(name), Path(place) / "copy"))
        described = json.loads((copy / "fit.json").read_text())
        change(described)
        (copy / "fit.json").write_text(json.dumps(described))
        seal(copy)
        return Fit.load(copy)
