"""Maximum a posteriori by gradient."""

from __future__ import annotations

from dataclasses import dataclass, field

from guides.guide import Guide
from guides.point import Point
from inference.svi import SVI


@dataclass(frozen=True)
class MAP(SVI):
    """The posterior mode by gradient: `SVI` with `Point()` as its guide.

    z* = argmax_z log p(x, z; theta), enumerated sites summed out.
    """

    guide: Guide = field(default_factory=Point)
