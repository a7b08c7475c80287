"""YAML as TOML has it: tables, lists, text, numbers, and nothing that makes objects or refers to something else."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import yaml

from zoo.errors import ModelError

PLAIN = {f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null", "timestamp")}
WORDS = {"true": True, "false": False}
WHOLE = re.compile(r"[+-]?\d+")
DIGITS = 300  # of whole numbers; longer ones are no floats either
Keys = tuple[str, ...]


def tree_of(text: str) -> tuple[dict[str, Any], Callable[[Keys], int]]:
    """Read YAML into a table, and return with it what says in which line keys stand, or the table that lacks them.

    Raises
    ------
    ModelError
        Beginning with the line, for what is no YAML, twice the same key, tags, and references.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ModelError(f"{line}: is no YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ModelError(f"1: is no YAML: {str(error) or 'too deep'}".partition("\n")[0]) from None
    if not isinstance(root, yaml.MappingNode):
        raise ModelError("1: expected a table of keys, such as `name: Coin`")
    reader = _Tree()
    return reader.table(root, ()), reader.line_of


class _Tree:
    """Nodes of YAML as plain values; the line of each key."""

    def __init__(self) -> None:
        self.lines: dict[Keys, int] = {}
        self._seen: set[int] = set()

    def table(self, node: Any, keys: Keys) -> dict[str, Any]:
        """Read a table."""
        found: dict[str, Any] = {}
        for key, value in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or key.tag not in PLAIN:
                raise ModelError(f"{line}: expected a name, found {key.tag.rpartition(':')[2]}")
            if name in found:
                raise ModelError(f"{line}: {'.'.join((*keys, name))} is there twice")
            self.lines[(*keys, name)] = line
            found[name] = self.value(value, (*keys, name))
        return found

    def line_of(self, keys: Keys) -> int:
        """Return the number of the line that gives these keys, else that of the innermost table they are in."""
        there = (self.lines[keys[:depth]] for depth in range(len(keys), 0, -1) if keys[:depth] in self.lines)
        return next(there, 1)

    def value(self, node: Any, keys: Keys) -> Any:
        """Read a table, a list, text or a number."""
        line = node.start_mark.line + 1
        if id(node) in self._seen:
            raise ModelError(f"{line}: {'.'.join(keys)}: references (&, *) are not read; write it out")
        self._seen.add(id(node))
        if node.tag not in PLAIN:
            raise ModelError(f"{line}: {'.'.join(keys)}: {node.tag} makes an object; only text and numbers are read")
        if isinstance(node, yaml.MappingNode):
            return self.table(node, keys)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(part, keys) for part in node.value]
        return _scalar(node.value) if node.style is None else node.value


def _scalar(text: str) -> bool | int | float | str:
    """Read what stands without quotes: a number as in Python, true, false, or text."""
    if text in WORDS:
        return WORDS[text]
    if WHOLE.fullmatch(text) and len(text) <= DIGITS:
        return int(text)
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text
