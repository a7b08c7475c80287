"""Gradients for a fit, whatever its caller has switched off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def differentiable() -> Iterator[None]:
    """Let gradients be taken inside of `torch.no_grad` and `torch.inference_mode`."""
    with torch.inference_mode(mode=False), torch.enable_grad():
        yield
