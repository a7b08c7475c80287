"""Settings as JSON and back: of methods and guides, and of what can be imported by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from types import FunctionType
from typing import Any

import numpy as np
from torch import Tensor, nn

from guides.guide import Guide
from inference.runtime.named import imported, location
from zoo import catalogue
from zoo.errors import ModelError


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


def make(kind: str, saved: Mapping[str, Any], base: type) -> Any:
    """Make a method or guide, which is below this base, again from what `describe` returned.

    Raises
    ------
    ModelError
        If its class is not the library's and the program does not have it.
    """
    cls = imported(saved["import"], base) if "import" in saved else catalogue.find(kind, saved["name"])
    return cls(**read_settings(saved["settings"]))


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
        return make("guide", {**saved, "name": saved["guide"]}, Guide)
    if isinstance(saved, dict) and set(saved) == {"import"}:
        return imported(saved["import"], object)
    return saved
