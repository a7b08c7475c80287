"""A model zoo on Pyro: declare a generative latent-variable model once, get every inference method legal for it."""

from zoo import catalogue as _catalogue
from zoo import shadowed as _shadowed

__version__ = "0.1.0"

# Beside the models, which are found in their files; after a change here: python -m zoo.stubs
_EXPORTS = {
    "Binary": "zoo.declare.fields",
    "Category": "zoo.declare.fields",
    "Count": "zoo.declare.fields",
    "DataError": "zoo.errors",
    "FitError": "zoo.errors",
    "LinearGaussianChain": "zoo.replay.gaussian_chain",
    "MarkovChain": "zoo.replay.chain",
    "MethodError": "zoo.errors",
    "Model": "zoo.declare.model",
    "ModelError": "zoo.errors",
    "Positive": "zoo.declare.fields",
    "Real": "zoo.declare.fields",
    "Regression": "zoo.declare.regression",
    "UnitInterval": "zoo.declare.fields",
    "UnknownNameError": "zoo.errors",
    "ZooError": "zoo.errors",
    "check": "zoo.program.check",
    "datasets": "zoo.datasets",
    "explain": "zoo.program.explain",
    "model": "zoo.declare.function",
    "models": "zoo.catalogue",
    "read_model": "zoo.text.read_model",
    "stream": "zoo.data.stream",
    "image_files": "zoo.data.indexed",
    "binarised": "zoo.data.grey",
    "dequantized": "zoo.data.grey",
    "scaled": "zoo.data.grey",
}
for _name in ("guides", "inference"):
    _shadowed.check_found(_name)
__getattr__, __dir__ = _catalogue.exports(__name__, "model", _EXPORTS)
