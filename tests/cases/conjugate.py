"""Small models with closed-form updates, one for each way in which an unknown may feed a likelihood.

Each is declared as a user would; with `prior=False` its unknowns are parameters without prior.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

import zoo
from zoo import Binary, Category, Count, Positive, Real

MATRIX = [[0.2, 1.0], [-0.5, 2.5], [1.5, 0.7], [0.9, -1.1], [2.2, 0.4], [-1.3, 0.1]]
VECTOR = [0.2, -0.5, 1.5, 0.9, 2.2, -1.3]
COUNTS = [3, 0, 2, 7, 1, 4]
TRIES = [5, 4, 3, 9, 1, 6]
BITS = [1, 0, 1, 1, 0, 0]
WAITS = [0.3, 1.0, 2.5, 0.1, 0.7, 1.9]
SIZES = [0.5, 1.0, 2.0, 0.1, 3.0, 0.7]
LABELS = [0, 2, 1, 2, 0, 1]
GROUP = [0, 1, 1, 2, 2, 0]
ITEMS = [[1, 0, 1], [0, 0, 1], [1, 1, 0], [0, 1, 1], [1, 1, 1], [0, 0, 0]]
FACES = [[5, 0, 0], [1, 2, 2], [0, 4, 1], [3, 1, 1], [2, 2, 1], [0, 0, 5]]
WEIGHTS = [1.0, 2.5, 0.5, 3.0, 1.0, 2.0]
V = torch.tensor([[1.0, 0.3], [0.3, 0.5]], dtype=torch.float64)


@dataclass(frozen=True)
class Story:
    """A model class and its data.

    Attributes
    ----------
    optional
        Whether it can be declared without priors.
    fused
        Whether its E-step is one sweep over the rows.
    exact
        Whether its posterior has a closed form.
    local
        Whether it has latents of its rows that are not summed out.
    blocks
        Classes of the updates it is to have, "Block" left out, in their order.
    """

    model: Any
    data: Any
    optional: bool
    fused: bool
    exact: bool
    local: bool
    blocks: str


STORIES: dict[str, Story] = {}


def label(block: Any) -> str:
    kind = type(block).__name__.removesuffix("Block")
    if kind == "Joint":
        return {"precision": "NormalGamma", "precision_matrix": "NormalWishart", "variance": "NormalInverseGamma"}[
            block.argument
        ]
    if kind == "Scale":
        return "Wishart" if block.family.event_dim else "Precision"
    if kind == "Conjugate":
        return {"Normal": "NormalMean", "MultivariateNormal": "MultivariateMean"}.get(
            type(block.family).__name__, "Single"
        )
    return kind


R, R2 = {"x": Real("row")}, {"x": Real("row", "feature")}
RG, R2G = {**R, "g": Category("row")}, {**R2, "g": Category("row")}
XG, X2G = {"x": VECTOR, "g": GROUP}, {"x": MATRIX, "g": GROUP}
XY, LINE = {**R2, "y": Real("row")}, {"x": MATRIX, "y": [1.8, -1.6, 2.7, -1.4, 1.4, 0.5]}
N, P = {"x": Count("row")}, {"x": Positive("row")}


def story(
    data: Any,
    blocks: str,
    *,
    fused: bool = False,
    optional: bool = True,
    exact: bool = False,
    local: bool = False,
    **fields: Any,
) -> Callable[[Any], Any]:
    """Register a model."""

    def add(forward: Any) -> Any:
        STORIES[forward.__name__] = Story(zoo.model(**fields)(forward), data, optional, fused, exact, local, blocks)
        return forward

    return add


def t(*values: Any) -> Tensor:
    """A float64 tensor."""
    return torch.tensor(values if len(values) > 1 else values[0], dtype=torch.float64)


def unknown(name: str, fn: Any, prior: bool) -> Tensor:
    """A latent with this prior, or a parameter in its support."""
    if prior:
        return pyro.sample(name, fn)
    middle = torch.ones(fn.batch_shape + fn.event_shape) * 0.6
    if fn.support is constraints.simplex or "Dirichlet" in str(type(getattr(fn, "base_dist", fn))):
        middle = middle / middle.sum(-1, keepdim=True)
    return pyro.param(name, middle, constraint=fn.support)


def state() -> Tensor:
    """A state for each row, with known probabilities."""
    return pyro.sample("z", dist.Categorical(t(0.3, 0.7)))


# -- probabilities ----------------------------------------------------------------------------------------------------


@story(BITS, "Single", exact=True, x=Binary("row"))
def bernoulli(x, *, prior: bool = True):
    p = unknown("p", dist.Beta(2.5, 1.5), prior)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Bernoulli(p), obs=x)


@story({"x": COUNTS, "n": [5, 4, 3, 9, 1, 6]}, "Single", exact=True, n=Count("row"), **N)
def binomial(x, n, *, prior: bool = True):
    p = unknown("p", dist.Beta(2.5, 1.5), prior)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Binomial(n, p), obs=x)


@story(ITEMS, "Single", exact=True, x=Binary("row", "item"))
def bernoulli_shared_by_columns(x, *, prior: bool = True):
    p = unknown("p", dist.Beta(2.5, 1.5), prior)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Bernoulli(p.expand(3)).to_event(1), obs=x)


@story(ITEMS, "Single Single", fused=True, x=Binary("row", "item"))
def bernoulli_profiles(x, *, prior: bool = True):
    w = unknown("w", dist.Dirichlet(t(2.0, 1.5)), prior)
    with pyro.plate("component", 2):
        p = unknown("p", dist.Beta(t(2.5, 1.5, 3.0).expand(2, 3), 1.5).to_event(1), prior)
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(w))
        pyro.sample("x", dist.Bernoulli(p[z]).to_event(1), obs=x)


@story(ITEMS, "Single", fused=True, x=Binary("row", "item"))
def bernoulli_states_shared_by_columns(x, *, prior: bool = True):
    p = unknown("p", dist.Beta(t(2.5, 3.0), 1.5).to_event(1), prior)
    with pyro.plate("row", len(x)):
        z = state()
        pyro.sample("x", dist.Bernoulli(p[z][..., None].expand(*z.shape, 3)).to_event(1), obs=x)


@story(ITEMS, "Single Single", fused=True, x=Binary("row", "item"))
def bernoulli_columns_shared_by_states(x, *, prior: bool = True):
    p = unknown("p", dist.Beta(t(2.5, 3.0, 1.2), 1.5).to_event(1), prior)
    q = unknown("q", dist.Beta(t(2.5, 3.0), 1.5).to_event(1), prior)
    with pyro.plate("row", len(x)):
        z = state()
        pyro.sample("y", dist.Bernoulli(q[z]), obs=x[:, 0])
        pyro.sample("x", dist.Bernoulli(p).to_event(1), obs=x)


@story(ITEMS, "Single", exact=True, x=Binary("row", "item"))
def items_in_a_plate(x, *, prior: bool = True):
    with pyro.plate("item", 3, dim=-1):
        p = unknown("p", dist.Beta(t(2.0, 1.5, 3.0), 3.0), prior)
        with pyro.plate("row", len(x), dim=-2):
            pyro.sample("x", dist.Bernoulli(p), obs=x)


@story(ITEMS, "Single", exact=True, x=Binary("row", "item"))
def one_for_all_items_in_a_plate(x, *, prior: bool = True):
    p = unknown("p", dist.Beta(2.0, 3.0), prior)
    with pyro.plate("item", 3, dim=-1), pyro.plate("row", len(x), dim=-2):
        pyro.sample("x", dist.Bernoulli(p), obs=x)


@story({"x": COUNTS, "n": TRIES}, "Single", n=Count("row"), **N)
def binomial_mixture(x, n, *, prior: bool = True):
    p = unknown("p", dist.Beta(t(2.5, 1.5), 1.5).to_event(1), prior)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Binomial(n + 4, p[state()]), obs=x)


@story(COUNTS, "Single", fused=True, **N)
def binomial_mixture_of_fixed_tries(x, *, prior: bool = True):
    p = unknown("p", dist.Beta(t(2.5, 1.5), 1.5).to_event(1), prior)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Binomial(9, p[state()]), obs=x)


@story(COUNTS, "Single", **N)
def binomial_mixture_of_tries_by_state(x, *, prior: bool = True):
    p = unknown("p", dist.Beta(t(2.5, 1.5), 1.5).to_event(1), prior)
    with pyro.plate("row", len(x)):
        z = state()
        pyro.sample("x", dist.Binomial(t(8.0, 9.0)[z], p[z]), obs=x)


@story({"x": COUNTS, "r": SIZES}, "Single", exact=True, r=Positive("row"), **N)
def negative_binomial(x, r, *, prior: bool = True):
    p = unknown("p", dist.Beta(2.5, 1.5), prior)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.NegativeBinomial(r, p), obs=x)


@story(COUNTS, "Single", fused=True, **N)
def negative_binomial_mixture(x, *, prior: bool = True):
    p = unknown("p", dist.Beta(t(2.5, 1.5), 1.5).to_event(1), prior)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.NegativeBinomial(t(4.0), p[state()]), obs=x)


@story(LABELS, "Single", exact=True, x=Category("row"))
def categorical(x, *, prior: bool = True):
    p = unknown("p", dist.Dirichlet(t(1.5, 2.0, 3.0)), prior)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Categorical(p), obs=x)


@story(VECTOR, "Fixed NormalMean", **R)
def one_category(x, *, prior: bool = True):
    w = unknown("w", dist.Dirichlet(t(2.5).reshape(1)), prior)
    mu = unknown("mu", dist.Normal(t(1.0).reshape(1), 2.0).to_event(1), prior)
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(w))
        pyro.sample("x", dist.Normal(mu[z], 0.7), obs=x)


@story({"x": LABELS, "g": GROUP}, "Single", exact=True, x=Category("row"), g=Category("row"))
def categorical_by_group(x, g, *, prior: bool = True):
    p = unknown("p", dist.Dirichlet(t(1.5, 2.0, 3.0).expand(3, 3)).to_event(1), prior)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Categorical(p[g]), obs=x)


@story([[0, 1], [2, 1], [1, 2], [2, 0], [0, 0], [1, 1]], "Single Single", fused=True, x=Category("row", "item"))
def categorical_items(x, *, prior: bool = True):
    w = unknown("w", dist.Dirichlet(t(2.0, 1.5)), prior)
    with pyro.plate("component", 2):
        p = unknown("p", dist.Dirichlet(t(1.5, 2.0, 3.0).expand(2, 2, 3)).to_event(1), prior)
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(w))
        pyro.sample("x", dist.Categorical(p[z]).to_event(1), obs=x)


@story(FACES, "Single", exact=True, x=Count("row", "face"))
def multinomial(x, *, prior: bool = True):
    p = unknown("p", dist.Dirichlet(t(1.5, 2.0, 3.0)), prior)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Multinomial(5, p), obs=x)


@story(FACES, "Single Single", fused=True, x=Count("row", "face"))
def multinomial_mixture(x, *, prior: bool = True):
    w = unknown("w", dist.Dirichlet(t(2.0, 1.5)), prior)
    p = unknown("p", dist.Dirichlet(t(1.5, 2.0, 3.0).expand(2, 3)).to_event(1), prior)
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(w))
        pyro.sample("x", dist.Multinomial(5, p[z]), obs=x)


@story(torch.eye(3)[LABELS].numpy(), "Single", exact=True, x=Binary("row", "face"))
def one_hot(x, *, prior: bool = True):
    p = unknown("p", dist.Dirichlet(t(1.5, 2.0, 3.0)), prior)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.OneHotCategorical(p), obs=x)


# -- rates ------------------------------------------------------------------------------------------------------------


@story(COUNTS, "Single", exact=True, **N)
def poisson(x, *, prior: bool = True):
    r = unknown("r", dist.Gamma(2.0, 0.5), prior)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Poisson(r), obs=x)


@story(COUNTS, "Single", exact=True, **N)
def poisson_scaled(x, *, prior: bool = True):
    r = unknown("r", dist.Gamma(2.0, 0.5), prior)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Poisson(2.5 * r), obs=x)


@story({"x": COUNTS, "e": SIZES}, "Single", exact=True, e=Positive("row"), **N)
def poisson_exposures(x, e, *, prior: bool = True):
    r = unknown("r", dist.Gamma(2.0, 0.5), prior)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Poisson(r * e), obs=x)


@story({"x": COUNTS, "e": SIZES, "g": GROUP}, "Single", exact=True, e=Positive("row"), g=Category("row"), **N)
def poisson_exposures_by_group(x, e, g, *, prior: bool = True):
    r = unknown("r", dist.Gamma(t(2.0, 1.0, 1.5), 0.5).to_event(1), prior)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Poisson(r[g] * e), obs=x)


@story({"x": COUNTS, "e": SIZES}, "Single Single", e=Positive("row"), **N)
def poisson_exposures_mixture(x, e, *, prior: bool = True):
    w = unknown("w", dist.Dirichlet(t(2.0, 1.5)), prior)
    r = unknown("r", dist.Gamma(t(2.0, 5.0), 0.5).to_event(1), prior)
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(w))
        pyro.sample("x", dist.Poisson(r[z] * e), obs=x)


@story(FACES, "Single", exact=True, x=Count("row", "face"))
def poisson_columns_scaled(x, *, prior: bool = True):
    r = unknown("r", dist.Gamma(2.0, 0.5), prior)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Poisson(r * t(1.0, 2.0, 3.0)).to_event(1), obs=x)


@story(FACES, "Single", fused=True, x=Count("row", "face"))
def exponential_columns_scaled(x, *, prior: bool = True):
    r = unknown("r", dist.Gamma(t(2.0, 5.0), 0.5).to_event(1), prior)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Exponential(r[state()][..., None] * t(1.0, 2.0, 3.0)).to_event(1), obs=x + 0.5)


@story({"x": WAITS, "e": SIZES}, "Single", exact=True, e=Positive("row"), **P)
def exponential_exposures(x, e, *, prior: bool = True):
    r = unknown("r", dist.Gamma(2.0, 0.5), prior)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Exponential(r * e), obs=x)


@story(WAITS, "Single", exact=True, **P)
def gamma_of_known_shape(x, *, prior: bool = True):
    r = unknown("r", dist.Gamma(2.0, 0.5), prior)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Gamma(1.7, r), obs=x)


@story(WAITS, "Single", fused=True, **P)
def gamma_mixture_of_known_shape(x, *, prior: bool = True):
    r = unknown("r", dist.Gamma(t(2.0, 5.0), 0.5).to_event(1), prior)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Gamma(2.5, r[state()]), obs=x)


@story({"x": WAITS, "e": SIZES}, "Single", e=Positive("row"), **P)
def gamma_mixture_of_shapes_in_the_data(x, e, *, prior: bool = True):
    r = unknown("r", dist.Gamma(t(2.0, 5.0), 0.5).to_event(1), prior)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Gamma(e, 3 * r[state()]), obs=x)


@story(WAITS, "Single", fused=True, **P)
def gamma_mixture_of_shapes_by_state(x, *, prior: bool = True):
    r = unknown("r", dist.Gamma(t(2.0, 5.0), 0.5).to_event(1), prior)
    with pyro.plate("row", len(x)):
        z = state()
        pyro.sample("x", dist.Gamma(t(1.0, 2.5)[z], r[z]), obs=x)


@story({"x": WAITS, "e": SIZES}, "Single", exact=True, e=Positive("row"), **P)
def inverse_gamma_of_known_shape(x, e, *, prior: bool = True):
    r = unknown("r", dist.Gamma(2.0, 0.7), prior)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.InverseGamma(2.5, r * e), obs=x)


@story(WAITS, "Single", fused=True, **P)
def inverse_gamma_mixture(x, *, prior: bool = True):
    r = unknown("r", dist.Gamma(t(2.0, 3.0), 0.7).to_event(1), prior)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.InverseGamma(2.5, r[state()]), obs=x)


@story({"x": COUNTS, "y": WAITS}, "Single", exact=True, y=Positive("row"), **N)
def one_rate_for_two(x, y, *, prior: bool = True):
    r = unknown("r", dist.Gamma(2.0, 0.5), prior)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Poisson(r), obs=x)
        pyro.sample("y", dist.Exponential(0.5 * r), obs=y)


@story(FACES, "Single", exact=True, local=True, optional=False, x=Count("row", "item"))
def rate_for_each_row(x):
    with pyro.plate("row", x.shape[0], dim=-2):
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        with pyro.plate("item", x.shape[1], dim=-1):
            pyro.sample("x", dist.Poisson(rate), obs=x)


@story(COUNTS, "Single Single", local=True, **N)
def rate_of_rates(x, *, prior: bool = True):
    b = unknown("b", dist.Gamma(3.0, 0.5), prior)
    with pyro.plate("row", len(x)):
        rate = pyro.sample("rate", dist.Gamma(2.0, 2 * b))
        pyro.sample("x", dist.Poisson(rate), obs=x)


# -- means, and precisions, of Normals --------------------------------------------------------------------------------


@story({"x": VECTOR, "sd": SIZES}, "NormalMean", exact=True, sd=Positive("row"), **R)
def normal_mean(x, sd, *, prior: bool = True):
    mu = unknown("mu", dist.Normal(1.0, 2.0), prior)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu, sd), obs=x)


@story({**XG, "sd": SIZES}, "NormalMean", exact=True, sd=Positive("row"), **RG)
def normal_means_of_groups(x, sd, g, *, prior: bool = True):
    mu = unknown("mu", dist.Normal(t(1.0, 0.0, -1.0), 2.0).to_event(1), prior)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu[g], sd), obs=x)


@story({"x": VECTOR, "c": MATRIX}, "NormalMean", exact=True, c=Real("row", "two"), **R)
def normal_mean_times_data(x, c, *, prior: bool = True):
    mu = unknown("mu", dist.Normal(1.0, 2.0), prior)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu * c[:, 0], 0.7), obs=x)


@story(VECTOR, "NormalMean", exact=True, **R)
def normal_mean_scaled(x, *, prior: bool = True):
    mu = unknown("mu", dist.Normal(1.0, 2.0), prior)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(-3 * mu, 0.7), obs=x)


@story(MATRIX, "NormalMean", exact=True, **R2)
def normal_means(x, *, prior: bool = True):
    mu = unknown("mu", dist.Normal(t(1.0, -1.0), 2.0).to_event(1), prior)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu, t(0.5, 2.0)).to_event(1), obs=x)


@story(MATRIX, "NormalMean", exact=True, **R2)
def normal_mean_shared_by_columns(x, *, prior: bool = True):
    mu = unknown("mu", dist.Normal(1.0, 2.0), prior)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu, t(0.5, 2.0)).to_event(1), obs=x)


@story(MATRIX, "NormalMean", exact=True, **R2)
def normal_mean_columns_scaled(x, *, prior: bool = True):
    mu = unknown("mu", dist.Normal(1.0, 2.0), prior)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu * t(1.0, -2.0), t(0.5, 2.0)).to_event(1), obs=x)


@story(MATRIX, "Single NormalMean", fused=True, **R2)
def normal_means_by_state(x, *, prior: bool = True):
    w = unknown("w", dist.Dirichlet(t(2.0, 1.5)), prior)
    mu = unknown("mu", dist.Normal(t(1.0, -1.0).expand(2, 2), 2.0).to_event(2), prior)
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(w))
        pyro.sample("x", dist.Normal(mu[z], t(0.5, 2.0)).to_event(1), obs=x)


@story(MATRIX, "NormalMean Precision", fused=True, **R2)
def normal_states_shared_by_columns(x, *, prior: bool = True):
    mu = unknown("mu", dist.Normal(t(1.0, -1.0), 2.0).to_event(1), prior)
    tau = unknown("tau", dist.Gamma(t(2.0, 5.0), 0.5).to_event(1), prior)
    with pyro.plate("row", len(x)):
        z = state()
        scale = (tau[z][..., None] * t(1.0, 3.0)).rsqrt()
        pyro.sample("x", dist.Normal(mu[z][..., None] * t(1.0, -2.0), scale).to_event(1), obs=x)


@story({"x": VECTOR, "y": WAITS}, "NormalMean", exact=True, y=Real("row"), **R)
def one_mean_for_two(x, y, *, prior: bool = True):
    mu = unknown("mu", dist.Normal(1.0, 2.0), prior)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu, 0.7), obs=x)
        pyro.sample("y", dist.Normal(2 * mu, 1.7), obs=y)


@story(VECTOR, "Precision", exact=True, **R)
def normal_precision(x, *, prior: bool = True):
    tau = unknown("tau", dist.Gamma(2.0, 0.5), prior)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(0.4, tau.rsqrt()), obs=x)


@story({"x": VECTOR, "c": SIZES}, "Precision", exact=True, c=Positive("row"), **R)
def normal_precision_times_data(x, c, *, prior: bool = True):
    tau = unknown("tau", dist.Gamma(2.0, 0.5), prior)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(c, (4 * c * tau).rsqrt()), obs=x)


@story({"x": VECTOR, "c": SIZES}, "Precision", exact=True, c=Positive("row"), **R)
def normal_variance_times_data(x, c, *, prior: bool = True):
    v = unknown("v", dist.InverseGamma(2.5, 0.7), prior)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(0.3, (v * c).sqrt()), obs=x)


@story(MATRIX, "NormalMean Precision", fused=True, **R2)
def means_and_variances_by_state(x, *, prior: bool = True):
    mu = unknown("mu", dist.Normal(t([0.5, 1.0], [0.0, 2.0]), 2.0).to_event(2), prior)
    v = unknown("v", dist.InverseGamma(t([2.5, 3.0], [3.5, 2.0]), 0.7).to_event(2), prior)
    with pyro.plate("row", len(x)):
        z = state()
        pyro.sample("x", dist.Normal(mu[z], v[z].sqrt()).to_event(1), obs=x)


@story({"x": VECTOR, "y": WAITS}, "NormalMean NormalMean Precision", y=Real("row"), **R)
def one_precision_for_two_means(x, y, *, prior: bool = True):
    tau = unknown("tau", dist.Gamma(2.0, 0.5), prior)
    a = unknown("a", dist.Normal(1.0, 2.0), prior)
    b = unknown("b", dist.Normal(1.0, 2.0), prior)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(a, tau.rsqrt()), obs=x)
        pyro.sample("y", dist.Normal(b, (2 * tau).rsqrt()), obs=y)


@story(XG, "NormalMean Precision", **RG)
def precisions_of_groups(x, g, *, prior: bool = True):
    mu = unknown("mu", dist.Normal(1.0, 2.0), prior)
    tau = unknown("tau", dist.Gamma(t(2.0, 3.0, 1.5), 0.5).to_event(1), prior)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu, tau[g].rsqrt()), obs=x)


@story(VECTOR, "NormalMean Precision", **R)
def normal_of_separate_priors(x, *, prior: bool = True):
    tau = unknown("tau", dist.Gamma(2.0, 0.5), prior)
    mu = unknown("mu", dist.Normal(1.0, 2.0), prior)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu, tau.rsqrt()), obs=x)


# -- means and precisions together ------------------------------------------------------------------------------------


@story(VECTOR, "NormalGamma", exact=True, optional=False, **R)
def normal_gamma(x):
    tau = pyro.sample("tau", dist.Gamma(2.0, 0.5))
    mu = pyro.sample("mu", dist.Normal(1.0, (0.3 * tau).rsqrt()))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu, tau.rsqrt()), obs=x)


@story(MATRIX, "NormalGamma", exact=True, optional=False, **R2)
def normal_gamma_by_column(x):
    tau = pyro.sample("tau", dist.Gamma(t(2.0, 3.0), 0.5).to_event(1))
    mu = pyro.sample("mu", dist.Normal(t(1.0, -1.0), (0.3 * tau).rsqrt()).to_event(1))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu, tau.rsqrt()).to_event(1), obs=x)


@story(VECTOR, "NormalInverseGamma", exact=True, optional=False, **R)
def normal_inverse_gamma(x):
    v = pyro.sample("v", dist.InverseGamma(2.5, 0.7))
    mu = pyro.sample("mu", dist.Normal(0.5, (v / 0.3).sqrt()))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu, v.sqrt()), obs=x)


@story(MATRIX, "NormalInverseGamma", exact=True, optional=False, **R2)
def normal_inverse_gamma_by_column(x):
    v = pyro.sample("v", dist.InverseGamma(t(2.5, 3.0), 0.7).to_event(1))
    mu = pyro.sample("mu", dist.Normal(0.5, (2 * v).sqrt()).to_event(1))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu, v.sqrt()).to_event(1), obs=x)


@story(MATRIX, "NormalGamma", exact=True, optional=False, **R2)
def normal_gamma_of_one_precision(x):
    tau = pyro.sample("tau", dist.Gamma(2.0, 0.5))
    mu = pyro.sample("mu", dist.Normal(t(1.0, -1.0), (t(0.3, 0.6) * tau).rsqrt()).to_event(1))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu, tau.rsqrt()).to_event(1), obs=x)


@story(XG, "NormalGamma", exact=True, optional=False, **RG)
def normal_gamma_of_groups(x, g):
    tau = pyro.sample("tau", dist.Gamma(t(2.0, 3.0, 1.5), 0.5).to_event(1))
    mu = pyro.sample("mu", dist.Normal(t(1.0, -1.0, 0.0), (0.3 * tau).rsqrt()).to_event(1))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu[g], tau[g].rsqrt()), obs=x)


@story(XG, "NormalGamma", exact=True, optional=False, **RG)
def normal_gamma_of_groups_of_one_precision(x, g):
    tau = pyro.sample("tau", dist.Gamma(2.0, 0.5))
    mu = pyro.sample("mu", dist.Normal(t(1.0, -1.0, 0.0), (0.3 * tau).rsqrt()).to_event(1))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu[g], tau.rsqrt()), obs=x)


@story({"x": VECTOR, "g": BITS}, "NormalMean Precision", optional=False, **RG)
def means_by_state_and_precisions_by_group(x, g):
    """A joint prior that the data cross: means and precisions are updated one by one."""
    tau = pyro.sample("tau", dist.Gamma(t(2.0, 3.0), 0.5).to_event(1))
    mu = pyro.sample("mu", dist.Normal(t(1.0, -1.0), (0.3 * tau).rsqrt()).to_event(1))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu[state()], tau[g].rsqrt()), obs=x)


def normal_gamma_mixture(layout: str) -> None:
    """Means by state and column, with a precision for each state, column, both, or one for all."""
    shape = {"state": (2,), "column": (2,), "both": (2, 2), "all": ()}[layout]

    def forward(x):
        tau = pyro.sample("tau", dist.Gamma(torch.full(shape, 2.0), 0.5).to_event(len(shape)))
        lifted = tau[:, None] if layout == "state" else tau
        prior = dist.Normal(t([[-1.0, 1.0], [0.5, 2.0]]), (0.3 * lifted).rsqrt().expand(2, 2))
        mu = pyro.sample("mu", prior.to_event(2))
        with pyro.plate("row", len(x)):
            z = state()
            own = {"state": lambda: tau[z][..., None], "both": lambda: tau[z]}.get(layout, lambda: tau)()
            pyro.sample("x", dist.Normal(mu[z], own.rsqrt()).to_event(1), obs=x)

    forward.__name__ = f"normal_gamma_mixture_by_{layout}"
    story(MATRIX, "NormalGamma", fused=True, optional=False, **R2)(forward)


for _layout in ("state", "column", "both", "all"):
    normal_gamma_mixture(_layout)


# -- groups of groups -------------------------------------------------------------------------------------------------


@story(XG, "NormalMean NormalMean Precision Precision", optional=False, **RG)
def groups_about_a_mean(x, g):
    top = pyro.sample("top", dist.Normal(0.5, 3.0))
    between = pyro.sample("between", dist.Gamma(2.0, 1.0))
    within = pyro.sample("within", dist.Gamma(2.0, 1.0))
    with pyro.plate("group", 3):
        mu = pyro.sample("mu", dist.Normal(top, between.rsqrt()))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu[g], within.rsqrt()), obs=x)


@story(VECTOR, "NormalMean NormalMean Precision", local=True, **R)
def rows_about_a_mean(x, *, prior: bool = True):
    top = unknown("top", dist.Normal(0.5, 3.0), prior)
    between = unknown("between", dist.Gamma(2.0, 1.0), prior)
    with pyro.plate("row", len(x)):
        mu = pyro.sample("mu", dist.Normal(top, between.rsqrt()))
        pyro.sample("x", dist.Normal(mu, 0.8), obs=x)


@story([[1.0, 2.0, 0.3], [0.1, -0.5, 0.4]], "NormalMean NormalMean Precision", local=True, x=Real("group", "member"))
def plates_about_a_mean(x, *, prior: bool = True):
    top = unknown("top", dist.Normal(0.5, 3.0), prior)
    within = unknown("within", dist.Gamma(2.0, 1.0), prior)
    with pyro.plate("group", x.shape[0], dim=-2):
        mu = pyro.sample("mu", dist.Normal(top, 0.5))
        with pyro.plate("member", x.shape[1], dim=-1):
            pyro.sample("x", dist.Normal(mu, within.rsqrt()), obs=x)


# -- multivariate Normals ---------------------------------------------------------------------------------------------


def precision(prior: bool, name: str = "P") -> Tensor:
    """A Wishart precision, or one without prior."""
    if prior:
        return pyro.sample(name, dist.Wishart(t(4.5), V))
    return pyro.param(name, torch.eye(2) + 0.2, constraint=constraints.positive_definite)


@story(MATRIX, "MultivariateMean", exact=True, **R2)
def multivariate_mean(x, *, prior: bool = True):
    mu = unknown("mu", dist.MultivariateNormal(t(1.0, -1.0), V), prior)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.MultivariateNormal(mu, 0.5 * V), obs=x)


@story(MATRIX, "MultivariateMean", fused=True, **R2)
def multivariate_means_by_state(x, *, prior: bool = True):
    mu = unknown("mu", dist.MultivariateNormal(t([1.0, -1.0], [0.0, 2.0]), V).to_event(1), prior)
    with pyro.plate("row", len(x)):
        z = state()
        pyro.sample("x", dist.MultivariateNormal(mu[z], torch.stack([0.5 * V, 2 * torch.eye(2)])[z]), obs=x)


@story(X2G, "MultivariateMean", exact=True, **R2G)
def multivariate_means_of_groups(x, g, *, prior: bool = True):
    mu = unknown("mu", dist.MultivariateNormal(t(1.0, -1.0).expand(3, 2), V).to_event(1), prior)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.MultivariateNormal(mu[g], 0.5 * V), obs=x)


@story(MATRIX, "MultivariateMean", fused=True, **R2)
def multivariate_mean_of_two_precisions(x, *, prior: bool = True):
    mu = unknown("mu", dist.MultivariateNormal(t(1.0, -1.0), V), prior)
    with pyro.plate("row", len(x)):
        covariance = torch.stack([0.5 * V, 2 * torch.eye(2)])[state()]
        pyro.sample("x", dist.MultivariateNormal(mu, covariance), obs=x)


@story(MATRIX, "Wishart", exact=True, **R2)
def wishart(x, *, prior: bool = True):
    p = precision(prior)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.MultivariateNormal(t(0.3, 0.2), precision_matrix=p), obs=x)


@story(MATRIX, "Wishart", exact=True, optional=False, **R2)
def wishart_scaled(x):
    p = precision(True)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.MultivariateNormal(t(0.3, 0.2), precision_matrix=3 * p), obs=x)


@story({"x": MATRIX, "c": SIZES}, "Wishart", exact=True, optional=False, c=Positive("row"), **R2)
def wishart_times_data(x, c):
    p = precision(True)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.MultivariateNormal(t(0.3, 0.2), precision_matrix=p * c[:, None, None]), obs=x)


@story(MATRIX, "MultivariateMean Wishart", **R2)
def multivariate_of_separate_priors(x, *, prior: bool = True):
    p = precision(prior)
    mu = unknown("mu", dist.MultivariateNormal(t(1.0, -1.0), V), prior)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.MultivariateNormal(mu, precision_matrix=p), obs=x)


@story(MATRIX, "MultivariateMean Wishart", fused=True, optional=False, **R2)
def multivariate_mixture_of_separate_priors(x):
    with pyro.plate("component", 2):
        p = pyro.sample("P", dist.Wishart(t(4.5), V))
        mu = pyro.sample("mu", dist.MultivariateNormal(t(1.0, -1.0), V))
    with pyro.plate("row", len(x)):
        z = state()
        pyro.sample("x", dist.MultivariateNormal(mu[z], precision_matrix=p[z]), obs=x)


@story(MATRIX, "NormalWishart", exact=True, optional=False, **R2)
def normal_wishart(x):
    p = precision(True)
    mu = pyro.sample("mu", dist.MultivariateNormal(t(1.0, -1.0), precision_matrix=0.4 * p))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.MultivariateNormal(mu, precision_matrix=p), obs=x)


@story(MATRIX, "NormalWishart", fused=True, optional=False, **R2)
def normal_wishart_mixture(x):
    with pyro.plate("component", 2):
        p = pyro.sample("P", dist.Wishart(t(4.5), V))
        mu = pyro.sample("mu", dist.MultivariateNormal(t(1.0, -1.0), precision_matrix=t(0.4, 0.8)[:, None, None] * p))
    with pyro.plate("row", len(x)):
        z = state()
        pyro.sample("x", dist.MultivariateNormal(mu[z], precision_matrix=p[z]), obs=x)


@story(MATRIX, "NormalWishart", fused=True, optional=False, **R2)
def normal_wishart_mixture_of_one_precision(x):
    p = precision(True)
    with pyro.plate("component", 2):
        mu = pyro.sample("mu", dist.MultivariateNormal(t(1.0, -1.0), precision_matrix=0.4 * p))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.MultivariateNormal(mu[state()], precision_matrix=p), obs=x)


@story(X2G, "NormalWishart", exact=True, optional=False, **R2G)
def normal_wishart_of_groups(x, g):
    with pyro.plate("level", 3):
        p = pyro.sample("P", dist.Wishart(t(4.5), V))
        mu = pyro.sample("mu", dist.MultivariateNormal(t(1.0, -1.0), precision_matrix=0.4 * p))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.MultivariateNormal(mu[g], precision_matrix=p[g]), obs=x)


# -- linear predictors ------------------------------------------------------------------------------------------------


def coefficients(prior: bool) -> tuple[Tensor, Tensor]:
    """An intercept and two slopes."""
    a = unknown("a", dist.Normal(0.5, 2.0), prior)
    return a, unknown("b", dist.Normal(t(1.0, -1.0), t(2.0, 3.0)).to_event(1), prior)


@story(LINE, "Regression", exact=True, **XY)
def regression(x, y, *, prior: bool = True):
    a, b = coefficients(prior)
    with pyro.plate("row", len(x)):
        pyro.sample("y", dist.Normal(a + x @ b, 0.7), obs=y)


@story(LINE, "Regression Precision", **XY)
def regression_of_separate_priors(x, y, *, prior: bool = True):
    tau = unknown("tau", dist.Gamma(2.0, 0.5), prior)
    a, b = coefficients(prior)
    with pyro.plate("row", len(x)):
        pyro.sample("y", dist.Normal(a + x @ b, tau.rsqrt()), obs=y)


@story(LINE, "Regression", exact=True, optional=False, **XY)
def regression_of_a_joint_prior(x, y):
    tau = pyro.sample("tau", dist.Gamma(2.0, 0.5))
    a = pyro.sample("a", dist.Normal(0.5, (0.2 * tau).rsqrt()))
    b = pyro.sample("b", dist.Normal(t(1.0, -1.0), (t(0.3, 3.0) * tau).rsqrt()).to_event(1))
    with pyro.plate("row", len(x)):
        pyro.sample("y", dist.Normal(a + x @ b, tau.rsqrt()), obs=y)


@story({**LINE, "sd": SIZES}, "Regression", exact=True, sd=Positive("row"), **XY)
def regression_with_an_offset(x, y, sd, *, prior: bool = True):
    a, b = coefficients(prior)
    with pyro.plate("row", len(x)):
        pyro.sample("y", dist.Normal(a + x @ b + x[:, 0] ** 2, sd), obs=y)


@story({**LINE, "g": GROUP}, "Regression", exact=True, g=Category("row"), **XY)
def regression_with_an_intercept_for_each_group(x, y, g, *, prior: bool = True):
    a = unknown("a", dist.Normal(t(0.5, 0.1, 1.0), 2.0).to_event(1), prior)
    b = unknown("b", dist.Normal(1.0, 2.0), prior)
    with pyro.plate("row", len(x)):
        pyro.sample("y", dist.Normal(a[g] + x[:, 0] * b, 0.6), obs=y)


@story(LINE, "NormalMean Regression Precision", optional=False, **XY)
def regression_about_a_slope(x, y):
    top = pyro.sample("top", dist.Normal(0.5, 3.0))
    between = pyro.sample("between", dist.Gamma(2.0, 1.0))
    a = pyro.sample("a", dist.Normal(0.5, 2.0))
    with pyro.plate("feature", 2):
        b = pyro.sample("b", dist.Normal(top, between.rsqrt()))
    with pyro.plate("row", len(x)):
        pyro.sample("y", dist.Normal(a + x @ b, 0.7), obs=y)


@story({"x": WAITS, "y": MATRIX}, "Regression Precision", x=Real("row"), y=Real("row", "out"))
def regression_of_two_outputs(x, y, *, prior: bool = True):
    tau = unknown("tau", dist.Gamma(t(2.0, 3.0), 0.5).to_event(1), prior)
    a = unknown("a", dist.Normal(t(0.5, 0.1), 2.0).to_event(1), prior)
    b = unknown("b", dist.Normal(t(1.0, -1.0), t(2.0, 3.0)).to_event(1), prior)
    with pyro.plate("row", len(x)):
        pyro.sample("y", dist.Normal(a + x[:, None] * b, tau.rsqrt()).to_event(1), obs=y)


@story(VECTOR, "Regression", exact=True, **R)
def sum_of_two(x, *, prior: bool = True):
    a = unknown("a", dist.Normal(0.0, 1.0), prior) if prior else pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Normal(0.0, 2.0))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(a + b, 1.0), obs=x)


@story(LINE, "Single Regression Precision", fused=True, **XY)
def regression_mixture(x, y, *, prior: bool = True):
    w = unknown("w", dist.Dirichlet(t(2.0, 1.5)), prior)
    tau = unknown("tau", dist.Gamma(t(2.0, 3.0), 0.5).to_event(1), prior)
    a = unknown("a", dist.Normal(t(0.5, -1.0), 2.0).to_event(1), prior)
    b = unknown("b", dist.Normal(t([1.0, -1.0], [0.0, 0.5]), t(2.0, 3.0)).to_event(2), prior)
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(w))
        pyro.sample("y", dist.Normal(a[z] + (x * b[z]).sum(-1), tau[z].rsqrt()), obs=y)


@story(LINE, "Regression Precision", fused=True, optional=False, **XY)
def regression_mixture_of_joint_priors(x, y):
    with pyro.plate("component", 2):
        tau = pyro.sample("tau", dist.Gamma(t(2.0, 3.0), 0.5))
        a = pyro.sample("a", dist.Normal(t(0.5, -1.0), (0.3 * tau).rsqrt()))
        b = pyro.sample("b", dist.Normal(t(1.0, -1.0), (0.3 * tau).rsqrt()[:, None].expand(2, 2)).to_event(1))
    with pyro.plate("row", len(x)):
        z = state()
        pyro.sample("y", dist.Normal(a[z] + (x * b[z]).sum(-1), tau[z].rsqrt()), obs=y)


@story({"x": WAITS, "y": MATRIX}, "Regression Precision", x=Real("row"), y=Real("row", "out"))
def regression_mixture_of_two_outputs(x, y, *, prior: bool = True):
    tau = unknown("tau", dist.Gamma(t(2.0, 3.0), 0.5).to_event(1), prior)
    a = unknown("a", dist.Normal(t(0.5, 0.1).expand(2, 2), 2.0).to_event(2), prior)
    b = unknown("b", dist.Normal(t(1.0, -1.0).expand(2, 2), t(2.0, 3.0)).to_event(2), prior)
    with pyro.plate("row", len(x)):
        z = state()
        pyro.sample("y", dist.Normal(a[z] + x[:, None] * b[z], tau[z].rsqrt()[..., None]).to_event(1), obs=y)


@story(LINE, "Regression Precision", fused=True, **XY)
def regression_of_two_precisions(x, y, *, prior: bool = True):
    tau = unknown("tau", dist.Gamma(t(2.0, 3.0), 0.5).to_event(1), prior)
    a, b = coefficients(prior)
    with pyro.plate("row", len(x)):
        pyro.sample("y", dist.Normal(a + x @ b, tau[state()].rsqrt()), obs=y)


# -- plates in plates, and what is seen elsewhere ---------------------------------------------------------------------

TABLE = [[1.0, 2.0, 0.3], [0.1, -0.5, 0.4], [1.4, 0.7, 2.0]]


@story(TABLE, "Single NormalMean Precision", x=Real("group", "member"))
def state_of_each_group(x, *, prior: bool = True):
    w = unknown("w", dist.Dirichlet(t(2.0, 1.5)), prior)
    mu = unknown("mu", dist.Normal(t(0.0, 1.0), 3.0).to_event(1), prior)
    tau = unknown("tau", dist.Gamma(2.0, 1.0), prior)
    with pyro.plate("group", x.shape[0], dim=-2):
        z = pyro.sample("z", dist.Categorical(w))
        with pyro.plate("member", x.shape[1], dim=-1):
            pyro.sample("x", dist.Normal(mu[z], tau.rsqrt()), obs=x)


@story(TABLE, "NormalMean Precision", local=True, x=Real("group", "member"))
def state_of_each_member(x, *, prior: bool = True):
    mu = unknown("mu", dist.Normal(t(0.0, 1.0), 3.0).to_event(1), prior)
    with pyro.plate("group", x.shape[0], dim=-2):
        tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
        with pyro.plate("member", x.shape[1], dim=-1):
            pyro.sample("x", dist.Normal(mu[state()], tau.rsqrt()), obs=x)


@story(TABLE, "NormalGamma", exact=True, local=True, optional=False, x=Real("group", "member"))
def normal_gamma_of_each_row(x):
    with pyro.plate("group", x.shape[0], dim=-2):
        tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
        mu = pyro.sample("mu", dist.Normal(0.3, (0.2 * tau).rsqrt()))
        with pyro.plate("member", x.shape[1], dim=-1):
            pyro.sample("x", dist.Normal(mu, tau.rsqrt()), obs=x)


@story(TABLE, "NormalMean Precision", local=True, optional=False, x=Real("group", "member"))
def means_of_rows_in_units_of_one_precision(x):
    """Conjugate together, but for the weights of rows, which repeat means and not the precision."""
    tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
    with pyro.plate("group", x.shape[0], dim=-2):
        mu = pyro.sample("mu", dist.Normal(0.3, (0.2 * tau).rsqrt()))
        with pyro.plate("member", x.shape[1], dim=-1):
            pyro.sample("x", dist.Normal(mu, tau.rsqrt()), obs=x)


@story(
    [MATRIX[:3], MATRIX[3:]], "Wishart", exact=True, local=True, optional=False, x=Real("group", "member", "feature")
)
def wishart_of_each_row(x):
    with pyro.plate("group", x.shape[0], dim=-2):
        p = pyro.sample("P", dist.Wishart(t(4.5), V))
        with pyro.plate("member", x.shape[1], dim=-1):
            pyro.sample("x", dist.MultivariateNormal(t(0.3, 0.2), precision_matrix=p), obs=x)


@story(MATRIX, "NormalMean Precision", **R2)
def columns_in_a_plate(x, *, prior: bool = True):
    with pyro.plate("feature", 2, dim=-1):
        tau = unknown("tau", dist.Gamma(t(2.0, 1.0), 1.0), prior)
        mu = unknown("mu", dist.Normal(t(0.0, 1.0), 3.0), prior)
        with pyro.plate("row", len(x), dim=-2):
            pyro.sample("x", dist.Normal(mu, tau.rsqrt()), obs=x)


@story(X2G, "NormalGamma", exact=True, optional=False, **R2G)
def normal_gamma_of_groups_in_a_plate(x, g):
    with pyro.plate("level", 3):
        tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
        mu = pyro.sample("mu", dist.Normal(t(0.0, 1.0), (0.3 * tau).rsqrt()[:, None]).to_event(1))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu[g], tau[g][:, None].rsqrt()).to_event(1), obs=x)


@story(X2G, "MultivariateMean MultivariateMean Wishart", **R2G)
def multivariate_groups_about_a_mean(x, g, *, prior: bool = True):
    top = unknown("top", dist.MultivariateNormal(t(1.0, -1.0), V), prior)
    p = precision(prior)
    with pyro.plate("level", 3):
        mu = pyro.sample("mu", dist.MultivariateNormal(top, precision_matrix=p))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.MultivariateNormal(mu[g], 0.5 * V), obs=x)


@story(VECTOR, "NormalMean", exact=True, **R)  # a mixture of two Normals, by the state
def state_of_all_rows(x, *, prior: bool = True):
    mu = unknown("mu", dist.Normal(t(0.0, 1.0), 3.0).to_event(1), prior)
    z = state()
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu[z], 2.0), obs=x)


@story(VECTOR, "NormalMean Precision", **R)
def seen_outside_the_rows_too(x, *, prior: bool = True):
    mu = unknown("mu", dist.Normal(0.0, 3.0), prior)
    tau = unknown("tau", dist.Gamma(2.0, 1.0), prior)
    pyro.sample("y", dist.Normal(mu, 2.0), obs=t(0.3))
    pyro.sample("s", dist.Normal(0.0, tau.rsqrt()), obs=t(0.3))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu, tau.rsqrt()), obs=x)


# -- several discrete latents, several sites --------------------------------------------------------------------------


@story(COUNTS, "Single Single Single", **N)
def table_of_two_states(x, *, prior: bool = True):
    first = unknown("first", dist.Dirichlet(t(2.0, 1.5)), prior)
    table = unknown("table", dist.Dirichlet(t([1.5, 2.0, 3.0], [4.0, 1.5, 1.5])).to_event(1), prior)
    rate = unknown("rate", dist.Gamma(t(2.0, 2.0, 2.0), 1.0).to_event(1), prior)
    with pyro.plate("row", len(x)):
        a = pyro.sample("a", dist.Categorical(first))
        b = pyro.sample("b", dist.Categorical(table[a]))
        pyro.sample("x", dist.Poisson(rate[b]), obs=x)


@story(VECTOR, "NormalMean", **R)
def means_of_two_states(x, *, prior: bool = True):
    loc = unknown("loc", dist.Normal(t([0.0, 1.0], [2.0, -1.0], [0.5, 0.4]), 2.0).to_event(2), prior)
    with pyro.plate("row", len(x)):
        a = pyro.sample("a", dist.Categorical(t(0.2, 0.5, 0.3)))
        b = pyro.sample("b", dist.Categorical(t(0.4, 0.6)))
        pyro.sample("x", dist.Normal(loc[a, b], 0.7), obs=x)


@story(MATRIX, "NormalMean Precision", **R2)
def columns_of_two_states(x, *, prior: bool = True):
    loc = unknown("loc", dist.Normal(torch.linspace(-1, 1, 8).reshape(2, 2, 2), 2.0).to_event(3), prior)
    tau = unknown("tau", dist.Gamma(t(2.0, 3.0), 1.0).to_event(1), prior)
    with pyro.plate("row", len(x)):
        a = pyro.sample("a", dist.Categorical(t(0.2, 0.8)))
        b = pyro.sample("b", dist.Categorical(t(0.4, 0.6)))
        pyro.sample("x", dist.Normal(loc[b, a], tau[b][..., None].rsqrt()).to_event(1), obs=x)


@story([[0.5, -1.0, 2.0], [1.0, 0.0, -0.3]], "Single Single NormalMean", x=Real("row", "time"))
def chain_in_each_row(x, *, prior: bool = True):
    start = unknown("start", dist.Dirichlet(t(2.0, 1.5)), prior)
    moves = unknown("moves", dist.Dirichlet(t([1.5, 2.0], [3.0, 1.5])).to_event(1), prior)
    means = unknown("means", dist.Normal(t(0.0, 1.0), 3.0).to_event(1), prior)
    with pyro.plate("row", len(x)):
        z = None
        for s in pyro.markov(range(x.shape[1])):
            z = pyro.sample(f"z_{s}", dist.Categorical(start if s == 0 else moves[z]))
            pyro.sample(f"x_{s}", dist.Normal(means[z], 1.0), obs=x[:, s])


@story(
    {"x": COUNTS, "y": MATRIX, "c": LABELS},
    "Single Single Single NormalMean Precision",
    fused=True,
    y=Real("row", "feature"),
    c=Category("row"),
    **N,
)
def several_sites(x, y, c, *, prior: bool = True):
    w = unknown("w", dist.Dirichlet(t(2.0, 1.5)), prior)
    r = unknown("r", dist.Gamma(t(2.0, 5.0), 0.5).to_event(1), prior)
    p = unknown("p", dist.Dirichlet(t(1.5, 2.0, 3.0).expand(2, 3)).to_event(1), prior)
    tau = unknown("tau", dist.Gamma(t(2.0, 3.0), 0.5).to_event(1), prior)
    mu = unknown("mu", dist.Normal(t(1.0, -1.0).expand(2, 2), 2.0).to_event(2), prior)
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(w))
        pyro.sample("x", dist.Poisson(r[z]), obs=x)
        pyro.sample("y", dist.Normal(mu[z], tau.rsqrt()).to_event(1), obs=y)
        pyro.sample("c", dist.Categorical(p[z]), obs=c)


@story(VECTOR, "Single NormalMean", fused=True, **R)
def switch(x, *, prior: bool = True):
    share = unknown("share", dist.Beta(2.0, 2.0), prior)
    mu = unknown("mu", dist.Normal(t(1.0, -1.0), 2.0).to_event(1), prior)
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Bernoulli(share)).long()
        pyro.sample("x", dist.Normal(mu[z], 0.5), obs=x)


@story(VECTOR, "NormalMean", fused=True, **R)
def outliers(x, *, prior: bool = True):
    mu = unknown("mu", dist.Normal(1.0, 2.0), prior)
    with pyro.plate("row", len(x)):
        on = pyro.sample("on", dist.Bernoulli(0.2))
        pyro.sample("x", dist.Normal(mu, 1.0 + 9.0 * on), obs=x)
