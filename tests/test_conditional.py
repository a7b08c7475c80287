"""Continuous latents that depend on discrete ones: by every method, against closed forms and quadrature."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch.distributions import constraints

import zoo
from guides import ByState, Encoder, FullRank, MeanField
from inference import CAVI, EM, NUTS, SMC, SVI, Fit, fit
from inference.posterior.impute import DRAWS
from tests.cases.models import gates
from zoo import Count, Real
from zoo.program.prepare import prepare
from zoo.testing import check_model

X = torch.tensor([-1.3, 0.4, 2.1, 3.7, 5.0], dtype=torch.float64)
WEIGHTS, LOC = torch.tensor([0.6, 0.4], dtype=torch.float64), torch.tensor([0.0, 4.0], dtype=torch.float64)


@zoo.model(x=Real("row"))
def both(x):
    """The same for all rows: a gate, a size that depends on it, and both in what is seen."""
    z = pyro.sample("z", dist.Bernoulli(0.4))
    t = pyro.sample("t", dist.Normal(2 * z, 1.0))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(t + z, 2.0), obs=x)


@zoo.model(x=Real("row", "feature"), y=Real("row"))
def spike_and_slab(x, y):
    """Coefficients that are nearly zero, or not."""
    with pyro.plate("feature", x.shape[1]):
        used = pyro.sample("used", dist.Bernoulli(0.3))
        beta = pyro.sample("beta", dist.Normal(0.0, torch.where(used > 0, 2.0, 0.05)))
    with pyro.plate("row", len(x)):
        pyro.sample("y", dist.Normal(x @ beta, 0.5), obs=y)


@zoo.model(x=Real("row", "feature"), y=Real("row"))
def gated(x, y):
    """Coefficients that are zero, or not: a site for each, as what is seen depends on all of them together."""
    mean = torch.zeros(len(x))
    for j in range(x.shape[1]):
        used = pyro.sample(f"used_{j}", dist.Bernoulli(0.3))
        mean = mean + x[:, j] * used * pyro.sample(f"size_{j}", dist.Normal(0.0, 2.0))
    with pyro.plate("row", len(x)):
        pyro.sample("y", dist.Normal(mean, 0.5), obs=y)


@zoo.model(x=Real("row", "feature"), y=Real("row"))
def mixing(x, y):
    """The same in a plate, whose entries the product mixes."""
    with pyro.plate("feature", x.shape[1]):
        used = pyro.sample("used", dist.Bernoulli(0.3))
        size = pyro.sample("size", dist.Normal(0.0, 2.0))
    with pyro.plate("row", len(x)):
        pyro.sample("y", dist.Normal(x @ (used * size), 0.5), obs=y)


@zoo.model(x=Real("row"))
def effects(x):
    """A mixture of random effects: x_i ~ Normal(m[z_i], s[z_i]^2 + r^2) with t_i integrated out."""
    w = pyro.param("w", torch.tensor([0.5, 0.5]), constraint=constraints.simplex)
    m = pyro.param("m", torch.tensor([-1.0, 1.0]))
    s = pyro.param("s", torch.ones(2), constraint=constraints.positive)
    r = pyro.param("r", torch.tensor(0.5), constraint=constraints.positive)
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(w))
        t = pyro.sample("t", dist.Normal(m[z], s[z]))
        pyro.sample("x", dist.Normal(t, r), obs=x)


@zoo.model(count=Count("row"))
def rates(count):
    """A mixture of rates: counts are negative binomial given the state."""
    a = torch.tensor([2.0, 10.0])
    with pyro.plate("row", len(count)):
        z = pyro.sample("z", dist.Bernoulli(0.3)).long()
        rate = pyro.sample("rate", dist.Gamma(a[z], 1.0))
        pyro.sample("count", dist.Poisson(rate), obs=count)


@zoo.model(x=Real("row", "feature"))
def factors(x, *, own: bool = False):
    """A mixture of factor analysers, one or more noises."""
    k, d = 2, x.shape[1]
    w = pyro.param("w", torch.full((k,), 1 / k), constraint=constraints.simplex)
    m = pyro.param("m", torch.stack([-torch.ones(d), torch.ones(d)]))
    loadings = pyro.param("loadings", torch.ones(k, d, 1))
    noise = pyro.param("noise", torch.ones(k, d) if own else torch.ones(d), constraint=constraints.positive)
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(w))
        t = pyro.sample("t", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        mean = m[z] + (loadings[z] @ t[..., None])[..., 0]
        pyro.sample("x", dist.Normal(mean, (noise[z] if own else noise).sqrt()).to_event(1), obs=x)


def evidence(x: torch.Tensor) -> torch.Tensor:
    """log p(x_i, z_i = k) of `gates`, t integrated out, shape (states, rows)."""
    normal = torch.distributions.Normal(LOC[:, None], math.sqrt(2))
    return WEIGHTS.log()[:, None] + normal.log_prob(x.double())


def moments(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """p(z_i | x_i), and the mean and standard deviation of t_i given x_i, of `gates`."""
    share = evidence(x).softmax(0)
    each = (LOC[:, None] + x) / 2  # t_i | z_i, x_i ~ Normal((4 z_i + x_i) / 2, 1 / 2)
    mean = (share * each).sum(0)
    return share, mean, ((share * (each.square() + 0.5)).sum(0) - mean.square()).sqrt()


def regression_data() -> dict[str, torch.Tensor]:
    """Three columns, of which the first matters."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(15, 3, generator=generator, dtype=torch.float64)
    return {"x": x, "y": 1.5 * x[:, 0] + 0.5 * torch.randn(15, generator=generator, dtype=torch.float64)}


