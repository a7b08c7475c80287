"""Compiled programs take bounded room, on disk and in a process."""

from __future__ import annotations

import gc
import json
import os
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from inference.cli import app
from inference.compiled import kept
from inference.compiled.compile import has_compiler, lower
from tests.cases.models import FLIPS, coin
from zoo.program.prepare import prepare


@pytest.fixture
def place(monkeypatch, tmp_path):
    monkeypatch.setenv(kept.FOLDER, str(tmp_path))
    return tmp_path / "zoo"


def test_the_oldest_programs_go_first(place, monkeypatch):
    monkeypatch.setattr(kept, "LIMIT", 1000)
    (place / "ab").mkdir(parents=True)
    for age in range(10):
        file = place / "ab" / str(age)
        file.write_bytes(bytes(150))
        os.utime(file, (1e9 - age, 1e9 - age))
    (place.parent / "of another program").write_bytes(bytes(5000))
    with kept.keeping():
        assert os.environ[kept.FOLDER] == str(place)
    assert sorted(file.name for file in (place / "ab").iterdir()) == ["0", "1", "2", "3", "4"]
    (place / "ab" / "new").write_bytes(bytes(5000))
    with kept.keeping():  # so soon after, nothing is looked at
        pass
    assert kept.size() == 5750
    said = json.loads(CliRunner().invoke(app, ["cache", "--clear", "--json"]).stdout)
    assert (said["bytes"], said["removed"], said["folder"]) == (0, 5750, str(place))
    assert [file.name for file in place.parent.iterdir()] == ["of another program"]


@pytest.mark.skipif(not Path("/proc/self/maps").exists() or not has_compiler(), reason="needs /proc and a compiler")
def test_programs_that_nobody_calls_are_unloaded(place):
    def loaded():
        return Path("/proc/self/maps").read_text(encoding="utf-8").count("graph.so")

    before = loaded()
    x = torch.linspace(0.0, 1.0, 7, dtype=torch.float64)
    found = lower(lambda x: x.exp().sum(), (x,), prepare(coin, FLIPS), True, 100)
    assert found(x) == pytest.approx(float(x.exp().sum()))
    assert loaded() > before
    del found
    gc.collect()
    assert loaded() == before
