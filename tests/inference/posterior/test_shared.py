"""A fit says the same, byte for byte, wherever it is taken: in a copy, another process, eight threads at once."""

from __future__ import annotations

import copy
import io
import multiprocessing
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import joblib
import numpy as np
import pytest

import zoo
from inference import Fit, fit
from tests.attack.subjects import FITS, fitted


def said(found: Fit) -> dict[str, bytes]:
    """Answers of a fit, as bytes."""
    answers = {
        "text": repr(found).encode(),
        "summary": found.summary().to_numpy(dtype=float).tobytes(),
        "log_prob": found.log_prob(samples=50).to_numpy().tobytes(),
        "generate": str(found.generate(3, seed=1)).encode(),
    }
    drawn = found.predict(draws=3)["posterior_predictive"]
    answers |= {f"predict {n}": v.to_numpy().tobytes() for n, v in drawn.data_vars.items()}
    if not found.is_point:
        answers |= {f"sample {n}": v.to_numpy().tobytes() for n, v in found.sample(3).data_vars.items()}
    if found.program.enumerated:
        answers["assign"] = np.asarray(found.assign()).tobytes()
    return answers


def through_joblib(found: Fit) -> list[dict[str, bytes]]:
    file = io.BytesIO()
    joblib.dump(found, file)
    file.seek(0)
    return [said(joblib.load(file))]


def in_process(way: str) -> Callable[[Fit], list[dict[str, bytes]]]:
    def asked(found: Fit) -> list[dict[str, bytes]]:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(way)) as pool:
            return [pool.submit(said, found).result(timeout=120)]

    return asked


def in_threads(found: Fit) -> list[dict[str, bytes]]:
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(said, [found] * 8))


WAYS: dict[str, Callable[[Fit], list[dict[str, bytes]]]] = {
    "pickle": lambda found: [said(pickle.loads(pickle.dumps(found)))],
    "deepcopy": lambda found: [said(copy.deepcopy(found))],
    "joblib": through_joblib,
    "fork": in_process("fork"),
    "spawn": in_process("spawn"),
    "threads": in_threads,
}


@pytest.mark.slow
@pytest.mark.parametrize("way", ["pickle", "deepcopy"])
def test_what_has_not_been_judged_yet_is_judged_of_a_copy(way):
    found = fit(zoo.BayesianGMM(components=2), "faithful", method="cavi", seed=0, progress=False)
    (answers,) = WAYS[way](found)
    assert answers == said(found)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("way", [pytest.param(w, marks=[pytest.mark.slow] if w == "spawn" else []) for w in WAYS])
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n != "point" else []) for n in FITS])
def test_the_same_bytes(name, way):
    found = fitted(name)
    before = said(found)
    for answers in WAYS[way](found):
        assert [n for n, value in before.items() if answers[n] != value] == []
    assert said(found) == before  # which a process that it was sent to had once taken the memory of
