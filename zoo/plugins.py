"""Models, guides and methods of other packages, which name them in their metadata as entry points.

A package says in its ``pyproject.toml`` what it adds::

    [project.entry-points."latentzoo.models"]
    Tides = "tides.models:Tides"

and likewise ``latentzoo.guides`` and ``latentzoo.methods``. Nothing of it is imported before it is used; what fails
then is left out with a warning that names the package, and is an error where it was asked for by name.
"""

from __future__ import annotations

import ast
import importlib
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.machinery import PathFinder
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from zoo.errors import ZooError


@dataclass(frozen=True)
class Plugin:
    """A class that another package adds.

    Attributes
    ----------
    kind
        "model", "guide" or "method".
    name
        Of the entry point, by which it is asked for.
    point
        The entry point.
    root
        The package and the name of the class that it has to descend from.
    """

    kind: str
    name: str
    point: EntryPoint
    root: tuple[str, str]

    @property
    def package(self) -> str:
        """Name and version of the package that adds it."""
        made_by = self.point.dist
        return f"{made_by.name} {made_by.version}" if made_by else "of unknown origin"

    @property
    def _what(self) -> str:
        return f"{self.kind} {self.name!r} of the package {self.package}"

    @cached_property
    def summary(self) -> str:
        """The first line of its docstring, read from its file without importing it, and the package."""
        line = ""
        with suppress(OSError, ValueError, SyntaxError):  # what is wrong there is said when it is used
            path = _file_of(self.point.module)
            for node in ast.parse(path.read_text(encoding="utf-8")).body if path else ():
                if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == self.point.attr:
                    line = (ast.get_docstring(node) or "").partition("\n")[0]
        return f"{line} ({self.package})".strip()

    def load(self) -> type[Any]:
        """Import the module and return the class.

        Raises
        ------
        ZooError
            If that fails, or the class is none of this kind.
        """
        try:
            found = self.point.load()
        except Exception as error:
            first = str(error).strip().partition("\n")[0]
            raise ZooError(
                f"{self._what} cannot be imported from {self.point.value!r} ({type(error).__name__}: {first}); "
                "install a version of that package that fits, or remove it"
            ) from error
        package, name = self.root
        if not (isinstance(found, type) and issubclass(found, getattr(importlib.import_module(package), name))):
            raise ZooError(f"{self._what}: expected a class that descends from {package}.{name}, found {found!r}")
        return found

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Go on where its code fails while all of a kind are gone through: a warning names the package."""
        try:
            yield
        except Exception as error:
            said = f"{self._what} failed ({type(error).__name__}: {error})"
            warnings.warn(f"left out: {error if isinstance(error, ZooError) else said}", stacklevel=4)


def plugins(kind: str, root: tuple[str, str], taken: Collection[str]) -> dict[str, Plugin]:
    """Return the classes of a kind that other packages add, by name; a warning tells of names that are taken."""
    found: dict[str, Plugin] = {}
    for point in entry_points(group=f"latentzoo.{kind}s"):
        plugin = Plugin(kind, point.name, point, root)
        if point.name in found or point.name in taken:
            owner = found[point.name].package if point.name in found else "latentzoo"
            warnings.warn(
                f"left out: {plugin._what}, for {owner} has one of that name; ask for another in that package",
                stacklevel=3,
            )
        else:
            found[point.name] = plugin
    return found


def _file_of(module: str) -> Path | None:
    """Return the file of a module without importing the packages it is in, as `find_spec` would; None if unknown."""
    name, _, rest = module.partition(".")
    spec = find_spec(name)
    for part in rest.split(".") if rest else ():
        name = f"{name}.{part}"
        spec = PathFinder.find_spec(name, spec.submodule_search_locations) if spec else None
    return Path(spec.origin) if spec and spec.has_location and spec.origin else None
