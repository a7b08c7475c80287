"""Guides: families for q over the latents that are not enumerated, one per file."""

try:
    from zoo import catalogue as _catalogue
except ImportError as error:
    if error.path is None:  # which only names have that are not in what was found
        raise
    raise ImportError(
        f"latentzoo's package 'zoo' is shadowed: `import zoo` finds {error.path}; rename that file, or uninstall the "
        "package it belongs to"
    ) from error

# Beside the guides, which are found in their files; after a change here: python -m zoo.stubs
_EXPORTS = {"Guide": "guides.guide"}
__getattr__, __dir__ = _catalogue.exports(__name__, "guide", _EXPORTS)
