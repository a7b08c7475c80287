"""Exact methods are calibrated, faults of a user's own method are found, and runs can be interrupted."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import zoo
from inference import Calibration, calibrate, fit
from inference.approximations.sampled import Sampled
from inference.method import Method, Objective, Outcome
from inference.methods.exact import Exact
from inference.simulated.quantities import Quantities, log_densities, unlabelled
from inference.simulated.refits import Refits, can_fork
from inference.simulated.truths import Truths
from tests.cases.models import NonCentred, NormalMean
from zoo import Real
from zoo.errors import DataError, FitError, MethodError, ModelError, UnknownNameError
from zoo.program.exchangeable import exchangeable
from zoo.program.prepare import prepare

FLIPS = [1, 0, 1, 1, 0, 1, 1, 0, 0, 1]


@dataclass(frozen=True)
class Moved(Method):
    """Draws of a coin's exact posterior, moved and stretched around their mean."""

    by: float = 0.0
    times: float = 1.0
    blind: bool = False

    def why_not(self, program):
        return None

    def run(self, program, *, progress=False):
        x = program.data.values["x"].to(torch.float64)
        a, b = (1.0, 1.0) if self.blind else (1.0 + float(x.sum()), 1.0 + float((1 - x).sum()))
        draws = dist.Beta(torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)).sample((200,))
        draws = (a / (a + b) + self.times * (draws - a / (a + b)) + self.by).clamp(1e-6, 1 - 1e-6)
        return Outcome(
            approximation=Sampled({"p": draws}, torch.zeros(200)),
            points={},
            objective=Objective(0.0, "log_posterior"),
            trace=None,
            steps=1,
            converged=True,
            reason="",
        )


def moved(simulations=200, **settings):
    return calibrate(zoo.BetaBernoulli(), Moved(**settings), like=FLIPS, simulations=simulations, seed=3, processes=1)


@pytest.mark.slow
def test_exact_method_is_calibrated_and_reports_it():
    result = calibrate(zoo.BetaBernoulli(), "exact", like=FLIPS, simulations=80, seed=1, processes=1)
    assert not result.alarm
    assert list(result.table.index) == ["p", "log_joint", "log_likelihood"]
    assert result.verdict.startswith("no fault found in 80 refits")
    assert result.ranks.shape == (80, 3)
    assert ((result.ranks > 0) & (result.ranks < 1)).all(axis=None)
    # Share in central 90 % intervals within four standard errors of it.
    assert (result.table["holds_90"] - 0.9).abs().max() < 4 * np.sqrt(0.09 / 80)


@pytest.mark.slow
def test_users_own_method_without_fault_gives_no_alarm():
    assert not moved().alarm


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"by": 0.12}, "draws are too high"),
        ({"by": -0.12}, "draws are too low"),
        ({"times": 0.5}, "draws are too narrow"),
        ({"times": 1.9}, "draws are too wide"),
    ],
)
def test_planted_faults_are_found_and_read(fault, words):
    result = moved(**fault)
    assert result.alarm
    assert words in result.table.loc["p", "reading"]
    assert result.verdict.startswith("not calibrated")


@pytest.mark.slow
def test_a_method_that_ignores_the_data_is_found_by_densities_only():
    """Prior draws rank a true value from the prior uniformly (Modrák et al. 2023): only the densities can tell."""
    table = moved(blind=True).table
    assert table.loc["p", "adjusted"] > 0.002
    assert table.loc["log_joint", "adjusted"] < 1e-6
    assert table.loc["log_likelihood", "adjusted"] < 1e-6


@pytest.mark.slow
def test_posterior_form_simulates_beside_the_data():
    fitted = fit(zoo.BetaBernoulli(), FLIPS, method="exact", seed=1)
    truths = Truths(fitted.program, fitted)
    truth = truths.draw()
    x = truth.program.data.values["x"]
    assert x[: len(FLIPS)].tolist() == FLIPS
    assert len(x) == 2 * len(FLIPS)
    assert float(truth.values["p"]) in fitted.draws.values["p"].tolist()
    result = calibrate(method="exact", posterior=fitted, simulations=60, seed=2, processes=1)
    assert result.group == "posterior_sbc"
    assert not result.alarm
    assert "from the posterior" in str(result)
    assert calibrate(method=Moved(times=0.4), posterior=fitted, simulations=100, seed=2, processes=1).alarm


