"""Another q under other labels of its exchangeable states."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from inference.approximations import approximation
from inference.approximations.approximation import Approximation
from inference.runtime.tensor_folder import TensorFolder
from zoo.program.program import Program
from zoo.program.state_group import StateGroup
from zoo.replay.evaluate import Values


@dataclass
class Permuted(Approximation):
    """q with the states of all its draws under other labels, the same in all: log q stays what it was.

    Attributes
    ----------
    q
        What it was.
    groups
        Exchangeable states.
    orders
        State j of each group is the one that was ``orders[..][j]``, shape (states,).
    """

    q: Approximation
    groups: tuple[StateGroup, ...]
    orders: tuple[Tensor, ...]
    kind = "permuted"

    def __post_init__(self) -> None:
        """Take over what q is."""
        self.point, self.exact, self.chains = self.q.point, self.q.exact, self.q.chains
        self.stats: Mapping[str, np.ndarray] = self.q.stats
        self.states = self.forth(self.q.states)

    def forth(self, values: Mapping[str, Tensor]) -> Values:
        """Give values of q the new labels."""
        values = dict(values)
        for group, order in zip(self.groups, self.orders, strict=True):
            values = group.permute(values, order)
        return values

    def back(self, values: Mapping[str, Tensor]) -> Values:
        """Give values the labels of q."""
        values = dict(values)
        for group, order in zip(self.groups, self.orders, strict=True):
            values = group.permute(values, order.argsort())
        return values

    @property
    def kept(self) -> int | None:
        """How many draws q consists of."""
        return self.q.kept

    @property
    def covers_new_rows(self) -> bool:
        """Whether q says what the locals of new rows are."""
        return self.q.covers_new_rows

    def draw(self, program: Program, count: int) -> tuple[Values, Tensor]:
        """Draw from q, under the new labels."""
        values, log_q = self.q.draw(program, count)
        return self.forth(values), log_q

    def weighed(self, program: Program, count: int) -> tuple[Values, Tensor, Tensor] | None:
        """Draw from q, under the new labels; the log joint is what it was."""
        known = self.q.weighed(program, count)
        return None if known is None else (self.forth(known[0]), *known[1:])

    def propose(self, program: Program, points: Values, count: int) -> tuple[Values, Tensor] | None:
        """Draw locals from q, under the new labels."""
        proposed = self.q.propose(program, self.back(points), count)
        return None if proposed is None else (self.forth(proposed[0]), proposed[1])

    def responsibilities(self, program: Program, points: Values) -> dict[str, Tensor] | None:
        """q(z_i = k) under the new labels."""
        known = self.q.responsibilities(program, self.back(points))
        if known is None:
            return None
        for group, order in zip(self.groups, self.orders, strict=True):
            known = {n: v[:, order.to(v.device)] if n in group.sites else v for n, v in known.items()}
        return known

    def at(self, points: Values) -> Permuted:
        """Return it with values of parameters and network weights, under the new labels."""
        return dataclasses.replace(self, q=self.q.at(self.back(points)))

    def describe(self) -> dict[str, Any]:
        """Return what q is, and the groups."""
        return {"q": approximation.describe(self.q), "groups": [dataclasses.asdict(g) for g in self.groups]}

    def tensors(self) -> dict[str, Tensor]:
        """Return those of q, and the orders."""
        tensors = TensorFolder()
        tensors.add("q", self.q.tensors())
        tensors.add("order", {str(i): order for i, order in enumerate(self.orders)})
        return tensors

    @classmethod
    def read(cls, described: Mapping[str, Any], tensors: dict[str, Tensor], program: Program) -> Permuted:
        """Make it again."""
        folders = TensorFolder(tensors)
        groups = tuple(StateGroup.read(g) for g in described["groups"])
        orders = folders.folder("order")
        q = approximation.read(described["q"], folders.folder("q"), program)
        return cls(q, groups, tuple(orders[str(i)] for i in range(len(groups))))
