"""Whether operations are being recorded for a compiler: what looks at values would be fixed to one of its ways."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch.fx.experimental.proxy_tensor import get_proxy_mode

_RECORDING = ContextVar("recording", default=False)


def recording() -> bool:
    """Whether operations are being recorded."""
    return _RECORDING.get() or get_proxy_mode() is not None


@contextmanager
def while_recording() -> Iterator[None]:
    """Say so inside."""
    token = _RECORDING.set(True)
    try:
        yield
    finally:
        _RECORDING.reset(token)
