"""Arguments of distributions and functions in text, checked when it is read."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from inspect import Parameter
from typing import Any

from zoo.errors import ModelError

TECHNICAL = ("validate_args", "is_sparse")  # which say nothing of what is drawn
# Of each of these a distribution that has them takes one.
EITHER = (
    ("probs", "logits"),
    ("gate", "gate_logits"),
    ("covariance_matrix", "precision_matrix", "scale_tril"),
)


def check_arguments(node: ast.Call, name: str, function: Callable[..., Any]) -> None:
    """Check that a call has the arguments that a function takes.

    Raises
    ------
    ModelError
        With what it takes, and what was found.
    """
    signature = inspect.signature(function)
    taken = [p for p in signature.parameters.values() if p.name not in TECHNICAL]
    names = [str(k.arg) for k in node.keywords]
    twice = next((n for n in names if names.count(n) > 1), None)
    try:
        if twice is not None:
            raise TypeError(f"multiple values for argument {twice!r}")
        given = signature.replace(parameters=taken).bind(*node.args, **dict.fromkeys(names)).arguments
        for choice in EITHER:
            if {*choice} <= {p.name for p in taken} and len({*choice} & {*given}) != 1:
                raise TypeError(f"expected one of {', '.join(choice)}")
    except TypeError as error:
        takes = ", ".join(map(_written, taken))
        raise ModelError(f"{name} takes {takes}; found {ast.unparse(node)!r}: {error}") from None


def _written(parameter: Parameter) -> str:
    if parameter.kind is Parameter.VAR_POSITIONAL:
        return f"*{parameter.name}"
    if parameter.default is Parameter.empty:
        return parameter.name
    return parameter.name if parameter.default is None else f"{parameter.name}={parameter.default!r}"
