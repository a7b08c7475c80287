"""Gaussian processes by Cholesky, and differential equations by steps of a fixed length."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import integrate, stats

import zoo
from inference import NUTS, Laplace, fit
from zoo.errors import FitError
from zoo.program.prepare import prepare

RNG = np.random.default_rng(0)
X = np.linspace(0, 5, 25)
Y = np.sin(X) + RNG.normal(0, 0.2, 25)


def kernel(x, length, height, noise):
    """Squared exponential covariance with noise."""
    return height**2 * torch.exp(-0.5 * ((x[:, None] - x) / length) ** 2) + noise * torch.eye(len(x))


def hyperparameters():
    length = pyro.sample("length", dist.LogNormal(0.0, 1.0))
    height = pyro.sample("height", dist.HalfNormal(2.0))
    return length, height, pyro.sample("noise", dist.HalfNormal(1.0))


@zoo.model(x=zoo.Real("row"), y=zoo.Real("row"))
def process(x, y):
    length, height, noise = hyperparameters()
    root = torch.linalg.cholesky(kernel(x, length, height, noise**2 + 1e-6))
    pyro.sample("y", dist.MultivariateNormal(torch.zeros(len(x)), scale_tril=root), obs=y)


@zoo.model(x=zoo.Real("row"), y=zoo.Real("row"))
def latent_process(x, y):
    length, height, noise = hyperparameters()
    root = torch.linalg.cholesky(kernel(x, length, height, torch.tensor(1e-6)))
    f = pyro.sample("f", dist.MultivariateNormal(torch.zeros(len(x)), scale_tril=root))
    with pyro.plate("row", len(x)):
        pyro.sample("y", dist.Normal(f, noise), obs=y)


def covariance(length, height, noise):
    return height**2 * np.exp(-0.5 * ((X[:, None] - X) / length) ** 2) + (noise**2 + 1e-6) * np.eye(len(X))


def log_joint(length, height, noise):
    normal = stats.multivariate_normal(np.zeros(len(X)), covariance(length, height, noise))
    prior = stats.lognorm.logpdf(length, 1) + stats.halfnorm.logpdf(height, scale=2) + stats.halfnorm.logpdf(noise)
    return normal.logpdf(Y) + prior


def tensors(**values):
    return {n: torch.as_tensor(v, dtype=torch.float64) for n, v in values.items()}


def test_a_process_is_one_event():
    program = prepare(process, {"x": X, "y": Y})
    value = program.log_joint(tensors(length=0.8, height=1.2, noise=0.3)).total()
    assert float(value) == pytest.approx(log_joint(0.8, 1.2, 0.3), abs=1e-9)


def test_missing_points_of_a_process_are_integrated_out():
    seen = np.arange(25) % 4 != 0
    program = prepare(process, {"x": X, "y": np.where(seen, Y, np.nan)})
    value = program.log_joint(tensors(length=0.8, height=1.2, noise=0.3)).total()
    some = covariance(0.8, 1.2, 0.3)[np.ix_(seen, seen)]
    whole = stats.multivariate_normal(np.zeros(25), covariance(0.8, 1.2, 0.3)).logpdf(Y)
    expected = log_joint(0.8, 1.2, 0.3) - whole + stats.multivariate_normal(np.zeros(seen.sum()), some).logpdf(Y[seen])
    assert float(value) == pytest.approx(expected, abs=1e-8)


@pytest.mark.slow
def test_new_points_depend_on_those_fitted():
    found = fit(process, {"x": X, "y": Y}, method=Laplace(), seed=0)
    assert found.predict(draws=3)["posterior_predictive"]["y"].shape == (1, 3, 25)
    with pytest.raises(FitError, match="'y' is one event of all rows"):
        found.predict({"x": [5.5, 6.0]})
    with pytest.raises(FitError, match="data plate"):
        found.log_prob()


def test_a_latent_process_has_the_joint_density():
    program = prepare(latent_process, {"x": X, "y": Y})
    f = RNG.normal(size=25)
    value = program.log_joint(tensors(length=0.8, height=1.2, noise=0.3, f=f)).total()
    prior = stats.multivariate_normal(np.zeros(25), covariance(0.8, 1.2, 0.0)).logpdf(f)
    prior += stats.lognorm.logpdf(0.8, 1) + stats.halfnorm.logpdf(1.2, scale=2) + stats.halfnorm.logpdf(0.3)
    assert float(value) == pytest.approx(prior + stats.norm.logpdf(Y, f, 0.3).sum(), rel=1e-8)


@pytest.mark.slow
def test_draws_are_those_of_quadrature():
    found = fit(process, {"x": X, "y": Y}, method=NUTS(chains=2), seed=0)
    grid = np.meshgrid(np.geomspace(0.2, 8, 25), np.geomspace(0.2, 7, 25), np.geomspace(0.1, 0.6, 25), indexing="ij")
    height = np.array(
        [log_joint(*point) + np.log(point).sum() for point in zip(*(g.ravel() for g in grid), strict=True)]
    )
    weight = np.exp(height - height.max())
    for name, values in zip(("length", "height", "noise"), grid, strict=True):
        draws = found.posterior["posterior"][name].to_numpy()
        exact = (values.ravel() * weight).sum() / weight.sum()
        assert abs(draws.mean() - exact) < 6 * draws.std() / np.sqrt(500) + 0.01 * exact


# -- predator and prey -------------------------------------------------------------------------------------------

YEARS = 12
TRUE = np.array([0.6, 0.03, 0.8, 0.025])


def rates(_, z, a=TRUE):
    return [(a[0] - a[1] * z[1]) * z[0], (-a[2] + a[3] * z[0]) * z[1]]


PATH = integrate.solve_ivp(rates, (0, YEARS - 1), [30.0, 10.0], t_eval=np.arange(YEARS), rtol=1e-10, atol=1e-10).y
SEEN = PATH * np.exp(RNG.normal(0, 0.1, PATH.shape))


@zoo.model(prey=zoo.Positive("year"), predators=zoo.Positive("year"))
def lotka_volterra(prey, predators, *, steps: int = 10):
    a = pyro.sample("a", dist.LogNormal(torch.tensor([-0.5, -3.5, -0.5, -3.5]), 0.5).to_event(1))
    z = pyro.sample("start", dist.LogNormal(torch.tensor([3.0, 2.0]), 1.0).to_event(1))
    noise = pyro.sample("noise", dist.LogNormal(-2.0, 1.0))

    def slope(z):
        u, v = z[..., 0], z[..., 1]
        return torch.stack([(a[..., 0] - a[..., 1] * v) * u, (-a[..., 2] + a[..., 3] * u) * v], -1)

    h, path = 1 / steps, [z]
    for _ in range(len(prey) - 1):
        for _ in range(steps):  # Runge-Kutta of the fourth order
            k1 = slope(z)
            k2 = slope(z + h / 2 * k1)
            k3 = slope(z + h / 2 * k2)
            z = z + h / 6 * (k1 + 2 * k2 + 2 * k3 + slope(z + h * k3))
        path.append(z)
    median = torch.stack(path, -2)
    with pyro.plate("year", len(prey)):
        pyro.sample("prey", dist.LogNormal(median[..., 0].log(), noise), obs=prey)
        pyro.sample("predators", dist.LogNormal(median[..., 1].log(), noise), obs=predators)


@pytest.mark.slow
def test_a_differential_equation_has_the_density_of_its_solution():
    program = prepare(lotka_volterra, {"prey": SEEN[0], "predators": SEEN[1]})
    value = program.log_joint(tensors(a=TRUE, start=[30.0, 10.0], noise=0.1)).total()
    rows = stats.lognorm.logpdf(SEEN, 0.1, scale=PATH).sum()
    prior = stats.lognorm.logpdf(TRUE, 0.5, scale=np.exp([-0.5, -3.5, -0.5, -3.5])).sum()
    prior += stats.lognorm.logpdf([30.0, 10.0], 1.0, scale=np.exp([3.0, 2.0])).sum()
    prior += stats.lognorm.logpdf(0.1, 1.0, scale=math.exp(-2.0))
    assert float(value) == pytest.approx(rows + prior, abs=0.05)


@pytest.mark.slow
def test_rates_are_found_again():
    model = lotka_volterra(steps=5)  # within 1e-3 of the path by ten
    found = fit(model, {"prey": SEEN[0], "predators": SEEN[1]}, method=NUTS(chains=2, draws=500), seed=0)
    draws = found.posterior["posterior"]["a"].to_numpy().reshape(-1, 4)
    assert (np.abs(draws.mean(0) - TRUE) < 4 * draws.std(0)).all()
    assert (draws.std(0) < 0.2 * TRUE).all()
