"""Models of nothing but discrete sites: posteriors, evidence and the most probable configuration, exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

import zoo
from inference import Fit, fit
from tests.cases.networks import asia, declared, drawn, full_joint, highest, log_joint, pgmpy_network
from zoo.errors import DataError, MethodError, ModelError

ASIA = asia()
NAMES = list(ASIA)
JOINT = full_joint(ASIA)


def given(case: dict[str, int | None]) -> np.ndarray:
    """p(configuration, evidence): the joint where it agrees with what was seen, else 0."""
    found = JOINT.copy()
    for i, name in enumerate(NAMES):
        if case[name] is not None:
            mask = np.zeros(2)
            mask[case[name]] = 1
            found = found * mask.reshape([2 if j == i else 1 for j in range(len(NAMES))])
    return found


def marginal(joint: np.ndarray, name: str) -> np.ndarray:
    i = NAMES.index(name)
    p = joint.sum(tuple(j for j in range(joint.ndim) if j != i))
    return p / p.sum()


def cases(count: int, seed: int, share: float = 0.4) -> list[dict[str, int | None]]:
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        case: dict[str, int | None] = dict(drawn(ASIA, rng))
        made.append({n: v if rng.random() < share else None for n, v in case.items()})
    return made


@pytest.mark.parametrize("seen", [pytest.param(0.0, marks=pytest.mark.slow), 0.5])
def test_one_case_in_plain_sites(seen: float) -> None:
    """Marginals, evidence and configuration of the chest clinic equal sums over all 256 configurations."""
    case = cases(1, seed=3, share=seen)[0]
    found = fit(declared(ASIA, cases=False), case, method="exact", seed=0)
    joint = given(case)
    assert found.objective.kind == "log_evidence"
    assert found.objective.value == pytest.approx(np.log(joint.sum()), abs=1e-12)
    table = found.assign()
    hidden = [n for n in NAMES if case[n] is None]
    assert list(table.columns.get_level_values(0).unique()) == hidden
    for name in hidden:
        np.testing.assert_allclose(table[name].to_numpy()[0], marginal(joint, name), atol=1e-12)
    best = found.most_probable()
    at = {n: case[n] if case[n] is not None else int(best[n].iloc[0]) for n in NAMES}
    assert best.attrs["log_joint"] == pytest.approx(np.log(joint.max()), abs=1e-12)
    assert log_joint(ASIA, {n: int(v or 0) for n, v in at.items()}) == pytest.approx(np.log(joint.max()), abs=1e-12)


def test_a_case_in_each_row() -> None:
    """Any subset is evidence, another in each row; labels, labels of rows and draws are right."""
    rows = cases(6, seed=1)
    rows[2] = dict.fromkeys(NAMES)
    labels = {None: None, 0: "no", 1: "yes"}
    frame = pd.DataFrame([{n: labels[v] for n, v in row.items()} for row in rows], index=list("abcdef"), dtype=object)
    for name in NAMES:  # each label occurs in each column, so that codes are those of the tables
        frame.loc["g", name], frame.loc["h", name] = "no", "yes"
    frame.loc["g", "either"] = frame.loc["h", "either"] = None
    frame.loc["h", "either"], frame.loc["g", "either"] = "yes", "no"
    found = fit(declared(ASIA, cases=True), frame, method="exact", seed=0)
    table, best = found.assign(), found.most_probable()
    assert list(table.index) == list(frame.index) == list(best.index)
    total = 0.0
    for label, row in zip("abcdef", rows, strict=True):
        joint = given(row)
        total += np.log(joint.sum())
        for name in NAMES:
            np.testing.assert_allclose(table.loc[label, name].to_numpy(), marginal(joint, name), atol=1e-12)
            if row[name] is not None:
                assert table.loc[label, (name, labels[row[name]])] == 1.0
        where = tuple(["no", "yes"].index(best.loc[label, n]) for n in NAMES)
        assert joint[where] == pytest.approx(joint.max(), rel=1e-12)
    for row in ([0] * 8, [1] * 8):
        total += np.log(JOINT[tuple(row)])
    assert found.objective.value == pytest.approx(total, abs=1e-10)
    np.testing.assert_allclose(found.log_prob().loc["a"], np.log(given(rows[0]).sum()), atol=1e-10)


@pytest.mark.slow
def test_draws_are_joint() -> None:
    """Shares of pairs of states among the draws are those of the joint posterior, within 5 standard errors."""
    case: dict[str, int | None] = {**dict.fromkeys(NAMES), "dysp": 1, "xray": 1}
    found = fit(declared(ASIA, cases=False), case, method="exact", seed=0)
    draws = found.posterior["posterior"]
    joint = given(case) / given(case).sum()
    count = draws.sizes["draw"]
    for a, b in (("smoke", "lung"), ("lung", "either"), ("tub", "bronc")):
        i, j = sorted((NAMES.index(a), NAMES.index(b)))
        expected = joint.sum(tuple(k for k in range(8) if k not in (i, j)))
        shares = np.zeros((2, 2))
        np.add.at(shares, (draws[NAMES[i]].to_numpy()[0], draws[NAMES[j]].to_numpy()[0]), 1 / count)
        np.testing.assert_array_less(abs(shares - expected), 5 * np.sqrt(expected * (1 - expected) / count) + 1e-12)
    assert found.summary().loc["either", "state"] == marginal(given(case), "either").argmax()


def test_impossible_evidence_is_refused() -> None:
    """`either` is true of whoever has lung cancer: evidence that says otherwise has probability 0, and no posterior."""
    case: dict[str, int | None] = {**dict.fromkeys(NAMES), "lung": 1, "either": 0}
    with pytest.raises(DataError, match="probability 0"):
        fit(declared(ASIA, cases=False), case, method="exact", seed=0)
    frame = pd.DataFrame([dict.fromkeys(NAMES, np.nan), {**dict.fromkeys(NAMES, np.nan), "lung": 1, "either": 0}])
    with pytest.raises(DataError, match="row 1"):
        fit(declared(ASIA, cases=True), frame, method="exact", seed=0)


@pytest.mark.slow
def test_new_cases_and_saved_fits(tmp_path: Any) -> None:
    """New rows may miss what fitted ones had; a fit that was saved gives the same answers."""
    rows = pd.DataFrame(cases(5, seed=2), dtype=float)
    rows["smoke"] = [0.0, 1.0, 1.0, 0.0, 1.0]
    found = fit(declared(ASIA, cases=True), rows, method="exact", seed=0)
    new: dict[str, int | None] = {**dict.fromkeys(NAMES), "dysp": 1}
    table = found.assign(pd.DataFrame([new], dtype=float))
    for name in NAMES:
        np.testing.assert_allclose(table[name].to_numpy()[0], marginal(given(new), name), atol=1e-12)
    found.save(tmp_path / "fit")
    again = Fit.load(tmp_path / "fit", model=type(found.model))
    pd.testing.assert_frame_equal(again.assign(), found.assign())
    pd.testing.assert_frame_equal(again.most_probable(), found.most_probable())
    assert "variable elimination, largest factor" in zoo.explain(declared(ASIA, cases=True), rows)


def test_too_many_cells_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A factor beyond memory is refused with its sites before memory is asked for; by explain, too."""
    monkeypatch.setattr("zoo.elimination.eliminate.MOST_CELLS", 4)
    case = {**dict.fromkeys(NAMES), "dysp": 1}
    with pytest.raises((MethodError, ModelError), match=r"factor over 3 of them at once .*'either'.*8 cells"):
        fit(declared(ASIA, cases=False), case, method="exact", seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["asia", "child", "insurance", "alarm"])
