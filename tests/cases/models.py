"""Models declared for tests, as a user would declare them; the library knows none of them."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

import zoo
from zoo import Binary, Count, Positive, Real

SCHOOLS = {
    "effect": [28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0],
    "error": [15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0],
}
FLIPS = [1, 0, 1, 1, 0, 0, 1, 0, 1, 0]


class EightSchools(zoo.Model):
    """Treatment effects of coaching programmes in eight schools (Rubin 1981)."""

    effect = Real("school")
    error = Positive("school")
    scale: float = 5.0

    def forward(self, effect: Tensor, error: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, self.scale))
        tau = pyro.sample("tau", dist.HalfCauchy(self.scale))
        with pyro.plate("school", len(effect)):
            theta = pyro.sample("theta", dist.Normal(mu, tau))
            pyro.sample("effect", dist.Normal(theta, error), obs=effect)


class NonCentred(zoo.Model):
    """Eight schools with standardized effects, which removes the funnel."""

    effect = Real("school")
    error = Positive("school")
    scale: float = 5.0

    def forward(self, effect: Tensor, error: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, self.scale))
        tau = pyro.sample("tau", dist.HalfCauchy(self.scale))
        with pyro.plate("school", len(effect)):
            standard = pyro.sample("standard", dist.Normal(0.0, 1.0))
            theta = pyro.deterministic("theta", mu + tau * standard)
            pyro.sample("effect", dist.Normal(theta, error), obs=effect)


@zoo.model(flips=Binary("toss"))
def coin(flips, *, a: float = 1.0, b: float = 1.0):
    """A coin with an unknown probability of heads."""
    heads = pyro.sample("heads", dist.Beta(a, b))
    with pyro.plate("toss", len(flips)):
        pyro.sample("flips", dist.Bernoulli(heads), obs=flips)


class PoissonMixture(zoo.Model):
    """Counts from a few rates; rates and weights are parameters."""

    count = Count("year")
    components: int = 2

    def forward(self, count: Tensor) -> None:
        k = self.components
        weights = pyro.param("weights", torch.full((k,), 1 / k), constraint=constraints.simplex)
        rate = pyro.param("rate", torch.ones(k), constraint=constraints.positive)
        with pyro.plate("year", len(count)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("count", dist.Poisson(rate[z]), obs=count)


class BernoulliMixture(zoo.Model):
    """Rows of zeros and ones from a few profiles, with Beta priors that keep probabilities off the boundary."""

    x = Binary("row", "item")
    components: int = 2
    pseudo: float = 1.5

    def forward(self, x: Tensor) -> None:
        k, d = self.components, x.shape[1]
        weights = pyro.sample("weights", dist.Dirichlet(torch.ones(k)))
        with pyro.plate("component", k):
            p = pyro.sample("p", dist.Beta(torch.full((d,), self.pseudo), self.pseudo).to_event(1))
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Bernoulli(p[z]).to_event(1), obs=x)


class RegressionMixture(zoo.Model):
    """A few lines through a cloud of points: y is linear in x, with coefficients and noise of its component."""

    x = Real("row")
    y = Real("row")
    components: int = 2

    def forward(self, x: Tensor, y: Tensor) -> None:
        k = self.components
        weights = pyro.param("weights", torch.full((k,), 1 / k), constraint=constraints.simplex)
        intercept = pyro.param("intercept", torch.zeros(k))
        slope = pyro.param("slope", torch.zeros(k))
        noise = pyro.param("noise", torch.ones(k), constraint=constraints.positive)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("y", dist.Normal(intercept[z] + slope[z] * x, noise[z]), obs=y)


ROWS = [[3.6, 79.0], [1.8, 54.0], [3.333, 74.0], [2.283, 62.0]]
BITS = [[1, 0, 1], [0, 0, 1], [1, 1, 0], [0, 1, 1]]
PIXELS = [[0, 3, 1], [2, 0, 4], [1, 1, 0], [4, 2, 2]]
COUNTS = [0, 3, 1, 9, 4]
WAITS = [79.0, 54.0, 74.0, 62.0]
LINES = {
    "x": [
        [0.3, 72.0],
        [0.9, 76.0],
        [3.2, 73.0],
        [2.3, 78.0],
        [0.4, 82.0],
        [1.7, 89.0],
        [1.9, 69.0],
        [0.6, 79.0],
        [2.9, 81.0],
        [0.5, 69.0],
    ],
    "y": [1.8, -1.6, 7.7, -4.4, 1.4, -1.9, 5.9, -1.6, 6.4, -1.9],
}
ANSWERS = {"x": [[0.3, 72.0], [0.9, 76.0], [3.2, 73.0], [2.3, 78.0], [0.4, 82.0]], "y": [0, 1, 1, 0, 1]}
EVENTS = {
    "x": [[*row, i % 2] for i, row in enumerate(ANSWERS["x"])],
    "y": [2, 0, 5, 1, 3],
    "exposure": [1.0, 0.5, 2.5, 1.0, 2.0],
}
TEAMS = {**LINES, "group": ["b", "a", "c", "b", "a", "c", "b", "a", "c", "a"]}
WORDS = [[4, 3, 0, 1], [0, 1, 5, 2], [3, 0, 1, 4]]
LABELS = [[[2, 1], [1, 0]], [[0, 3], [0, 1]], [[1, 0], [0, 2]], [[0, 1], [1, 1]]]  # items, annotators, levels
SIZES = [[5.1, 3.5, 1.4], [4.9, 3.0, 1.6], [6.3, 3.3, 6.0], [5.8, 2.7, 5.1], [7.1, 3.0, 5.9], [6.4, 3.2, 4.5]]

STROKES = [[[1, 0], [0, 1]], [[0, 0], [1, 1]], [[1, 0], [1, 0]], [[0, 1], [1, 1]]]

# A few rows of data for every model of the zoo, in each of its shapes: small enough to sum over every assignment.
ZOO_CASES = {
    "GMM": [
        *((zoo.GMM(components=2, covariance=c), ROWS) for c in ("full", "diag", "tied", "spherical")),
        (zoo.GMM(components=3), ROWS),
        (zoo.GMM(components=1), ROWS),
    ],
    "BayesianGMM": [
        *((zoo.BayesianGMM(components=2, covariance=c), ROWS) for c in ("full", "diag")),
        (zoo.BayesianGMM(components=3, covariance="diag", concentration=2.5, shrinkage=0.5, df=4.0), ROWS),
        (zoo.BayesianGMM(components=1), ROWS),
    ],
    "BetaBernoulli": [(zoo.BetaBernoulli(), FLIPS), (zoo.BetaBernoulli(a=2.0, b=0.5), FLIPS[:1])],
    "VAE": [
        (zoo.VAE(latent=2, hidden=(4,)), BITS),
        (zoo.VAE(latent=1, hidden=(), likelihood="binomial"), PIXELS),
        (zoo.VAE(latent=2, hidden=(3, 3), likelihood="gaussian"), ROWS),
    ],
    "PoissonMixture": [
        (zoo.PoissonMixture(), COUNTS),
        (zoo.PoissonMixture(components=3), COUNTS),
        (zoo.PoissonMixture(components=1), COUNTS),
        (zoo.PoissonMixture(concentration=2.0, shape=1.5), COUNTS),
    ],
    "LatentClass": [(zoo.LatentClass(), BITS), (zoo.LatentClass(components=3), PIXELS), (zoo.LatentClass(1), BITS)],
    "MixtureOfRegressions": [
        (zoo.MixtureOfRegressions(), LINES),
        (zoo.MixtureOfRegressions(intercept=False), LINES),
        (zoo.MixtureOfRegressions(components=1), LINES),
    ],
    "NormalNormal": [
        (zoo.NormalNormal(), WAITS),
        (zoo.NormalNormal(scale=12.0, center=60.0, shrinkage=0.5), WAITS),
        (zoo.NormalNormal(df=3.0, prior_scale=10.0), WAITS[:1]),
    ],
    "GammaPoisson": [(zoo.GammaPoisson(), COUNTS), (zoo.GammaPoisson(a=2.0, b=0.5), COUNTS[:1])],
    "DirichletMultinomial": [
        (zoo.DirichletMultinomial(), PIXELS),
        (zoo.DirichletMultinomial(concentration=0.5), PIXELS[:1]),
    ],
    "BayesianRegression": [
        (zoo.BayesianRegression(), LINES),
        (zoo.BayesianRegression(intercept=False, shrinkage=0.5, df=3.0, prior_scale=2.0), LINES),
        (zoo.BayesianRegression(scale=0.7), LINES),
    ],
    "FactorAnalysis": [(zoo.FactorAnalysis(), SIZES), (zoo.FactorAnalysis(factors=2), SIZES)],
    "MixtureOfFactorAnalyzers": [
        (zoo.MixtureOfFactorAnalyzers(), SIZES),
        (zoo.MixtureOfFactorAnalyzers(noise="own", factors=2), SIZES),
        (zoo.MixtureOfFactorAnalyzers(components=1), SIZES),
    ],
    "PPCA": [(zoo.PPCA(), SIZES), (zoo.PPCA(factors=2), SIZES)],
    "KMeans": [(zoo.KMeans(), ROWS), (zoo.KMeans(clusters=3), ROWS), (zoo.KMeans(clusters=1), ROWS)],
    "LinearDynamicalSystem": [
        (zoo.LinearDynamicalSystem(), SIZES),
        (zoo.LinearDynamicalSystem(states=2, lengths=(2, 4)), SIZES),
    ],
    "ChangePoint": [
        (zoo.ChangePoint(), {"x": COUNTS, "time": [0.0, 1.0, 2.0, 3.0, 4.0]}),
        (zoo.ChangePoint(changes=2), {"x": COUNTS, "time": [2.0, 0.5, 1.0, 1.0, 3.0]}),
        (zoo.ChangePoint(likelihood="normal"), {"x": [5.1, 4.9, 6.3, 5.8], "time": [0.0, 1.0, 2.0, 3.0]}),
    ],
    "HiddenMarkov": [
        *((zoo.HiddenMarkov(covariance=c), SIZES) for c in ("full", "diag", "tied", "spherical")),
        (zoo.HiddenMarkov(components=3, emission="poisson"), COUNTS),
        (zoo.HiddenMarkov(emission="poisson", stationary=True), COUNTS),
        (zoo.HiddenMarkov(emission="categorical", lengths=(1, 3)), PIXELS),
        (zoo.HiddenMarkov(components=1, emission="categorical"), BITS),
    ],
    "LogisticRegression": [
        (zoo.LogisticRegression(), ANSWERS),
        (zoo.LogisticRegression(df=None, scale=1.0, intercept_scale=2.0), ANSWERS),
    ],
    "PoissonRegression": [
        (zoo.PoissonRegression(), EVENTS),
        (zoo.PoissonRegression(scale=1.0), {n: v for n, v in EVENTS.items() if n != "exposure"}),
    ],
    "HierarchicalRegression": [
        (zoo.HierarchicalRegression(), TEAMS),
        (zoo.HierarchicalRegression(slopes=False, scale=1.0), TEAMS),
    ],
    "ZeroInflatedPoisson": [
        (zoo.ZeroInflatedPoisson(), COUNTS),
        (zoo.ZeroInflatedPoisson(concentration=2.0, shape=1.5), COUNTS),
    ],
    "ItemResponse": [
        (zoo.ItemResponse("one", nodes=2), BITS),  # first: with abilities there is no joint mode of so few answers
        (zoo.ItemResponse(), BITS),
        (zoo.ItemResponse(nodes=3, scale=None, spread=None), BITS),
    ],
    "DirichletProcessMixture": [
        (zoo.DirichletProcessMixture(components=3, covariance="diag"), ROWS),
        (zoo.DirichletProcessMixture(components=2, covariance="diag", concentration=2.5), ROWS),
    ],
    "LDA": [
        (zoo.LDA(topics=2, topic_concentration=1.5, word_concentration=1.2), WORDS),
        (zoo.LDA(topics=3), WORDS),
    ],
    "NaiveBayes": [
        (zoo.NaiveBayes(), {"x": ROWS, "y": ["b", "a", None, "b"]}),
        (zoo.NaiveBayes("counts"), {"x": PIXELS, "y": [1, 0, 1, 0]}),
        (zoo.NaiveBayes("categories", smoothing=0.5), {"x": PIXELS, "y": [1, -1, 0, -1]}),
        (zoo.NaiveBayes("normal", smoothing=None), {"x": ROWS, "y": [0, 1, 1, -1]}),
    ],
    "DawidSkene": [
        (zoo.DawidSkene(concentration=1.5), {"counts": LABELS}),
        (zoo.DawidSkene(), {"counts": LABELS}),
    ],
    "StudentTMixture": [
        *((zoo.StudentTMixture(covariance=c, df=df), ROWS) for c in ("full", "diag") for df in (4.0, None)),
    ],
    "Autoencoder": [(zoo.Autoencoder(latent=2, hidden=(), noise=0.5), ROWS), (zoo.Autoencoder(latent=1), STROKES)],
    "ConditionalVAE": [
        (zoo.ConditionalVAE(latent=2, hidden=(4,)), {"x": BITS, "label": ["b", "a", "b", "a"]}),
        (zoo.ConditionalVAE(latent=1, hidden=(), likelihood="logistic"), {"x": PIXELS, "label": [0, 2, 1, 1]}),
    ],
    "SemiSupervisedVAE": [
        (zoo.SemiSupervisedVAE(latent=1, hidden=(4,)), {"x": BITS, "label": ["b", None, "a", None]}),
        (zoo.SemiSupervisedVAE(latent=2, hidden=()), {"x": STROKES, "label": [1, 0, -1, 1]}),
    ],
    "MixtureVAE": [
        (zoo.MixtureVAE(components=2, latent=1, hidden=(4,)), BITS),
        (zoo.MixtureVAE(components=3, latent=2, hidden=(), likelihood="categorical"), PIXELS),
    ],
    "VampPriorVAE": [
        (zoo.VampPriorVAE(components=2, latent=1, hidden=(4,)), BITS),
        (zoo.VampPriorVAE(components=3, latent=2, hidden=(), likelihood="gaussian", noise="shared"), ROWS),
    ],
    "HierarchicalVAE": [
        (zoo.HierarchicalVAE(latents=(2, 1), hidden=(3,)), BITS),
        (zoo.HierarchicalVAE(latents=(1, 1, 2), hidden=(3,), decoder="conv"), STROKES),
    ],
    "IndependentPixels": [(zoo.IndependentPixels(), STROKES), (zoo.IndependentPixels(smoothing=0.5), BITS)],
    "BernoulliMixture": [
        (zoo.BernoulliMixture(smoothing=0.5), STROKES),
        (zoo.BernoulliMixture(components=3, smoothing=1.0), BITS),
    ],
    "MADE": [(zoo.MADE(hidden=(5, 4)), BITS), (zoo.MADE(hidden=()), STROKES)],
    "PixelCNN": [
        (zoo.PixelCNN(channels=4, blocks=1), STROKES),
        (zoo.PixelCNN(levels=4, channels=2, blocks=0), [[[[0, 3], [1, 1]]], [[[2, 2], [0, 0]]], [[[1, 0], [3, 3]]]]),
    ],
    "RecurrentDensity": [
        (zoo.RecurrentDensity(hidden=3), PIXELS),
        (zoo.RecurrentDensity(hidden=2, layers=2, cell="lstm"), STROKES),
    ],
    "CausalTransformer": [
        (zoo.CausalTransformer(width=4, heads=2, layers=1), PIXELS),
        (zoo.CausalTransformer(width=4, heads=1), STROKES),
    ],
    "MixtureOfExperts": [(zoo.MixtureOfExperts(), LINES), (zoo.MixtureOfExperts(intercept=False), LINES)],
}
# Models of which parametrized tests leave one cheap case in `make test`, and mark the others slow.
LATER = frozenset(
    {
        *("LinearDynamicalSystem", "LogisticRegression", "PoissonRegression", "HierarchicalRegression"),
        *("ZeroInflatedPoisson", "ItemResponse", "MixtureOfExperts", "StudentTMixture", "DawidSkene"),
        "MixtureOfFactorAnalyzers",
        *("ChangePoint", "DirichletProcessMixture", "LDA", "NaiveBayes"),
        *("Autoencoder", "ConditionalVAE", "SemiSupervisedVAE", "MixtureVAE", "HierarchicalVAE"),
        "VampPriorVAE",
        *("IndependentPixels", "BernoulliMixture", "MADE", "PixelCNN", "RecurrentDensity", "CausalTransformer"),
    }
)
# Those of them whose posterior has a closed form.
CONJUGATE = (
    *("BetaBernoulli", "NormalNormal", "GammaPoisson", "DirichletMultinomial", "BayesianRegression"),
    "IndependentPixels",
)
OWN_CASES = [
    (EightSchools(), SCHOOLS),
    (NonCentred(scale=3.0), SCHOOLS),
    (coin(a=2.0), FLIPS),
    (PoissonMixture(), [0, 3, 1, 9]),
    (PoissonMixture(components=3), [0, 3, 1, 9]),
    (BernoulliMixture(), BITS),
    (RegressionMixture(), {"x": [0.0, 1.0, 2.0, -1.0], "y": [0.5, 1.5, -2.0, 3.0]}),
]


class LatentClass(zoo.Model):
    """Rows of zeros and ones from a few classes; weights and probabilities are parameters without prior."""

    x = Binary("row", "item")
    components: int = 2

    def forward(self, x: Tensor) -> None:
        k, d = self.components, x.shape[1]
        weights = pyro.param("weights", torch.full((k,), 1 / k), constraint=constraints.simplex)
        p = pyro.param("p", torch.full((k, d), 0.5), constraint=constraints.unit_interval)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Bernoulli(p[z]).to_event(1), obs=x)


class StudentMixture(zoo.Model):
    """Heavy-tailed clusters on a line: no closed-form M-step for location and scale."""

    x = Real("row")
    components: int = 2
    df: float = 4.0

    def forward(self, x: Tensor) -> None:
        k = self.components
        weights = pyro.param("weights", torch.full((k,), 1 / k), constraint=constraints.simplex)
        loc = pyro.param("loc", torch.linspace(-1.0, 1.0, k))
        scale = pyro.param("scale", torch.ones(k), constraint=constraints.positive)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.StudentT(self.df, loc[z], scale[z]), obs=x)


class TrilMixture(zoo.Model):
    """Gaussian mixture whose covariances are given by their Cholesky factors."""

    x = Real("row", "feature")
    components: int = 2

    def forward(self, x: Tensor) -> None:
        k, d = self.components, x.shape[1]
        weights = pyro.param("weights", torch.full((k,), 1 / k), constraint=constraints.simplex)
        loc = pyro.param("loc", torch.linspace(-1.0, 1.0, k)[:, None].expand(k, d))
        factor = pyro.param("factor", torch.eye(d).expand(k, d, d), constraint=constraints.lower_cholesky)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.MultivariateNormal(loc[z], scale_tril=factor[z]), obs=x)


class SumMixture(zoo.Model):
    """Gaussian mixture whose covariances are a shared matrix plus noise of each component's own size."""

    x = Real("row", "feature")
    components: int = 2

    def forward(self, x: Tensor) -> None:
        k, d = self.components, x.shape[1]
        weights = pyro.param("weights", torch.full((k,), 1 / k), constraint=constraints.simplex)
        loc = pyro.param("loc", torch.linspace(-1.0, 1.0, k)[:, None].expand(k, d))
        shared = pyro.param("shared", torch.eye(d), constraint=constraints.positive_definite)
        noise = pyro.param("noise", torch.ones(k), constraint=constraints.positive)
        covariance = shared + noise[:, None, None] * torch.eye(d)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.MultivariateNormal(loc[z], covariance[z]), obs=x)


