"""What a package offers, read from its files without importing them.

A model, guide or method is one file. This module finds the classes by parsing the sources, so a new file is picked
up by the Python API, the tests and the command line with no edit elsewhere, and listing names never imports torch.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from zoo.errors import unknown

KINDS = {"model": ("zoo", "Model"), "guide": ("guides", "Guide"), "method": ("inference.methods", "Method")}


@dataclass(frozen=True)
class Entry:
    """One class of a package: its name, the module that defines it, its bases and the first line of its docstring."""

    name: str
    module: str
    bases: tuple[str, ...]
    summary: str

    def load(self) -> type:
        """Import the module and return the class."""
        found: type = getattr(importlib.import_module(self.module), self.name)
        return found


def _names(node: ast.expr) -> str:
    """Return the last name of a dotted expression, without subscripts or call arguments."""
    if isinstance(node, ast.Call):
        return _names(node.func)
    if isinstance(node, ast.Subscript):
        return _names(node.value)
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


@cache
def _classes(package: str) -> dict[str, Entry]:
    """Every class of the modules directly in `package`, and every function that `@model(...)` makes a class."""
    spec = find_spec(package)
    found: dict[str, Entry] = {}
    for folder in (spec.submodule_search_locations if spec else None) or ():
        for path in sorted(Path(folder).glob("*.py")):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef):
                    bases = tuple(_names(base) for base in node.bases)
                elif isinstance(node, ast.FunctionDef) and any(_names(d) == "model" for d in node.decorator_list):
                    bases = ("Model",)
                else:
                    continue
                summary = (ast.get_docstring(node) or "").partition("\n")[0]
                found[node.name] = Entry(node.name, f"{package}.{path.stem}", bases, summary)
    return found


@cache
def entries(kind: str) -> dict[str, Entry]:
    """Return the models, guides or methods that ship, by class name: `kind` is "model", "guide" or "method"."""
    package, root = KINDS[kind]
    classes = _classes(package)

    def descends(name: str) -> bool:
        return name == root or (name in classes and any(descends(base) for base in classes[name].bases))

    return {n: e for n, e in classes.items() if n != root and not n.startswith("_") and descends(n)}


def _key(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower()


def find(kind: str, name: str) -> type:
    """Return the class called `name`, whatever its case, underscores or hyphens.

    Raises
    ------
    UnknownNameError
        If there is none; the message lists the names there are.
    """
    known = entries(kind)
    for entry in known.values():
        if _key(entry.name) == _key(name):
            return entry.load()
    raise unknown(kind, name, known)


def models() -> list[str]:
    """Names of the models in the zoo. A model of your own needs no registration: pass it to `fit`."""
    return sorted(entries("model"))


def exports(package: str, kind: str, named: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make `__getattr__` and `__dir__` of a package whose names are imported when they are first used.

    Parameters
    ----------
    package
        Its name.
    kind
        The kind of classes it offers, each in a file of its own: they need not be named.
    named
        From every other public name to the module that it stands in, or that it is.
    """

    def __getattr__(name: str) -> Any:
        if name in named:
            module = importlib.import_module(named[name])
            return getattr(module, name, module)
        if name in entries(kind):
            return entries(kind)[name].load()
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*vars(sys.modules[package]), *named, *entries(kind)})

    return __getattr__, __dir__