def included(scales: tuple[float, float]) -> tuple[np.ndarray, float, np.ndarray]:
    """p(used_j | data), log evidence and E[beta | data] of a spike of one scale and a slab of the other, by all 2^3."""
    x, y = (regression_data()[n].numpy() for n in ("x", "y"))
    heights, chosen, means = [], [], []
    for code in range(8):
        used = np.array([code >> j & 1 for j in range(3)])
        prior = np.diag(np.where(used > 0, scales[1], scales[0]) ** 2)
        cov = x @ prior @ x.T + 0.25 * np.eye(len(y))
        volume = np.linalg.slogdet(2 * np.pi * cov)[1]
        heights.append(-0.5 * (volume + y @ np.linalg.solve(cov, y)) + np.log(np.where(used > 0, 0.3, 0.7)).sum())
        chosen.append(used)
        means.append(prior @ x.T @ np.linalg.solve(cov, y))
    log_z = np.logaddexp.reduce(heights)
    share = np.exp(np.array(heights) - log_z)
    return share @ np.array(chosen), float(log_z), share @ np.array(means)


def draws_of(result: Fit, name: str) -> np.ndarray:
    """Posterior draws of a site, chains one after the other."""
    array = result.posterior["posterior"][name].values
    return array.reshape(-1, *array.shape[2:])


def test_structure():
    """Values have the model's shape, and only their densities have the states."""
    text = str(zoo.explain(gates(), X))
    assert "Normal(loc=function of z, scale=constant)" in text
    program = prepare(gates(), X)
    assert program.sites["t"].shape == (5,)
    t = torch.linspace(-1, 4, 5, dtype=torch.float64)
    normal = torch.distributions.Normal
    by_state = WEIGHTS.log()[:, None] + normal(LOC[:, None], 1.0).log_prob(t)
    expected = by_state.logsumexp(0) + normal(t, 1.0).log_prob(X)
    torch.testing.assert_close(program.log_joint({"t": t}).rows, expected, rtol=1e-12, atol=0)
    prior = program.log_prior(program.log_probs({"t": t})).rows
    torch.testing.assert_close(prior, by_state.logsumexp(0), rtol=1e-12, atol=0)


@pytest.mark.parametrize("model", [gates(), both()], ids=["gates", "both"])
def test_invariants(model):
    """Log joint by brute force, gradients, simulation, rows apart and by weights."""
    check_model(model, X[:3], methods=[])


