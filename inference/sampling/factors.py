"""Densities at points where a matrix has no Cholesky factor: no number there, and numbers at all points beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch.overrides import TorchFunctionMode

Result = TypeVar("Result")


class NoFactorIsNaN(TorchFunctionMode):
    """Inside, a matrix that is not positive definite has NaN for its Cholesky factor, where torch raises an error.

    So one such matrix among many that are evaluated at once leaves the others' densities and gradients alone.

    Examples
    --------
    >>> with NoFactorIsNaN():
    ...     torch.linalg.cholesky(torch.tensor([[[4.0]], [[-1.0]]])).flatten().tolist()
    [2.0, nan]
    """

    def __torch_function__(
        self, func: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Evaluate one function of torch."""
        if func is not torch.linalg.cholesky:
            return func(*args, **(kwargs or {}))
        factor, info = torch.linalg.cholesky_ex(*args, **(kwargs or {}))
        return torch.where((info == 0)[..., None, None], factor, torch.nan)


def evaluated(function: Callable[..., Result], *inputs: Any) -> Result:
    """Evaluate densities at many points at once, NaN where a matrix has no Cholesky factor."""
    try:
        return function(*inputs)
    except RuntimeError:  # which does not say where
        with NoFactorIsNaN():
            return function(*inputs)
