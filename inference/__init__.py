"""Inference: methods that climb the bound, one per file, and what a fit can do."""

from zoo import catalogue as _catalogue

# Beside the methods, which are found in their files; after a change here: python -m zoo.stubs
_EXPORTS = {
    "Calibration": "inference.calibration",
    "Check": "inference.checking",
    "Comparison": "inference.comparison",
    "Evidence": "inference.evidences",
    "Fit": "inference.posterior.fit",
    "Method": "inference.method",
    "az": "inference.diagnostics.arviz",
    "calibrate": "inference.calibration",
    "check": "inference.checking",
    "compare": "inference.comparison",
    "evidence": "inference.evidences",
    "fit": "inference.fitting",
    "update": "inference.fitting",
}
__getattr__, __dir__ = _catalogue.exports(__name__, "method", _EXPORTS)
