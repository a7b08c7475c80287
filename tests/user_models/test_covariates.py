"""Missing values of a covariate with a distribution of its own are latents; of one that has none they are refused."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import optimize, stats

import zoo
from inference import MAP, NUTS, Laplace, fit
from zoo.errors import DataError
from zoo.program.prepare import prepare

RNG = np.random.default_rng(0)
AGE = RNG.normal(1.0, 2.0, 12)
Y = 0.5 + 0.8 * AGE + RNG.normal(0, 0.3, 12)
GONE = np.isin(np.arange(12), [2, 7])
SOME = np.where(GONE, np.nan, AGE)


@zoo.model(age=zoo.Real("row"), y=zoo.Real("row"))
def regression(age, y):
    m = pyro.sample("m", dist.Normal(0.0, 5.0))
    t = pyro.sample("t", dist.HalfNormal(5.0))
    b = pyro.sample("b", dist.Normal(0.0, 5.0))
    with pyro.plate("row", len(y)):
        age = pyro.sample("age", dist.Normal(m, t), obs=age)
        pyro.sample("y", dist.Normal(0.5 + b * age, 0.3), obs=y)


def log_joint(m, t, b, ages):
    age = np.where(GONE, 0.0, AGE)
    age[GONE] = ages
    prior = stats.norm.logpdf(m, 0, 5) + stats.halfnorm.logpdf(t, scale=5) + stats.norm.logpdf(b, 0, 5)
    return prior + stats.norm.logpdf(age, m, t).sum() + stats.norm.logpdf(Y, 0.5 + b * age, 0.3).sum()


def test_what_is_missing_has_the_density_of_a_latent():
    program = prepare(regression, {"age": SOME, "y": Y})
    ages = np.array([0.3, -1.0])
    full = RNG.normal(size=12)
    full[GONE] = ages
    values = {"m": 0.4, "t": 1.5, "b": 0.7, "age_unobserved": full}
    values = {n: torch.as_tensor(v, dtype=torch.float64) for n, v in values.items()}
    value = program.log_joint(values).total()
    elsewhere = stats.norm.logpdf(full[~GONE]).sum()  # of latents that are not there: without parameters
    assert float(value) == pytest.approx(log_joint(0.4, 1.5, 0.7, ages) + elsewhere, abs=1e-9)


@zoo.model(age=zoo.Real("row"), seen=zoo.Binary("row"), y=zoo.Real("row"))
def by_mask(age, seen, y):
    """The same, as Pyro's `obs_mask` says it."""
    m = pyro.sample("m", dist.Normal(0.0, 5.0))
    t = pyro.sample("t", dist.HalfNormal(5.0))
    b = pyro.sample("b", dist.Normal(0.0, 5.0))
    with pyro.plate("row", len(y)):
        age = pyro.sample("age", dist.Normal(m, t), obs=age, obs_mask=seen > 0)
        pyro.sample("y", dist.Normal(0.5 + b * age, 0.3), obs=y)


@pytest.mark.slow
def test_a_mask_says_the_same_as_missing_values():
    """What was observed has no latent that would pull the mode to it; the others are integrated out where asked."""
    pairs = (regression, {"age": SOME, "y": Y}), (by_mask, {"age": AGE, "seen": 1.0 - GONE, "y": Y})
    programs = [prepare(*pair) for pair in pairs]
    full = torch.as_tensor(RNG.normal(size=12))
    values = {"m": torch.tensor(0.4), "t": torch.tensor(1.5), "b": torch.tensor(0.7), "age_unobserved": full}
    heights = [float(p.log_joint(values).total()) for p in programs]
    assert heights[0] == pytest.approx(heights[1], abs=1e-6)
    assert all("age_unobserved, m integrated out" in zoo.explain(*pair) for pair in pairs)


@zoo.model(x=zoo.Real("row"), seen=zoo.Binary("row"))
def alone(x, seen):
    m = pyro.param("m", torch.tensor(0.0))
    s = pyro.param("s", torch.tensor(1.0), constraint=torch.distributions.constraints.positive)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(m, s), obs=x, obs_mask=seen > 0)


def test_a_mask_of_many_rows_leaves_them_out():
    """More rows than the structure is traced on; nothing depends on what was not observed."""
    x = RNG.normal(1.0, 2.0, 100)
    seen = RNG.random(100) < 0.7
    found = fit(alone, {"x": x, "seen": seen}, method="map", seed=0)
    assert [s.name for s in found.program.sites.values()] == ["m", "s", "x_observed"]
    assert found.objective.value == pytest.approx(stats.norm(x[seen].mean(), x[seen].std()).logpdf(x[seen]).sum())


@pytest.mark.slow
def test_the_mode_is_that_with_the_missing_values_as_unknowns():
    found = fit(regression, {"age": SOME, "y": Y}, method=MAP(), seed=0)
    best = optimize.minimize(
        lambda u: -log_joint(u[0], np.exp(u[1]), u[2], u[3:]), [0.0, 0.0, 0.5, 0.0, 0.0], tol=1e-10
    )
    point = found.posterior["point_estimate"]
    assert [float(point[n]) for n in ("m", "t", "b")] == pytest.approx(
        [best.x[0], np.exp(best.x[1]), best.x[2]], abs=0.01
    )
    assert point["age"].to_numpy()[GONE] == pytest.approx(best.x[3:], abs=0.01)
    assert point["age"].to_numpy()[~GONE] == pytest.approx(AGE[~GONE])