def test_networks_by_pgmpy(name: str) -> None:
    """Under random evidence all marginals, the evidence and the configuration are those of pgmpy, to 1e-10."""
    network, oracle = pgmpy_network(name)
    rng = np.random.default_rng(0)
    rows, evidence = [], []
    for share in (0.15, 0.3, 0.6):
        case = drawn(network, rng)
        seen = {n: v for n, v in case.items() if rng.random() < share}
        rows.append({n: seen.get(n) for n in network})
        evidence.append({n: network[n].states[v] for n, v in seen.items()})
    together = fit(declared(network, cases=True), pd.DataFrame(rows, dtype=float), method="exact", seed=0)
    densities = together.log_prob().to_numpy()
    for i, (row, seen) in enumerate(zip(rows, evidence, strict=True)):
        alone = fit(declared(network, cases=False), row, method="exact", seed=0)
        log_evidence, before = 0.0, {}
        for n, state in seen.items():
            answer = oracle.query([n], evidence=before, show_progress=False, elimination_order="MinFill")
            log_evidence += np.log(answer.values[network[n].states.index(state)])
            before[n] = state
        assert alone.objective.value == pytest.approx(log_evidence, abs=1e-10)
        assert densities[i] == pytest.approx(log_evidence, abs=1e-10)
        one, each = alone.assign(), together.assign()
        for n in network:
            if row[n] is None:
                answer = oracle.query([n], evidence=seen, show_progress=False, elimination_order="MinFill").values
                np.testing.assert_allclose(one[n].to_numpy()[0], answer, atol=1e-10)
                np.testing.assert_allclose(each[n].to_numpy()[i], answer, atol=1e-10)
        best = alone.most_probable()
        whole = {n: row[n] if row[n] is not None else int(best[n].iloc[0]) for n in network}
        assert best.attrs["log_joint"] == pytest.approx(log_joint(network, whole), abs=1e-10)
        top = highest(network, {n: v for n, v in row.items() if v is not None})
        assert best.attrs["log_joint"] == pytest.approx(top, abs=1e-10)
