"""A page for each model of the zoo: its card, and a picture of what its card's example fits."""

from __future__ import annotations

import doctest
import inspect
import io
from pathlib import Path
from typing import Any

from pictured import picture
from sphinx.application import Sphinx
from sphinx.util import logging
from written import OUT

import zoo
from inference import Fit
from zoo import catalogue

ABOUT = """\
Each page is the model's card, and ``zoo show NAME`` prints it. The picture is drawn when this site is built: the graph
of the model (grey is observed, squares are parameters, networks and covariates, dashed states are summed out), and the
data of the card's example beside data that the fit makes. A model of your own needs no entry anywhere: see
:doc:`/declare`.
"""

log = logging.getLogger(__name__)


def example(name: str) -> Fit:
    """Run a card's example, hold what it prints to what it says, and return the last fit in it."""
    (test,) = doctest.DocTestFinder(recurse=False).find(getattr(zoo, name), name, globs={})
    said = io.StringIO()
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    if runner.run(test, out=said.write, clear_globs=False).failed:
        raise AssertionError(said.getvalue())
    return next(v for v in reversed(list(test.globs.values())) if isinstance(v, Fit))


def page(name: str) -> str:
    """Return a model's page."""
    return (
        f"{name}\n{'=' * len(name)}\n\n.. image:: {name}.png\n   :class: picture\n"
        f"   :alt: The graph of {name}, and its data beside data that the fit makes\n\n"
        f".. currentmodule:: zoo\n\n.. autoclass:: {name}\n   :no-members:\n"
    )


def index() -> str:
    """Return the page with all pictures."""
    cards = []
    for name, entry in sorted(catalogue.entries("model").items()):
        cards.append(
            f"   .. grid-item-card:: {name}\n      :link: {name}\n      :link-type: doc\n"
            f"      :img-bottom: {name}.png\n\n      {entry.summary}\n"
        )
    names = "\n".join(f"   {name}" for name in zoo.models())
    return (
        f"Models\n======\n\n{ABOUT}\n.. grid:: 1 2 2 2\n   :gutter: 3\n\n"
        + "\n".join(cards)
        + f"\n.. toctree::\n   :hidden:\n\n{names}\n"
    )


def write(app: Sphinx, config: Any) -> None:
    """Write the pages, and the pictures of those that are built."""
    folder = OUT / "models"
    folder.mkdir()
    (folder / "index.rst").write_text(index(), encoding="utf-8")
    for name in zoo.models():
        (folder / f"{name}.rst").write_text(page(name), encoding="utf-8")
        _drawn(name, folder / f"{name}.png")


def _drawn(name: str, path: Path) -> None:
    """Draw, or warn with what went wrong, which fails the build."""
    kept = (
        OUT.parent / "_build" / "pictures" / path.name
    )  # of an earlier build, for as long as the model's file is older
    if kept.exists() and kept.stat().st_mtime > Path(inspect.getfile(getattr(zoo, name))).stat().st_mtime:
        path.write_bytes(kept.read_bytes())
        return
    try:
        picture(example(name), path)
    except Exception as error:
        log.warning("no picture of %s: %s: %s", name, type(error).__name__, error)
        return
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(path.read_bytes())


def setup(app: Sphinx) -> dict[str, bool]:
    """Write after `written` has emptied the folder."""
    app.connect("config-inited", write, priority=600)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
