"""The fit, and the questions that can be asked of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inference.diagnostics.arviz import az as az
else:

    def __getattr__(name: str) -> Any:
        """Return ArviZ as `az`, as version 0.1.0 did; `from inference import az` is where it is now."""
        if name == "az":
            from inference.diagnostics.arviz import az

            return az
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