@pytest.mark.slow
def test_log_prob_of_new_rows_by_draws_of_the_prior():
    """Each row's density averages over its own latents, the states of which are summed out of the proposal too."""
    result = fit(gates(), X, method="map", seed=0, progress=False)
    new = torch.tensor([0.5, 3.0], dtype=torch.float64)
    found = result.log_prob(new, samples=2_000)
    errors = (found.to_numpy() - evidence(new).logsumexp(0).numpy()) / np.array(found.attrs["mcse"])
    assert np.abs(errors).max() < 4
    assert max(found.attrs["mcse"]) < 0.1
    share = result.assign(new).to_numpy()
    np.testing.assert_allclose(share, evidence(new).softmax(0).T.numpy(), atol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("method", [NUTS(), SMC(), SVI(guide=FullRank()), SVI(guide=Encoder(hidden=(16,)))], ids=repr)
def test_local_posterior(method):
    """The posterior of every row is a known mixture of two Normals."""
    result = fit(gates(), X, method=method, seed=0, progress=False)
    share, mean, sd = moments(X)
    t = draws_of(result, "t")
    assert np.abs((t.mean(0) - mean.numpy()) / sd.numpy()).max() < 0.15
    assert np.abs(t.std(0) / sd.numpy() - 1).max() < 0.1
    np.testing.assert_allclose(result.assign().to_numpy(), share.T.numpy(), atol=0.04)
    whole = float(evidence(X).logsumexp(0).sum())
    if result.objective.kind == "log_evidence":
        assert abs(result.objective.value - whole) < 4 * result.objective.error
    elif result.objective.kind == "elbo":
        assert result.objective.value < whole + 4 * result.objective.error
    new = result.log_prob(X + 0.1, samples=4000)
    gap = np.abs(new.to_numpy() - evidence(X + 0.1).logsumexp(0).numpy())
    assert (gap < 4 * np.array(new.attrs["mcse"]) + 1e-6).all()


@pytest.mark.slow
def test_missing_cells_and_batches():
    """A row of which nothing is seen has its prior; rows in parts give the same bound."""
    gap = X.clone()
    gap[2] = math.nan
    result = fit(gates(), gap, method="nuts", seed=0, progress=False)
    row = result.summary().loc["t[2]"]
    error, spread = row["mcse_mean"], WEIGHTS.prod().sqrt().item()  # of one state's share, the standard deviation
    np.testing.assert_allclose(result.assign().iloc[2], WEIGHTS.numpy(), atol=4 * spread * error / row["sd"])
    assert abs(row["mean"] - 1.6) < 4 * error
    filled = result.impute(mean=True)  # the mean of the cell's Normal over some of the draws
    assert abs(float(pd.DataFrame(filled).iloc[2, 0]) - 1.6) < 4 * math.hypot(error, row["sd"] / math.sqrt(DRAWS))
    one, parts = (fit(gates(), X, method=SVI(batch_size=b), seed=0, progress=False) for b in (None, 2))
    assert abs(one.objective.value - parts.objective.value) < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("method", ["laplace", "nuts"])
def test_states_go_with_latents(method, tmp_path):
    """What all rows share is drawn together: the state given the value, and data given both."""
    result = fit(both(), X, method=method, seed=0, progress=False)
    n = len(X)
    # x | z ~ Normal(3 z, 4 I + 11^T): the state's odds, and the mean of new data given each state.
    heights = []
    for z in (0.0, 1.0):
        cov = 4 * torch.eye(n, dtype=torch.float64) + 1.0
        heights.append(torch.distributions.MultivariateNormal(torch.full_like(X, 3 * z), cov).log_prob(X))
    share = (WEIGHTS.log() + torch.stack(heights)).softmax(0)
    mean = sum(share[z] * (z + (2 * z + (X - z).sum() / 4) / (1 + n / 4)) for z in (0, 1))
    np.testing.assert_allclose(result.assign().to_numpy()[0], share.numpy(), atol=0.05)
    drawn = result.predict(draws=1000, seed=1)["posterior_predictive"]["x"].values
    assert abs(drawn.mean() - float(mean)) < 0.1
    made = result.generate(2000, seed=1)
    assert abs(float(np.asarray(made).mean()) - float(mean)) < 0.2
    result.save(tmp_path / "fit")
    again = Fit.load(tmp_path / "fit", model=both())
    np.testing.assert_array_equal(again.assign(), result.assign())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["scales", "product"])
def test_spike_and_slab(kind):
    """Inclusion, evidence and coefficients by all 2^3 subsets of columns."""
    scales = kind == "scales"
    model = spike_and_slab() if scales else gated()
    chosen, log_z, mean = included((0.05, 2.0) if scales else (0.0, 2.0))
    result = fit(model, regression_data(), method="nuts", seed=0, progress=False)
    if scales:
        used, beta = draws_of(result, "used"), draws_of(result, "beta")
    else:
        used, size = (np.stack([draws_of(result, f"{n}_{j}") for j in range(3)], 1) for n in ("used", "size"))
        beta = used * size
    np.testing.assert_allclose(used.mean(0), chosen, atol=0.05)
    np.testing.assert_allclose(beta.mean(0), mean, atol=0.05)
    found = fit(model, regression_data(), method="smc", seed=0, progress=False).objective
    assert abs(found.value - log_z) < 4 * found.error + 0.02


def test_states_of_a_plate_cannot_be_mixed():
    """The error says what cannot be done with states side by side, and what can."""
    with pytest.raises(zoo.errors.ModelError, match=r"not with those of 'used' side by side.* Let a continuous"):
        zoo.explain(mixing(), regression_data())


def test_states_of_a_plate_cannot_be_mixed_outside_of_it():
    """A sum over the states of a plate: its shape is told, and what causes it."""

    @zoo.model(x=Real("row"))
    def outer(x):
        with pyro.plate("feature", 3):
            z = pyro.sample("z", dist.Bernoulli(0.4))
        t = pyro.sample("t", dist.Normal(z.sum(-1), 1.0))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Normal(t, 1.0), obs=x)

    with pytest.raises(zoo.errors.ModelError, match=r"site 't' is in plates none, but .* states of 'z' side by side"):
        zoo.explain(outer(), X)


