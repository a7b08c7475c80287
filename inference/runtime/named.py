"""Classes and functions that a saved fit names: found where the program has them, never by running what a file says.

A fit may come from elsewhere. What it names is the library's, registered by an installed package, in a module that the
program has imported, or in a file that a fit of this user was saved with, on this machine, and that is as it was then.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import re
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from torch import nn

from inference.runtime.model_files import import_file
from zoo import catalogue
from zoo.errors import ModelError
from zoo.plugins import Plugin
from zoo.text import SUFFIXES
from zoo.text.read_model import read_model

OURS = ("zoo", "guides", "inference")  # by name alone: a fit may have been saved by an installation elsewhere
NETWORKS = re.compile(r"zoo\.networks\.\w+")
INSTALLED = {"site-packages", "dist-packages"}  # folders of packages
PURE = ("zoo.networks.", "torch.nn.", "torch.distributions.", "pyro.distributions.")  # functions that only compute


def location(definition: type | FunctionType) -> dict[str, Any]:
    """Where a class or function can be imported from: its module, its name there, and the module's file."""
    module, name = definition.__module__, definition.__qualname__
    path = getattr(definition, "__text__", None) or getattr(sys.modules.get(module), "__file__", None)
    return {"module": module, "name": name, "file": str(Path(path).resolve()) if path else None}


def find(saved: Mapping[str, Any], kind: type) -> Any:
    """Return the class of this kind, or one below it, that a `location` names; None if the program does not have it.

    Of kind ``object`` are what models take as settings: networks, distributions, and functions.
    """
    module, names, file = str(saved["module"]), str(saved["name"]), saved["file"]
    path = Path(file) if file else None
    if path is not None and path.suffix in SUFFIXES:  # a declaration, in which there is no code
        return read_model(path) if path.is_file() else None
    for place in _modules(module, names, path):
        found = place
        for name in names.split("."):
            found = getattr(found, name, None)
        if _is_named(found, names) and _is_of(found, kind):
            return found
    return None


def imported(saved: Mapping[str, Any], kind: type) -> Any:
    """Return what a `location` names.

    Raises
    ------
    ModelError
        If the program does not have it.
    """
    definition = find(saved, kind)
    if definition is None:
        raise ModelError(f"the saved fit uses {saved['name']} of {saved['module']}, which {remedy(saved)}")
    return definition


def remedy(saved: Mapping[str, Any]) -> str:
    """Say why something is not there, and what to do."""
    if saved["file"] and Path(saved["file"]).suffix in SUFFIXES:
        return f"is declared in {saved['file']}, which is not there any more"
    return (
        "cannot be imported: this program has no such thing, and loading a fit runs no code that it names. Import "
        f"{saved['module']} first" + (f" (zoo --code {saved['file']} on the command line)" if saved["file"] else "")
    )


def remember(described: Any) -> None:
    """Note down the files of code that a fit uses, so that this user can load it without naming them again."""
    if isinstance(described, list):
        for part in described:
            remember(part)
    elif isinstance(described, dict):
        for part in described.values():
            remember(part)
        if {"module", "name", "file"} <= set(described) and str(described["module"]).partition(".")[0] not in OURS:
            note = _note(described)
            if note is not None:
                with contextlib.suppress(OSError):  # then one is asked for them
                    note.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                    note.touch(mode=0o600)


def _modules(module: str, names: str, path: Path | None) -> Iterator[Any]:
    """Modules that may define it; none is imported but those that are registered, the library's, or known here."""
    package = module.partition(".")[0]
    if module in sys.modules:
        yield sys.modules[module]
    elif package in OURS:
        entries = [entry for kind in catalogue.KINDS for entry in catalogue.shipped(kind).values()]
        if NETWORKS.fullmatch(module) or any(entry.module == module and entry.name == names for entry in entries):
            with contextlib.suppress(ImportError):
                yield importlib.import_module(module)
    else:
        for plugin in (entry for kind in catalogue.KINDS for entry in catalogue.entries(kind).values()):
            if isinstance(plugin, Plugin) and plugin.point.module.partition(".")[0] == package:
                plugin.load()
        if module in sys.modules:
            yield sys.modules[module]
    if path is None or package in OURS:
        return
    yield from [m for m in [*sys.modules.values()] if getattr(m, "__file__", None) == str(path)]
    note = _note({"module": module, "file": str(path)})
    if note is None or not note.is_file() or module == "__main__":  # a script would run all over again
        return
    with contextlib.suppress(ImportError):
        there = importlib.import_module(module)
        if getattr(there, "__file__", None) == str(path):
            yield there
            return
    # A file that is no module of an installed package, or whose name is also that of another module.
    yield import_file(path, f"{module}_of_a_saved_fit")


def _is_named(found: Any, names: str) -> bool:
    """Whether it is a class or function of this name: not one that a module has imported under another."""
    return isinstance(found, type | FunctionType) and found.__qualname__ == names


def _is_of(found: Any, kind: type) -> bool:
    if kind is not object:
        return isinstance(found, type) and issubclass(found, kind)
    if isinstance(found, type) and issubclass(found, nn.Module | torch.distributions.Distribution):
        return True
    return f"{found.__module__}.".startswith(PURE) or _is_own(found.__module__)


def _is_own(module: str) -> bool:
    """Whether a module is a user's: any function of Python or of an installed package could be named else."""
    if module == "__main__":
        return True
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None or module.partition(".")[0] in OURS:
        return False
    path = Path(file)
    return not path.is_relative_to(sysconfig.get_path("stdlib")) and not INSTALLED & set(path.parts)


def _note(saved: Mapping[str, Any]) -> Path | None:
    """Return the empty file that stands for a module of this name in this file with what is in it now."""
    path = Path(str(saved["file"]))
    if not saved["file"] or path.suffix != ".py" or not path.is_file():
        return None
    told = hashlib.sha256(f"{saved['module']}\0{path}\0".encode() + path.read_bytes())
    home = os.environ.get("XDG_STATE_HOME") or Path("~/.local/state").expanduser()
    return Path(home) / "latentzoo" / "code" / told.hexdigest()
