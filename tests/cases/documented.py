"""What users read of public names: docstrings, their own or of what they override."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import cached_property
from types import ModuleType
from typing import Any

from tests.cases.sources import PACKAGES

KINDS = (property, cached_property, classmethod, staticmethod)


def ours(owner: Any) -> bool:
    return (getattr(owner, "__module__", None) or "").partition(".")[0] in PACKAGES


def docstring(owner: type, name: str) -> str:
    """What `help` shows of a member of a class: its docstring, or that of the member of ours that it overrides."""
    members = [vars(cls)[name] for cls in owner.__mro__ if ours(cls) and name in vars(cls)]
    return next((inspect.cleandoc(member.__doc__) for member in members if member.__doc__), "")


def public(module: ModuleType) -> dict[str, Any]:
    """What a module offers, but for modules and types that are only annotations."""
    names = getattr(
        module, "__all__", [n for n, value in vars(module).items() if not n.startswith("_") and ours(value)]
    )
    return {name: getattr(module, name) for name in names if not inspect.ismodule(getattr(module, name))}


def docstrings(module: ModuleType) -> Iterator[tuple[str, str]]:
    """Every public name of a module, and every public method and property of its classes, with its docstring."""
    for name, value in public(module).items():
        yield name, inspect.getdoc(value) or ""
        if inspect.isclass(value):
            found = {n: v for cls in reversed(value.__mro__) if ours(cls) for n, v in vars(cls).items() if n[0] != "_"}
            members = [n for n, v in found.items() if inspect.isfunction(v) or isinstance(v, KINDS)]
            yield from ((f"{name}.{member}", docstring(value, member)) for member in members)