# -- EM and CAVI -------------------------------------------------------------------------------------------------------


def effects_density(result: Fit, x: torch.Tensor) -> torch.Tensor:
    """log p(x_i, z_i = k) of `effects` at a fit's parameters, (states, rows)."""
    w, m, s, r = (result.points[n][..., None] for n in ("w", "m", "s", "r"))
    return w.log() + torch.distributions.Normal(m, (s.square() + r.square()).sqrt()).log_prob(x)


def two_groups(rows: int = 40) -> torch.Tensor:
    """Rows around -3 and 3."""
    generator = torch.Generator().manual_seed(3)
    return torch.where(torch.arange(rows) % 3 > 0, 3.0, -3.0) + torch.randn(
        rows, generator=generator, dtype=torch.float64
    )


@pytest.mark.slow
def test_em_integrates_out_what_states_give(tmp_path):
    """Objective, responsibilities, densities of new rows and draws are those of a mixture of Normals."""
    x = two_groups()
    result = fit(effects(), x, method=EM(max_steps=30), seed=0, progress=False)
    joint = effects_density(result, x)
    assert result.objective.value == pytest.approx(float(joint.logsumexp(0).sum()), abs=2e-4)
    assert result.trace["value"].diff().min() > -1e-9
    np.testing.assert_allclose(result.assign(), joint.softmax(0).T, atol=1e-3)
    new = torch.tensor([-4.0, 0.3, 2.0], dtype=torch.float64)
    at = effects_density(result, new)
    np.testing.assert_allclose(result.log_prob(new), at.logsumexp(0), atol=1e-9)
    np.testing.assert_allclose(result.assign(new), at.softmax(0).T, atol=1e-9)
    m, s, r = (result.points[n][..., None] for n in ("m", "s", "r"))
    each = (m / s.square() + x / r.square()) / (1 / s.square() + 1 / r.square())
    mean = (joint.softmax(0) * each).sum(0)
    drawn = draws_of(result, "t")
    assert np.abs((drawn.mean(0) - mean.numpy()) / drawn.std(0)).max() < 4.5 / math.sqrt(len(drawn))
    result.save(tmp_path / "fit")
    np.testing.assert_array_equal(draws_of(Fit.load(tmp_path / "fit", model=effects()), "t"), drawn)


@pytest.mark.slow
def test_em_counts_a_row_by_its_weight():
    """A row of weight 2 is the row twice, one of weight 0 is not there."""
    x, weights = two_groups(12), torch.ones(12)
    weights[0], weights[1] = 2.0, 0.0
    start = {"m": [-2.0, 2.0], "s": [1.0, 1.0], "r": 0.7, "w": [0.4, 0.6]}
    method = EM(start=start, max_steps=8, tolerance=0)
    one = fit(effects(), x, weights=weights, method=method, seed=0, progress=False)
    other = fit(effects(), torch.cat([x[:1], x[:1], x[2:]]), method=method, seed=0, progress=False)
    assert one.objective.value == pytest.approx(other.objective.value, abs=1e-9)
    for name, value in one.points.items():
        torch.testing.assert_close(value, other.points[name], rtol=1e-9, atol=1e-12)


def test_cavi_by_state_is_exact_where_nothing_else_is_unknown():
    """The bound is the log evidence: of Normals, and of Gamma rates."""
    result = fit(gates(), X, method="cavi", seed=0, progress=False)
    assert result.objective.value == pytest.approx(float(evidence(X).logsumexp(0).sum()), abs=1e-10)
    np.testing.assert_allclose(result.assign(), evidence(X).softmax(0).T, atol=1e-10)
    count = torch.tensor([0.0, 3.0, 9.0, 14.0])
    result = fit(rates(), count, method="cavi", seed=0, progress=False)
    a = torch.tensor([[2.0], [10.0]], dtype=torch.float64)
    law = torch.distributions.NegativeBinomial(a, torch.tensor(0.5, dtype=torch.float64))
    joint = torch.tensor([[0.7], [0.3]], dtype=torch.float64).log() + law.log_prob(count.double())
    assert result.objective.value == pytest.approx(float(joint.logsumexp(0).sum()), abs=1e-10)
    np.testing.assert_allclose(result.assign(), joint.softmax(0).T, atol=1e-10)
    mean = (joint.softmax(0) * (a + count) / 2).sum(0)  # rate | z, x ~ Gamma(a_z + x, 2)
    drawn = draws_of(result, "rate")
    assert np.abs((drawn.mean(0) - mean.numpy()) / drawn.std(0)).max() < 4.5 / math.sqrt(len(drawn))


