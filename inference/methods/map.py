"""Maximum a posteriori by gradient."""

from __future__ import annotations

from dataclasses import dataclass, field

from guides.guide import Guide
from guides.point import Point
from inference.methods.svi import SVI
from zoo.errors import MethodError


@dataclass(frozen=True)
class MAP(SVI):
    """The posterior mode by gradient: `SVI` with `Point()` as its guide.

    z* = argmax_z log p(x, z; theta), enumerated sites summed out.

    Raises
    ------
    MethodError
        If the guide is not a point.
    """

    guide: Guide = field(default_factory=Point)

    def __post_init__(self) -> None:
        """Check the settings, and that the guide is a point."""
        super().__post_init__()
        if not self.guide.point:
            raise MethodError(f"map needs a guide that is a point, not {self.guide!r}; use svi with that guide")
