"""Supports that stay themselves: a copy of `constraints.positive`, or one read from a pickle, is that object again.

Torch makes one of each, and what reads fields and picks bijections tells them apart by identity.
"""

from __future__ import annotations

import copyreg
from typing import Any

from torch.distributions import constraints

SUPPORTS = {name: s for name, s in vars(constraints).items() if isinstance(s, constraints.Constraint)}
NAMES = {id(support): name for name, support in SUPPORTS.items()}


def _reduced(support: constraints.Constraint) -> str | tuple[Any, ...]:
    """Return the name under which torch has a support; the parts of one that was made by a call."""
    return NAMES.get(id(support)) or support.__reduce_ex__(2)


def keep_supports() -> None:
    """Tell pickle and copy, of which both ask copyreg."""
    for support in SUPPORTS.values():
        copyreg.pickle(type(support), _reduced)
