"""Arrays of whatever library as NumPy's."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def as_numpy(array: Any, dtype: type | None = None) -> np.ndarray:
    """Return an array or a tensor, on whatever device and with or without gradients, as an array of NumPy's.

    NumPy has no type for bfloat16, which becomes float32.

    Examples
    --------
    >>> import torch
    >>> as_numpy(torch.ones(2, dtype=torch.bfloat16)).dtype
    dtype('float32')
    """
    if isinstance(array, Tensor):
        array = array.detach().cpu()
        array = (array.float() if array.dtype == torch.bfloat16 else array).numpy()
    return np.asarray(array, dtype=dtype)
