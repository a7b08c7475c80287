"""Operations whose result does not depend on any input, worked out once when a program is recorded.

A model's log density has many of them: logarithms of factorials of counts, whatever is made of covariates.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx

FULL = torch.ops.aten.full.default
LARGEST = 1_000_000  # numbers in a result that is kept: beyond it memory costs more than work


def fold_constants(module: fx.GraphModule) -> None:
    """Replace what follows from constants alone by its values; nothing is done where constants are written to."""
    known: dict[fx.Node, Any] = {}
    changed = {_root(other) for node in module.graph.nodes for other in _written(node)}
    for node in module.graph.nodes:
        if any(other in known for other in _written(node)):
            return
        if node.op == "get_attr" and isinstance(value := getattr(module, str(node.target), None), Tensor):
            known[node] = value
        elif node in changed:  # its values are of a moment
            continue
        elif node.target is FULL:
            known[node] = FULL(*node.args, **node.kwargs)
        elif _foldable(node) and all(source in known for source in node.all_input_nodes):
            args, kwargs = fx.map_arg((node.args, node.kwargs), known.__getitem__)
            with torch.no_grad():
                value = node.target(*args, **kwargs)
            parts = value if isinstance(value, (tuple, list)) else [value]
            if all(isinstance(part, Tensor) and part.numel() <= LARGEST for part in parts):
                known[node] = value
    for node, value in known.items():
        if node.op != "get_attr" and isinstance(value, Tensor) and any(user not in known for user in node.users):
            name = f"_folded_{len([*module.named_buffers()])}"
            first, last = value.reshape(-1)[:1], any(user.op == "output" for user in node.users)
            alike = value.numel() > 1 and not last and bool((value == first).all())  # no array of the same number
            module.register_buffer(name, first.reshape(()).clone() if alike else value.contiguous().clone())
            with module.graph.inserting_before(node):
                kept = module.graph.get_attr(name)
                if alike:
                    kept = module.graph.call_function(torch.ops.aten.expand.default, (kept, [*value.shape]))
                node.replace_all_uses_with(kept)
    module.graph.eliminate_dead_code()


def state_types(module: fx.GraphModule) -> None:
    """Write into operations that make tensors of nothing the type that they made when they were recorded.

    Those that were told none take torch's default, which is the program's while it is recorded and the user's later.
    """
    for node in module.graph.nodes:
        made = node.meta.get("dtype")
        if _makes(node) and node.kwargs.get("dtype") is None and made is not None:
            node.update_kwarg("dtype", made)


def check_branches(module: fx.GraphModule) -> None:
    """Raise if the function has asked for a number that depends on an input, which would be burnt in.

    What it asks of constants alone, such as how many groups there are in a column of the data, is the same each time.

    Raises
    ------
    RuntimeError
        If it has.
    """
    moving: set[fx.Node] = set()
    for node in module.graph.nodes:
        if node.op == "placeholder" or any(source in moving for source in node.all_input_nodes):
            moving.add(node)
            tags = getattr(node.target, "tags", ())
            if torch.Tag.data_dependent_output in tags:
                raise RuntimeError("what it does depends on values")


def _foldable(node: fx.Node) -> bool:
    """Whether a node is an operation on tensors with the same result each time, which is no random number."""
    target = node.target
    if target is operator.getitem:
        return True
    if node.op != "call_function" or not isinstance(target, torch._ops.OpOverload) or not node.all_input_nodes:
        return False
    return not target._schema.is_mutable and torch.Tag.nondeterministic_seeded not in target.tags


def _root(node: fx.Node) -> fx.Node:
    """What a node is a view of, or the same as: itself, if of nothing."""
    while isinstance(node.target, torch._ops.OpOverload) and node.args and isinstance(node.args[0], fx.Node):
        if node.target._schema.arguments[0].alias_info is None:
            break
        node = node.args[0]
    return node


def _makes(node: fx.Node) -> bool:
    """Whether a node is an operation on numbers alone that can be told of which type its result is to be."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or node.all_input_nodes:
        return False
    return any(argument.name == "dtype" and argument.kwarg_only for argument in target._schema.arguments)


def _written(node: fx.Node) -> list[fx.Node]:
    """What an operation changes in place."""
    target, found = node.target, []
    if isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable:
        for i, argument in enumerate(target._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                given = node.args[i] if i < len(node.args) else node.kwargs.get(argument.name)
                found += [x for x in (given if isinstance(given, (list, tuple)) else [given]) if isinstance(x, fx.Node)]
    return found
