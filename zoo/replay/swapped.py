"""Modules called with other weights than their own, as `torch.func.functional_call` calls them, at less cost a call.

That walks through all submodules in every call, to find out which weights are tied, and checks each name twice: a
quarter of a millisecond, of which a training step pays several. Here the places of a module's weights are noted once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

Place = tuple[dict[str, Any], str]  # where a module keeps a parameter or buffer, and under which name
_KNOWN: WeakKeyDictionary[nn.Module, dict[str, list[Place]]] = WeakKeyDictionary()


def called_with(module: nn.Module, weights: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> Any:
    """Call a module with these tensors in place of its parameters and buffers of those names; tied ones stay tied."""
    places = _KNOWN.get(module)
    if places is None or not weights.keys() <= places.keys():
        places = _KNOWN[module] = _places(module)
    before: list[tuple[Place, Any]] = []
    try:
        for name, tensor in weights.items():
            for place in places[name]:
                store, key = place
                before.append((place, store[key]))
                store[key] = tensor
        return module(*args, **kwargs)
    finally:
        for (store, key), old in before:
            store[key] = old


def _places(module: nn.Module) -> dict[str, list[Place]]:
    """Where each parameter and buffer stands, by every name it has; in several places if it is tied."""
    found: dict[str, list[Place]] = {}
    same: dict[int, list[Place]] = {}
    for prefix, part in module.named_modules(remove_duplicate=False):
        for store in (part._parameters, part._buffers):
            for key, tensor in store.items():
                if tensor is not None:
                    alike = same.setdefault(id(tensor), [])
                    if not any(s is store and k == key for s, k in alike):
                        alike.append((store, key))
                    found[f"{prefix}.{key}" if prefix else key] = alike
    return found
