"""The same numbers by scikit-learn, hmmlearn, statsmodels, SciPy and NumPyro, on random data."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import statsmodels.api as sm
import torch
from hmmlearn import hmm
from numpy.random import default_rng
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.decomposition import FactorAnalysis as FactorAnalysisOfSklearn
from sklearn.mixture import GaussianMixture

import zoo
from inference import fit
from zoo.program.prepare import prepare

pytestmark = pytest.mark.slow
seeds = pytest.mark.parametrize("seed", range(6))


def _random(seed, rows=80, columns=None):
    rng = default_rng(seed)
    columns = columns or int(rng.integers(1, 5))
    x = rng.normal(size=(rows, columns)) @ rng.normal(size=(columns, columns)) * 10.0 ** rng.integers(-3, 4)
    return x + rng.normal(size=columns) * 10.0 ** rng.integers(-3, 4) * (rng.random((rows, 1)) < 0.4), rng


def _em(model, data):
    found = fit(model, data, method="em", seed=0, progress=False)
    return found, {n: v.to_numpy() for n, v in found.posterior["point_estimate"].to_dataset().data_vars.items()}


@seeds
@pytest.mark.parametrize("covariance", ["full", "tied", "diag", "spherical"])
def test_mixtures_of_scikit_learn(covariance, seed):
    """Densities and responsibilities at our parameters; its EM from there finds nothing higher nearby."""
    x, rng = _random(seed)
    k = int(rng.integers(1, 4))
    found, at = _em(zoo.GMM(components=k, covariance=covariance), x)
    theirs = GaussianMixture(k, covariance_type=covariance)
    theirs.weights_, theirs.means_, theirs.covariances_ = at["weights"], at["means"], at["covariances"]
    covariances = at["covariances"]
    theirs.precisions_cholesky_ = (
        np.linalg.inv(np.linalg.cholesky(covariances)).swapaxes(-1, -2)
        if covariance in ("full", "tied")
        else 1 / np.sqrt(covariances)
    )
    np.testing.assert_allclose(found.log_prob(x).to_numpy(), theirs.score_samples(x), rtol=1e-7, atol=1e-6)
    np.testing.assert_allclose(found.assign(x).to_numpy(), theirs.predict_proba(x), atol=1e-6)
    assert found.objective.value == pytest.approx(theirs.score_samples(x).sum(), rel=1e-8)


@pytest.mark.filterwarnings("ignore:FactorAnalysis did not converge")
@seeds
def test_factor_models_of_scikit_learn(seed):
    """Maxima of factor analysis and of probabilistic principal components."""
    x, rng = _random(seed, columns=5)
    k = int(rng.integers(1, 3))
    scaled = x / x.std(0)
    analysis, _ = _em(zoo.FactorAnalysis(factors=k), scaled)
    theirs = FactorAnalysisOfSklearn(k, tol=1e-8, max_iter=3000, svd_method="lapack").fit(scaled)
    assert analysis.objective.value > theirs.score(scaled) * len(x) - 1e-2
    components, _ = _em(zoo.PPCA(factors=k), x)
    assert components.objective.value == pytest.approx(PCA(k).fit(x).score(x) * len(x), rel=1e-3)


@seeds
@pytest.mark.parametrize("emission", ["full", "diag", "poisson", "categorical"])
def test_chains_of_hmmlearn(emission, seed):
    """Log likelihood, posteriors of the states and the best path at our parameters."""
    x, rng = _random(seed, columns=2)
    k = int(rng.integers(2, 4))
    if emission == "poisson":
        x = rng.poisson(np.repeat(rng.gamma(2.0, 4.0, 8), 10))[:, None]
        found, at = _em(zoo.HiddenMarkov(components=k, emission="poisson"), x)
        theirs = hmm.PoissonHMM(k)
        theirs.lambdas_ = at["rates"]
    elif emission == "categorical":
        x = rng.integers(0, 3, (80, 1))
        found, at = _em(zoo.HiddenMarkov(components=k, emission="categorical"), x)
        theirs = hmm.CategoricalHMM(k)
        theirs.emissionprob_, theirs.n_features = at["probs"][:, 0], 3
    else:
        found, at = _em(zoo.HiddenMarkov(components=k, covariance=emission), x)
        theirs = hmm.GaussianHMM(k, covariance_type=emission)
        theirs.means_, theirs.n_features = at["means"], 2
        theirs._covars_ = at["covariances"]
    theirs.startprob_, theirs.transmat_ = at["initial"], at["transition"]
    assert found.objective.value == pytest.approx(theirs.score(x), rel=1e-8)
    np.testing.assert_allclose(found.assign().to_numpy(), theirs.predict_proba(x), atol=1e-7)


@seeds
def test_regressions_of_statsmodels(seed):
    """Least squares as a mixture of one regression; a Poisson regression's log likelihood at its maximum."""
    x, rng = _random(seed)
    y = x @ rng.normal(size=x.shape[1]) + rng.normal(size=len(x)) * x.std()
    found, _ = _em(zoo.MixtureOfRegressions(components=1), {"x": x, "y": y})
    assert found.objective.value == pytest.approx(sm.OLS(y, sm.add_constant(x)).fit().llf, rel=1e-7)
    known, _ = _em(zoo.MixtureOfRegressions(components=1, intercept=False), {"x": x, "y": y})
    assert known.objective.value == pytest.approx(sm.OLS(y, x).fit().llf, rel=1e-7)


