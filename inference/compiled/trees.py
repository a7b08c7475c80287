"""Nested inputs as flat lists of tensors, and back; torch's own pytrees take longer than a small compiled program."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor


def leaves(tree: Any) -> list[Tensor]:
    """Tensors of nested tuples, lists and dicts, depth first, the entries of dicts by name."""
    found: list[Tensor] = []
    _collect(tree, found)
    return found


def _collect(tree: Any, found: list[Tensor]) -> None:
    if isinstance(tree, Tensor):
        found.append(tree)
    elif isinstance(tree, dict):
        for name in sorted(tree):
            _collect(tree[name], found)
    else:
        for branch in tree:
            _collect(branch, found)


def rebuilt(example: Any, tensors: Iterator[Tensor]) -> Any:
    """Put tensors in the places that those of the example have in it."""
    if isinstance(example, Tensor):
        return next(tensors)
    if isinstance(example, dict):
        found = {name: rebuilt(example[name], tensors) for name in sorted(example)}
        return {name: found[name] for name in example}
    return tuple(rebuilt(branch, tensors) for branch in example)
