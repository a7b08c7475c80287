"""NUTS: posteriordb's reference draws, closed forms, what its checks say, and what a fit of draws can do."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

import zoo
from inference import EM, NUTS, Fit, compare, fit
from inference.compiled.compile import has_compiler
from inference.diagnostics import agreement
from inference.diagnostics.agreement import check_chains, mean_error
from inference.methods.nuts import bent_note, complaints_of, cut_off, energy_fraction
from tests.cases.models import FLIPS, SCHOOLS, EightSchools, NonCentred, PoissonMixture, RandomEffects, coin
from tests.cases.posteriordb import HMMExample, case, low_dim_gauss_mix
from zoo import Real
from zoo.program.prepare import prepare

QUICK = NUTS(chains=2, warmup=80, draws=200, compile=False)


# -- posteriordb -------------------------------------------------------------------------------------------------

# As many draws as make 5 % of a standard deviation three standard errors or so.
CASES = {
    "eight_schools_noncentered": (
        "eight_schools",
        NUTS(warmup=400, draws=2000, target_accept=0.95, compile=has_compiler()),
    ),
    "low_dim_gauss_mix": ("low_dim_gauss_mix", NUTS(warmup=300, draws=600, compile=has_compiler())),
    "hmm_example": ("hmm_example", NUTS(warmup=300, draws=600, compile=has_compiler())),
    "arK": ("arK", NUTS(warmup=300, draws=600, correlated=True, compile=has_compiler())),
    "kidscore_momiq": ("kidiq", NUTS(warmup=300, draws=1000, correlated=True, compile=has_compiler())),
    "kilpisjarvi": ("kilpisjarvi_mod", NUTS(warmup=300, draws=1000, correlated=True, compile=has_compiler())),
    "garch11": ("garch", NUTS(warmup=400, draws=1200, compile=has_compiler())),
    "nes2000": ("nes2000", NUTS(warmup=300, draws=600, correlated=True, compile=has_compiler())),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_draws_agree_with_those_of_posteriordb(references, name):
    file, method = CASES[name]
    data = json.loads((references / "posteriordb" / f"{file}.json").read_text(encoding="utf-8"))
    model, given, named = case(name, data)
    found = fit(model, given, method=method, seed=0, progress=False)
    assert found.warnings == []
    assert found.converged
    assert not found.approximation.stats["diverging"].any()
    draws = named({n: v.unflatten(0, (method.chains, -1)) for n, v in found.approximation.values.items()})
    assert check_chains({n: v.numpy() for n, v in draws.items()}).rhat < 1.01
    table = pd.read_csv(references / "posteriordb" / "reference_summary.csv")
    expected = table[table["reference_posterior"] == f"{file}-{name.replace('nes2000', 'nes')}"]
    assert len(expected) > 1
    for row in expected.itertuples():
        site, _, index = row.parameter.partition("[")
        mine = draws[site].numpy()
        mine = mine[..., int(index[:-1]) - 1] if index else mine
        error = np.hypot(mean_error(mine), row.mcse_mean)
        assert abs(mine.mean() - row.mean) < 4 * error, row.parameter
        square = (mine - row.mean) ** 2
        error = np.hypot(mean_error(square), row.sd**2 * np.sqrt(2 / row.ess_bulk))
        assert abs(square.mean() - row.sd**2) < 5 * error, row.parameter


@pytest.mark.slow
def test_a_funnel_is_reported():
    method = NUTS(chains=2, warmup=60, draws=60, max_tree_depth=6, compile=False, centring="declared", collapse=False)
    found = fit(EightSchools(), SCHOOLS, method=method, seed=0, progress=False)
    assert not found.converged
    assert found.reason in found.warnings
    assert "ended in a divergence" in found.reason or "for tau" in found.reason  # the neck is not entered, or not left


# -- closed forms ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def heads():
    return fit(coin(a=2.0), FLIPS, method=QUICK, seed=3, progress=False)


@pytest.mark.slow
def test_a_coin_has_its_beta_posterior(heads):
    exact = stats.beta(2 + sum(FLIPS), 1 + len(FLIPS) - sum(FLIPS))
    draws = heads.posterior["posterior"]["heads"].to_numpy()
    assert draws.shape == (2, 200)
    assert abs(draws.mean() - exact.mean()) < 4 * mean_error(draws)
    below = (draws < exact.ppf(0.25)).astype(float)
    assert abs(below.mean() - 0.25) < 4 * mean_error(below)
    evidence = fit(coin(a=2.0), FLIPS, method="exact", seed=0).objective.value
    average = evidence - exact.entropy()  # E[log p(x, z)] = log p(x) + E[log p(z | x)]
    assert heads.objective.kind == "log_posterior"
    assert abs(heads.objective.value - average) < 4 * heads.objective.error


@pytest.mark.slow
def test_what_the_sampler_says_is_in_the_tree(heads):
    stats = heads.posterior["sample_stats"].to_dataset()
    assert set(stats) == {
        *("diverging", "tree_depth", "energy", "step_size", "acceptance_rate", "n_steps", "lp", "log_p", "log_q")
    }
    assert all(v.dims == ("chain", "draw") and v.shape == (2, 200) for v in stats.values())
    assert (stats["n_steps"] < 2 ** (stats["tree_depth"] + 1)).all()
    assert stats["acceptance_rate"].mean() == pytest.approx(0.9, abs=0.1)
    z = heads.posterior["posterior"]["heads"]
    np.testing.assert_allclose(stats["lp"], stats["log_p"] + np.log(z * (1 - z)))  # with log|dz/du|
    kinetic = stats["energy"] + stats["lp"]  # chi^2 / 2 in one dimension, up to a constant of the chain
    np.testing.assert_allclose((kinetic - kinetic.min("draw")).mean("draw"), 0.5, atol=0.25)
    assert list(heads.trace.columns) == ["step", "seconds", "value"]
    assert heads.trace["step"].iloc[-1] == 280
    assert (np.diff(heads.trace["seconds"]) >= 0).all()
    assert heads.reason.startswith(heads.approximation.sampler)
    assert {"r_hat", "ess_bulk", "ess_tail", "mcse_mean"} <= set(heads.summary().columns)
    assert np.isnan(heads.khat)


@pytest.mark.slow
def test_the_seed_decides_and_other_seeds_differ(heads):
    again = fit(coin(a=2.0), FLIPS, method=QUICK, seed=3, progress=False)
    assert torch.equal(again.approximation.values["heads"], heads.approximation.values["heads"])
    assert again.objective == heads.objective
    other = fit(coin(a=2.0), FLIPS, method=QUICK, seed=4, progress=False)
    assert not torch.equal(other.approximation.values["heads"], heads.approximation.values["heads"])
    first = heads.posterior["posterior"]["heads"]
    assert not np.array_equal(first[0], first[1])


@pytest.mark.slow
def test_rows_by_weight_are_rows_repeated(heads):
    weighted = fit(coin(a=2.0), [1, 0], method=QUICK, weights=[5, 5], seed=3, progress=False)
    draws = weighted.posterior["posterior"]["heads"].to_numpy()
    assert abs(draws.mean() - 7 / 13) < 4 * mean_error(draws)


# -- enumerated sites --------------------------------------------------------------------------------------------


X = np.concatenate([np.random.default_rng(0).normal(-2, 1, 25), np.random.default_rng(1).normal(2, 1, 15)])
BRIEF = NUTS(chains=2, warmup=50, draws=60, compile=False)  # draws of no use but to be kept


@pytest.fixture(scope="module")
def clusters():
    return X, fit(low_dim_gauss_mix(), X, method=QUICK, seed=0, progress=False)


@pytest.fixture(scope="module")
def few():
    return fit(low_dim_gauss_mix(), X, method=BRIEF, seed=0, progress=False)


@pytest.mark.slow
def test_states_are_drawn_given_each_draw(clusters):
    x, found = clusters
    states = found.posterior["posterior"]["z"]
    assert states.dims == ("chain", "draw", "row")
    assert states.dtype.kind == "i"
    assert set(np.unique(states)) == {0, 1}
    table = found.assign()
    share = (states == 1).mean(["chain", "draw"]).to_numpy()
    p = table[1].to_numpy()  # averaged over the same draws, given which the states are independent
    assert (np.abs(share - p) < 5 * np.sqrt(p * (1 - p) / states[..., 0].size) + 1 / states[..., 0].size).all()
    assert not any("z" in str(name).split("[")[0] for name in found.summary().index)
    new = found.assign(x[:3] + 0.1)
    assert new.shape == (3, 2)


@pytest.mark.slow
def test_paths_of_a_chain_are_drawn_too(reference):
    y = np.array(reference("posteriordb/hmm_example.json")["y"])[:30]
    method = NUTS(chains=1, warmup=40, draws=60, compile=False)
    found = fit(HMMExample(), y, method=method, seed=0, progress=False)
    states = found.posterior["posterior"]["z"]
    assert states.shape == (1, 60, 30)
    assert (np.abs(states.mean(["chain", "draw"]).to_numpy() - found.assign()[1].to_numpy()) < 0.3).all()


# -- what a fit of draws can do ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def effects():
    x = 3.0 + 1.5 * np.random.default_rng(0).standard_normal(12)
    return x, fit(RandomEffects(), x, method=QUICK, seed=0, progress=False)


@pytest.mark.slow
def test_locals_are_drawn_with_the_globals(effects):
    x, found = effects
    draws = found.posterior["posterior"]
    assert draws["effect"].dims == ("chain", "draw", "row")
    variance = 1 / (1 / 100 + len(x) / 2)
    mean = variance * x.sum() / 2  # of mu; and given mu, effect_i has mean (mu + x_i) / 2
    assert abs(draws["mu"].mean() - mean) < 4 * mean_error(draws["mu"].to_numpy())
    for i in range(len(x)):
        effect = draws["effect"][..., i].to_numpy()
        assert abs(effect.mean() - (mean + x[i]) / 2) < 4 * mean_error(effect)
    density = stats.norm(mean, np.sqrt(variance + 2)).logpdf(x)
    rows = found.log_prob(samples=500)
    assert (np.abs(rows - density) < 0.1 + 4 * np.array(rows.attrs["mcse"])).all()
    checked = found.predict(draws=300)["posterior_predictive"]["x"]
    assert abs(float(checked.mean()) - (mean + x.mean()) / 2) < 0.2


@pytest.mark.slow
def test_a_fit_of_draws_is_saved_and_read(few, tmp_path):
    few.save(tmp_path / "fit")
    back = Fit.load(tmp_path / "fit", low_dim_gauss_mix)
    assert repr(back) == repr(few)
    assert back.method == few.method
    for group in ("posterior", "sample_stats", "log_likelihood"):
        assert back.posterior[group].to_dataset().identical(few.posterior[group].to_dataset())
    assert back.assign().equals(few.assign())
    assert back.log_prob(X[:4]).equals(few.log_prob(X[:4]))
    assert back.generate(5).equals(few.generate(5))


@pytest.mark.slow
def test_draws_are_drawn_from_again(few):
    kept = few.approximation.values["theta"].numpy()
    for count in (10, 150, 360):
        drawn = few.sample(count)["theta"].to_numpy()
        assert drawn.shape == (1, count)
        assert np.isin(drawn, kept).all()
    every_fourth = few.globals(30)["theta"]
    assert torch.equal(every_fourth, few.approximation.values["theta"][::4])  # of both chains


@pytest.mark.slow
def test_methods_are_compared_with_it(clusters):
    x, _ = clusters
    brief = NUTS(chains=2, warmup=30, draws=30, compile=False)
    table = compare(low_dim_gauss_mix(), x, methods={"nuts": brief, "em": EM()}, seed=0, progress=False).table
    assert list(table["kind"]) == ["log_posterior", "log_posterior"]
    assert np.isfinite(table.loc["nuts", "elpd_loo"])
    assert np.isnan(table.loc["nuts", "khat"])


# -- checks ------------------------------------------------------------------------------------------------------


def test_what_is_wrong_is_said():
    rng = np.random.default_rng(0)
    slow = np.cumsum(rng.standard_normal((2, 100)), 1)
    said = {
        "diverging": rng.random((2, 100)) < 0.1,
        "tree_depth": np.full((2, 100), 6),
        "energy": np.stack([slow[0], 10 * rng.standard_normal(100)]),
    }
    draws = {"a": rng.standard_normal((2, 100)), "b": rng.standard_normal((2, 100, 3)), "c": np.ones((2, 100))}
    draws["b"][1, :, 2] += 5
    check = check_chains(draws)
    assert check.worst_rhat == check.worst_ess == "b[2]"
    told = complaints_of(said, check)
    assert f"{said['diverging'].sum()} of 200 draws" in bent_note(said)
    assert "200 of 200 trajectories" in cut_off(said, 6)[0]
    assert "in chain 0:" in told[0]
    assert f"R-hat {check.rhat:.3f} > 1.01 for b[2]" in told[1]
    assert "< 200 for b[2]" in told[2]
    quiet = {"diverging": np.zeros((2, 100), bool), "tree_depth": np.full((2, 100), 3), "energy": slow * 0}
    quiet["energy"] = rng.standard_normal((2, 100))
    good = check_chains({"a": rng.standard_normal((2, 1000))})
    assert [bent_note(quiet), *cut_off(quiet, 6), *complaints_of(quiet, good)] == [""]
    few = check_chains({"a": draws["a"][:, :4]})
    assert "nan" in complaints_of(quiet, few)[0]


def test_energies_that_are_independent_have_a_fraction_of_two():
    energy = np.random.default_rng(0).standard_normal((3, 20_000))
    np.testing.assert_allclose(energy_fraction(energy), 2, atol=0.05)


def test_a_chain_alone_is_checked_in_halves():
    drift = np.linspace(0, 3, 400)[None] + np.random.default_rng(0).standard_normal((1, 400))
    assert check_chains({"a": drift}).rhat > 1.1
    assert check_chains({"a": drift - np.linspace(0, 3, 400)}).rhat < 1.02


def test_the_error_of_a_mean_is_that_of_its_effective_size():
    draws = np.random.default_rng(0).standard_normal((4, 1000))
    assert mean_error(draws) == pytest.approx(1 / np.sqrt(4000), rel=0.1)
    assert mean_error(draws[:, :4]) == pytest.approx(draws[:, :4].std() / 4)
    assert agreement.FEWEST_DRAWS > 4


# -- refusals ----------------------------------------------------------------------------------------------------


class Impossible(zoo.Model):
    """A density that is a number at the start only."""

    x = Real("row")

    def initial(self, x):
        return {"mu": torch.zeros(())}

    def forward(self, x):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Normal(torch.where(mu == 0, mu, torch.nan), 1.0), obs=x)


@zoo.model(x=Real("row"))
def all_states(x):
    """Nothing but states."""
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Bernoulli(0.5))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def test_what_has_no_posterior_density_is_refused():
    why = NUTS().why_not(prepare(PoissonMixture(), [0, 3, 1, 9]))
    assert "parameter 'weights' has no prior" in why
    assert "pyro.sample('weights'" in why
    with pytest.raises(zoo.MethodError, match=r"'weights' has no prior.*Legal here: .*em"):
        fit(PoissonMixture(), [0, 3, 1, 9], method="nuts", seed=0)
    assert "networks" in NUTS().why_not(prepare(zoo.VAE(latent=1, hidden=()), [[1, 0], [0, 1]]))
    assert "no continuous latent" in NUTS().why_not(prepare(all_states(), [0.1, 0.9]))
    assert NUTS().how(prepare(low_dim_gauss_mix(), [0.1, 0.9])) == "with z summed out, then drawn exactly"


@pytest.mark.parametrize("settings", [{"chains": 0}, {"target_accept": 1.0}, {"max_tree_depth": 0}, {"start": "here"}])
def test_settings_are_checked(settings):
    with pytest.raises(zoo.ZooError, match=next(iter(settings))):
        NUTS(**settings)


def test_no_start_is_found_where_there_is_none():
    with pytest.raises(zoo.FitError, match="no point near the starting values"):
        fit(Impossible(), [0.5], method=QUICK, seed=0, progress=False)


@pytest.mark.slow
def test_non_centred_states_are_as_declared():
    found = fit(NonCentred(), SCHOOLS, method=NUTS(chains=1, warmup=30, draws=30, compile=False), seed=0)
    theta = found.posterior["posterior"]
    np.testing.assert_allclose(theta["theta"], theta["mu"] + theta["tau"] * theta["standard"])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_centred_schools_have_no_divergence(seed):
    """Effects and their mean are integrated out; what is left is one scale, in no funnel. The fit has all of it."""
    found = fit(EightSchools(), SCHOOLS, method=NUTS(), seed=seed)
    assert found.diagnostics["divergences"] == 0
    # (R-hat^2 - 1) times the effective draws of a chain is chi-squared / 3 of 3 degrees, above 7 once in 10,000.
    assert found.diagnostics["rhat"] ** 2 - 1 < 7 * 4 / found.diagnostics["ess"]
    assert found.diagnostics["ess"] > 400
    assert set(found.posterior["posterior"].data_vars) == {"mu", "tau", "theta"}
    for name, mean, sd in (("mu", 4.41, 3.31), ("tau", 3.60, 3.20)):  # posteriordb's
        draws = found.posterior["posterior"][name].values
        assert abs(draws.mean() - mean) < 5 * sd / np.sqrt(found.diagnostics["ess"])


@zoo.model(y=zoo.Count("unit"), n=zoo.Count("unit"))
def shares(y, n):
    """Beta-Binomial with hyperpriors."""
    mean = pyro.sample("mean", dist.Beta(1.0, 1.0))
    size = pyro.sample("size", dist.LogNormal(2.0, 1.0))
    with pyro.plate("unit", len(y)):
        share = pyro.sample("share", dist.Beta(mean * size, (1 - mean) * size))
        pyro.sample("y", dist.Binomial(n, share), obs=y)


@pytest.mark.slow
def test_collapsed_and_whole_posteriors_are_the_same():
    """Beta-Binomial by both ways: the same means within Monte Carlo errors, and a log joint of all latents."""
    rows = {"y": [0.0, 1, 2, 5, 4, 9, 3, 0], "n": [20.0, 20, 19, 22, 18, 25, 24, 10]}
    collapsed, whole = (fit(shares(), rows, method=NUTS(collapse=how), seed=1) for how in ("auto", False))
    errors = np.hypot(collapsed.objective.error, whole.objective.error)
    assert abs(collapsed.objective.value - whole.objective.value) < 4 * errors
    tables = [f.summary() for f in (collapsed, whole)]
    gap = (tables[0]["mean"].astype(float) - tables[1]["mean"].astype(float)).abs()
    error = np.hypot(*(t["sd"].astype(float) / np.sqrt(t["ess_bulk"].astype(float)) for t in tables))
    assert (gap < 4.5 * error + 0.01).all()  # summaries are rounded


def test_explain_says_what_is_integrated_out_and_why_the_rest_is_not():
    said = "with theta, mu integrated out, then drawn exactly; tau stays: its prior is HalfCauchy"
    program = prepare(EightSchools(), SCHOOLS)
    assert NUTS().how(program) == said
    assert NUTS(collapse=False).how(program) == "with theta between value and noise, as the data say"
    assert NUTS(collapse=False, centring="declared").how(program) == ""
    tosses = prepare(coin(), [1.0, 0.0])
    assert NUTS().how(tosses) == "with nothing integrated out: all latents could be, and nothing would be left to draw"
    with pytest.raises(zoo.ZooError, match="collapse"):
        NUTS(collapse=True)