@zoo.model(x=Real("row"))
def later(x):
    """A scale for each row, said after what it is the noise of."""
    with pyro.plate("row", len(x)):
        t = pyro.sample("t", dist.Normal(0.0, 2.0))
        z = pyro.sample("z", dist.Bernoulli(0.4))
        pyro.sample("x", dist.Normal(t, 1.0 + 2 * z), obs=x)


def test_a_state_may_come_later_in_the_story():
    """What t feeds depends on the state, and so does its posterior."""
    result = fit(later(), X, method="cavi", seed=0, progress=False)
    scale = torch.tensor([[5.0], [13.0]], dtype=torch.float64).sqrt()  # 4 + 1 and 4 + 9
    joint = WEIGHTS.log()[:, None] + torch.distributions.Normal(0.0, scale).log_prob(X)
    assert result.objective.value == pytest.approx(float(joint.logsumexp(0).sum()), abs=1e-10)


def test_missing_cells_and_weights_by_state():
    """A row of which nothing is seen adds nothing and has its prior; weights multiply."""
    gap = X.clone()
    gap[2] = math.nan
    result = fit(gates(), gap, method="cavi", seed=0, progress=False)
    seen = evidence(X).logsumexp(0)[[0, 1, 3, 4]]
    assert result.objective.value == pytest.approx(float(seen.sum()), abs=1e-10)
    np.testing.assert_allclose(result.assign().iloc[2], WEIGHTS, atol=1e-12)
    weights = torch.tensor([2.0, 1.0, 1.0, 0.0, 1.0])
    result = fit(gates(), X, weights=weights, method="cavi", seed=0, progress=False)
    assert result.objective.value == pytest.approx(float(weights.double() @ evidence(X).logsumexp(0)), abs=1e-10)


@zoo.model(x=Real("row"))
def switching(x):
    """A hidden chain of levels, and noise of two kinds: an HMM with variance s_k^2 + r^2."""
    initial = torch.tensor([0.5, 0.5])
    moves = pyro.param("moves", torch.tensor([[0.9, 0.1], [0.2, 0.8]]), constraint=constraints.simplex)
    m = pyro.param("m", torch.tensor([-1.0, 2.0]))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", zoo.MarkovChain(initial, moves))
        t = pyro.sample("t", dist.Normal(m[z], torch.tensor([0.5, 1.5])[z]))
        pyro.sample("x", dist.Normal(t, 0.7), obs=x)


def test_em_of_levels_that_switch_by_a_chain():
    """The objective is the likelihood of the hidden Markov model with t integrated out, by the forward algorithm."""
    x = two_groups(25).sort().values
    result = fit(switching(), x, method=EM(max_steps=10, tolerance=0), seed=0, progress=False)
    moves, m = result.points["moves"], result.points["m"]
    scale = (torch.tensor([0.5, 1.5]).double().square() + 0.49).sqrt()
    emission = torch.distributions.Normal(m, scale).log_prob(x[:, None])
    forward = math.log(0.5) + emission[0]
    for row in emission[1:]:
        forward = (forward[:, None] + moves.log()).logsumexp(0) + row
    assert result.objective.value == pytest.approx(float(forward.logsumexp(0)), rel=1e-9)
    assert result.trace["value"].diff().min() > -1e-9
    assert draws_of(result, "t").shape[1:] == (25,)


def factor_data(rows: int = 60) -> torch.Tensor:
    """Rows of two groups, each along an axis of its own."""
    generator = torch.Generator().manual_seed(5)
    axes = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, -1.0, 1.0, 0.5]])
    group = torch.arange(rows) % 2
    t, noise = (torch.randn(rows, size, generator=generator) for size in (1, 4))
    return (3.0 * group[:, None] + t * axes[group] + 0.5 * noise).double()


@pytest.mark.slow
@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
def test_em_of_a_mixture_of_factor_analysers(own):
    """The objective is the likelihood of Normals with covariances L_k L_k^T + Psi_k, and never falls."""
    x = factor_data()
    result = fit(factors(own=own), x, method=EM(max_steps=10, tolerance=0), seed=0, progress=False)
    w, m, loadings, noise = (result.points[n] for n in ("w", "m", "loadings", "noise"))
    cov = loadings @ loadings.mT + torch.diag_embed(noise)
    law = torch.distributions.MultivariateNormal(m[:, None], (cov if own else cov.expand(2, 4, 4))[:, None])
    joint = w.log()[:, None] + law.log_prob(x)
    np.testing.assert_allclose(result.log_prob(), joint.logsumexp(0), rtol=1e-9)
    assert result.objective.value == pytest.approx(float(joint.logsumexp(0).sum()), rel=1e-9)
    assert result.trace["value"].diff().min() > -1e-9
    np.testing.assert_allclose(result.assign(), joint.softmax(0).T, atol=1e-9)


