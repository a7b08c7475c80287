"""Names that tensors had in fits saved before, as they are called now."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

BUFFERS = {"buffer.center": "buffer.pixels.center", "buffer.spread": "buffer.pixels.unit"}  # of `zoo.VAE`
ENCODER = re.compile(r"(.*\.)network\.layers\.(\d+)\.(weight|bias)")  # the whole perceptron, whose last layer gave q


def renamed(described: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a saved fit under the names that they have today."""
    found = dict(tensors)
    if described["model"]["module"] == "zoo.vae":
        found = {BUFFERS.get(n, n): v for n, v in found.items()}
    layers = [
        m for m in map(ENCODER.fullmatch, found) if m is not None and m[1].startswith("q.") and "rows" not in m[1]
    ]
    for match in layers:
        part, number = match[1], int(match[2])
        last = number == max(int(m[2]) for m in layers if m[1] == part)
        place = "family.last" if last else f"rows.network.0.layers.{number}"
        found[f"{part}{place}.{match[3]}"] = found.pop(match[0])
        for name in ("shift", "inverse"):
            if f"{part}{name}" in found:
                found[f"{part}rows.{name}"] = found.pop(f"{part}{name}")
    return found
