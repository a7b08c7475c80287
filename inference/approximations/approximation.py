"""What q is after a fit: something that can be drawn from, written to files and made again."""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from inference.runtime.named import imported, location
from zoo.errors import DataError, FitError, MethodError
from zoo.program.program import Program
from zoo.replay.evaluate import Values

KINDS: dict[Any, type[Approximation]] = {}  # what saved fits call them -> classes, noted when they are defined


class Approximation(ABC):
    """q(latents): the answer of a method.

    A subclass also says how it is saved: what it is made of as JSON (`describe`) and as tensors, and how it is made
    again from these (`read`). It may stand in a user's own file, which a saved fit then names.

    Attributes
    ----------
    kind
        What a saved fit calls it; no two have the same.
    point
        Whether q is a single value, so that there are no draws to summarize.
    exact
        Whether its draws are of the posterior itself, so that there is no log q to correct them by.
    kept
        How many draws it consists of, in so many `chains`; None where it can be drawn from afresh.
    states, stats
        Draws of the enumerated sites, (draws, ...), and what a sampler says of each draw, (chains, draws).
    """

    kind: ClassVar[str]
    point = False
    exact = False
    chains = 1
    states: Mapping[str, Tensor] = MappingProxyType({})
    stats: Mapping[str, np.ndarray] = MappingProxyType({})

    def __init_subclass__(cls, **options: Any) -> None:
        """Note its kind, for `read`.

        Raises
        ------
        MethodError
            If the kind is that of one of the library's.
        """
        super().__init_subclass__(**options)
        kind = vars(cls).get("kind")
        known = KINDS.get(kind)
        if known is not None and known.__module__.startswith(f"{__package__}."):
            raise MethodError(f"{cls.__name__}: {kind!r} is the kind of {known.__name__}; give it a kind of its own")
        if kind is not None:
            KINDS[kind] = cls

    @property
    def kept(self) -> int | None:
        """How many draws it consists of."""
        return None

    @property
    def covers_new_rows(self) -> bool:
        """Whether q also says what the locals of rows never seen are."""
        return False

    @abstractmethod
    def draw(self, program: Program, count: int) -> tuple[Values, Tensor]:
        """Return `count` draws of the latents, stacked along dimension 0, and log q of each, shape (count,)."""

    def weighed(self, program: Program, count: int) -> tuple[Values, Tensor, Tensor] | None:
        """Return `count` draws with log p(x, z) and log q(z) of each, where q knows log p by itself; else None."""
        return None

    def propose(self, program: Program, points: Values, count: int) -> tuple[Values, Tensor] | None:
        """Return `count` draws of the locals of the program's rows and log q per row, (count, rows).

        None if q says nothing of these rows, so that the model's own prior has to propose.
        """
        return None

    def row_moments(self, program: Program, points: Values) -> tuple[Values, Values] | None:
        """Return mean and standard deviation of the locals of the program's rows under q; None if it does not say."""
        return None

    def fixed(self, program: Program) -> Values | None:
        """Return the global latents where there are any and all of them are at a point, without drawing locals."""
        return None

    def responsibilities(self, program: Program, points: Values) -> dict[str, Tensor] | None:
        """Return q(z_i = k) of each enumerated site of a row, (rows, states); None if q does not say."""
        return None

    def at(self, points: Values) -> Approximation:
        """Return q with the values of parameters and network weights that its files leave out, if it needs them."""
        return self

    def describe(self) -> dict[str, Any]:
        """Return what it is made of besides tensors, as JSON."""
        return {}

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors it is made of, by name."""

    @classmethod
    @abstractmethod
    def read(cls, described: Mapping[str, Any], tensors: dict[str, Tensor], program: Program) -> Approximation:
        """Make it again from what `describe` and `tensors` returned, for the program that was fitted."""


def describe(q: Approximation) -> dict[str, Any]:
    """Return what q is, as JSON; its tensors come on top.

    Raises
    ------
    FitError
        If its class has no kind.
    """
    cls = type(q)
    kind = getattr(cls, "kind", None)
    if kind is None:
        raise FitError(f"cannot save an approximation of type {cls.__name__}: it has no `kind`")
    ours = cls.__module__.startswith(f"{__package__}.")
    return {"kind": kind, **({} if ours else {"import": location(cls)}), **q.describe()}


def read(described: Mapping[str, Any], tensors: dict[str, Tensor], program: Program) -> Approximation:
    """Make q again from what `describe` returned and from its tensors.

    Raises
    ------
    DataError
        If its kind is not known.
    ModelError
        If its class is not the library's and the program does not have it.
    """
    kind = described["kind"]
    if kind not in KINDS and "import" in described:
        imported(described["import"], Approximation)
    elif kind not in KINDS:
        for module in pkgutil.iter_modules([str(Path(__file__).parent)], f"{__package__}."):
            importlib.import_module(module.name)
    if kind not in KINDS:
        raise DataError(f"unknown approximation {kind!r} in a saved fit")
    return KINDS[kind].read(described, tensors, program)
