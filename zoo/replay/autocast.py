"""The caller's `torch.autocast` for layers of networks, and for nothing else: densities keep their precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

KINDS = "cpu", "cuda"
LAYERS = nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention


@contextmanager
def autocast_of_layers() -> Iterator[None]:
    """Leave `torch.autocast`, if the caller is in it, but for layers that multiply by weights.

    `with torch.autocast("cuda", dtype=torch.bfloat16): fit(...)` means the networks. Matrix products of a covariance or
    of a regression with three digits are wrong answers, and so are sums over rows, so all but the layers runs as
    without; what these return comes back in the precision of their weights. Numbers in float64 are not cast at all.
    """
    wanted = {kind: torch.get_autocast_dtype(kind) for kind in KINDS if torch.is_autocast_enabled(kind)}
    if not wanted:
        yield
        return
    entered: list[ExitStack] = []

    def enter(module: nn.Module, _: Any) -> None:
        if isinstance(module, LAYERS):
            entered.append(ExitStack())
            for kind, dtype in wanted.items():
                # Weights are cast anew each time: of those that are kept, transforms of functions know nothing.
                entered[-1].enter_context(torch.autocast(kind, dtype=dtype, cache_enabled=False))

    def leave(module: nn.Module, _: Any, out: Any) -> Any:
        if not isinstance(module, LAYERS):
            return None
        entered.pop().close()
        return _as(next(module.parameters()).dtype, out)

    with ExitStack() as stack:
        for kind in wanted:
            stack.enter_context(torch.autocast(kind, enabled=False))
        stack.callback(register_module_forward_pre_hook(enter).remove)
        stack.callback(register_module_forward_hook(leave, always_call=True).remove)
        yield


def _as(dtype: torch.dtype, out: Any) -> Any:
    """Give what a layer returns a precision: a tensor, or tuples of tensors as recurrent cells have them."""
    if isinstance(out, tuple):
        parts = [_as(dtype, each) for each in out]
        return type(out)(*parts) if hasattr(out, "_fields") else tuple(parts)  # sequences of several lengths have names
    return out.to(dtype) if isinstance(out, Tensor) and out.is_floating_point() else out
