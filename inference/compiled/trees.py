"""Nested inputs as flat lists of tensors, and back; torch's own pytrees take longer than a small compiled program."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor


def leaves(tree: Any) -> list[Tensor]:
    """Tensors of nested tuples, lists and dicts, depth first, the entries of dicts by name; None has none."""
    tensors: list[Tensor] = []
    _collect(tree, tensors)
    return tensors


def _collect(tree: Any, tensors: list[Tensor]) -> None:
    if isinstance(tree, Tensor):
        tensors.append(tree)
    elif isinstance(tree, dict):
        for name in sorted(tree):
            _collect(tree[name], tensors)
    elif tree is not None:
        for branch in tree:
            _collect(branch, tensors)


def rebuilt(example: Any, tensors: Iterator[Tensor]) -> Any:
    """Put tensors in the places that those of the example have in it."""
    if isinstance(example, Tensor):
        return next(tensors)
    if example is None:
        return None
    if isinstance(example, dict):
        branches = {name: rebuilt(example[name], tensors) for name in sorted(example)}
        return {name: branches[name] for name in example}
    parts = [rebuilt(branch, tensors) for branch in example]
    return type(example)(*parts) if hasattr(example, "_fields") else tuple(parts)  # a named tuple, or a plain one
