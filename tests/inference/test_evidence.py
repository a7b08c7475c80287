"""Evidence: bridge sampling against closed forms, kinds kept apart, Bayes factors with their errors."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

import zoo
from inference import NUTS, SMC, Laplace, evidence, fit
from inference.approximations.sampled import Sampled
from inference.cli import app
from inference.diagnostics.bridge import bridge
from tests.cases.models import FLIPS, SCHOOLS, EightSchools, coin
from zoo.program.prepare import prepare

PARTICLES = SMC(compile=False)


def beta_draws(seed, count=1000):
    """Independent draws of the coin's Beta(6, 6), as four chains."""
    values = torch.from_numpy(stats.beta(6, 6).rvs(count, random_state=seed))
    return Sampled({"heads": values}, torch.zeros(count, dtype=torch.float64), chains=4)


def test_bridge_from_exact_draws_has_the_error_that_it_says():
    """z-scores over seeds have unit spread, or less: the error never takes credit for two halves agreeing."""
    program = prepare(coin, FLIPS)
    exact = math.log(math.gamma(6) ** 2 / math.gamma(12))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = np.array([bridge(program, beta_draws(seed)) for seed in range(20)])
    z = (found[:, 0] - exact) / found[:, 1]
    assert (found[:, 1] < 0.01).all()
    assert (z**2).sum() < stats.chi2(20).ppf(0.999)
    assert (np.abs(z) < 3).all()


@pytest.mark.slow
def test_bridge_and_smc_agree_with_quadrature_on_eight_schools(reference):
    exact = reference("small_exact.json")["eight_schools_posteriordb"]["log_evidence"]
    table = evidence(EightSchools(), SCHOOLS, methods=[PARTICLES], seed=0, progress=False).table
    assert table["kind"].tolist() == ["smc", "bridge"]
    assert (abs(table["log_evidence"] - exact) < 3 * table["error"]).all()


@pytest.mark.slow
def test_kinds_stand_apart_and_all_estimates_meet_the_closed_form():
    methods = ["exact", Laplace(compile=False), PARTICLES, "em"]
    found = evidence(coin, FLIPS, methods=methods, seed=0, progress=False)
    assert found.table["kind"].tolist() == ["exact", "importance", "laplace", "elbo", "smc", "bridge", ""]
    exact = found.table["log_evidence"].iloc[0]
    for row in found.table[found.table["kind"].isin(["smc", "bridge", "importance"])].itertuples():
        assert abs(row.log_evidence - exact) < 3 * row.error + 1e-9, row
    text = str(found)
    assert text.index("estimates of log p(x)") < text.index("lower bounds, not to be ranked with estimates")
    assert "em is not legal" in text
    bounds = text.partition("lower bounds")[2]
    assert "elbo" in bounds
    assert "smc" not in bounds.partition("\n\n")[0]


@pytest.mark.slow
def test_the_text_is_narrow_and_names_models_by_what_tells_them_apart():
    few = SMC(populations=2, particles=10, compile=False)
    one = evidence(zoo.BetaBernoulli(a=2.0), FLIPS, methods=["exact", "em", few], seed=0, progress=False)
    assert str(one).startswith("BetaBernoulli(a=2.0)\n\nestimates of log p(x)\nmethod")
    assert "BetaBernoulli(a=2.0) by em: em is not legal" in str(one)
    assert "BetaBernoulli(a=2.0), smc by smc: 2 populations" in str(one)  # why it is in doubt
    models = [zoo.NormalNormal(scale=s) for s in (1.0, 2.0)]
    two = evidence(models, [0.3, 1.2, -0.4], methods=["exact", few], seed=0, progress=False)
    assert two.table["model"].unique().tolist() == [f"NormalNormal(scale={s})" for s in (1.0, 2.0)]
    assert max(map(len, [*str(one).splitlines(), *str(two).splitlines()])) <= 100


def test_bayes_factors_are_differences_with_both_errors():
    models = {"flat": coin(), "fair": coin(a=20.0, b=20.0)}
    found = evidence(models, FLIPS, methods=["exact"], seed=0, progress=False).bayes_factors

    def log_beta(a, b):
        return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)

    expected = log_beta(25, 25) - log_beta(20, 20) - log_beta(6, 6)
    assert found["log_bayes_factor"].tolist() == pytest.approx([0.0, expected])
    assert found["its_error"].tolist() == [0.0, 0.0]
    noisy = evidence(models, FLIPS, methods=[PARTICLES], seed=0, progress=False).bayes_factors
    assert abs(noisy["log_bayes_factor"][1] - expected) < 3 * noisy["its_error"][1]
    assert noisy["its_error"][1] == pytest.approx(math.hypot(*noisy["error"]))