@pytest.mark.slow
def test_evidence_and_imputations_are_those_of_the_integral():
    found = fit(regression, {"age": SOME, "y": Y}, method=Laplace(), seed=0)
    m, t, b = np.meshgrid(np.linspace(-5, 7, 60), np.linspace(0.8, 7, 60), np.linspace(0.6, 1.0, 60), indexing="ij")
    height = stats.norm.logpdf(m, 0, 5) + stats.halfnorm.logpdf(t, scale=5) + stats.norm.logpdf(b, 0, 5)
    for age, y, gone in zip(AGE, Y, GONE, strict=True):
        if gone:
            height = height + stats.norm.logpdf(y, 0.5 + b * m, np.sqrt(0.09 + b**2 * t**2))
        else:
            height = height + stats.norm.logpdf(age, m, t) + stats.norm.logpdf(y, 0.5 + b * age, 0.3)
    weight = np.exp(height - height.max())
    evidence = np.log(weight.sum() * (12 / 59) * (6.2 / 59) * (0.4 / 59)) + height.max()
    assert abs(found.diagnostics["evidence"] - evidence) < 5 * found.diagnostics["evidence_error"] + 0.01
    precision = 1 / t**2 + b**2 / 0.09
    expected = (((m / t**2 + b * (Y[2] - 0.5) / 0.09) / precision) * weight).sum() / weight.sum()
    drawn = np.array([table["age"].iloc[2] for table in found.impute(draws=200, seed=1)])
    assert abs(drawn.mean() - expected) < 5 * drawn.std() / np.sqrt(200)


@pytest.mark.slow
def test_chains_agree():
    found = fit(regression, {"age": SOME, "y": Y}, method=NUTS(), seed=0)
    laplace = fit(regression, {"age": SOME, "y": Y}, method=Laplace(), seed=0)
    for name in ("m", "t", "b"):
        draws, other = (r.posterior["posterior"][name].to_numpy() for r in (found, laplace))
        assert abs(draws.mean() - other.mean()) < 6 * draws.std() / np.sqrt(500)


def reads_the_field(age, y):
    b = pyro.sample("b", dist.Normal(0.0, 5.0))
    with pyro.plate("row", len(y)):
        pyro.sample("age", dist.Normal(0.0, 3.0), obs=age)
        pyro.sample("y", dist.Normal(b * age, 0.3), obs=y)


@zoo.model(age=zoo.Real("row"), y=zoo.Real("row"))
def of_a_state(age, y):
    """What is missing is read by nothing: both fields depend on a state, which differs from run to run."""
    with pyro.plate("row", len(y)):
        z = pyro.sample("z", dist.Bernoulli(0.3))
        pyro.sample("age", dist.Normal(3.0 * z, 2.0), obs=age)
        pyro.sample("y", dist.Normal(1.0 - z, 1.5), obs=y)


def test_what_depends_on_a_state_does_not_read_missing_values():
    program = prepare(of_a_state, {"age": SOME, "y": Y})
    assert program.data.parted == {}
    parts = [
        np.log(share) + np.where(GONE, 0.0, stats.norm.logpdf(AGE, 3 * z, 2)) + stats.norm.logpdf(Y, 1 - z, 1.5)
        for z, share in ((0, 0.7), (1, 0.3))
    ]
    assert float(program.log_joint({}).total()) == pytest.approx(np.logaddexp(*parts).sum(), abs=1e-9)


def reads_both(age, y):
    with pyro.plate("row", len(y)):
        drawn = pyro.sample("age", dist.Normal(0.0, 3.0), obs=age)
        pyro.sample("y", dist.Normal(drawn + 0.1 * age, 0.3), obs=y)


def without_a_distribution(age, y):
    b = pyro.sample("b", dist.Normal(0.0, 5.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(b * age, 0.3), obs=y)


@pytest.mark.parametrize(
    ("story", "remedy"),
    [
        (reads_the_field, "let the model read what pyro.sample"),
        (reads_both, "let the model read what pyro.sample"),
        (without_a_distribution, "observe the field at a site of its own"),
    ],
)
def test_made_up_numbers_are_not_read(story, remedy):
    with pytest.raises(DataError, match=f"field 'age' has missing values.*{remedy}"):
        prepare(zoo.model(age=zoo.Real("row"), y=zoo.Real("row"))(story), {"age": SOME, "y": Y})


@zoo.model(x=zoo.Real("row"), seen=zoo.Binary("row"))
def masked(x, seen):
    m = pyro.sample("m", dist.Normal(0.0, 5.0))
    with pyro.plate("row", len(x)), pyro.poutine.mask(mask=seen > 0):
        pyro.sample("x", dist.Normal(m, 1.0), obs=x)


def test_why_a_mask_has_no_closed_form():
    data = {"x": AGE, "seen": 1.0 - GONE}
    with pytest.raises(zoo.MethodError, match=r"site 'x' is masked or scaled.* write NaN in place of a mask"):
        fit(masked, data, method="cavi", seed=0)
    assert fit(masked, data, method="map", seed=0).converged
