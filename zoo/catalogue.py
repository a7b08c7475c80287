"""What a package offers, read from its files without importing them, and what other packages add to it.

A model, guide or method is one file. This module finds the classes by parsing the sources, so a new file is picked
up by the Python API, the tests and the command line with no edit elsewhere, and listing names never imports torch.
"""

from __future__ import annotations

import ast
import importlib
import sys
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from zoo.errors import ZooError, unknown

if TYPE_CHECKING:
    from zoo.plugins import Plugin

KINDS = {"model": ("zoo", "Model"), "guide": ("guides", "Guide"), "method": ("inference.methods", "Method")}
BASES = "zoo.declare"  # where models also have base classes, which are none themselves


@dataclass(frozen=True)
class Entry:
    """One class of a package: its name, the module that defines it, its bases and the first line of its docstring."""

    name: str
    module: str
    bases: tuple[str, ...]
    summary: str

    def load(self) -> type[Any]:
        """Import the module and return the class; annotate what takes it: ``method: type[Method] = entry.load()``."""
        cls: type[Any] = getattr(_imported(self.module), self.name)
        return cls

    def guarded(self) -> AbstractContextManager[None]:
        """Do nothing: what fails in the library is an error, and in a `Plugin` a warning."""
        return nullcontext()


def _imported(module: str) -> ModuleType:
    """Import a module; tqdm, which Pyro imports, need not ask for widgets in notebooks that no bar of ours has."""
    if "tqdm.auto" in sys.modules:
        return importlib.import_module(module)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "IProgress not found")
        return importlib.import_module(module)


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
def _classes(package: str) -> tuple[Entry, ...]:
    """Every class of the modules directly in `package`, and every function that `@model(...)` makes a class."""
    spec = find_spec(package)
    classes: list[Entry] = []
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
                classes.append(Entry(node.name, f"{package}.{path.stem}", bases, summary))
    return tuple(classes)


@cache
def shipped(kind: str) -> dict[str, Entry]:
    """Return the models, guides or methods that ship, by class name: `kind` is "model", "guide" or "method"."""
    package, root = KINDS[kind]
    classes = _classes(package)

    def named(base: str, module: str) -> list[Entry]:
        """Return the class of that name in the same file, else those in other files, from which it was imported."""
        of_name = [entry for entry in (*classes, *_classes(BASES)) if entry.name == base]
        return [entry for entry in of_name if entry.module == module] or of_name

    def descends(entry: Entry) -> bool:
        return any(base == root or any(map(descends, named(base, entry.module))) for base in entry.bases)

    offered: dict[str, Entry] = {}
    for entry in classes:
        if entry.name != root and not entry.name.startswith("_") and descends(entry):
            if entry.name in offered:
                both = f"{offered[entry.name].module} and {entry.module}"
                raise ZooError(f"two {kind}s are called {entry.name}, in {both}; rename one")
            offered[entry.name] = entry
    return offered


@cache
def entries(kind: str) -> dict[str, Entry | Plugin]:
    """Return the models, guides or methods that ship, then those of other packages, by name."""
    from zoo.plugins import plugins  # which takes longer to import than all else that names need

    package, root = KINDS[kind]
    return {**shipped(kind), **plugins(kind, (package.partition(".")[0], root), shipped(kind))}


def _key(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower()


def entry(kind: str, name: str) -> Entry | Plugin:
    """Return what is offered under `name`, whatever its case, underscores or hyphens.

    Raises
    ------
    UnknownNameError
        If there is none; the message lists the names there are.
    """
    for known in (shipped, entries):  # packages that are installed are looked through only if need be
        for found in known(kind).values():
            if _key(found.name) == _key(name):
                return found
    raise unknown(kind, name, entries(kind))


def find(kind: str, name: str) -> type[Any]:
    """Return the class that is offered under `name`; see `entry`."""
    return entry(kind, name).load()


def models() -> list[str]:
    """Names of the models in the zoo. A model of your own needs no registration: pass it to `fit`.

    Examples
    --------
    >>> import zoo
    >>> zoo.models()[:3]
    ['Autoencoder', 'BayesianGMM', 'BayesianRegression']
    """
    return sorted(entries("model"))


def exports(package: str, kind: str, named: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make `__getattr__` and `__dir__` of a package whose names, `__all__` too, are looked up when first used.

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
        if name == "__all__":
            return sorted({*named, *shipped(kind)})
        if name in named:
            module = _imported(named[name])
            return getattr(module, name, module)
        for known in () if name.startswith("_") else (shipped, entries):
            if name in known(kind):
                return known(kind)[name].load()
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*vars(sys.modules[package]), *named, *entries(kind)})

    return __getattr__, __dir__
