"""Labels by minimal divergence of allocations: against brute force, and on draws whose labels were shuffled."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import zoo
from inference import NUTS, fit
from inference.approximations.sampled import Sampled
from inference.diagnostics.relabelling import LARGEST, relabel, relabelled, rows_for, stephens
from inference.method import Objective, Outcome
from tests.zoo.program.test_exchangeable import mixture, one_share
from zoo.program.exchangeable import exchangeable
from zoo.program.prepare import prepare
from zoo.program.state_group import StateGroup

WAITS = zoo.datasets.load("faithful")["waiting"]


def group_of(count: int, states: tuple[int, ...] | None = None) -> StateGroup:
    return StateGroup(("z",), count, states or tuple(range(count)), {}, {})


def divergence(allocations: torch.Tensor, permutations: torch.Tensor) -> float:
    """The sum that Stephens minimizes, as he writes it; allocations (draws, states, cells)."""
    p = torch.stack([a[order] for a, order in zip(allocations, permutations, strict=True)])
    return float((p * (p / p.mean(0)).log()).sum())


@pytest.mark.parametrize(("draws", "states", "seed"), [(4, 2, 0), (4, 2, 1), (3, 3, 2), (4, 3, 3), (4, 3, 4)])
def test_no_permutations_have_a_smaller_divergence(draws, states, seed):
    """All K!^draws of them are tried, on draws around one set of allocations, each under labels of its own."""
    rng = np.random.default_rng(seed)
    mean = rng.dirichlet(np.ones(states), 6)
    near = np.stack([[rng.dirichlet(4 * row + 0.2) for row in mean] for _ in range(draws)]).clip(1e-9)
    mixed = torch.from_numpy(np.stack([a[:, rng.permutation(states)].T for a in near]))
    found = divergence(mixed, stephens(mixed, group_of(states)))
    every = itertools.product(itertools.permutations(range(states)), repeat=draws)
    assert found == pytest.approx(min(divergence(mixed, torch.tensor(some)) for some in every), rel=1e-12)


def test_states_outside_the_group_keep_their_labels():
    allocations = torch.rand(20, 4, 9, dtype=torch.float64).softmax(1)
    permutations = stephens(allocations, group_of(4, (1, 3)))
    assert bool((permutations[:, [0, 2]] == torch.tensor([0, 2])).all())
    assert {tuple(p) for p in permutations[:, [1, 3]].tolist()} <= {(1, 3), (3, 1)}


def test_shuffled_labels_are_found_again():
    program, draws, orders = shuffled(3, 400)
    (labels,) = relabel(program, {}, draws)
    (group,) = exchangeable(program)
    together = orders.gather(1, labels.permutations)  # what was state j before the shuffle, for all draws the same
    assert len(together.unique(dim=0)) == 1
    assert labels.switched == pytest.approx(
        1 - float(labels.permutations.unique(dim=0, return_counts=True)[1].max()) / 400
    )
    sizes = labels.sorted().allocations.sum(1)
    assert bool((sizes.diff() <= 0).all())
    assert float(sizes.sum()) == pytest.approx(len(WAITS))
    moved = relabelled(draws, [labels.sorted()])
    assert bool((moved["share"].mean(0).diff() < 0).all())
    spread = moved["level"].std(0)
    assert float(spread.max()) < 0.2
    assert float(draws["level"].std(0).min()) > 5
    before, after = (program.log_joint({n: v[7] for n, v in d.items()}).total() for d in (draws, moved))
    assert torch.allclose(before, after, rtol=1e-12)
    assert group.count == 3


def test_rows_are_left_out_where_memory_would_be_short():
    program, draws, _ = shuffled(3, 50)
    assert rows_for(program, 50) is None
    rows = rows_for(program, LARGEST // 400)
    assert rows is not None
    assert len(rows) == LARGEST // (3 * (LARGEST // 400)) == 133
    (some,), (every,) = relabel(program, {}, draws, rows=rows), relabel(program, {}, draws)
    assert torch.equal(some.permutations, every.permutations)
    assert some.allocations.shape == (3, 133)


@pytest.mark.slow
def test_chains_whose_labels_switch_are_judged_by_relabelled_draws():
    """Draws around one mode, chain by chain under labels of their own: to R-hat they are in different modes."""
    program, draws, _ = shuffled(3, 2000, chains=4)
    judged = judge(program, draws)
    assert judged.converged
    assert judged.diagnostics["rhat"] < 1.01 < 2 < judged.diagnostics["rhat_as_drawn"]
    assert judged.verdict.startswith("trust after fit.relabelled(): R-hat at most 1.0")
    (note,) = judged.warnings
    assert note.startswith(
        "label switching: 75% of the draws have the states of which under other labels than the rest"
    )
    assert "say nothing as they are, however long the chains: use fit.relabelled()" in note
    values = relabelled(draws, [each.sorted() for each in relabel(program, {}, draws)])
    after = NUTS().relabelled(program, judged, judged_outcome(program, values))
    assert after.warnings == []
    assert after.verdict == f"trust: {after.reason.partition(': ')[2]}"


def test_chains_that_disagree_which_of_two_a_share_is_of_are_relabelled():
    """Half of the chains have share v, levels (0, 8), the others 1 - v, (8, 0): R-hat as drawn is far off."""
    y = normals((0.0, 1.0, 15), (8.0, 1.0, 35))[:, 0]
    program = prepare(one_share(), {"y": y.tolist()})
    (group,) = exchangeable(program)
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn(2000, 3, generator=generator, dtype=torch.float64)
    draws = {"v": (0.3 * noise[:, 0] - 0.85).sigmoid(), "level": torch.tensor([0.0, 8.0]) + 0.2 * noise[:, 1:]}
    turned = torch.tensor([[0, 1], [1, 0], [1, 0], [0, 1]]).repeat_interleave(500, 0)
    mixed = group.permute(draws, turned)
    judged = judge(program, mixed)
    assert judged.diagnostics["rhat"] < 1.01 < 1.5 < judged.diagnostics["rhat_as_drawn"]
    assert judged.verdict.startswith("trust after fit.relabelled()")
    after = relabelled(mixed, [each.sorted() for each in relabel(program, {}, mixed)])
    torch.testing.assert_close(after["v"], 1 - draws["v"])
    torch.testing.assert_close(after["level"], draws["level"].flip(-1))


@pytest.mark.slow
def test_chains_in_really_different_modes_are_not_label_switching():
    program, draws, _ = shuffled(3, 2000, chains=4)
    draws["spread"] = draws["spread"] * torch.tensor([1.0, 1.0, 1.0, 1.3]).double().repeat_interleave(500)
    judged = judge(program, draws)
    assert not judged.converged
    assert "R-hat" in judged.reason
    assert "disagree under any labels, which is more than label switching" in judged.verdict


def test_where_labels_mean_something_nothing_is_relabelled():
    program = prepare(mixture(components=3, prior="ordered"), {"y": WAITS[:20].tolist()})
    assert relabel(program, {}, {}) == []


def normals(*parts: tuple[float, float, int]) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(*part) for part in parts])[:, None]


MIXTURES = {
    "galaxies": (3, zoo.datasets.load("galaxies").to_numpy(float) / 1000),
    # Made up, of the size and shape of the log acidities of 155 lakes (Crawford 1994): the data themselves were not
    # found in a registry.
    "acidity": (2, normals((4.33, 0.37, 92), (6.24, 0.52, 63))),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MIXTURES)
def test_chains_agree_when_relabelled(name):
    """Whatever labels chains have ended under; all that labels do not change is as it was."""
    components, x = MIXTURES[name]
    made = fit(zoo.BayesianGMM(components=components, covariance="diag"), x, method=NUTS(), seed=1, progress=False)
    again = made.relabelled()
    assert made.converged
    assert again.verdict.startswith("trust: ")
    table = again.summary()
    assert float(table["r_hat"].max()) < 1.01
    weights = table.loc[[f"weights[{k}]" for k in range(components)], "mean"].to_numpy()
    assert (np.diff(weights) < 0).all()
    np.testing.assert_array_equal(again.log_p, made.log_p)
    likelihood = again.posterior["log_likelihood"]["x"].to_numpy()
    np.testing.assert_allclose(likelihood, made.posterior["log_likelihood"]["x"].to_numpy(), rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "sizes"), [(mixture(components=2), (90, 60)), (one_share(), (20, 10))], ids=["shares", "one share"]
)
def test_labels_that_switch_within_chains_are_seen_and_undone(model, sizes):
    """Overlapping groups: chains go to and fro between labels, and means of components as drawn are those of a mix."""
    y = normals((0.0, 1.0, sizes[0]), (2.5, 1.0, sizes[1]))[:, 0]
    made = fit(model, {"y": y}, method=NUTS(draws=2000), seed=2, progress=False)
    again = made.relabelled()
    assert made.converged
    assert made.verdict.startswith("trust after fit.relabelled()")
    assert made.warnings[0].startswith("label switching: ")
    assert (again.verdict[:7], again.warnings) == ("trust: ", [])
    assert float(made.summary()["r_hat"].max()) > 1.03
    table = again.summary()
    assert float(table["r_hat"].max()) < 1.01
    level = table.loc[["level[0]", "level[1]"], ["mean", "sd"]].to_numpy()
    np.testing.assert_array_less(np.abs(level[:, 0] - [0.0, 2.5]), 3 * level[:, 1])


@pytest.mark.slow
def test_chains_that_start_in_different_modes_are_label_switching():
    """Well separated groups: no chain leaves the labels that it began with, and R-hat as drawn is far off."""
    y = normals((0.0, 1.0, 20), (8.0, 1.0, 30))[:, 0]
    made = fit(mixture(components=2), {"y": y}, method=NUTS(start="pathfinder"), seed=3, progress=False)
    again = made.relabelled()
    table = again.summary()
    assert float(table["r_hat"].max()) < 1.01
    assert again.converged
    np.testing.assert_allclose(table.loc[["level[0]", "level[1]"], "mean"], [8.0, 0.0], atol=1.0)
    if float(made.summary()["r_hat"].max()) > 1.1:
        assert made.verdict.startswith("trust after fit.relabelled()")


def shuffled(components: int, count: int, chains: int = 0):
    """Draws around one mode of a mixture of waiting times, each draw (or chain) under labels of its own."""
    program = prepare(mixture(components=components), {"y": WAITS.tolist()})
    (group,) = exchangeable(program)
    generator = torch.Generator().manual_seed(5)
    noise = {n: torch.randn(count, components, generator=generator, dtype=torch.float64) for n in ("share", "level")}
    share = (torch.tensor([0.5, 0.3, 0.2]).double()[:components].log() + 0.05 * noise["share"]).softmax(-1)
    level = torch.tensor([80.0, 55.0, 67.0]).double()[:components] + 0.1 * noise["level"]
    spread = 4 + 0.1 * torch.randn(count, generator=generator, dtype=torch.float64)
    some = torch.tensor([[0, 1, 2], [2, 0, 1], [1, 0, 2], [1, 2, 0]])[:, :components]
    if chains:
        orders = some.repeat_interleave(count // chains, 0)
    else:
        orders = torch.stack([torch.randperm(components, generator=generator) for _ in range(count)])
    return program, group.permute({"share": share, "level": level, "spread": spread}, orders), orders


def judged_outcome(program, draws) -> Outcome:
    """What chains hand back before they are judged; their energies and trees are in order."""
    generator = torch.Generator().manual_seed(1)
    log_p = torch.randn(2000, generator=generator, dtype=torch.float64)
    stats = {
        "diverging": np.zeros((4, 500), bool),
        "tree_depth": np.full((4, 500), 3),
        "energy": np.random.default_rng(0).standard_normal((4, 500)),
    }
    sampled = Sampled(draws, log_p, {}, stats, "none", 4)
    return Outcome(
        approximation=sampled,
        points={},
        objective=Objective(0.0, "log_posterior"),
        trace=None,
        steps=1,
        converged=False,
        reason="",
    )


def judge(program, draws) -> Outcome:
    return NUTS(draws=500).relabelled(program, judged_outcome(program, draws), judged_outcome(program, draws))
