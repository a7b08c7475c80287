"""Inference: methods that climb the bound, one per file, and what a fit can do."""

try:
    from zoo import catalogue as _catalogue
except ImportError as error:
    if error.path is None:  # which only names have that are not in what was found
        raise
    raise ImportError(
        f"latentzoo's package 'zoo' is shadowed: `import zoo` finds {error.path}; rename that file, or uninstall the "
        "package it belongs to"
    ) from error

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
