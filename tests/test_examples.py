"""Examples in docstrings: every public name has one, and each prints what it says."""

from __future__ import annotations

import doctest
import importlib
import inspect

import pytest

import guides
import inference
import zoo
from tests.cases.sources import MODULES

PACKAGES = {"zoo": zoo, "guides": guides, "inference": inference}
WITH_EXAMPLES = [
    n for n, path in MODULES.items() if "\n    >>> " in (text := path.read_text("utf-8")) or "\n>>> " in text
]


@pytest.mark.parametrize("package", PACKAGES.values(), ids=PACKAGES)
def test_every_public_name_has_an_example(package):
    values = {name: getattr(package, name) for name in package.__all__}
    modules = [n for n, value in values.items() if inspect.ismodule(value)]
    without = [n for n, value in values.items() if n not in modules and ">>> " not in (inspect.getdoc(value) or "")]
    assert not without


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_print_what_they_say(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # what examples write
    done = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert done.attempted
    assert not done.failed  # which are printed
