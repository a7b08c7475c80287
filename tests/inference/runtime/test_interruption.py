"""Ctrl-C: a fit of the best so far, and everything global as it was; a second one raises."""

import os
import signal
import threading

import pytest
import torch

import zoo
from inference import EM, NUTS, SVI, fit
from inference.runtime.monitor import Monitor

CASES = {
    "em": (EM(tolerance=0.0, max_steps=10**6), 30),
    "em, several starts": (EM(restarts=3, tolerance=0.0, max_steps=10**6), 30),
    "cavi": ("cavi", 3),
    "svi": (SVI(steps=10**6, compile=False), 2),
    "svi by batches": (SVI(steps=10**6, batch_size=50, compile=False), 3),
    "map": ("map", 1),
}


@pytest.fixture
def keyboard():
    """Python's own handler, which a process of pytest-xdist may not have."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def pressed(monkeypatch, at, times=1):
    """Press Ctrl-C at a record of a monitor."""
    record, seen = Monitor.record, []

    def press(self, step, value):
        record(self, step, value)
        seen.append(step)
        for _ in range(times if len(seen) == at else 0):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Monitor, "record", press)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if "svi" in n else []) for n in CASES])
def test_a_climb_ends_with_the_best_so_far(faithful, monkeypatch, keyboard, capsys, name):
    method, at = CASES[name]
    pressed(monkeypatch, at)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    model = zoo.BayesianGMM(components=2)
    interrupted = fit(model, faithful, method=method, seed=0, progress=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    if name == "map":  # which climbs for a moment only: to its end, or to where it was
        return
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
    schools = zoo.NormalNormal()
    data = torch.randn(20, generator=torch.Generator().manual_seed(0)).numpy()
    chains = NUTS(chains=4, warmup=300, draws=3000)
    sent = threading.Event()
    record = Monitor.record

    def press(self, step, value):
        record(self, step, value)
        if step >= 5000 and not sent.is_set():  # in the second chain
            sent.set()
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Monitor, "record", press)
    interrupted = fit(schools, data, method=chains, seed=0, progress=False)
    assert 1 <= interrupted.posterior["posterior"].sizes["chain"] < 4
    assert not interrupted.converged
    assert interrupted.reason.startswith("interrupted by Ctrl-C")
    assert interrupted.summary()["mean"].notna().all()


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
