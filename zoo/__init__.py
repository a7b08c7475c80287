"""A model zoo on Pyro: declare a generative latent-variable model once, get every inference method legal for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo import catalogue as _catalogue
from zoo.errors import DataError, FitError, MethodError, ModelError, UnknownNameError, ZooError

if TYPE_CHECKING:  # names for type checkers and editors; at run time they are imported when first used
    from zoo import datasets
    from zoo.data.stream import stream
    from zoo.declare.fields import Binary, Category, Count, Positive, Real, UnitInterval
    from zoo.declare.model import Model, model
    from zoo.program.explain import explain
    from zoo.replay.chain import MarkovChain

__version__ = "0.1.0"

_EXPORTS = {
    **dict.fromkeys(("Binary", "Category", "Count", "Positive", "Real", "UnitInterval"), "zoo.declare.fields"),
    **dict.fromkeys(("Model", "model"), "zoo.declare.model"),
    "explain": "zoo.program.explain",
    "MarkovChain": "zoo.replay.chain",
    "stream": "zoo.data.stream",
    "datasets": "zoo.datasets",
}
__getattr__ = _catalogue.lazy(__name__, "model", _EXPORTS)


def models() -> list[str]:
    """Names of the models in the zoo. A model of your own needs no registration: pass it to `fit`."""
    return sorted(_catalogue.entries("model"))


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS, *models()})


__all__ = [
    "Binary",
    "Category",
    "Count",
    "DataError",
    "FitError",
    "MarkovChain",
    "MethodError",
    "Model",
    "ModelError",
    "Positive",
    "Real",
    "UnitInterval",
    "UnknownNameError",
    "ZooError",
    "datasets",
    "explain",
    "model",
    "models",
    "stream",
]
__all__ += sorted(_catalogue.entries("model"))
