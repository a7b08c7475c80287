"""Ctrl-C: a fit of the best so far, and everything global as it was; a second one raises."""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from pyro.poutine.runtime import _PYRO_STACK

import zoo
from guides import FullRank
from inference import CAVI, EM, NUTS, SVI, Exact, Fit, compare, fit
from inference.runtime.monitor import Monitor
from zoo import catalogue
from zoo.program.prepare import prepare

MOMENTS = 3  # at which each method is interrupted
RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(4000, 2)) + 1.5 * RNG.integers(0, 3, (4000, 1))
SLOPES = {"x": RNG.normal(size=(2000, 12)), "y": RNG.integers(0, 2, 2000)}
LONG: dict[str, dict[str, Any]] = {  # settings with which a method takes a while, where it has them
    "restarts": 4,
    "paths": 12,
    "chains": 3,
    "populations": 8,
    "warmup": 100,
    "draws": 400,
    "tolerance": 0.0,
    "max_steps": 300,
    "compile": False,
}


def case(name: str) -> tuple[Any, Any, Any]:
    """Return a registered method with a model that it is legal for, so that a new one comes by itself."""
    method = catalogue.find("method", name)()
    method = replace(method, **{n: v for n, v in LONG.items() if hasattr(method, n)})
    subjects = [
        (zoo.GMM(components=4), ROWS),
        (zoo.BayesianGMM(components=3), ROWS[:1000]),
        (zoo.LogisticRegression(), SLOPES),
        (zoo.NormalNormal(), ROWS[:200, 0]),
    ]
    if hasattr(method, "chains") or hasattr(method, "populations"):  # a whole fit of the others takes minutes
        subjects.reverse()
    return method, *next((m, d) for m, d in subjects if method.why_not(prepare(m, d)) is None)


MORE = {
    "SVI, compiled": (SVI(steps=10**6, schedule="constant", compile=True), zoo.LogisticRegression(), SLOPES),
    "SVI, mini-batches": (SVI(steps=10**6, batch_size=50, compile=False), zoo.GMM(components=3), ROWS),
    "SVI, in closed form": (SVI(FullRank(), optimizer="batch-and-match"), zoo.LogisticRegression(), SLOPES),
    "EM, mini-batches": (EM(batch_size=100, max_steps=300, tolerance=0.0), zoo.GMM(components=3), ROWS),
    "EM, by gradient": (EM(gradient=True, tolerance=0.0), zoo.GMM(components=3), ROWS),
    "CAVI, mini-batches": (CAVI(batch_size=100, max_steps=300, tolerance=0.0), zoo.BayesianGMM(components=3), ROWS),
}