@zoo.model(y=zoo.Positive("row"))
def of_logarithms(y):
    a = pyro.sample("a", dist.Normal(0.0, 5.0))
    with pyro.plate("row", len(y)):
        pyro.sample("ly", dist.Normal(a, 1.0), obs=y.log())


@zoo.model(y=zoo.Positive("row"))
def of_numbers(y):
    a = pyro.sample("a", dist.Normal(0.0, 5.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.LogNormal(a, 1.0), obs=y)


@pytest.mark.slow
def test_densities_of_other_data_have_no_bayes_factor():
    """The same model twice, of log y and of y: their evidences differ by -sum log y, which says nothing of them."""
    y, methods = [10.0, 20.0, 30.0, 25.0], ["exact", "laplace"]
    found = evidence({"log": of_logarithms(), "lognormal": of_numbers()}, y, methods=methods, seed=0)
    best = found.bayes_factors.set_index("model")
    assert best["log_evidence"].diff().iloc[-1] == pytest.approx(-np.log(y).sum(), abs=0.01)
    assert math.isnan(best.loc["lognormal", "log_bayes_factor"])
    assert "lognormal: density of y" in str(found)
    assert "log: density of what 'ly' makes from y" in str(found)
    same = evidence({"one": of_numbers(), "two": of_numbers()}, y, methods=["laplace"], seed=0)
    assert same.bayes_factors["log_bayes_factor"].abs().max() < 0.01
    assert "same data" not in str(same)


def test_fits_bring_their_own_data():
    fitted = fit(coin, FLIPS, method="exact", seed=0)
    assert evidence(fitted).table["log_evidence"].tolist() == [fitted.objective.value]
    with pytest.raises(zoo.DataError, match="a model needs data"):
        evidence(coin)


def test_on_the_command_line(tmp_path):
    from typer.testing import CliRunner

    file = tmp_path / "flips.csv"
    file.write_text("x\n" + "\n".join(map(str, FLIPS)), encoding="utf-8")
    ran = CliRunner().invoke(app, ["evidence", "BetaBernoulli", str(file), "--methods", "exact", "--seed", "0"])
    assert ran.exit_code == 0, ran.output
    assert "-7.9273" in ran.output


@zoo.model(y=zoo.Real("row"), x=zoo.Real("row"))
def line(y, x):
    """Strength of timber by its density: the priors of the radiata pine example (Friel and Pettitt 2008)."""
    tau = pyro.sample("tau", dist.Gamma(torch.tensor(3.0), torch.tensor(2 * 300.0**2)))
    a = pyro.sample("a", dist.Normal(torch.tensor(3000.0), (0.06 * tau).rsqrt()))
    b = pyro.sample("b", dist.Normal(torch.tensor(185.0), (6.0 * tau).rsqrt()))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(a + b * x, tau.rsqrt()), obs=y)


@pytest.mark.slow
@pytest.mark.parametrize("method", [PARTICLES, NUTS(chains=4, warmup=500, draws=1500)], ids=["smc", "nuts"])
def test_two_regressions_that_are_not_nested_have_the_bayes_factor_of_the_closed_form(method):
    rng = np.random.default_rng(1)
    z = rng.normal(0, 4, 42)
    x = z + rng.normal(0, 1.5, 42)
    y = 3000 + 185 * z + rng.normal(0, 300, 42)
    fits, exact = {}, {}
    for name, column in {"density": x - x.mean(), "adjusted": z - z.mean()}.items():
        fits[name] = fit(line, {"y": y, "x": column}, method=method, seed=0, progress=False)
        # Student t with 6 degrees of freedom: y ~ t(mean, 2 b / 2 a (I + X V X^T)).
        design = np.stack([np.ones(42), column], 1)
        shape = 300.0**2 * 2 / 3 * (np.eye(42) + design @ np.diag([1 / 0.06, 1 / 6]) @ design.T)
        exact[name] = stats.multivariate_t(design @ [3000.0, 185.0], shape, df=6).logpdf(y)
    found = evidence(fits).bayes_factors
    assert found["by"].tolist() == [f"bridge ({type(method).__name__.lower()})"] * 2
    assert abs(found["log_bayes_factor"][1] - (exact["adjusted"] - exact["density"])) < 0.02
    assert found["its_error"][1] < 0.01


