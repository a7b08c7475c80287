"""Joint posteriors of a mean and its scale: variances by the Student distribution that the mean has by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from inference.conjugate.joint_normal import NormalGamma, NormalInverseGamma, NormalWishart
from inference.conjugate.multivariate_normal import MultivariateNormal
from inference.conjugate.normal import Normal
from zoo.constant_columns import FLOOR

AT = torch.float64


@pytest.mark.parametrize("kind", [NormalGamma, NormalInverseGamma])
@pytest.mark.parametrize(("a", "b", "kappa"), [(1.5, 0.7, 2.0), (2.5, 3.0, 0.4)])
def test_a_mean_has_the_variance_of_a_student_distribution(kind, a, b, kappa):
    """Of 2 a degrees of freedom and squared scale b / (a kappa) (Murphy 2007, equation 89)."""
    given = {n: torch.tensor(v, dtype=AT) for n, v in {"loc": 0.3, "kappa": kappa, "a": a, "b": b}.items()}
    q = kind(("m", "t"), **given, events=(0, 0))
    student = stats.t(2 * a, loc=0.3, scale=np.sqrt(b / (a * kappa)))
    assert float(q.moments("m")["var"]) == pytest.approx(student.var(), rel=1e-12)


@pytest.mark.parametrize("df", [4.5, 7.0])
def test_a_mean_has_the_covariance_of_a_multivariate_student_distribution(df):
    """Of df - d + 1 degrees of freedom and shape V^-1 / (kappa (df - d + 1)) (Murphy 2007, equation 228)."""
    d, kappa = 3, 1.7
    tril = torch.tensor([[1.2, 0.0, 0.0], [0.3, 0.8, 0.0], [-0.2, 0.5, 1.5]], dtype=AT)
    loc = torch.zeros(d, dtype=AT)
    q = NormalWishart(("m", "P"), loc, torch.tensor(kappa, dtype=AT), torch.tensor(df, dtype=AT), tril)
    freedom = df - d + 1
    shape = np.linalg.inv((tril @ tril.mT).numpy()) / (kappa * freedom)
    np.testing.assert_allclose(q.moments("m")["cov"].numpy(), shape * freedom / (freedom - 2), rtol=1e-12)


def test_next_to_a_floor_is_within_ten_times_of_it():
    spread = torch.tensor([4.0, 9.0], dtype=AT)
    for times, near in ((5.0, True), (20.0, False)):
        correlation = 1 - times * FLOOR  # the smaller eigenvalue of [[1, r], [r, 1]] is 1 - r
        unit = torch.tensor([[1.0, correlation], [correlation, 1.0]], dtype=AT)
        covariance = unit * (spread.sqrt()[:, None] * spread.sqrt())
        assert bool(MultivariateNormal().at_floor(covariance, spread)) is near
        assert bool(Normal().at_floor(times * FLOOR * spread, spread).all()) is near
