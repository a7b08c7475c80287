"""What test files share: data, reference numbers, and a check that nothing global is left changed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd
import pyro
import pytest
import torch

import zoo


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take `--share`, by which each run of CI does a part of the slow tests, and a few runs all of them."""
    parser.addoption("--share", metavar="K/N", help="of the slow and compiled tests, run part K (0 to N - 1) of N only")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the cases of the other parts; which part a case is in hangs on its name alone."""
    if not (share := config.getoption("share")):
        return
    part, of = map(int, share.split("/"))
    slow = (i for i in items if i.get_closest_marker("slow") or i.get_closest_marker("compiled"))
    others = [i for i in slow if crc32(i.nodeid.encode()) % of != part]
    config.hook.pytest_deselected(items=others)
    gone = set(others)
    items[:] = [i for i in items if i not in gone]


@pytest.fixture(scope="session", autouse=True)
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what is noted of files of models out of the user's own folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session")
def references() -> Path:
    """The folder of reference numbers."""
    folder = os.environ.get("ZOO_REFERENCES")
    if not folder:
        pytest.skip("ZOO_REFERENCES is not set: it names the folder of reference numbers")
    return Path(folder)


@pytest.fixture(scope="session")
def reference(references: Path) -> Callable[[str], Any]:
    """Read a JSON file of reference numbers."""
    return lambda name: json.loads((references / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def faithful() -> pd.DataFrame:
    """Old Faithful: 272 eruptions, their length and the wait for the next."""
    return zoo.datasets.load("faithful")


@pytest.fixture(scope="session")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Binarised 8x8 digits: 1500 rows to train on, 297 to test on."""
    pixels = (zoo.datasets.load("digits").to_numpy() >= 8).astype(float)
    order = np.random.default_rng(0).permutation(len(pixels))
    return pixels[order[:1500]], pixels[order[1500:]]


@contextmanager
def nothing_global_changes() -> Iterator[None]:
    """Check that what happens inside leaves the random state, Pyro's parameters and torch's defaults alone."""
    pyro.get_param_store().clear()
    pyro.param("of_the_user", torch.tensor([1.0, 2.0]))
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), torch.get_default_dtype(), torch.is_grad_enabled()
    yield
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    assert (torch.get_default_dtype(), torch.is_grad_enabled()) == before[2:]
    assert list(pyro.get_param_store().keys()) == ["of_the_user"]
    assert torch.equal(pyro.param("of_the_user"), torch.tensor([1.0, 2.0]))
    pyro.get_param_store().clear()