def em_by_rows(x: np.ndarray, v: dict[str, np.ndarray], steps: int) -> tuple[dict[str, np.ndarray], float]:
    """EM of Ghahramani and Hinton (1996), written out row by row; the parameters after it and their log likelihood."""
    w, m, loadings, psi = (v[n] for n in ("weights", "means", "loadings", "variances"))
    k, q, own = len(w), loadings.shape[-1], psi.ndim == 2
    for step in range(steps + 1):
        cov = [loadings[j] @ loadings[j].T + np.diag(psi[j] if own else psi) for j in range(k)]
        normal = [torch.distributions.MultivariateNormal(torch.tensor(m[j]), torch.tensor(cov[j])) for j in range(k)]
        joint = np.log(w)[:, None] + np.stack([law.log_prob(torch.tensor(x)).numpy() for law in normal])
        whole = np.logaddexp.reduce(joint, 0)
        share = np.exp(joint - whole)
        if step == steps:
            break
        m, loadings, residual = m.copy(), loadings.copy(), []
        for j in range(k):
            beta = loadings[j].T @ np.linalg.inv(cov[j])
            inner = np.eye(q) - beta @ loadings[j]
            second, cross = np.zeros((q + 1, q + 1)), np.zeros((x.shape[1], q + 1))
            for r, row in zip(share[j], x, strict=True):
                one = np.concatenate([[1.0], beta @ (row - m[j])])
                square = np.outer(one, one)
                square[1:, 1:] += inner
                second, cross = second + r * square, cross + r * np.outer(row, one)
            new = cross @ np.linalg.inv(second)
            m[j], loadings[j] = new[:, 0], new[:, 1:]
            residual.append(share[j] @ x**2 - (new * cross).sum(1))
        psi = np.stack(residual) / share.sum(1)[:, None] if own else sum(residual) / len(x)
        w = share.mean(1)
    return {"weights": w, "means": m, "loadings": loadings, "variances": psi}, float(whole.sum())


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(zoo.MixtureOfFactorAnalyzers(), marks=pytest.mark.slow),
        zoo.MixtureOfFactorAnalyzers(components=3, factors=2, noise="own"),
    ],
    ids=["shared", "own"],
)
def test_mixtures_of_factor_analysers_take_the_steps_of_the_paper(model):
    """The same parameters and likelihood as EM row by row, from the same start."""
    x, steps = factor_data(30), 4
    torch.manual_seed(0)
    start = {n: v.numpy() for n, v in prepare(model, x).initial().items() if n != "t"}
    expected, height = em_by_rows(x.numpy(), start, steps)
    result = fit(model, x, method=EM(start=start, max_steps=steps, tolerance=0), seed=0, progress=False)
    for name, value in expected.items():
        np.testing.assert_allclose(result.points[name], value, rtol=1e-7, atol=1e-9)
    assert result.objective.value == pytest.approx(height, rel=1e-10)


@pytest.mark.slow
def test_one_component_is_factor_analysis():
    """The same likelihood and covariance at the maximum."""
    generator = torch.Generator().manual_seed(2)
    t, noise = (torch.randn(80, size, generator=generator, dtype=torch.float64) for size in (1, 5))
    x = t * torch.tensor([1.0, 0.8, -1.2, 0.9, 1.1]) + 0.7 * noise
    one, other = (
        fit(m, x, method=EM(tolerance=1e-8), seed=0, progress=False)
        for m in (zoo.MixtureOfFactorAnalyzers(components=1), zoo.FactorAnalysis())
    )
    assert one.objective.value == pytest.approx(other.objective.value, abs=1e-5)
    a, b = one.points["loadings"][0], other.points["loadings"]
    torch.testing.assert_close(a @ a.mT, b @ b.mT, rtol=1e-3, atol=1e-3)