@pytest.fixture
def keyboard():
    """Python's own handler, which a process of pytest-xdist may not have."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def surroundings() -> dict[str, Any]:
    """All that is global and that a fit sets while it lasts."""
    return {
        "random numbers": torch.get_rng_state().numpy().tobytes(),
        "precision": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "threads": torch.get_num_threads(),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "parameters": dict(pyro.get_param_store().items()),
        "handlers of sites": list(_PYRO_STACK),
        "warnings": (list(warnings.filters), warnings.showwarning),
        "underflow": np.geterr(),
        "signals": signal.getsignal(signal.SIGINT),
    }


@contextmanager
def pressed_after(seconds: float) -> Iterator[None]:
    """Press Ctrl-C some time from now, if what is inside is not over."""
    over, lock = threading.Event(), threading.Lock()

    def press() -> None:
        if not over.wait(seconds):
            with lock:
                if not over.is_set():
                    os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    try:
        yield
    finally:
        with lock:
            over.set()
        thread.join()


def interrupted_at(seconds: float, *subject: Any) -> Fit | None:
    """Fit, and press Ctrl-C after so long; None where KeyboardInterrupt was raised."""
    method, model, data = subject
    try:
        with pressed_after(seconds):
            return fit(model, data, method=method, seed=0, progress=False)
    except KeyboardInterrupt:
        return None


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # raised where Python drops it, yet noted
@pytest.mark.parametrize("name", [*catalogue.entries("method"), *MORE])
def test_at_any_moment(name, keyboard, capsys):
    method, model, data = MORE[name] if name in MORE else case(name)
    endless = name == "SVI" or getattr(method, "steps", 0) == 10**6
    before, began, moments = surroundings(), time.perf_counter(), np.random.default_rng(len(name))
    seconds = 15.0
    if not endless:
        fit(model, data, method=method, seed=0, progress=False)
        seconds = min(time.perf_counter() - began, 30.0)
    ends = []
    for moment in np.sort(moments.uniform(0.02, 1.0, MOMENTS)) * seconds:
        found = interrupted_at(moment, method, model, data)
        now = surroundings()
        assert [n for n in before if now[n] != before[n]] == [], moment
        if found is not None and found.reason.startswith("interrupted by Ctrl-C"):
            assert not found.converged
            assert not found.summary().isna().all(axis=None)
            ends.append(found)
    print(name, f"{seconds:.1f} s, {len(ends)} of {MOMENTS} were a fit")
    assert ends or isinstance(method, Exact)  # which has nothing before it has all


def pressed(monkeypatch, at, times=1):
    """Press Ctrl-C at a record of a monitor."""
    record, seen = Monitor.record, []

    def press(self, step, value):
        record(self, step, value)
        seen.append(step)
        for _ in range(times if len(seen) == at else 0):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Monitor, "record", press)


ENDLESS = {
    "em": (EM(tolerance=0.0, max_steps=10**6), 30),
    "em, several starts": (EM(restarts=3, tolerance=0.0, max_steps=10**6), 30),
    "svi": (SVI(steps=10**6, compile=False), 2),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n != "em" else []) for n in ENDLESS])
def test_a_climb_ends_with_the_best_so_far(faithful, monkeypatch, keyboard, capsys, name):
    method, at = ENDLESS[name]
    pressed(monkeypatch, at)
    before = surroundings()
    interrupted = fit(zoo.BayesianGMM(components=2), faithful, method=method, seed=0, progress=False)
    now = surroundings()
    assert [n for n in before if now[n] != before[n]] == []
    assert not interrupted.converged
    assert interrupted.reason.startswith(f"interrupted by Ctrl-C after {interrupted.steps} steps")
    assert interrupted.assign(faithful).sum(axis=1).to_numpy() == pytest.approx(1.0)
    assert "Ctrl-C" in capsys.readouterr().err


def test_a_second_one_raises(faithful, monkeypatch, keyboard):
    pressed(monkeypatch, 30, times=2)
    with pytest.raises(KeyboardInterrupt):
        fit(zoo.GMM(components=2), faithful, method=EM(tolerance=0.0, max_steps=10**6), seed=0, progress=False)


@pytest.mark.slow
def test_chains_that_are_complete_are_kept(monkeypatch, keyboard):
    rows = torch.randn(20, generator=torch.Generator().manual_seed(0)).numpy()
    chains = NUTS(chains=4, warmup=300, draws=3000)
    sent = threading.Event()
    record = Monitor.record

    def press(self, step, value):
        record(self, step, value)
        if step >= 5000 and not sent.is_set():  # in the second chain
            sent.set()
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Monitor, "record", press)
    interrupted = fit(zoo.NormalNormal(), rows, method=chains, seed=0, progress=False)
    assert 1 <= interrupted.posterior["posterior"].sizes["chain"] < 4
    assert not interrupted.converged
    assert interrupted.reason.startswith("interrupted by Ctrl-C")
    assert interrupted.summary()["mean"].notna().all()


def test_a_comparison_keeps_the_fits_so_far(faithful, monkeypatch, keyboard):
    pressed(monkeypatch, 30)
    methods = [EM(tolerance=0.0, max_steps=10**6), "cavi", "exact"]
    found = compare(zoo.BayesianGMM(components=2), faithful, methods=methods, seed=0, progress=False)
    assert list(found.fits) == ["em"]
    assert not found.table["converged"]["em"]
    assert found.table["note"][["cavi", "exact"]].str.contains("not run: ended by Ctrl-C").all()


def test_handlers_of_the_users_own_stay(faithful):
    heard = []
    before = signal.signal(signal.SIGINT, lambda *_: heard.append(1))
    try:
        fit(
            zoo.GMM(components=2),
            faithful,
            method="em",
            seed=0,
            progress=lambda *_: os.kill(os.getpid(), signal.SIGINT),
        )
    finally:
        signal.signal(signal.SIGINT, before)
    assert heard
