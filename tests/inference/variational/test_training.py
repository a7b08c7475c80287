"""Training as deep models need it: passes, rows held back, weights of the latents, networks that note as they train."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import zoo
from guides import Encoder, MeanField
from inference import SVI, fit
from inference.runtime.processes import Processes
from inference.starts.natural import several_starts
from inference.variational.batches import Batches
from inference.variational.bound import Bound
from inference.variational.gathered import Gathered
from inference.variational.held_out import HeldOut, parted
from inference.variational.optimize import Climb
from inference.variational.schedule import Schedule
from tests.cases.models import FLIPS, LinearFactors, coin
from zoo import DataError, MethodError
from zoo.program.prepare import prepare
from zoo.program.rows import rows_of

RNG = np.random.default_rng(0)
ROWS = (RNG.normal(size=(40, 2)) @ np.asarray(LinearFactors.loadings).T + 0.5 * RNG.normal(size=(40, 4))).round(3)
BITS = (RNG.normal(size=(90, 2)) @ RNG.normal(size=(2, 6)) + RNG.normal(size=(90, 6)) > 0).astype(np.float32)
SMALL = zoo.VAE(latent=2, hidden=(8,))


def bound_of(model=None, data=ROWS, guide=None, **settings):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        program = prepare(model or LinearFactors(), data, dtype=torch.float64, device="cpu")
        return Bound(program, guide or Encoder(hidden=(5,)), several_starts(program, 1), **settings)


def trained(**settings):
    guide = settings.pop("guide", Encoder(hidden=(8,)))
    return fit(settings.pop("model", SMALL), BITS, method=SVI(guide, compile=False, **settings), seed=0, progress=False)


# -- steps from several mini-batches -----------------------------------------------------------------------------------


def evaluated(gathered, bound, at, noise):
    """Bound and gradients of a step on rows that come in as many batches as it has parts."""
    climb = Climb(bound, [Schedule(100, 0.02)], "Adam", {}, 10.0, gathered)
    each = []
    for rows, (first, second) in zip(at.chunk(gathered.parts), noise, strict=True):
        weights = torch.full((len(rows),), len(bound.program.data) / len(rows), dtype=torch.float64)
        own, batch = gathered.own(bound, (first, second), rows_of(bound.program.data, rows, weights))
        each.append((*climb.at, climb.fixed, own, climb.beta, batch))
    return gathered.mean(bound.gradient, each, climb.at)


def test_gradients_of_mini_batches_average_to_that_of_all_their_rows():
    bound = bound_of()
    at, (first, second) = torch.arange(12), bound.noise(12, 1, 3)
    whole = evaluated(Gathered(), bound, at, [(first, second)])
    several = evaluated(Gathered(3), bound, at, [(first, part) for part in second.chunk(3, 2)])
    for a, b in zip(whole, several, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("guide", [Encoder(hidden=(5,)), MeanField()], ids=repr)
def test_shares_of_processes_average_to_all_rows(guide):
    bound = bound_of(guide=guide)
    at, noise = torch.arange(7), bound.noise(7, 1, 3)
    whole = evaluated(Gathered(), bound, at, [noise])
    shares = []
    for rank in range(3):
        gathered = Gathered(1, Processes(rank, 3))
        climb = Climb(bound, [Schedule(100, 0.02)], "Adam", {}, 10.0)
        weights = torch.full((7,), len(ROWS) / 7, dtype=torch.float64)
        own, batch = gathered.own(bound, noise, rows_of(bound.program.data, at, weights))
        shares.append(bound.gradient(*climb.at, climb.fixed, own, climb.beta, batch))
    for parts, b in zip(zip(*shares, strict=True), whole, strict=True):
        torch.testing.assert_close(torch.stack(parts).mean(0), b, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_epochs_are_passes_over_the_rows():
    found = trained(epochs=5, batch_size=20, schedule="constant", accumulate=2)
    assert found.trace["step"].iloc[-1] == 5 * (90 // 20) // 2
    with pytest.raises(MethodError, match=r"steps=7 or epochs=2, not both"):
        SVI(steps=7, epochs=2)


# -- rows held back ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_rows_held_back_are_evaluated_as_the_bound_is():
    bound = bound_of()
    train, held = parted(bound.program, 0.25)
    assert len(held.data), len(train.data) == (10, 30)
    bound = Bound(train, Encoder(hidden=()), several_starts(train, 1))
    position = Climb(bound, [Schedule(100, 0.02)], "Adam", {}, 10.0).position
    found = HeldOut(bound, held, 1000)(position, 0)
    q = bound.q_at(position)
    eps = torch.randn(1000, 10, 2, dtype=torch.float64)
    values = []
    with torch.no_grad():
        for one in eps:  # log p(x, z) - log q(z), written out
            z, log_q = q.over_locals.draw(held.data, None, one)
            x, loadings = held.data.values["x"], LinearFactors.loadings.double()
            log_p = torch.distributions.Normal(z @ loadings.T, 0.5).log_prob(x).sum(-1)
            values.append((log_p + torch.distributions.Normal(0, 1).log_prob(z).sum(-1) - log_q).sum() * 3)
    values = torch.stack(values)
    assert abs(found - float(values.mean())) < 5 * 2**0.5 * float(values.std()) / 1000**0.5


@pytest.mark.slow
def test_weights_with_the_highest_bound_on_rows_held_back_are_kept():
    found = trained(epochs=400, batch_size=30, validation=30, patience=3, learning_rate=0.3, schedule="constant")
    held = found.trace["validation"]
    assert "has not risen" in found.reason
    assert found.converged
    best = int(found.trace["step"][held.idxmax()])
    assert f"since step {best}" in found.reason
    assert len(held) - 1 - held.idxmax() == 3
    assert len(found.posterior["posterior"]["row"]) == 90  # all rows are in the answer


@pytest.mark.slow
def test_weights_with_the_highest_bound_on_other_rows_are_kept():
    new = 1 - BITS[:40]  # of which the rows that are trained on say little
    settings = {"epochs": 400, "batch_size": 30, "patience": 3, "learning_rate": 0.3, "schedule": "constant"}
    found = trained(validation=new, particles=1, corrected=False, **settings)
    held = found.trace["validation"]
    assert "has not risen" in found.reason
    assert len(held) - 1 - held.idxmax() == 3
    assert len(found.posterior["posterior"]["row"]) == 90  # none was taken away
    bound = found.rate_distortion(new, samples=100).loc["elbo"]
    assert abs(held.max() / 90 - bound["nats"]) < 4 * bound["mcse"] * math.sqrt(100 + 1)  # of one draw of each row
    with pytest.raises(DataError, match="validation: field 'x': expected 6 along 'feature'"):
        trained(validation=BITS[:, :5], steps=2)


def test_the_rate_falls_from_the_best_place():
    schedule = Schedule(10_000, 0.05, patience=2)
    falls = []
    for step in range(1, 5000):
        if schedule.record(step, float(step)):  # the bound that is climbed rises for ever
            falls += [step] if schedule.validate(-abs(step - 600.0)) else []
        if schedule.finished:
            break
    assert falls == [700]
    assert step == 800  # and it has not risen for as long again
    assert "since step 600" in schedule.reason


def test_what_cannot_be_held_back_is_refused():
    with pytest.raises(MethodError, match=r"guide=Encoder\(\)"):
        fit(LinearFactors(), ROWS, method=SVI(validation=0.2, steps=10), seed=0)
    with pytest.raises(MethodError, match="holds 60 of 90 rows back"):
        trained(validation=60, steps=10)
    with pytest.raises(MethodError, match=r"validation=2\.5 is neither a share of the rows"):
        SVI(validation=2.5)


# -- weights of the latents --------------------------------------------------------------------------------------------


def closed_form(beta):
    """Bound on the rows at the q that is the best under a weight beta of the latents, all Normal."""
    loadings, x = np.asarray(LinearFactors.loadings, float), ROWS
    precision = np.eye(2) + loadings.T @ loadings / (0.25 * beta)
    cov = np.linalg.inv(precision)
    m = x @ loadings / (0.25 * beta) @ cov
    expected = -0.5 * (((x - m @ loadings.T) ** 2).sum() + len(x) * np.trace(loadings @ cov @ loadings.T)) / 0.25
    expected -= 0.5 * x.size * math.log(2 * math.pi * 0.25)
    kl = 0.5 * ((m**2).sum() + len(x) * (np.trace(cov) - 2 - np.linalg.slogdet(cov)[1]))
    return expected - kl


@pytest.mark.slow
@pytest.mark.parametrize("beta", [0.5, 3.0])
def test_the_true_bound_is_reported_under_another_weight_of_the_latents(beta):
    method = SVI(Encoder(hidden=(), family="full"), steps=3000, beta=beta, corrected=False, batch_size=len(ROWS))
    found = fit(LinearFactors(), ROWS, method=method, seed=0, dtype=torch.float64)
    assert found.objective.kind == "elbo"
    best = closed_form(beta)
    assert abs(found.objective.value - best) < 4 * found.objective.error + 0.05
    assert closed_form(1.0) - best > 1  # which is told from the usual bound


def test_latents_are_not_pulled_back_while_they_say_less_than_the_free_bits():
    noise = bound_of().noise(len(ROWS), 1, 4)

    def slopes(bound, beta):
        climb = Climb(bound, [Schedule(100, 0.02)], "Adam", {}, 10.0)
        weights = torch.ones(len(ROWS), dtype=torch.float64)
        batch = rows_of(bound.program.data, torch.arange(len(ROWS)), weights)
        return bound.gradient(*climb.at, climb.fixed, noise, torch.tensor(beta, dtype=torch.float64), batch)

    for free, beta in ((1e-6, 1.0), (1e6, 0.0)):  # far less and far more than they say
        for a, b in zip(slopes(bound_of(free=free), 1.0), slopes(bound_of(warmed=True), beta), strict=True):
            torch.testing.assert_close(a, b)


def test_settings_that_go_nowhere_are_refused():
    with pytest.raises(MethodError, match="change the ELBO"):
        SVI(beta=2.0, objective="iwae")
    with pytest.raises(MethodError, match="locals of a row"):
        fit(coin, FLIPS, method=SVI(free_bits=1.0), seed=0)


# -- more steps --------------------------------------------------------------------------------------------------------


def same(a, b):
    assert a.objective == b.objective
    for name, value in a.points.items():
        assert torch.equal(value, b.points[name])


@pytest.mark.slow
def test_a_checkpoint_goes_on_to_more_steps(tmp_path):
    settings = {"schedule": "constant", "batch_size": 30, "checkpoint": str(tmp_path / "climb")}
    trained(steps=100, **settings)
    longer = trained(steps=200, **settings)
    assert longer.trace["step"].tolist() == [50, 100, 150, 200]
    same(longer, trained(steps=200, **{**settings, "checkpoint": None}))
    same(longer, trained(steps=200, **settings))  # which takes no step


def test_a_fall_at_the_last_step_is_taken_back():
    first = Schedule(200, 0.05)
    for step in range(1, 201):
        first.record(step, float(step))
    assert first.rate < 0.001
    more = Schedule(1000, 0.05)
    more.restore(first.state())
    assert not more.finished
    assert more.rate == 0.05
    assert more.steps == 1000


# -- networks that note as they train ----------------------------------------------------------------------------------


class Normed(nn.Module):
    """A layer with batch norm and dropout."""

    def __init__(self, inputs=6, outputs=5):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(inputs, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Dropout(0.3), nn.Linear(7, outputs)
        )

    def forward(self, x):
        return self.layers(x)


class NormedDecoder(Normed):
    def __init__(self):
        super().__init__(2, 6)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"validation": 30}], ids=["plain", "validation"])
def test_running_moments_are_learned_once_per_step_and_kept(options, tmp_path):
    settings = {"model": zoo.VAE(latent=2, decoder=NormedDecoder), "guide": Encoder(network=Normed), "batch_size": 30}
    settings |= {"steps": 100, "schedule": "constant", "particles": 1, "corrected": False, **options}
    file = tmp_path / "climb"
    found = trained(checkpoint=str(file), checkpoint_every=50, **settings)
    inside = [m for m in found.approximation.q.modules() if isinstance(m, nn.BatchNorm1d)]
    inside += [m for m in found.program.model.modules() if isinstance(m, nn.BatchNorm1d)]
    assert len(inside) == 2
    assert not any(m.training for m in inside)
    if not options:
        assert [int(m.num_batches_tracked) for m in inside] == [100, 100]
    # A batch's moments of what goes into the layer, at the weights of the end, are near the running ones.
    rows = torch.as_tensor(BITS)
    went_in = found.approximation.q.over_locals.rows.network.layers[0](rows)
    assert float((inside[0].running_mean - went_in.mean(0)).abs().max()) < 0.5
    settings["steps"] = 50
    other = tmp_path / "other"
    trained(checkpoint=str(other), **settings)
    settings["steps"] = 100
    same(found, trained(checkpoint=str(other), **settings))  # stopped after half, it ends at the same bytes


def test_trying_a_step_leaves_running_moments_alone(monkeypatch):
    monkeypatch.setattr(torch._inductor, "compile", lambda graph, inputs, options: graph)
    bound = bound_of(zoo.VAE(latent=2, decoder=NormedDecoder), BITS, Encoder(network=Normed))
    bound.program.model.train()
    climb = Climb(bound, [Schedule(100, 0.02)], "Adam", {}, 10.0)
    before = [t.clone() for t in climb.running]
    climb.lower(bound.program, Batches(bound.program.data, 30, 0), 1, True, 100)
    assert len(before) >= 6
    for t, old in zip(climb.running, before, strict=True):
        assert torch.equal(t, old)


@pytest.mark.slow
def test_weight_decay_shrinks_what_data_do_not_hold_up():
    plain = trained(steps=300, batch_size=30, optimizer="AdamW", options={"weight_decay": 0.0}, schedule="constant")
    shrunk = trained(steps=300, batch_size=30, optimizer="AdamW", options={"weight_decay": 1.0}, schedule="constant")
    size = [sum(float(v.square().sum()) for n, v in f.points.items() if n.endswith("weight")) for f in (plain, shrunk)]
    assert size[1] < 0.9 * size[0]
