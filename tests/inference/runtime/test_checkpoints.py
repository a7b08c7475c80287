"""Fits that were killed go on from their checkpoint, and end at the bytes of one that was never stopped."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import torch

import zoo
from inference import CAVI, EM, NUTS, SVI, fit
from inference.runtime.checkpoint import Checkpoint
from tests.attack.subjects import methods_of, subjects
from zoo import FitError

ROWS = np.random.default_rng(0).normal(size=(300, 2)) + 2.0 * np.random.default_rng(1).integers(0, 3, (300, 1))


class Killed(BaseException):
    """Stands for kill -9."""


def killed_after(monkeypatch, saves):
    """Kill a fit when it has written its checkpoint so many times."""
    save, done = Checkpoint.save, []

    def then_die(self, state):
        save(self, state)
        done.append(state)
        if len(done) == saves:
            raise Killed

    monkeypatch.setattr(Checkpoint, "save", then_die)


def numbers(found):
    """All numbers of a fit, as bytes."""
    tensors = {**found.approximation.tensors(), **found.points}
    return {
        "objective": np.float64(found.objective.value).tobytes(),
        "trace": found.trace[["step", "value"]].to_numpy().tobytes(),
        "reason": found.reason,
        **{n: t.contiguous().numpy().tobytes() for n, t in tensors.items()},
    }


def goes_on(monkeypatch, model, data, method, path, *saves):
    """Whether a fit that is killed after so many writes, again and again, ends as one without a checkpoint."""
    whole = fit(model, data, method=method, seed=0, progress=False)
    noting = replace(method, checkpoint=str(path))
    for count in saves:
        with monkeypatch.context() as patched:
            killed_after(patched, count)
            with suppress(Killed):
                fit(model, data, method=noting, seed=0, progress=False)
    found, expected = numbers(fit(model, data, method=noting, seed=0, progress=False)), numbers(whole)
    assert [n for n, value in expected.items() if found[n] != value] == []


@pytest.mark.parametrize(
    "method",
    [
        EM(),
        CAVI(),
        pytest.param(EM(restarts=3, tolerance=1e-9), marks=pytest.mark.slow),
        pytest.param(EM(gradient=True, max_steps=30), marks=pytest.mark.slow),
        pytest.param(EM(batch_size=50, max_steps=20), marks=pytest.mark.slow),
        pytest.param(CAVI(restarts=3), marks=pytest.mark.slow),
        pytest.param(CAVI(batch_size=50, max_steps=20), marks=pytest.mark.slow),
    ],
    ids=repr,
)
def test_the_same_bytes(monkeypatch, tmp_path, method):
    model = zoo.GMM(components=3) if isinstance(method, EM) else zoo.BayesianGMM(components=3)
    goes_on(monkeypatch, model, ROWS, method, tmp_path / "state", 3, 11)


@pytest.mark.slow
@pytest.mark.parametrize("name", subjects())
def test_the_same_bytes_of_every_model(monkeypatch, tmp_path, name):
    cls, settings, data = subjects()[name]
    legal = [m for m in (EM(max_steps=60), CAVI(max_steps=60)) if type(m).__name__.lower() in methods_of(name)]
    if not legal:
        pytest.skip("neither method is legal")
    for method in legal:
        goes_on(monkeypatch, cls(**settings), data, method, tmp_path / type(method).__name__, 2, 7)


@pytest.mark.slow
@pytest.mark.parametrize("chains", [1, 2])
def test_the_same_draws(monkeypatch, tmp_path, chains):
    method = NUTS(chains=3, warmup=50, draws=50, compile=False)
    goes_on(monkeypatch, zoo.NormalNormal(), ROWS[:20, 0], method, tmp_path / "state", chains)


def test_rows_of_a_stream(monkeypatch, tmp_path):
    np.save(tmp_path / "rows.npy", ROWS)
    rows = zoo.stream(tmp_path / "rows.npy", chunk=90)
    goes_on(monkeypatch, zoo.GMM(components=3), rows, EM(), tmp_path / "state", 4, 30)


def test_more_steps_than_before(tmp_path):
    short, long = (EM(max_steps=n, tolerance=0.0, checkpoint=str(tmp_path / "state")) for n in (5, 12))
    fit(zoo.GMM(components=3), ROWS, method=short, seed=0, progress=False)
    found = fit(zoo.GMM(components=3), ROWS, method=long, seed=0, progress=False)
    whole = fit(zoo.GMM(components=3), ROWS, method=replace(long, checkpoint=None), seed=0, progress=False)
    assert numbers(found) == numbers(whole)


@pytest.mark.parametrize(
    "method",
    [
        EM(max_steps=3),
        CAVI(max_steps=3),
        *(pytest.param(m, marks=pytest.mark.slow) for m in (NUTS(chains=1, warmup=9, draws=9), SVI(steps=9))),
    ],
)
def test_what_cannot_be_gone_on_from(tmp_path, method):
    model, data = (zoo.GMM(components=2), ROWS) if isinstance(method, EM) else (zoo.NormalNormal(), ROWS[:20, 0])
    noting = replace(
        method, checkpoint=str(tmp_path / "state"), **({} if isinstance(method, EM | CAVI) else {"compile": False})
    )
    fit(model, data, method=noting, seed=0, progress=False)
    for others in ({"seed": 1}, {"data": data[:-1]}):
        with pytest.raises(FitError, match="is of another fit"):
            fit(model, others.get("data", data), method=noting, seed=others.get("seed", 0), progress=False)
    with pytest.raises(FitError, match="there is no folder"):
        fit(model, data, method=replace(noting, checkpoint=str(tmp_path / "no" / "state")), progress=False)
    state = (tmp_path / "state").read_bytes()
    (tmp_path / "state").write_bytes(state[: len(state) // 2])
    with pytest.raises(FitError, match="cannot be read"):
        fit(model, data, method=noting, seed=0, progress=False)
    assert torch.get_default_dtype() == torch.float32
