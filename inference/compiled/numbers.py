"""Numbers that a program computes, each under a name of its own: equal ones under one, known ones as what they are."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


class UnsupportedError(Exception):
    """The program cannot be written out."""


@dataclass(frozen=True, eq=False)
class Line:
    """A number that is computed.

    Attributes
    ----------
    name
        Its name in C++.
    text
        What it is computed by; empty for an input.
    truth
        Whether it is a truth value.
    """

    name: str
    text: str = ""
    truth: bool = False


Number = Line | float | bool


class Lines:
    """Computed numbers in order, at most `longest` of them."""

    def __init__(self, longest: int) -> None:
        self.longest = longest
        self.all: list[Line] = []
        self._known: dict[str, Line] = {}

    def new(self, text: str, *, truth: bool = False) -> Line:
        """The number that an expression is, the one that there is if there is one."""
        line = self._known.get(text)
        if line is None:
            if len(self.all) >= self.longest:
                raise UnsupportedError("it is too long")
            line = self._known[text] = Line(f"t{len(self.all)}", text, truth)
            self.all.append(line)
        return line

    @staticmethod
    def text(value: Number) -> str:
        """How a number is written."""
        if isinstance(value, Line):
            return value.name
        if isinstance(value, bool | np.bool_):
            return "true" if value else "false"
        if math.isfinite(value):
            return f"({float(value)!r})" if value < 0 else repr(float(value))
        return "NAN" if math.isnan(value) else ("INFINITY" if value > 0 else "(-INFINITY)")

    def call(self, function: str, known: Callable[..., Any], *args: Number, truth: bool = False) -> Number:
        """function(args); its value if they are known."""
        values = [a if isinstance(a, bool) else np.float64(a) for a in args if not isinstance(a, Line)]
        if len(values) == len(args):
            with np.errstate(all="ignore"):
                value = known(*values)
            return bool(value) if truth else float(value)
        return self.new(f"{function}({', '.join(map(self.text, args))})", truth=truth)

    def binary(self, sign: str, known: Callable[..., Any], a: Number, b: Number, *, truth: bool = False) -> Number:
        """A sign between two numbers; its value if they are known."""
        if not isinstance(a, Line) and not isinstance(b, Line):
            with np.errstate(all="ignore"):
                value = known(np.float64(a) if not truth else a, np.float64(b) if not truth else b)
            return bool(value) if truth else float(value)
        first, second = self.text(a), self.text(b)
        if sign in "+*" and first > second:
            first, second = second, first
        return self.new(f"{first} {sign} {second}", truth=truth)

    def add(self, a: Number, b: Number) -> Number:
        """A + b; zeros vanish."""
        if _is(a, 0.0):
            return b
        return a if _is(b, 0.0) else self.binary("+", np.add, a, b)

    def sub(self, a: Number, b: Number) -> Number:
        """A - b."""
        if _is(b, 0.0):
            return a
        return self.neg(b) if _is(a, 0.0) else self.binary("-", np.subtract, a, b)

    def mul(self, a: Number, b: Number) -> Number:
        """A b; ones vanish. Zeros do not: what they multiply may be infinite."""
        if _is(a, 1.0):
            return b
        if _is(b, 1.0):
            return a
        if _is(a, -1.0):
            return self.neg(b)
        return self.neg(a) if _is(b, -1.0) else self.binary("*", np.multiply, a, b)

    def div(self, a: Number, b: Number) -> Number:
        """A / b."""
        return a if _is(b, 1.0) else self.binary("/", np.divide, a, b)

    def neg(self, a: Number) -> Number:
        """-a."""
        return self.new(f"-{self.text(a)}") if isinstance(a, Line) else -float(a)

    def where(self, condition: Number, a: Number, b: Number) -> Number:
        """A where the condition holds, else b."""
        if not isinstance(condition, Line):
            return a if condition else b
        if a is b or (not isinstance(a, Line) and not isinstance(b, Line) and a == b):
            return a
        truth = isinstance(a, bool) or (isinstance(a, Line) and a.truth)
        return self.new(f"{condition.name} ? {self.text(a)} : {self.text(b)}", truth=truth)


def _is(a: Number, value: float) -> bool:
    return not isinstance(a, Line) and not isinstance(a, bool) and a == value
