"""Seeding that costs what it should."""

from __future__ import annotations

import torch


def reseed(seed: int) -> None:
    """Seed torch's generators, as `torch.manual_seed` does, of the devices that are there.

    For every kind of device that is not in use, `torch.manual_seed` queues a call with a formatted stack trace: some
    milliseconds, and memory that is never given back.

    Parameters
    ----------
    seed
        From 0 to 2^63 - 1.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)
