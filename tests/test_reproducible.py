"""What docs/reproducibility.md promises of bytes: one test for each promise that is not tested where it belongs."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

import zoo
from inference import CAVI, DADVI, EM, MAP, SVI, Exact, Fit, Laplace, Pathfinder, fit
from tests.cases.spread import spread

ROOT = Path(__file__).parent.parent
RNG = np.random.default_rng(0)
CLOUDS = RNG.normal(size=(90, 4)) + np.array([[0.0], [4.0], [8.0]]).repeat(30, 0)
LATER = RNG.normal(size=(40, 4)) * 3 + 2
WIDE = RNG.normal(size=(120, 12))
X = RNG.normal(size=(60, 5))
LINE = {"x": X, "y": X @ np.arange(5.0) + RNG.normal(size=60)}

CASES = {
    "em": lambda: fit(zoo.GMM(3), CLOUDS, method=EM(), seed=0),
    "cavi": lambda: fit(zoo.BayesianGMM(3), CLOUDS, method=CAVI(max_steps=50), seed=0),
    "exact": lambda: fit(zoo.BayesianRegression(), LINE, method=Exact(), seed=0),
    "factors": lambda: fit(zoo.FactorAnalysis(5), WIDE, method=EM(max_steps=50), seed=0),
    "components": lambda: fit(zoo.PPCA(5), WIDE, method=EM(max_steps=50), seed=0),
    "svi": lambda: fit(zoo.BayesianGMM(2), CLOUDS, method=SVI(steps=40, compile=False), seed=0),
    "map": lambda: fit(zoo.BayesianGMM(2), CLOUDS, method=MAP(steps=40, compile=False), seed=0),
    "laplace": lambda: fit(zoo.BayesianRegression(), LINE, method=Laplace(compile=False), seed=0),
    "dadvi": lambda: fit(zoo.BayesianRegression(), LINE, method=DADVI(compile=False), seed=0),
    "pathfinder": lambda: fit(
        zoo.BayesianRegression(), LINE, method=Pathfinder(paths=2, draws=50, compile=False), seed=0
    ),
}
every = pytest.mark.parametrize("name", CASES)


def said(found: Fit) -> dict[str, str]:
    """What a fit says, every bit of it: numbers by their bytes."""
    answers = {
        "objective": np.array([found.objective.value, found.objective.error]),
        "trace": found.trace["value"].to_numpy(),
        "log_prob": found.log_prob(samples=50).to_numpy(),
        "summary": found.summary().to_numpy(dtype=float),
        **{f"predict {n}": v.to_numpy() for n, v in found.predict(draws=3)["posterior_predictive"].data_vars.items()},
        **{f"point {n}": v.numpy() for n, v in found.points.items()},
    }
    if found.program.enumerated:
        answers["assign"] = found.assign().to_numpy()
    if not found.is_point:
        answers |= {f"sample {n}": v.to_numpy() for n, v in found.sample(3).data_vars.items()}
    return {key: np.ascontiguousarray(value).tobytes().hex() for key, value in answers.items()}


@pytest.fixture(scope="module")
def before() -> dict[str, Fit]:
    return {name: make() for name, make in CASES.items()}


SAID: dict[str, dict[str, str]] = {}


def said_before(name: str, before: dict[str, Fit]) -> dict[str, str]:
    """What the first fit of a case says, asked once."""
    if name not in SAID:
        SAID[name] = said(before[name])
    return SAID[name]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_in_another_process(before):
    """One that was asked for other things first: nothing that a process remembers is part of an answer."""
    script = f"""
        import json, sys
        sys.path.insert(0, {str(ROOT)!r})
        import torch
        from tests.test_reproducible import CASES, said
        torch.set_num_threads({torch.get_num_threads()})
        torch.manual_seed(12345)
        print(json.dumps({{name: said(CASES[name]()) for name in reversed(CASES)}}))
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    there = json.loads(done.stdout.splitlines()[-1])
    for name, found in before.items():
        assert there[name] == said(found), name


@pytest.mark.slow
@spread("name", CASES, part=0)
def test_the_number_of_threads_does_not_matter_where_data_are_few(name, before):
    """Small programs run on one thread, whatever torch is set to."""
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads % 2 + 1)
        assert said(CASES[name]()) == said_before(name, before)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.slow
@every
def test_a_loaded_fit_answers_with_the_same_bytes(name, before, tmp_path):
    assert said(Fit.load(before[name].save(tmp_path))) == said_before(name, before)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "method", "first"),
    [
        (zoo.GMM(3), EM(), CLOUDS),
        (zoo.BayesianGMM(3), CAVI(), CLOUDS),
        (zoo.BayesianGMM(3), EM(), CLOUDS),
        (zoo.NormalNormal(), Exact(), CLOUDS[:, 0]),
    ],
    ids=lambda v: type(v).__name__,
)
def test_updating_a_loaded_fit_is_updating_the_fit(model, method, first, tmp_path):
    """Also where it was updated before, so that it was planned on other rows than its last."""
    later = LATER if first.ndim == 2 else LATER[:, 0]
    fits = [fit(model, first, method=method, seed=0)]
    fits.append(method.update(fits[0], later))
    for number, found in enumerate(fits):
        loaded = Fit.load(found.save(tmp_path / str(number)))
        assert said(method.update(loaded, later - 1)) == said(method.update(found, later - 1))


def test_a_loaded_fit_can_be_saved_in_its_own_place(tmp_path):
    """What is read is copied, so that writing over the file does not change it."""
    found = fit(zoo.NormalNormal(), CLOUDS[:, 0], method=Exact(), seed=0)
    loaded = Fit.load(found.save(tmp_path))
    with pytest.warns(UserWarning, match="took the place of another saved fit, which differed in its data"):
        fit(zoo.NormalNormal(), CLOUDS[::-1, 1].copy(), method=Exact(), seed=0).save(tmp_path)
    assert said(loaded) == said(found)


def test_other_processors_agree_up_to_rounding():
    """A sum in another order rounds as on another processor: the answer of a closed form keeps all but a few digits."""
    order = np.random.default_rng(1).permutation(len(LINE["y"]))
    one, other = (
        fit(zoo.BayesianRegression(), rows, method=Exact(), seed=0)
        for rows in (LINE, {n: v[order] for n, v in LINE.items()})
    )
    # Each of n terms rounds once, and solving with the rows spreads that by the condition of X^T X at most.
    condition = np.linalg.cond(X.T @ X)
    slack = len(order) * np.finfo(float).eps * condition
    assert one.objective.value == pytest.approx(other.objective.value, rel=slack)