def bound_of_spike_and_slab(steps: int = 200) -> tuple[float, np.ndarray, np.ndarray]:
    """Bound, q(used_j = 1) and E[beta_j], one coefficient after the other (Carbonetto and Stephens 2012)."""
    x, y = (regression_data()[n].numpy() for n in ("x", "y"))
    s2, noise, log_pi = np.array([0.05, 2.0]) ** 2, 0.25, np.log([0.7, 0.3])
    share, mean = np.full((3, 2), 0.5), np.zeros((3, 2))
    variance = 1 / ((x**2).sum(0)[:, None] / noise + 1 / s2)
    for _ in range(steps):
        for j in range(3):
            rest = y - x @ (share * mean).sum(1) + x[:, j] * (share[j] @ mean[j])
            mean[j] = variance[j] * (x[:, j] @ rest) / noise
            odds = log_pi + 0.5 * np.log(variance[j] / s2) + 0.5 * mean[j] ** 2 / variance[j]
            share[j] = np.exp(odds - np.logaddexp.reduce(odds))
    mu = (share * mean).sum(1)
    spread = (share * (variance + mean**2)).sum(1) - mu**2
    fit_of_data = (
        -0.5 * len(y) * np.log(2 * np.pi * noise)
        - 0.5 * (((y - x @ mu) ** 2).sum() + ((x**2).sum(0) * spread).sum()) / noise
    )
    own = log_pi - np.log(share) + 0.5 * np.log(variance / s2) + 0.5 - 0.5 * (variance + mean**2) / s2
    return float(fit_of_data + (share * own).sum()), share[:, 1], mu


@pytest.mark.slow
def test_cavi_of_spike_and_slab():
    """The bound, inclusion and means of coordinate ascent as published, below the evidence of all 2^3 subsets."""
    result = fit(spike_and_slab(), regression_data(), method="cavi", seed=0, progress=False)
    bound, chosen, mean = bound_of_spike_and_slab()
    exact, log_z, _ = included((0.05, 2.0))
    assert result.objective.value == pytest.approx(bound, abs=1e-6)
    assert bound < log_z < bound + 0.1
    drawn = draws_of(result, "beta")
    assert np.abs((drawn.mean(0) - mean) / drawn.std(0)).max() < 0.15
    (q,) = result.approximation.posteriors
    np.testing.assert_allclose(q.share[1], chosen, atol=1e-4)
    np.testing.assert_allclose(q.share[1], exact, atol=0.02)
    np.testing.assert_allclose(result.assign()[1], chosen, atol=1e-4)


@zoo.model(x=Real("row", "feature"), y=Real("row"))
def selection(x, y):
    """Spike and slab with everything unknown: an intercept, how many are used, and the noise."""
    share = pyro.sample("share", dist.Beta(1.0, 1.0))
    precision = pyro.sample("precision", dist.Gamma(2.0, 1.0))
    level = pyro.sample("level", dist.Normal(0.0, 5.0))
    with pyro.plate("feature", x.shape[1]):
        used = pyro.sample("used", dist.Bernoulli(share))
        beta = pyro.sample("beta", dist.Normal(0.0, torch.where(used > 0, 2.0, 0.05)))
    with pyro.plate("row", len(x)):
        pyro.sample("y", dist.Normal(level + x @ beta, precision.rsqrt()), obs=y)


@pytest.mark.slow
def test_cavi_of_a_selection_never_falls(tmp_path):
    """With unknown shares and noise; a row of weight 2 is the row twice; saved and read again."""
    data, weights = regression_data(), torch.ones(15)
    weights[0], weights[1] = 2.0, 0.0
    twice = {n: torch.cat([v[:1], v[:1], v[2:]]) for n, v in data.items()}
    one = fit(selection(), data, weights=weights, method=CAVI(tolerance=1e-10), seed=0, progress=False)
    other = fit(selection(), twice, method=CAVI(tolerance=1e-10), seed=0, progress=False)
    assert one.objective.value == pytest.approx(other.objective.value, abs=1e-7)
    assert min(r.trace["value"].diff().min() for r in (one, other)) > -1e-9
    one.save(tmp_path / "fit")
    np.testing.assert_array_equal(
        draws_of(Fit.load(tmp_path / "fit", model=selection()), "beta"), draws_of(one, "beta")
    )
    with pytest.raises(zoo.ZooError, match="a mixture that is conjugate to nothing; fit all rows at once"):
        CAVI().update(one, twice)


@zoo.model(x=Real("row"), group=zoo.Category("row"))
def groups(x, group, *, size: int = 4):
    """Effects of groups from two populations."""
    with pyro.plate("group", size):
        z = pyro.sample("z", dist.Bernoulli(0.4)).long()
        t = pyro.sample("t", dist.Normal(torch.tensor([-2.0, 3.0])[z], torch.tensor([0.5, 1.0])[z]))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(t[group], 1.5), obs=x)