@pytest.mark.slow
def test_posterior_form_keeps_locals_of_the_rows():
    fitted = fit(NormalMean(), {"x": [0.3, 1.2, -0.4]}, method="exact", seed=1)
    truth = Truths(fitted.program, fitted).draw()
    assert truth.program.data.values["x"][:3].tolist() == [0.3, 1.2, -0.4]
    schools = {"effect": [28.0, 8.0, -3.0], "error": [15.0, 10.0, 16.0]}
    wide = fit(NonCentred(), schools, method="laplace", seed=1)
    truth = Truths(wide.program, wide).draw()
    assert truth.values["standard"].shape == (6,)
    assert truth.values["standard"][:3].tolist() in wide.draws.values["standard"].tolist()
    assert truth.program.data.values["error"].tolist() == 2 * schools["error"]


def test_densities_by_hand():
    program = prepare(zoo.BetaBernoulli(a=2.0, b=3.0), FLIPS)
    p = torch.tensor(0.3, dtype=torch.float64)
    joint, likelihood = log_densities(program, {"p": p})
    by_hand = float(dist.Bernoulli(p).log_prob(torch.tensor(FLIPS, dtype=torch.float64)).sum())
    assert float(likelihood) == pytest.approx(by_hand)
    assert float(joint - likelihood) == pytest.approx(float(dist.Beta(2.0, 3.0).log_prob(p.float())), abs=1e-5)


def test_quantities_do_not_depend_on_labels():
    program = prepare(zoo.BayesianGMM(components=3), np.random.default_rng(1).normal(size=(30, 2)))
    quantities = Quantities(program)
    assert quantities.sorted == ["weights", "precisions", "means"]
    truth = Truths(program).draw().values
    values = {n: truth[n][None] for n in quantities.sorted}
    (group,) = exchangeable(program)
    other = group.permute(values, torch.tensor([2, 0, 1]))
    for name in quantities.sorted:
        a, b = (unlabelled([group], name, v[name]) for v in (values, other))
        assert torch.equal(a, b)
        assert not torch.equal(values[name], other[name])
        assert torch.equal(a.flatten().sort().values, values[name].flatten().sort().values)


def test_chosen_and_added_quantities():
    program = prepare(zoo.BetaBernoulli(), FLIPS)
    assert Quantities(program, ["p"]).names == ["p"]
    added = Quantities(program, {"odds": lambda z, data: z["p"] / (1 - z["p"]) + 0 * data["x"].sum()})
    found = added.of(program, {}, {"p": torch.tensor([0.5, 0.75], dtype=torch.float64)}, 2)
    assert found["odds"].tolist() == [1.0, 3.0]
    with pytest.raises(UnknownNameError, match="no 'q' here; there are p, log_joint"):
        Quantities(program, ["q"])
    with pytest.raises(UnknownNameError, match="already the name"):
        Quantities(program, {"p": lambda z, data: 0.0})


def test_rows_of_whole_weights_are_written_out():
    program = prepare(zoo.BetaBernoulli(), {"x": [1, 0, 1]}, weights=[2.0, 1.0, 3.0])
    truths = Truths(program)
    assert truths.program.data.values["x"].tolist() == [1, 1, 0, 1, 1, 1]
    assert truths.program.data.weights is None
    with pytest.raises(DataError, match=r"weight 0\.5: a row can be simulated a whole number of times"):
        Truths(prepare(zoo.BetaBernoulli(), {"x": [1, 0]}, weights=[0.5, 1.0]))


def test_missing_cells_stay_missing():
    program = prepare(NormalMean(), {"x": [0.3, float("nan"), 1.1]})
    truth = Truths(program).draw()
    assert truth.program.data.missing["x"].tolist() == [False, True, False]
    assert truth.program.data.values["x"][1] == program.data.values["x"][1]
    assert truth.program.data.values["x"][0] != program.data.values["x"][0]


