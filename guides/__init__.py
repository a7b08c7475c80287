"""Guides: families for q over the latents that are not enumerated, one per file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo import catalogue as _catalogue

if TYPE_CHECKING:  # names for type checkers and editors; at run time they are imported when first used
    from guides.encoder import Encoder
    from guides.full_rank import FullRank
    from guides.guide import Guide
    from guides.mean_field import MeanField
    from guides.point import Point

__getattr__ = _catalogue.lazy(__name__, "guide", {"Guide": "guides.guide"})

__all__ = ["Encoder", "FullRank", "Guide", "MeanField", "Point"]


def __dir__() -> list[str]:
    return sorted({*globals(), "Guide", *_catalogue.entries("guide")})
