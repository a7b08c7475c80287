"""Log densities at many vectors: where there is none, and by whatever road."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

import zoo
from inference.sampling.paths import log_densities
from zoo.program.flat_density import Density
from zoo.program.prepare import prepare

X = np.array([[0.3, -0.8], [1.1, 0.4]])


@zoo.model(x=zoo.Real("row", "feature"))
def correlated(x, *, looks: bool = False):
    """A correlation, in millionths, that may leave (-1, 1): no Cholesky factor there."""
    u = pyro.sample("u", dist.Normal(0.0, 1e6))
    r = 1e-6 * (u.abs() if looks and u < 0 else u)  # control flow that depends on values
    covariance = torch.stack([torch.stack([torch.ones_like(r), r]), torch.stack([r, torch.ones_like(r)])])
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.MultivariateNormal(torch.zeros(2), covariance), obs=x)


@pytest.mark.parametrize("looks", [False, True], ids=["vectorized", "one by one"])
@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_where_a_factorization_breaks_down_there_is_no_density_and_elsewhere_it_is_as_ever(looks, chunk):
    program = prepare(correlated(looks=looks), X, dtype=torch.float64)
    r = torch.tensor([0.1, 1.5, 0.9, -0.3, -2.0, 0.4, 3.0], dtype=torch.float64)
    found = log_densities(Density(program, {}), 1e6 * r[:, None], chunk)
    for value, at in zip(found.tolist(), r.tolist(), strict=True):
        own = abs(at) if looks else at
        expected = -np.inf
        if abs(own) < 1:
            expected = (
                stats.norm.logpdf(1e6 * at, 0.0, 1e6)
                + stats.multivariate_normal(np.zeros(2), [[1, own], [own, 1]]).logpdf(X).sum()
            )
        assert value == pytest.approx(expected, rel=1e-12)
