"""Many columns, and discrete latents that all rows share."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import zoo
from inference import SVI, compare, fit
from tests.cases.spread import spread
from zoo import Count
from zoo.program.prepare import prepare


@pytest.mark.parametrize("columns", [3, 8, 16, 64])
@pytest.mark.parametrize("model", [zoo.GMM, zoo.BayesianGMM])
@spread("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))], part=1, of=2)
def test_mixtures_of_many_columns_have_their_closed_form(model, columns, seed) -> None:
    x = np.random.default_rng(seed).normal(size=(300, columns))
    x[:150] += 3
    found = fit(model(components=2), x, method="em", seed=seed)
    scale = "covariances" if model is zoo.GMM else "precisions"
    args = found.program.sites["x"].args
    assert str(args["loc"]) == "means[z]"
    assert f"{scale}[z]" in {str(parent) for parent in args.values()}
    sizes = np.sort(found.assign().sum().to_numpy())
    np.testing.assert_allclose(sizes, [150, 150], atol=12)  # the groups are 3 apart along every column


class ChangePoint(zoo.Model):
    """Counts whose rate changes at an unknown year, one discrete latent with a state per year."""

    count = Count("year")

    def forward(self, count):
        n = len(count)
        early = pyro.sample("early", dist.Gamma(2.0, 1.0))
        late = pyro.sample("late", dist.Gamma(2.0, 1.0))
        change = pyro.sample("change", dist.Categorical(torch.ones(n) / n))
        with pyro.plate("year", n):
            rate = torch.where(torch.arange(n) < change, early, late)
            pyro.sample("count", dist.Poisson(rate), obs=count)


COUNTS = np.random.default_rng(0).poisson(np.r_[np.full(80, 3.0), np.full(31, 1.0)])


def test_every_state_counts_however_many_rows_there_are() -> None:
    program = prepare(ChangePoint(), COUNTS)
    assert program.sites["change"].cardinality == len(COUNTS)
    values = {"early": torch.tensor(3.0).double(), "late": torch.tensor(1.0).double()}
    total = float(program.log_joint(values).total())
    log_joint = [
        np.log(1 / len(COUNTS))
        + float(
            torch.distributions.Poisson(torch.as_tensor(np.where(np.arange(len(COUNTS)) < c, 3.0, 1.0)))
            .log_prob(torch.as_tensor(COUNTS).double())
            .sum()
        )
        for c in range(len(COUNTS))
    ]
    prior = sum(float(torch.distributions.Gamma(2.0, 1.0).log_prob(v)) for v in values.values())
    assert total == pytest.approx(np.logaddexp.reduce(log_joint) + prior, rel=1e-9)


@pytest.mark.slow
def test_a_latent_that_rows_share_has_a_posterior_but_no_pointwise_density() -> None:
    found = fit(ChangePoint(), COUNTS, method="em", seed=0)
    probability = found.assign()
    assert probability.shape == (1, len(COUNTS))
    assert probability.to_numpy().sum() == pytest.approx(1.0)
    assert 70 < int(probability.to_numpy().argmax()) < 90
    with pytest.raises(zoo.FitError, match="change"):
        found.log_prob()
    row = compare(ChangePoint(), COUNTS, methods=[SVI(steps=40)], seed=0).table.loc["svi"]
    assert np.isnan(row["elpd_loo"])
    assert "change" in row["note"]
