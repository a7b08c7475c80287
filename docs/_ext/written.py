"""Pages that are written from the packages when the site is built: a new model, guide or method needs no edit here.

The API reference lists what `zoo`, `guides` and `inference` export; the notebooks are copied to where Sphinx reads.
"""

from __future__ import annotations

import importlib
import inspect
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from sphinx.application import Sphinx

import zoo
from guides import Guide
from inference import Method
from zoo import catalogue

DOCS = Path(__file__).parent.parent
ROOT = DOCS.parent
OUT = DOCS / "generated"

BASES = (Guide, Method, zoo.Model, zoo.Regression)  # whose members stand on their own pages only
HOOKS = {name for base in BASES for name in vars(base)}
Group = tuple[str, Callable[[Any], bool]]

GROUPS: dict[str, tuple[Group, ...]] = {
    "zoo": (
        ("Functions", inspect.isroutine),
        ("Errors", lambda value: inspect.isclass(value) and issubclass(value, Exception)),
        ("Classes", inspect.isclass),
    ),
    "guides": (("Guides", inspect.isclass),),
    "inference": (
        ("Functions", inspect.isroutine),
        ("Methods", lambda value: inspect.isclass(value) and value.__name__ in catalogue.entries("method")),
        ("Results and bases", inspect.isclass),
    ),
    "inference.estimators": (("Estimators", inspect.isclass),),
    "zoo.networks": (("Blocks", inspect.isclass),),
    "zoo.datasets": (("Functions", inspect.isroutine), ("Classes", inspect.isclass)),
    "zoo.testing": (("Checks", inspect.isroutine), ("Errors", inspect.isclass)),
}


def public(module: ModuleType) -> dict[str, Any]:
    """Return what a module exports, without the models of the zoo, which have pages of their own, and modules."""
    own = [n for n, value in vars(module).items() if getattr(value, "__module__", "").startswith(module.__name__)]
    names = getattr(module, "__all__", [n for n in own if not n.startswith("_")])
    found = {name: getattr(module, name) for name in names if module is not zoo or name not in zoo.models()}
    return {name: value for name, value in found.items() if not inspect.ismodule(value)}


def listed(title: str, names: Iterable[str]) -> str:
    """Return a section with a table of objects, each with a page."""
    rows = "\n".join(f"   {name}" for name in names)
    return f"{title}\n{'-' * len(title)}\n\n.. autosummary::\n   :toctree: api\n\n{rows}\n"


def reference(name: str) -> str:
    """Return the page of a module: its docstring's first line, and its names in groups."""
    module, sections = importlib.import_module(name), []
    left = public(module)
    for title, belongs in GROUPS[name]:
        members = [n for n, value in left.items() if belongs(value)]
        left = {n: value for n, value in left.items() if n not in members}
        sections.append(listed(title, members))
    if left:
        raise ValueError(f"{name} exports {sorted(left)}, of which no group in {__file__} says where they belong")
    head = f"{name}\n{'=' * len(name)}\n\n{(module.__doc__ or '').strip().partition(chr(10))[0]}\n"
    return "\n".join([head, f".. currentmodule:: {name}\n", *sections])


CITED = re.compile(r"([A-Z][\w'-]+(?:(?:,| and|, and) [A-Z][\w'-]+)*(?: et al\.)?),? \(?((?:19|20)\d\d)(?=[),;:])")


def cited() -> str:
    """Return the page that lists who is cited where in the code."""
    places: dict[str, set[str]] = {}
    for package in ("zoo", "guides", "inference"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for name, year in CITED.findall(" ".join(path.read_text(encoding="utf-8").split())):
                places.setdefault(f"{name} ({year})", set()).add(f"``{path.relative_to(ROOT)}``")
    rows = "\n".join(f"   * - {name}\n     - {', '.join(sorted(places[name]))}" for name in sorted(places))
    return (
        "Cited in the code\n=================\n\nWhat each file follows; the title stands there.\n\n"
        f".. list-table::\n   :header-rows: 1\n   :widths: 40 60\n\n   * - work\n     - where\n{rows}\n"
    )


def notebooks() -> None:
    """Copy them from `examples/notebooks`: Sphinx reads only what is below its own folder."""
    shutil.copytree(ROOT / "examples" / "notebooks", OUT / "notebooks", ignore=shutil.ignore_patterns(".*"))


def write(app: Sphinx, config: Any) -> None:
    """Write all pages of `generated`, those of names that are gone removed."""
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    for name in GROUPS:
        (OUT / f"{name}.rst").write_text(reference(name), encoding="utf-8")
    (OUT / "cited.rst").write_text(cited(), encoding="utf-8")
    notebooks()


def elsewhere(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leave out what classes inherit from other libraries, and hooks of a base class, which its own page has.

    None leaves it to Sphinx.
    """
    member = getattr(obj, "fget", None) or getattr(obj, "func", None) or (inspect.unwrap(obj) if callable(obj) else obj)
    if (getattr(member, "__module__", None) or "").partition(".")[0] not in ("", "zoo", "guides", "inference"):
        return True
    owner = getattr(member, "__qualname__", "").partition(".")[0]
    hook = owner in {base.__name__ for base in BASES} and not app.env.docname.endswith(f".{owner}")
    override = name.rpartition(".")[2] in HOOKS and inspect.isfunction(member) and not member.__doc__
    return True if hook or override else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Write before Sphinx looks for pages."""
    app.setup_extension("sphinx.ext.autodoc")  # which has the second event
    app.connect("config-inited", write)
    app.connect("autodoc-skip-member", elsewhere)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
