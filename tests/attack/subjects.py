"""What is attacked: every model of the zoo on a few rows, by methods that take a moment."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pandas as pd

import zoo
from guides import Encoder
from inference import CAVI, EM, MAP, NUTS, SVI, Exact, Fit, Laplace, fit
from tests.cases.models import ZOO_CASES
from zoo import Model, catalogue

QUICK: dict[str, Any] = {
    "exact": Exact(),
    "em": EM(max_steps=15),
    "cavi": CAVI(max_steps=15),
    "map": MAP(steps=15),
    "laplace": Laplace(steps=200, compile=False),
    "svi": SVI(steps=15, compile=False),
    "nuts": NUTS(chains=1, warmup=15, draws=15, compile=False),
}


def subjects() -> dict[str, tuple[type[Model], dict[str, Any], Any]]:
    """Return the class, hyperparameters and data of a case of each model."""
    found = {}
    for name in catalogue.entries("model"):
        if name in ZOO_CASES:
            model, data = ZOO_CASES[name][0]
            found[name] = (type(model), dict(model.settings), data)
    return found


@cache
def methods_of(name: str) -> tuple[str, ...]:
    """Return the quick methods that are legal for a model, those with closed forms first."""
    from zoo.program.explain import legality
    from zoo.program.prepare import prepare

    cls, settings, data = subjects()[name]
    legal = legality(prepare(cls(**settings), data))
    return tuple(m for m in QUICK if legal.get(catalogue.find("method", m).__name__, "no") is None)


def tried(name: str, method: str, data: Any = None, **settings: Any) -> Fit:
    """Fit a model of the zoo, with other data or other hyperparameters."""
    cls, own, given = subjects()[name]
    return fit(
        cls(**{**own, **settings}), given if data is None else data, method=QUICK[method], seed=0, progress=False
    )


TABLE = pd.DataFrame(
    np.random.default_rng(0).normal(size=(24, 2)) + 4.0 * (np.arange(24)[:, None] % 2), columns=["width", "height"]
)
BITS = pd.DataFrame((np.random.default_rng(1).random((20, 3)) < 0.4).astype(float), columns=["one", "two", "three"])
COUNTS = pd.DataFrame({"count": [1, 3, 2, 14, 12, 9, 0, 2]})


@cache
def fitted(name: str) -> Fit:
    """Return a fit that is asked wrongly, or saved and damaged."""
    models: dict[str, tuple[Any, Any, Any]] = {
        "point": (zoo.GMM(components=2), TABLE, EM(max_steps=50)),
        "mixture": (zoo.BayesianGMM(components=2), TABLE, CAVI(max_steps=50)),
        "draws": (zoo.NormalNormal(), TABLE["width"], NUTS(chains=2, warmup=50, draws=50, compile=False)),
        "beta": (zoo.BetaBernoulli(), [1, 0, 1, 1], Exact()),
        "counts": (zoo.PoissonMixture(components=2), COUNTS, EM(max_steps=50)),
        "factors": (
            zoo.FactorAnalysis(factors=1),
            TABLE.assign(depth=TABLE.sum(axis=1) + [0, 1] * 12),
            EM(max_steps=50),
        ),
        "states": (zoo.HiddenMarkov(components=2), TABLE, EM(max_steps=50)),
        "regression": (zoo.BayesianRegression(), {"x": TABLE[["width"]], "y": TABLE["height"]}, Exact()),
        "codes": (
            zoo.VAE(latent=1, hidden=(3,)),
            BITS,
            SVI(guide=Encoder(hidden=(3,)), steps=30, compile=False),
        ),
    }
    model, data, method = models[name]
    return fit(model, data, method=method, seed=0, progress=False)


FITS = ("point", "mixture", "draws", "beta", "counts", "factors", "states", "regression", "codes")
