"""Arguments of distributions that plates repeat for every row: what follows from them is worked out once."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor

OTHER = {"probs": "logits", "logits": "probs"}


def compact(view: Tensor) -> Tensor:
    """Drop the repetitions of an expanded argument, keeping its dimensions."""
    for dim in range(view.ndim):
        if view.shape[dim] > 1 and view.stride(dim) == 0:
            view = view.narrow(dim, 0, 1)
    return view


def entrywise(function: Callable[[Tensor], Tensor], value: Tensor) -> Tensor:
    """Return the function of every entry, worked out once for those that are repeated."""
    return function(compact(value)).expand(value.shape)


def argument_of(base: Any, name: str) -> Any:
    """Return an argument of a distribution; logits of repeated probs, and probs of logits, without writing these out.

    Of a mixture of Bernoullis, logits of all rows in all components would be components times the size of the data.
    """
    other = OTHER.get(name, "")
    own, known = vars(base).get(name), vars(base).get(other)
    if not isinstance(known, Tensor) or known.ndim != len(base.batch_shape) or not _repeats(known) or _repeats(own):
        return getattr(base, name, None)
    once = copy.copy(base)
    vars(once).pop(name, None)  # written out by a density that was asked for
    vars(once)[other] = compact(known)
    return getattr(once, name).expand(known.shape)


def _repeats(value: Any) -> bool:
    return isinstance(value, Tensor) and compact(value).shape != value.shape
