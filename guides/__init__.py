"""Guides: families for q over the latents that are not enumerated, one per file."""

from zoo import catalogue as _catalogue

# Beside the guides, which are found in their files; after a change here: python -m zoo.stubs
_EXPORTS = {"Guide": "guides.guide"}
__getattr__, __dir__ = _catalogue.exports(__name__, "guide", _EXPORTS)
