"""Inference: methods that climb the bound, one per file, and what a fit can do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo import catalogue as _catalogue

if TYPE_CHECKING:  # names for type checkers and editors; at run time they are imported when first used
    from inference.comparison import Comparison, compare
    from inference.fitting import fit
    from inference.method import Method
    from inference.posterior.fit import Fit

_EXPORTS = {
    "Comparison": "inference.comparison",
    "Fit": "inference.posterior.fit",
    "Method": "inference.method",
    "compare": "inference.comparison",
    "fit": "inference.fitting",
}
__getattr__ = _catalogue.lazy(__name__, "method", _EXPORTS)

__all__ = ["Comparison", "Fit", "Method", "compare", "fit"]
__all__ += sorted(_catalogue.entries("method"))


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS, *_catalogue.entries("method")})
