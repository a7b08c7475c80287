"""Settings as JSON and back: of methods and guides, and of what can be imported by name."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
from torch import Tensor, nn

from guides.guide import Guide
from inference.runtime.model_files import import_file
from zoo import catalogue
from zoo.errors import ModelError
from zoo.text import SUFFIXES
from zoo.text.read_model import read_model

OURS = ("zoo", "guides", "inference")  # by name alone: a fit may have been saved by an installation elsewhere


def settings_of(instance: Any) -> dict[str, Any]:
    """Return the settings of a method or guide, by name."""
    return {f.name: getattr(instance, f.name) for f in fields(instance)}


def plain(value: Any) -> Any:
    """Return a value that JSON can hold."""
    if isinstance(value, Tensor | np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tuple | list):
        return [plain(v) for v in value]
    if isinstance(value, Mapping):
        return {n: plain(v) for n, v in value.items()}
    return value if isinstance(value, int | float | str | bool | None) else str(value)


def describe(kind: str, instance: Any) -> dict[str, Any]:
    """Return a "method" or "guide" as JSON: its name and settings, and where its class is if the library lacks it."""
    cls = type(instance)
    entry = catalogue.shipped(kind).get(cls.__name__)
    own = entry is None or entry.module != cls.__module__
    settings = describe_settings(settings_of(instance))
    return {"name": cls.__name__, "settings": settings, **({"import": location(cls)} if own else {})}


def make(kind: str, saved: Mapping[str, Any]) -> Any:
    """Make a method or guide again from what `describe` returned.

    Raises
    ------
    ModelError
        If its class is not the library's and cannot be imported any more.
    """
    cls = imported(saved["import"]) if "import" in saved else catalogue.find(kind, saved["name"])
    return cls(**read_settings(saved["settings"]))


def location(definition: type | FunctionType) -> dict[str, Any]:
    """Where a class or function can be imported from: its module, its name there, and the module's file."""
    module, name = definition.__module__, definition.__qualname__
    path = getattr(definition, "__text__", None) or getattr(sys.modules.get(module), "__file__", None)
    return {"module": module, "name": name, "file": str(Path(path).resolve()) if path else None}


def find(saved: Mapping[str, Any]) -> Any:
    """Import a class or function by its `location`; None if it is not there any more."""
    path = Path(saved["file"]) if saved["file"] else None
    if path is not None and path.suffix in SUFFIXES:
        return read_model(path) if path.is_file() else None
    module: Any = None
    with contextlib.suppress(ImportError):
        module = importlib.import_module(saved["module"])
    ours = saved["module"].partition(".")[0] in OURS
    elsewhere = not ours and path is not None and path.is_file() and getattr(module, "__file__", None) != str(path)
    if elsewhere and path is not None and saved["module"] != "__main__":  # a script would run all over again
        # A file that is no module of an installed package, or whose name is also that of another module.
        name = f"{saved['module']}_of_a_saved_fit"
        module = sys.modules[name] if _is_file(name, path) else import_file(path, name)
    for name in saved["name"].split("."):
        module = getattr(module, name, None)
    return module


def _is_file(module: str, path: Path) -> bool:
    return getattr(sys.modules.get(module), "__file__", None) == str(path)


def imported(saved: Mapping[str, Any]) -> Any:
    """Import a class or function by its `location`.

    Raises
    ------
    ModelError
        If it is not there any more.
    """
    definition = find(saved)
    if definition is None:
        raise ModelError(
            f"the saved fit uses {saved['name']} of {saved['module']}, which cannot be imported; it has to be at the "
            "top level of a module or file that is still where it was"
        )
    return definition


def _setting(value: Any) -> Any:
    """Return a setting as JSON: a guide by its name and settings, a function or class by its location."""
    if isinstance(value, Guide):
        described = describe("guide", value)
        return {"guide": described.pop("name"), **described}
    if isinstance(value, tuple | list):
        return [_setting(v) for v in value]
    if isinstance(value, type | FunctionType):
        return {"import": location(value)}
    if isinstance(value, nn.Module):
        return {"instance": type(value).__qualname__}
    return plain(value)


def with_networks(described: Any, networks: Mapping[str, nn.Module], setting: str = "") -> Any:
    """Return what `describe` and `describe_settings` said, with networks in place of those given as instances.

    Parameters
    ----------
    described
        As read from a file.
    networks
        Setting -> network.
    setting
        Which setting this is.

    Raises
    ------
    ModelError
        If one is lacking.
    """
    if isinstance(described, list):
        return [with_networks(v, networks, setting) for v in described]
    if not isinstance(described, dict):
        return described
    if set(described) != {"instance"}:
        return {n: with_networks(v, networks, n) for n, v in described.items()}
    if setting not in networks:
        given = f"{described['instance']}(...)"
        raise ModelError(
            f"the saved fit was made with {setting}={given}, an instance, which files do not make again; give one like "
            f"it, Fit.load(folder, networks={{{setting!r}: {given}}}), which gets the weights of the fit. A network "
            "given as a class or function is imported again"
        )
    return networks[setting]


def describe_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return hyperparameters as JSON."""
    return {n: _setting(v) for n, v in settings.items()}


def read_settings(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return hyperparameters of what `describe_settings` returned."""
    return {n: _read_setting(v) for n, v in saved.items()}


def _read_setting(saved: Any) -> Any:
    if isinstance(saved, list):
        return [_read_setting(v) for v in saved]
    if isinstance(saved, dict) and {"guide", "settings"} <= set(saved) <= {"guide", "settings", "import"}:
        return make("guide", {**saved, "name": saved["guide"]})
    if isinstance(saved, dict) and set(saved) == {"import"}:
        return imported(saved["import"])
    return saved
