"""Models that write into tensors of their own, ``p[0] = theta``, run at many values in one vectorized call.

`torch.vmap` cannot write a value that differs by draw into a tensor that is the same for all. Where that is what stops
a run, the model is run again with tensors made anew for each draw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

REFUSED = "is not possible because there exists a Tensor"  # what vmap says then
MADE = frozenset(
    {
        *(torch.zeros, torch.ones, torch.empty, torch.full, torch.eye, torch.tensor, torch.clone),
        *(torch.zeros_like, torch.ones_like, torch.empty_like, torch.full_like),
        *(Tensor.new_zeros, Tensor.new_ones, Tensor.new_empty, Tensor.new_full, Tensor.clone),
    }
)


class Writable(TorchFunctionMode):
    """Makes new floating-point tensors differ by draw, as `values` do, so that these can be written into them."""

    def __init__(self, values: Iterable[Tensor]) -> None:
        super().__init__()
        self.zero = sum((torch.zeros_like(v.reshape(-1)[0]) for v in values if v.numel()), torch.zeros(()))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of torch; add nothing, of each draw, to the tensor that it makes."""
        made = func(*args, **(kwargs or {}))
        if func in MADE and made.is_floating_point():
            made = made + self.zero.to(made)
        return made


def run_writable(run: Callable[[], Any], values: Iterable[Tensor]) -> Any:
    """Run a model; once more, if what stops it is that it writes values of each draw into a tensor of all."""
    try:
        return run()
    except RuntimeError as error:
        if REFUSED not in str(error):
            raise
    with Writable(values):
        return run()
