"""Models with a few rows each, for what is checked on no model in particular."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from zoo.bayesian_gmm import BayesianGMM
from zoo.beta_bernoulli import BetaBernoulli
from zoo.declare.model import Model
from zoo.normal_normal import NormalNormal
from zoo.poisson_mixture import PoissonMixture
from zoo.ppca import PPCA
from zoo.testing.checks import Check, run, without

FLIPS = np.array([1, 0, 1, 1, 0, 0, 1, 0, 1, 0])
WAITS = np.array([79.0, 54.0, 74.0, 62.0, 85.0])
COUNTS = np.array([0, 3, 1, 9, 4])
ROWS = np.array([[3.6, 79.0], [1.8, 54.0], [3.333, 74.0], [2.283, 62.0]])
SIZES = np.array([[5.1, 3.5, 1.4], [4.9, 3.0, 1.6], [6.3, 3.3, 6.0], [5.8, 2.7, 5.1], [7.1, 3.0, 5.9], [6.4, 3.2, 4.5]])


def for_methods() -> list[tuple[Model, np.ndarray]]:
    """Return a model with a closed-form posterior, a Normal one, one with discrete latents, one with local latents."""
    mixture = PoissonMixture(concentration=2.0, shape=1.5)
    return [(BetaBernoulli(), FLIPS), (NormalNormal(), WAITS), (mixture, COUNTS), (PPCA(), SIZES)]


def for_guides() -> list[tuple[Model, np.ndarray]]:
    """Return a model with global latents, one with discrete ones besides, and one with local ones."""
    mixture = BayesianGMM(components=2, covariance="diag")
    return [(NormalNormal(), WAITS), (mixture, ROWS), (PPCA(), SIZES)]


def run_on_each(
    models: Iterable[tuple[Model, np.ndarray]],
    what: str,
    checks: Callable[[Model, np.ndarray], dict[str, Check]],
    skip: Iterable[str],
) -> dict[str, str]:
    """Run the checks of something on each model, but for those to skip; what is said of each is named by its model."""
    said: dict[str, str] = {}
    for model, rows in models:
        found = run(f"{what} on {model!r}", without(checks(model, rows), skip))
        said.update({f"{model!r}: {name}": words for name, words in found.items()})
    return said
