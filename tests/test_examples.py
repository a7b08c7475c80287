"""Examples in docstrings: every public one has some, and each prints what it says."""

from __future__ import annotations

import doctest
import importlib

import pytest

from tests.cases.documented import docstrings
from tests.cases.sources import MODULES

OFFERED = ("zoo", "zoo.datasets", "zoo.networks", "zoo.testing", "guides", "inference", "inference.estimators")
WITH_EXAMPLES = [
    n for n, path in MODULES.items() if "\n    >>> " in (text := path.read_text("utf-8")) or "\n>>> " in text
]


@pytest.mark.parametrize("module", OFFERED)
def test_every_public_docstring_has_an_example(module):
    """Names and the members of classes; what overrides a member without a docstring of its own has that member's."""
    without = [name for name, text in docstrings(importlib.import_module(module)) if ">>> " not in text]
    assert not without


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_print_what_they_say(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # what examples write
    done = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert done.attempted
    assert not done.failed  # which are printed
