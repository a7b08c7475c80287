"""Inference: methods that climb the bound, one per file, and what a fit can do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo import catalogue as _catalogue

if TYPE_CHECKING:  # names for type checkers and editors; at run time they are imported when first used
    from inference.comparison import Comparison, compare
    from inference.em import EM
    from inference.exact import Exact
    from inference.fitting import fit
    from inference.map import MAP
    from inference.method import Method
    from inference.result import Fit
    from inference.svi import SVI

_EXPORTS = {
    "Comparison": "inference.comparison",
    "Fit": "inference.result",
    "Method": "inference.method",
    "compare": "inference.comparison",
    "fit": "inference.fitting",
}
__getattr__ = _catalogue.lazy(__name__, "method", _EXPORTS)

__all__ = ["EM", "MAP", "SVI", "Comparison", "Exact", "Fit", "Method", "compare", "fit"]


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS, *_catalogue.entries("method")})
