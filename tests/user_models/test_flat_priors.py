"""Flat priors: fits start where the data are and have the posterior; what needs draws of a prior is refused."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
from scipy import stats
from torch.distributions import constraints

import zoo
from inference import MAP, SMC, Laplace, calibrate, fit
from zoo.errors import MethodError, ModelError

Y = np.random.default_rng(0).normal(500.0, 2.0, 20)


@zoo.model(y=zoo.Real("row"))
def flat(y):
    m = pyro.sample("m", dist.ImproperUniform(constraints.real, (), ()))
    s = pyro.sample("s", dist.ImproperUniform(constraints.positive, (), ()))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(m, s), obs=y)


def test_the_mode_is_maximum_likelihood():
    found = fit(flat, Y, method=MAP(), seed=0)
    point = found.posterior["point_estimate"]
    assert [float(point["m"]), float(point["s"])] == pytest.approx([Y.mean(), Y.std()], rel=1e-4)
    assert any("flat over its support" in note for note in found.warnings)


def test_the_posterior_of_the_mean_is_student():
    found = fit(flat, Y, method=Laplace(), seed=0)
    df = len(Y) - 2  # with a prior that is flat in s
    exact = stats.t(df, Y.mean(), np.sqrt(((Y - Y.mean()) ** 2).sum() / df / len(Y)))
    draws = found.posterior["posterior"]["m"].to_numpy().ravel()
    assert abs(draws.mean() - exact.mean()) < 5 * exact.std() / np.sqrt(len(draws))
    assert draws.std() == pytest.approx(exact.std(), rel=0.1)
    assert "prior" not in found.posterior.children


def test_what_begins_with_the_prior_is_refused():
    with pytest.raises(MethodError, match="draws of the prior, and site 'm' cannot be drawn from: its prior is flat"):
        fit(flat, Y, method=SMC(), seed=0)
    with pytest.raises(ModelError, match=r"its prior is flat.*give it a proper prior"):
        calibrate(flat, Laplace(), like=Y, simulations=2, seed=0)


def test_a_prior_that_is_masked_away_is_told_of_the_flat_one():
    @zoo.model(y=zoo.Real("row"))
    def masked(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0).mask(False))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(m, 1.0), obs=y)

    with pytest.raises(ModelError, match=r"site 'm' is masked in all entries.*ImproperUniform"):
        zoo.explain(masked, Y)
