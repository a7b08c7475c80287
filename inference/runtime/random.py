"""Randomness that belongs to a fit: seeded inside, untouched outside."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from zoo.errors import ModelError, short
from zoo.replay.random import reseed
from zoo.replay.surroundings import undisturbed


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Run with the RNG seeded; put the global RNG back as it was.

    The RNG, Pyro's handlers and its parameter store belong to the process, so threads take turns.
    """
    devices = [device] if device is not None and device.type == "cuda" else []
    with undisturbed(), torch.random.fork_rng(devices=devices):
        reseed(seed)
        yield


def as_seed(seed: int | None) -> int:
    """Return `seed` checked, or a fresh one from the system's entropy, which leaves the global RNG alone.

    Raises
    ------
    ModelError
        If it is not a whole number from 0 to 2^63 - 1.
    """
    if seed is None:
        return int.from_bytes(os.urandom(4), "little")
    try:
        number = -1 if isinstance(seed, bool) else operator.index(seed)
    except (TypeError, RuntimeError):  # as tensors of no integer, or of several, say it
        number = -1
    if not 0 <= number < 2**63:
        raise ModelError(f"seed must be a whole number, 0 or above, not {short(seed)}")
    return number