def test_cavi_of_a_mixture_of_group_effects_is_exact():
    """The bound is the log evidence, of one Normal with a common effect for each group and state."""
    group = torch.arange(14) % 4
    x = torch.where(group < 2, -2.0, 2.0) + torch.linspace(-2, 2, 14)
    data = {"x": x.numpy(), "group": group.numpy()}
    result = fit(groups(), data, method="cavi", seed=0, progress=False)
    joint = torch.zeros(2, 4, dtype=torch.float64)
    for g in range(4):
        mine = x[group == g].double()
        for k, (p, m, s) in enumerate(((0.6, -2.0, 0.5), (0.4, 3.0, 1.0))):
            cov = 2.25 * torch.eye(len(mine), dtype=torch.float64) + s**2
            law = torch.distributions.MultivariateNormal(torch.full_like(mine, m), cov)
            joint[k, g] = math.log(p) + float(law.log_prob(mine))
    assert result.objective.value == pytest.approx(float(joint.logsumexp(0).sum()), abs=1e-9)
    np.testing.assert_allclose(result.assign(), joint.softmax(0).T, atol=1e-9)


def test_what_has_no_posterior_by_state_says_why():
    """The true reason: what is seen of the state is no message to the latent."""
    with pytest.raises(zoo.ZooError, match=r"the prior of 't' and the density of 'x' both depend on the state of 'z'"):
        fit(both(), X, method="cavi", seed=0, progress=False)


# -- a Normal for each state -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_normal_for_each_state_finds_a_posterior_of_two_modes(tmp_path):
    """The bound of `gates` is its evidence, and draws come from both modes, where one Normal has one of them."""
    method = SVI(guide=ByState(), steps=600, compile=False)
    result = fit(gates(), X, method=method, seed=0, progress=False)
    whole = float(evidence(X).logsumexp(0).sum())
    assert whole - 0.02 < result.objective.value < whole + 4 * result.objective.error
    assert result.verdict.startswith("trust")
    share, mean, sd = moments(X)
    t = draws_of(result, "t")
    assert np.abs((t.mean(0) - mean.numpy()) / sd.numpy()).max() < 0.15
    assert np.abs(t.std(0) / sd.numpy() - 1).max() < 0.1
    np.testing.assert_allclose(result.approximation.uncorrected.q.over_locals.share, share.T, atol=0.02)
    result.save(tmp_path / "fit")
    np.testing.assert_array_equal(draws_of(Fit.load(tmp_path / "fit", model=gates()), "t"), t)


@pytest.mark.slow
def test_a_normal_for_each_state_of_rows_in_parts_and_with_globals():
    """Mini-batches climb the same bound; effects with unknown levels come near the bound of EM's likelihood."""
    whole = float(evidence(X).logsumexp(0).sum())
    parts = fit(gates(), X, method=SVI(guide=ByState(), batch_size=2), seed=0, progress=False)
    assert abs(parts.objective.value - whole) < 0.05
    x = two_groups()
    start = {"m": [-3.0, 3.0]}
    exact = fit(effects(), x, method=EM(start=start), seed=0, progress=False)
    result = fit(effects(), x, method=SVI(guide=ByState(), steps=4000), seed=0, progress=False)
    assert abs(result.objective.value - exact.objective.value) < 0.3
    one = fit(gates(), X, method=SVI(guide=MeanField()), seed=0, progress=False)
    assert one.objective.value < whole - 0.05  # what a single Normal loses


def test_where_a_normal_for_each_state_does_not_fit():
    """The reason, and what does."""
    with pytest.raises(zoo.ZooError, match=r"ByState needs local latents beside a discrete one .* use MeanField"):
        fit(both(), X, method=SVI(guide=ByState()), seed=0, progress=False)


@zoo.model(x=Real("row"))
def known_mixture(x):
    """Nothing to estimate: each row has a state, and a value of its own given that."""
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Bernoulli(0.25))
        t = pyro.sample("t", dist.Normal(4.0 * z, 1.0))
        pyro.sample("x", dist.Normal(t, 1.0), obs=x)


@pytest.mark.parametrize("method", ["exact", "cavi"])
def test_a_local_mixture_without_unknown_globals_is_exact(method):
    x = np.array([0.1, 2.0, 4.2, -1.0])
    found = fit(known_mixture(), {"x": x}, method=method, seed=0)
    joint = np.log([0.75, 0.25])[:, None] + stats.norm.logpdf(x, np.array([[0.0], [4.0]]), 2**0.5)
    each = np.logaddexp.reduce(joint, 0)
    assert found.objective.value == pytest.approx(each.sum(), abs=1e-10)
    assert found.verdict.startswith("trust") or method == "exact"
    p = np.exp(joint - each)[1]
    np.testing.assert_allclose(found.assign()[1], p, atol=1e-10)
    table = found.assign(site="t")
    np.testing.assert_allclose(table[("t", "mean")], x / 2 + 2 * p, atol=1e-10)
    np.testing.assert_allclose(table[("t", "sd")], np.sqrt(0.5 + 4 * p * (1 - p)), atol=1e-10)
    np.testing.assert_allclose(found.log_prob({"x": x[:2]}), each[:2], atol=1e-10)