@zoo.model(x=Real("row"))
def gates(x):
    """A gate for each row, what it opens, and what is seen of that: t given x is a mixture of two Normals."""
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Bernoulli(0.4))
        t = pyro.sample("t", dist.Normal(4 * z, 1.0))
        pyro.sample("x", dist.Normal(t, 1.0), obs=x)


class NormalMean(zoo.Model):
    """An unknown mean under known noise: mu ~ Normal(0, width), x_i ~ Normal(mu, noise)."""

    x = Real("row")
    width: float = 10.0
    noise: float = 2.0

    def forward(self, x: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, self.width))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Normal(mu, self.noise), obs=x)


class SumOfTwo(zoo.Model):
    """Only a + b is seen, so the two are correlated given data: a, b ~ Normal(0, 1), x_i ~ Normal(a + b, 1)."""

    x = Real("row")

    def forward(self, x: Tensor) -> None:
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        b = pyro.sample("b", dist.Normal(0.0, 1.0))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Normal(a + b, 1.0), obs=x)


class RandomEffects(zoo.Model):
    """A normal mean seen through a local effect per row, so that each x_i ~ Normal(mu, sqrt(2)) given mu."""

    x = Real("row")

    def forward(self, x: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        with pyro.plate("row", len(x)):
            effect = pyro.sample("effect", dist.Normal(mu, 1.0))
            pyro.sample("x", dist.Normal(effect, 1.0), obs=x)


class LinearFactors(zoo.Model):
    """Known loadings, unknown coordinates: z_i ~ Normal(0, I), x_i ~ Normal(L z_i, 0.5), Gaussian with them summed."""

    x = Real("row", "feature")

    dims = {"z": ("factor",)}  # noqa: RUF012 - declared once per class by design
    loadings = torch.tensor([[1.0, 0.0], [0.5, 1.0], [-1.0, 0.5], [0.0, 1.5]])
    noise = 0.5

    def forward(self, x: Tensor) -> None:
        loadings = self.loadings.to(x)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ loadings.mT, self.noise).to_event(1), obs=x)


class Colours(zoo.Model):
    """How often each label comes: p ~ Dirichlet(1, ..., 1), colour_i ~ Categorical(p)."""

    colour = zoo.Category("row")
    count: int = 3

    dims = {"p": ("shade",)}  # noqa: RUF012 - declared once per class by design

    def forward(self, colour: Tensor) -> None:
        p = pyro.sample("p", dist.Dirichlet(torch.ones(self.count)))
        with pyro.plate("row", len(colour)):
            pyro.sample("colour", dist.Categorical(p), obs=colour)


class Rate(zoo.Model):
    """Counts at one rate: rate ~ Gamma(a, b), count_i ~ Poisson(rate)."""

    count = Count("day")
    a: float = 2.0
    b: float = 0.5

    def forward(self, count: Tensor) -> None:
        rate = pyro.sample("rate", dist.Gamma(self.a, self.b))
        with pyro.plate("day", len(count)):
            pyro.sample("count", dist.Poisson(rate), obs=count)
