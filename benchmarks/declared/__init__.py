"""Mixtures, chains and factor models as users declare them, without starting values of their own, and data for each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from declared.data import (
    clusters,
    correlated,
    count_lines,
    courses,
    factors,
    labels,
    lines,
    mixed,
    path,
    rated,
    symbols,
)
from declared.mixtures import (
    Binaries,
    Classes,
    ColumnPriors,
    Columns,
    CountColumns,
    Counts,
    Full,
    Gammas,
    Heavy,
    Priors,
    Trials,
    Univariate,
    Waits,
)
from declared.structures import Chain, CountLines, Curves, Levels, LinePriors, Lines, Loadings, Mixed, Raters, Symbols


@dataclass(frozen=True)
class Case:
    """A model, what makes data for it from a generator, and the methods that climb it."""

    model: Any
    data: Callable[[np.random.Generator], Any]
    methods: tuple[str, ...] = ("em",)


CASES = {
    "Normal mixture": Case(Univariate(), clusters),
    "Normal mixture, columns 1e6 and 1e-3": Case(
        Columns(), lambda rng: clusters(rng, 400, 4, 2) * [1e6, 1e-3] + [0, 5]
    ),
    "Normal mixture, full": Case(Full(), correlated),
    "Normal mixture, priors": Case(Priors(), clusters, ("em", "cavi")),
    "Normal mixture, priors from 1e6 and 1e-3": Case(
        ColumnPriors(), lambda rng: clusters(rng, 300, 3, 2) * [1e6, 1e-3], ("em", "cavi")
    ),
    "Poisson mixture": Case(Counts(), lambda rng: rng.poisson(np.array([2.0, 9.0, 30.0])[rng.integers(3, size=300)])),
    "Poisson mixture, priors": Case(
        CountColumns(),
        lambda rng: rng.poisson(rng.gamma(2.0, 2.5, size=(3, 4))[rng.integers(3, size=300)]),
        ("em", "cavi"),
    ),
    "latent classes, priors": Case(Classes(), labels, ("em", "cavi")),
    "Bernoulli mixture": Case(
        Binaries(), lambda rng: (rng.random((300, 12)) < rng.random((3, 12))[rng.integers(3, size=300)]).astype(int)
    ),
    "Exponential mixture": Case(Waits(), lambda rng: rng.exponential(np.array([1.0, 20.0])[rng.integers(2, size=300)])),
    "Gamma mixture": Case(
        Gammas(), lambda rng: rng.gamma(np.array([3.0, 12.0])[z := rng.integers(2, size=300)]) * np.array([1.0, 2.0])[z]
    ),
    "mixture of lines": Case(Lines(), lines),
    "lines that cross, priors": Case(
        LinePriors(k=2), lambda rng: lines(rng, slopes=(2.0, -2.0), noise=0.3, levels=0.0), ("em", "cavi")
    ),
    "mixture of lines, priors": Case(LinePriors(), lambda rng: lines(rng, slopes=(2.0, 0.0, -2.0)), ("em", "cavi")),
    "mixture of Poisson regressions": Case(CountLines(), count_lines),
    "chain, Normal": Case(Chain(), lambda rng: 2.5 * (z := path(rng)) + rng.normal(size=len(z))),
    "chain, Poisson": Case(Chain(emission="poisson"), lambda rng: rng.poisson(np.array([2.0, 6.0, 15.0])[path(rng)])),
    "chain, symbols, priors": Case(Symbols(), symbols),
    "factors": Case(Loadings(), factors),
    "random effects": Case(Levels(), lambda rng: 1e3 + rng.normal(size=(40, 1)) + 2 * rng.normal(size=(40, 4))),
    "raters": Case(Raters(), rated),
    "mixed fields": Case(Mixed(), mixed),
    "Binomial mixture": Case(
        Trials(), lambda rng: rng.binomial(20, rng.beta(2, 2, size=(3, 3))[rng.integers(3, size=300)])
    ),
    "courses": Case(Curves(), courses),
    "Normal mixture, 8 clusters": Case(Columns(k=8), lambda rng: clusters(rng, 600, 8, 3)),
    "latent classes of 5, priors": Case(Classes(k=5), lambda rng: labels(rng, 500, 10, 5), ("em", "cavi")),
    "mixture of 4 lines, priors": Case(
        LinePriors(k=4), lambda rng: lines(rng, 400, (3.0, 1.0, -1.0, -3.0)), ("em", "cavi")
    ),
    "chain of 5, Normal": Case(Chain(k=5), lambda rng: 2.5 * (z := path(rng, 500, 5)) + rng.normal(size=len(z))),
    "Laplace mixture": Case(Heavy(), clusters),
}
