"""Results of few numbers that are worked out before the loops over many numbers that use them.

Inductor writes a chain of operations into the loop that uses its result. In the loops of an optimizer's step, say, the
compiler cannot know that stores leave the rate alone, and takes two powers and a square root for every vector.
"""

from __future__ import annotations

import torch
from torch import fx

SMALL = 64  # numbers in a result that is worked out first
LARGE = 4096  # numbers in the results that use it


def small_first(module: fx.GraphModule) -> None:
    """Have results of few numbers, used by operations on many, written to memory; it takes shapes of a recording."""
    for node in list(module.graph.nodes):
        shape = node.meta.get("shape")
        if shape is None or not _computes(node) or shape.numel() > SMALL or not _meets_many(node):
            continue
        strides = torch.empty(shape, device="meta").stride()
        with module.graph.inserting_after(node):
            # What is viewed by its strides has to be there, so that Inductor keeps it.
            kept = module.graph.call_function(torch.ops.aten.as_strided.default, (node, [*shape], [*strides]))
        node.replace_all_uses_with(kept, delete_user_cb=lambda user, kept=kept: user is not kept)


def _meets_many(node: fx.Node) -> bool:
    """Whether an operation on many numbers uses a result, or a view of it."""
    for user in node.users:
        if _computes(user):
            shape = user.meta.get("shape")
            if shape is not None and shape.numel() >= LARGE:
                return True
        elif user.op == "call_function" and _meets_many(user):
            return True
    return False


def _computes(node: fx.Node) -> bool:
    """Whether a node makes new numbers, and is not a view of others, or some of several results."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or target._schema.is_mutable or not node.all_input_nodes:
        return False
    return all(result.alias_info is None for result in target._schema.returns)
