"""A saved fit is what was saved, whole, or an error that names the file: damage, kills, full disks, closed folders."""

from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
import sys
import textwrap
import time
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import zoo
from inference import Fit, fit
from inference.posterior import store
from inference.runtime import whole
from inference.runtime.sums import SUMS
from tests.cases.spread import spread

ROOT = Path(__file__).parents[3]


@cache
def regression():
    """A fit of every kind of file: its model is made of a formula."""
    table = pd.DataFrame({"x": np.arange(20.0), "y": np.arange(20.0) % 7}, index=pd.RangeIndex(20, name="day"))
    return fit(zoo.BayesianRegression.from_formula("y ~ x", table), table, method="exact", seed=0)


@cache
def flips(count=4, seed=0):
    return fit("BetaBernoulli", [1, 0] * count, method="exact", seed=seed)


def files(folder):
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


@pytest.mark.slow
def test_any_flipped_bit_is_named(tmp_path):
    folder = regression().save(tmp_path / "fit")
    rng = np.random.default_rng(0)
    names = files(folder)
    assert {"formula.parquet", "posterior.nc", SUMS} < names
    for name in names:
        path = folder / name
        content = path.read_bytes()
        for place in rng.integers(0, 8 * len(content), 12):
            damaged = bytearray(content)
            damaged[place // 8] ^= 1 << place % 8
            path.write_bytes(damaged)
            with pytest.raises(zoo.DataError, match=SUMS if name == SUMS else name):
                Fit.load(folder)
        path.write_bytes(content)
    assert repr(Fit.load(folder)) == repr(regression())


def test_the_sums_are_those_of_coreutils(tmp_path):
    folder = regression().save(tmp_path / "fit")
    done = subprocess.run(["sha256sum", "--check", "--strict", SUMS], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_sums_that_are_gone_are_asked_for(tmp_path):
    folder = flips().save(tmp_path / "fit")
    (folder / SUMS).unlink()
    with pytest.raises(zoo.DataError, match=SUMS):
        Fit.load(folder)


@pytest.mark.slow
@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_all_files_have_the_mode_that_the_user_asked_for(mask, tmp_path):
    before = os.umask(mask)
    try:
        folder = flips().save(tmp_path / "above" / "fit")
        page = flips().report(tmp_path / "page.html")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(p.stat().st_mode) for p in [*folder.iterdir(), page]} == {0o666 & ~mask}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o777 & ~mask


@pytest.mark.slow
def test_a_full_disk_leaves_what_was_there(tmp_path):
    """As a limit of file sizes, which the libraries meet as they meet a full disk."""
    flips().save(tmp_path / "fit")
    before = files(tmp_path)
    larger, limit = flips(4000), resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        for size in (100, 40_000):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, limit[1]))
            for place in (tmp_path / "fit", tmp_path / "a" / "new"):
                with pytest.raises(zoo.DataError, match=rf"{place.name} could not be written: .+ as it was"):
                    larger.save(place)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limit[1]))
        with pytest.raises(zoo.DataError, match=r"page\.html could not be written"):
            flips().report(tmp_path / "page.html")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, ignored)
    assert files(tmp_path) == before
    assert os.listdir(tmp_path) == ["fit"]
    assert repr(Fit.load(tmp_path / "fit")) == repr(flips())


@spread("place", ["{here}/file/fit", "/proc/fit", "{here}/" + "x" * 300, "", "a\0b", 5, None, b"fit"], part=0, of=2)
def test_places_that_cannot_be_written_to_are_named(place, tmp_path):
    (tmp_path / "file").write_text("mine")
    place = place.format(here=tmp_path) if isinstance(place, str) else place
    for call in (flips().save, flips().report, Fit.load):
        with pytest.raises(zoo.DataError) as caught:
            call(place)
        named = "path" if not isinstance(place, str) or place in ("", "a\0b") else place.removesuffix("/fit")
        assert named in str(caught.value)
    assert os.listdir(tmp_path) == ["file"]


def test_a_link_is_followed_and_stays(tmp_path):
    flips().save(tmp_path / "fit")
    (tmp_path / "latest").symlink_to("fit")
    with pytest.warns(UserWarning, match="differed in its seed"):
        flips(seed=3).save(tmp_path / "latest")
    assert (tmp_path / "latest").is_symlink()
    assert Fit.load(tmp_path / "fit").seed == 3


def test_the_current_folder_stays_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flips().save(".")
    assert Fit.load(tmp_path).seed == 0
    with pytest.raises(zoo.DataError, match="current folder"):
        flips(seed=3).save(tmp_path)
    assert Fit.load(".").seed == 0


def test_a_system_that_cannot_exchange_folders(tmp_path, monkeypatch):
    """As many file systems: a kill between its two steps is made good when somebody asks."""
    monkeypatch.setattr(whole.ctypes, "CDLL", lambda *_, **__: None)
    flips().save(tmp_path / "fit")
    with pytest.warns(UserWarning, match="seed"):
        flips(seed=3).save(tmp_path / "fit")
    assert Fit.load(tmp_path / "fit").seed == 3
    assert os.listdir(tmp_path) == ["fit"]
    (tmp_path / "fit").rename(tmp_path / ".fit.before")
    assert Fit.load(tmp_path / "fit").seed == 3


def test_what_fails_midway_leaves_nothing(tmp_path, monkeypatch):
    for wrong in (KeyboardInterrupt, OSError(28, "No space left on device"), MemoryError):
        monkeypatch.setattr(store, "save_file", lambda *_, wrong=wrong: (_ for _ in ()).throw(wrong))
        with pytest.raises((KeyboardInterrupt, MemoryError, zoo.DataError)):
            flips().save(tmp_path / "a" / "fit")
    assert not os.listdir(tmp_path)


KILLED = """
    import sys
    from pathlib import Path
    from inference import Fit, fit
    one, two = (fit("BetaBernoulli", [1, 0] * 4, method="exact", seed=s) for s in (1, 2))
    print("ready", flush=True)
    import warnings
    warnings.simplefilter("ignore")
    for found in [one, two] * 10_000:
        found.save(sys.argv[1])
"""


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_a_whole_fit(tmp_path):
    flips(seed=7).save(tmp_path / "fit")
    rng = np.random.default_rng(1)
    for _ in range(6):
        saving = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path / "fit")],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
        )
        saving.stdout.readline()
        time.sleep(rng.uniform(0.0, 0.6))
        saving.kill()
        saving.wait()
        saving.stdout.close()
        assert Fit.load(tmp_path / "fit").seed in (7, 1, 2)
    flips(seed=8).save(tmp_path / "other")
    with pytest.warns(UserWarning, match="seed"):
        flips(seed=8).save(tmp_path / "fit")
    assert sorted(os.listdir(tmp_path)) == ["fit", "other"]  # what the killed were writing is swept away