@seeds
def test_evidences_of_scipy(seed):
    """Evidences of conjugate models as products of predictive distributions, row after row."""
    rng = default_rng(seed)
    a, b = (float(v) for v in rng.gamma(2.0, 1.0, 2))
    flips, counts = rng.integers(0, 2, 12), rng.poisson(4.0, 12)
    before = np.concatenate([[0], flips.cumsum()[:-1]])
    coins = stats.betabinom.logpmf(flips, 1, a + before, b + np.arange(12) - before).sum()
    found = fit(zoo.BetaBernoulli(a=a, b=b), flips, method="exact", seed=0, progress=False)
    assert found.objective.value == pytest.approx(coins, rel=1e-10)
    shape, rate = a + np.concatenate([[0], counts.cumsum()[:-1]]), b + np.arange(12)
    calls = stats.nbinom.logpmf(counts, shape, rate / (rate + 1)).sum()
    found = fit(zoo.GammaPoisson(a=a, b=b), counts, method="exact", seed=0, progress=False)
    assert found.objective.value == pytest.approx(calls, rel=1e-10)
    table = rng.multinomial(5, [0.2, 0.5, 0.3], 4)
    past = np.concatenate([np.zeros((1, 3)), table.cumsum(0)[:-1]])
    words = sum(stats.dirichlet_multinomial.logpmf(row, a + p, 5) for row, p in zip(table, past, strict=True))
    found = fit(zoo.DirichletMultinomial(concentration=a), table, method="exact", seed=0, progress=False)
    assert found.objective.value == pytest.approx(words, rel=1e-10)


def test_densities_of_numpyro():
    """A hierarchical model and a mixture at random values, by NumPyro's handlers, where it is installed."""
    numpyro = pytest.importorskip("numpyro")
    infer = pytest.importorskip("numpyro.infer.util")
    import jax.numpy as jnp

    class Mixed(zoo.Model):
        x = zoo.Real("row")

        def forward(self, x):
            mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
            tau = pyro.sample("tau", dist.HalfCauchy(1.5))
            p = pyro.sample("p", dist.Beta(2.0, 3.0))
            shares = torch.stack([p, 1 - p])
            with pyro.plate("row", len(x)):
                z = pyro.sample("z", dist.Categorical(shares))
                pyro.sample("x", dist.StudentT(4.0, torch.stack([mu, -mu])[z], tau), obs=x)

    def theirs(x):
        mu = numpyro.sample("mu", numpyro.distributions.Normal(0.0, 2.0))
        tau = numpyro.sample("tau", numpyro.distributions.HalfCauchy(1.5))
        p = numpyro.sample("p", numpyro.distributions.Beta(2.0, 3.0))
        parts = numpyro.distributions.StudentT(4.0, jnp.stack([mu, -mu]), tau)
        which = numpyro.distributions.Categorical(probs=jnp.stack([p, 1 - p]))
        with numpyro.plate("row", len(x)):
            numpyro.sample("x", numpyro.distributions.MixtureSameFamily(which, parts), obs=x)

    numpyro.enable_x64()
    rng = default_rng(0)
    x = rng.normal(size=30) * 3
    program = prepare(Mixed(), x, device="cpu")
    for _ in range(20):
        values = {"mu": rng.normal(), "tau": math.exp(rng.normal()), "p": rng.beta(2, 2)}
        expected, _ = infer.log_density(theirs, (jnp.asarray(x),), {}, values)
        found = program.log_joint({n: torch.tensor(v, dtype=torch.float64) for n, v in values.items()}).total()
        assert float(found) == pytest.approx(float(expected), rel=1e-10)
