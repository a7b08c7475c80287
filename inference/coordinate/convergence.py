"""When a sequence of objectives has arrived."""

from __future__ import annotations

import torch

PASSES = 5  # passes over mini-batches that are compared with their noise
COARSE = 1000.0  # how many times the tolerance a pass over mini-batches has to gain


def arrived(history: list[float], tolerance: float, eps: float) -> bool:
    """Tell whether a sequence with linear convergence is within `tolerance` of its limit (Aitken extrapolation).

    A step that does not rise, by no more than rounding, ends it too: what is left is below what numbers resolve.
    """
    if len(history) < 3:
        return False
    before, now = history[-2] - history[-3], history[-1] - history[-2]
    if now <= 0 and -now <= 8 * eps * abs(history[-1]):
        return True
    rate = now / before if before > 0 else 1.0
    return 0 <= rate < 1 and now * rate / (1 - rate) < tolerance


def settled(history: list[float], tolerance: float) -> bool:
    """Tell whether a noisy sequence has stopped rising: its last mean gain is small, or within its noise."""
    if len(history) <= PASSES:
        return False
    gains = torch.tensor(history[-PASSES - 1 :], dtype=torch.float64).diff()
    return float(gains.mean()) < max(COARSE * tolerance, 0.1 * float(gains.std()))
