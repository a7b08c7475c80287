"""Guides: families for q over the latents that are not enumerated, one per file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo import catalogue as _catalogue

if TYPE_CHECKING:  # names for type checkers and editors; at run time they are imported when first used
    from guides.guide import Guide

__getattr__ = _catalogue.lazy(__name__, "guide", {"Guide": "guides.guide"})

__all__ = ["Guide"]
__all__ += sorted(_catalogue.entries("guide"))


def __dir__() -> list[str]:
    return sorted({*globals(), "Guide", *_catalogue.entries("guide")})
