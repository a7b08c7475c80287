"""Hidden Markov chains over the rows of a data plate: their distribution, and how they are summed out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from zoo.data.data import Data
from zoo.elimination.eliminate import Factor
from zoo.elimination.forward_backward import best_path, log_evidence
from zoo.elimination.semirings import compose
from zoo.errors import DataError, ModelError
from zoo.replay.sites import base_distribution


class MarkovChain(TorchDistribution):
    """p(z) = initial[z_1] prod_t transition[z_{t-1}, z_t], one state per row of the plate it is sampled in.

    Each row is given the row before, so one statement declares a hidden Markov chain::

        with pyro.plate("time", len(x)):
            z = pyro.sample("z", zoo.MarkovChain(initial, transition))
            pyro.sample("x", dist.Poisson(rate[z]), obs=x)

    Inference sums over all paths exactly, over all rows at once. What a row contributes to the log likelihood is then
    log p(x_t | x_1, ..., x_{t-1}) of its sequence.

    Parameters
    ----------
    initial
        Probabilities of the first state, shape (states,).
    transition
        Row j holds the probabilities of the state after state j, shape (states, states).
    start
        For sequences below each other: true, or 1, in the first row of each, shape (rows,). The first row of all always
        is one.

    Raises
    ------
    ModelError
        If the shapes do not fit.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"initial": constraints.simplex, "transition": constraints.simplex}
    has_enumerate_support = True

    def __init__(
        self,
        initial: Tensor,
        transition: Tensor,
        start: Tensor | None = None,
        *,
        batch_shape: Sequence[int] = (),
        validate_args: bool | None = None,
    ) -> None:
        states = initial.shape[-1] if initial.ndim else 0
        if tuple(initial.shape) != (states,) or tuple(transition.shape) != (states, states) or not states:
            raise ModelError(
                "MarkovChain needs initial probabilities of shape (states,) and transition probabilities of shape "
                f"(states, states), not {tuple(initial.shape)} and {tuple(transition.shape)}"
            )
        shape = torch.Size(batch_shape)
        if start is not None and (start.ndim != 1 or (shape and shape[-1] != len(start))):
            rows = f", and the plate has {shape[-1]} rows" if shape else ""
            raise ModelError(
                f"MarkovChain: start says of each row whether a sequence begins there, but has shape "
                f"{tuple(start.shape)}{rows}; give one entry per row"
            )
        self.initial, self.transition, self.start = initial, transition, start
        super().__init__(shape, validate_args=validate_args)

    @property
    def support(self) -> Any:
        """0, 1, ..., states - 1."""
        return constraints.integer_interval(0, len(self.initial) - 1)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> MarkovChain:
        """Return the chain over this many rows."""
        return type(self)(self.initial, self.transition, self.start, batch_shape=batch_shape, validate_args=False)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """Return the states along a new dimension on the left."""
        states = torch.arange(len(self.initial), device=self.initial.device)
        states = states.reshape(-1, *[1] * len(self.batch_shape))
        return states.expand(-1, *self.batch_shape) if expand else states

    @property
    def table(self) -> Tensor:
        """log initial, then log transition probabilities: the log factor of the chain, shape (states + 1, states)."""
        table = torch.cat([self.initial[None], self.transition])
        return torch.where(table > 0, table, 1.0).log().masked_fill(table == 0, -math.inf)

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.batch_shape[-1] if self.batch_shape else 1

    @property
    def first(self) -> Tensor:
        """Which rows begin a sequence, shape (rows,)."""
        return firsts(self.start, len(self), self.initial.device)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(z_t | z_{t-1}) of each row of a path; of the states as they are enumerated, the `table`.

        The table stands where the states do: its rows along their dimension, its columns along that of the plate.
        """
        states = self.enumerate_support(expand=False).flatten()
        dims = value.ndim - 1
        enumerated = 0 < len(self.batch_shape) <= dims and value.shape == (len(states), *[1] * dims)
        if enumerated and (len(self) > 1 or torch.equal(value.flatten().long(), states)):
            return self.table.reshape(-1, *[1] * (dims - 1), len(states))
        value = value.long().expand(torch.broadcast_shapes(value.shape, self.batch_shape))
        path = value.reshape(-1, len(self))
        before = torch.where(self.first, 0, path.roll(1, -1) + 1)
        return self.table[before, path].reshape(value.shape)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw paths: each row maps every state to a next one, and the maps are composed."""
        shape = torch.Size(sample_shape) + self.batch_shape
        u = torch.rand(shape.numel() // len(self), len(self), dtype=self.initial.dtype, device=self.initial.device)
        total = torch.cat([self.initial[None], self.transition]).detach().cumsum(-1)
        total = total / total[:, -1:]
        moves = torch.searchsorted(total, u.reshape(1, -1).expand(len(total), -1).contiguous(), right=True)
        first = self.first.repeat(len(u))[:, None]
        maps = torch.where(first, moves[:1].mT, moves[1:].mT)
        return compose(maps.reshape(len(u), len(self), -1)).reshape(shape)


def firsts(start: Tensor | None, rows: int, device: torch.device) -> Tensor:
    """Which rows begin a sequence: the first row, and those that are marked."""
    first = torch.zeros(rows, dtype=torch.bool, device=device) if start is None else start.to(device) != 0
    return first | (torch.arange(rows, device=device) == 0)


def stationary(transition: Tensor) -> Tensor:
    """Distribution that a chain keeps: pi with pi = pi A, by pi (I - A + U) = 1 with U all ones.

    Zucchini, MacDonald and Langrock (2016), "Hidden Markov Models for Time Series", section 1.3.2.
    """
    states = len(transition)
    one = torch.ones_like(transition)
    system = torch.eye(states, dtype=transition.dtype, device=transition.device) - transition + one
    found: Tensor = torch.linalg.solve(system.mT, one[0]).clamp_min(0.0)
    return found


def check_chain(data: Data, name: str, node: Any) -> None:
    """Check the plate of a chain, and that rows are weighed by the sequence.

    Raises
    ------
    ModelError, DataError
        Naming the site, and what to do.
    """
    chain = base_distribution(node["fn"])
    if not isinstance(chain, MarkovChain):
        return
    plates = [f.name for f in node["cond_indep_stack"] if f.vectorized]
    if plates != [data.row]:
        raise ModelError(
            f"site {name!r}: a MarkovChain runs along the rows of the data, so it has to be in the plate "
            f"{data.row!r} and no other (its plates: {plates or 'none'}); write sequences below each other and mark "
            "where they begin with start="
        )
    if chain is not node["fn"] or node["mask"] is not None or not bool(torch.as_tensor(node["scale"] == 1).all()):
        raise ModelError(
            f"site {name!r}: a MarkovChain cannot be masked, scaled or made part of an event; mask what its states "
            "explain"
        )
    if data.weights is not None:
        first = chain.first
        weights = data.weights.to(first.device)
        wrong = weights != weights[first][first.cumsum(0) - 1]
        if bool(wrong.any()):
            row = data.coords[data.row][int(wrong.nonzero()[0])]
            raise DataError(
                f"site {name!r}: the rows of a chain depend on each other, so a weight belongs to a whole sequence, "
                f"but row {row!r} has another weight than the row its sequence begins with"
            )


@dataclass(frozen=True)
class Link:
    """A chain to sum out: its log factor, the symbol of its states, and which rows begin a sequence."""

    table: Tensor
    symbol: str
    first: Tensor


def sum_out(
    left: dict[frozenset[str], Factor], links: Sequence[Link], row: str, *, hard: bool = False
) -> dict[frozenset[str], Factor]:
    """Sum chains out of what is left when all other enumerated sites are; with `hard`, take the most probable path.

    Raises
    ------
    ModelError
        If the chains begin at different rows.
    """
    rest, table, evidence = joined(left, links, row)
    sum_rows = best_path if hard else log_evidence
    rest[frozenset((row,))] = Factor(sum_rows(table, evidence, links[0].first), (row,), frozenset((row,)))
    return rest


def joined(
    left: dict[frozenset[str], Factor], links: Sequence[Link], row: str
) -> tuple[dict[frozenset[str], Factor], Tensor, Tensor]:
    """Several chains as one chain over the combinations of their states: its table and evidence, and what is left.

    Raises
    ------
    ModelError
        If the chains begin at different rows.
    """
    symbols = tuple(link.symbol for link in links)
    first = links[0].first
    if any(not torch.equal(link.first, first) for link in links[1:]):
        raise ModelError("the chains of a model must begin at the same rows; give each MarkovChain the same start")
    target = (*symbols, row)
    sizes = [link.table.shape[-1] for link in links]
    evidence = links[0].table.new_zeros(*sizes, len(first))
    rest = {}
    for plates, factor in left.items():
        if row not in plates:
            rest[plates] = factor
            continue
        gone = [i for i, d in enumerate(factor.dims) if d not in target]
        tensor = factor.tensor.sum(gone) if gone else factor.tensor
        evidence = evidence + Factor(tensor, tuple(d for d in factor.dims if d in target), plates).aligned(target)
    return rest, _together([link.table.flatten(0, -2) for link in links]), evidence.flatten(0, -2)


def _together(tables: Iterable[Tensor]) -> Tensor:
    """Table of the chain whose states are the combinations of those of several chains."""
    joint, *others = tables
    for table in others:
        initial = joint[0][:, None] + table[0]
        transition = joint[1:][:, None, :, None] + table[1:][:, None]
        joint = torch.cat([initial.reshape(1, -1), transition.reshape(initial.numel(), -1)])
    return joint