@pytest.mark.slow
@pytest.mark.skipif(not can_fork(), reason="processes cannot be forked here")
def test_same_result_whatever_the_processes_and_interruptions(tmp_path, monkeypatch):
    options = {"like": FLIPS, "simulations": 35, "seed": 5, "progress": False}
    one = calibrate(zoo.BetaBernoulli(), "exact", processes=1, **options)
    two = calibrate(zoo.BetaBernoulli(), "exact", processes=2, **options)
    assert one.ranks.equals(two.ranks)
    block, calls = Refits.block, []

    def interrupted(self, which):
        calls.append(which)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return block(self, which)

    monkeypatch.setattr(Refits, "block", interrupted)
    with pytest.raises(KeyboardInterrupt):
        calibrate(zoo.BetaBernoulli(), "exact", processes=1, folder=tmp_path, **options)
    resumed = calibrate(zoo.BetaBernoulli(), "exact", processes=1, folder=tmp_path, **options)
    assert len(calls) == 3 + 2  # two of four blocks were there
    assert resumed.ranks.equals(one.ranks)
    loaded = Calibration.load(tmp_path)
    assert str(loaded) == str(resumed)
    assert json.loads((tmp_path / "calibration.json").read_text())["verdict"] == resumed.verdict
    with pytest.raises(DataError, match="another calibration, whose seed differs"):
        calibrate(zoo.BetaBernoulli(), "exact", processes=1, folder=tmp_path, **{**options, "seed": 6})


@dataclass(frozen=True)
class Breaks(Method):
    """Breaks down on some data."""

    most: int = 6

    def why_not(self, program):
        return None

    def run(self, program, *, progress=False):
        if int(program.data.values["x"].sum()) > self.most:
            raise FitError("too many ones")
        return Exact().run(program)


@pytest.mark.slow
def test_refits_that_break_down_are_told():
    result = calibrate(zoo.BetaBernoulli(), Breaks(), like=FLIPS, simulations=60, seed=1, processes=1)
    assert len(result.failures) + len(result.ranks) == 60
    assert result.failures[0] == "too many ones"
    # Ones above six of ten have probability 4/11 under a uniform p: too many to say anything.
    assert "refits broke down: too many ones" in result.verdict
    assert not result.verdict.startswith("no fault found")
    with pytest.raises(FitError, match=r"every refit broke down\. too many ones"):
        calibrate(zoo.BetaBernoulli(), Breaks(most=-1), like=FLIPS, simulations=10, seed=1, processes=1)


@zoo.model(x=Real("row"))
def of_logarithms(x):
    """Observes a function of the field."""
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(m, 1.0), obs=x.exp())


@zoo.model(x=Real("row"))
def autoregressive(x):
    """Each row is predicted from the one before it."""
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    before = torch.cat([x.new_zeros(1), x[:-1]])
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(a * before, 1.0), obs=x)


def test_what_cannot_be_simulated_is_refused():
    with pytest.raises(ModelError, match="site 'x' does not observe a data field itself"):
        Truths(prepare(of_logarithms(), {"x": [0.1, 0.5, 0.7]}))
    with pytest.raises(ModelError, match="depends on the observed field 'x'"):
        Truths(prepare(autoregressive(), {"x": [0.1, 0.5, 0.7]}))
    with pytest.raises(ModelError, match="true values from the prior, and parameter 'weights' has none"):
        calibrate("gmm", "em", like=np.arange(12.0).reshape(6, 2) ** 2, simulations=2, seed=1)
    with pytest.raises(FitError, match="map gives a point estimate"):
        calibrate(zoo.BetaBernoulli(), "map", like=FLIPS, simulations=2, seed=1, processes=1)
    with pytest.raises(MethodError, match="simulations=2 or more"):
        calibrate(zoo.BetaBernoulli(), "exact", like=FLIPS, simulations=1)
    with pytest.raises(DataError, match="needs a model and like=data"):
        calibrate(zoo.BetaBernoulli(), "exact")


def test_arviz_draws_the_ranks():
    result = moved(simulations=20)
    assert list(result.tree.children) == ["prior_sbc"]
    assert result.tree["prior_sbc"].sizes == {"chain": 1, "draw": 20}
    shown = result.plot()
    assert shown.viz["ecdf_lines"]["p"].item() is not None


@pytest.mark.slow
def test_command_line(capsys, tmp_path):
    from typer.testing import CliRunner

    from inference.cli import app

    data = tmp_path / "flips.csv"
    data.write_text("x\n" + "\n".join(map(str, FLIPS)) + "\n")
    out = tmp_path / "out"
    arguments = ["calibrate", "beta_bernoulli", str(data), "-m", "exact", "-n", "20", "--seed", "1", "--out", str(out)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "Calibration of Exact() on BetaBernoulli" in result.output
    assert "no fault found in 20 refits" in result.output
    assert len(Calibration.load(out).ranks) == 20