@zoo.model(y=zoo.Binary("row"), x=zoo.Real("row"), clutch=zoo.Category("row"))
def turtles(y, x, clutch, *, groups: int = 8):
    """Survival by birthweight, with an effect of each clutch: a probit model with random intercepts."""
    a = pyro.sample("a", dist.Normal(0.0, 10**0.5))
    b = pyro.sample("b", dist.Normal(0.0, 10**0.5))
    spread = pyro.sample("spread", dist.HalfCauchy(1.0))
    with pyro.plate("group", groups):
        effect = pyro.sample("effect", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        chance = torch.special.ndtr(a + b * x + spread.sqrt() * effect[clutch])
        pyro.sample("y", dist.Bernoulli(chance.clamp(1e-12, 1 - 1e-12)), obs=y)


@zoo.model(y=zoo.Binary("row"), x=zoo.Real("row"))
def alike(y, x):
    """The same without an effect of the clutch."""
    a = pyro.sample("a", dist.Normal(0.0, 10**0.5))
    b = pyro.sample("b", dist.Normal(0.0, 10**0.5))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Bernoulli(torch.special.ndtr(a + b * x).clamp(1e-12, 1 - 1e-12)), obs=y)


@pytest.mark.slow
@pytest.mark.parametrize("method", [PARTICLES, NUTS(chains=4, warmup=500, draws=1000)], ids=["smc", "nuts"])
def test_random_intercepts_have_the_bayes_factor_of_quadrature(method):
    """Effects by Gauss-Hermite, the other three on a grid; a variance below e^-9 as none."""
    rng = np.random.default_rng(2)
    clutch, x = np.arange(64) % 8, rng.normal(size=64)
    y = (rng.random(64) < stats.norm.cdf(0.1 + 0.4 * x + rng.normal(0, 0.5, 8)[clutch])).astype(float)
    nodes, weights = np.polynomial.hermite_e.hermegauss(30)
    a, b, t = np.linspace(-1.6, 1.9, 36), np.linspace(-0.7, 1.9, 27), np.linspace(-9, 5, 57)
    sign, prior = 2 * y - 1, stats.norm(0, 10**0.5).logpdf

    def given(v):
        eta = (a[:, None, None] + b[:, None] * x)[..., None] + math.sqrt(v) * nodes  # (a, b, rows, nodes)
        rows = stats.norm.logcdf(sign[:, None] * eta)
        clutches = np.stack([rows[:, :, clutch == g].sum(2) for g in range(8)], 2)
        each = np.log(np.exp(clutches) @ (weights / weights.sum())).sum(2) + prior(a)[:, None] + prior(b)
        return np.exp(each).sum() * (a[1] - a[0]) * (b[1] - b[0])

    half = (t[1] - t[0]) / 2
    law = stats.halfcauchy
    exact = math.log(
        sum(given(math.exp(s)) * (law.cdf(math.exp(s + half)) - law.cdf(math.exp(s - half))) for s in t)
        + given(0.0) * law.cdf(math.exp(t[0] - half))
    )
    columns = {"alike": {"y": y, "x": x}, "clutches": {"y": y, "x": x, "clutch": clutch}}
    fits = {
        n: fit(m, columns[n], method=method, seed=0, progress=False)
        for n, m in zip(columns, (alike, turtles), strict=True)
    }
    best = evidence(fits).bayes_factors.set_index("model")
    assert abs(best.loc["clutches", "log_evidence"] - exact) < 3 * best.loc["clutches", "error"]
    assert best.loc["clutches", "its_error"] < 0.02
    assert abs(best.loc["clutches", "log_bayes_factor"] - (exact - math.log(given(0.0)))) < 0.02
    if isinstance(method, SMC):
        assert abs(fits["clutches"].objective.value - exact) < 3 * fits["clutches"].objective.error


@pytest.mark.slow
def test_chains_in_one_labelling_have_the_evidence_of_all(faithful):
    """NUTS stays in one of two labelled modes; the bridge counts both."""
    waits = faithful["waiting"].to_numpy()[:25, None]
    model = zoo.BayesianGMM(components=2, covariance="diag")
    table = evidence(
        model, waits, methods=[PARTICLES, NUTS(chains=2, warmup=100, draws=200, compile=False)], seed=0, progress=False
    ).table
    values = table.set_index("method")[table.set_index("method")["kind"] == "bridge"]
    smc, nuts = values.loc["smc"], values.loc["nuts"]
    assert abs(smc["log_evidence"] - nuts["log_evidence"]) < 3 * math.hypot(smc["error"], nuts["error"])
