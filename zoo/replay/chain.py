"""The distribution of a hidden Markov chain over the rows of a data plate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from zoo.elimination.semirings import compose
from zoo.errors import ModelError


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

    Examples
    --------
    >>> import pyro
    >>> import pyro.distributions as dist
    >>> import torch
    >>> from torch.distributions import constraints
    >>> import zoo
    >>> from inference import fit
    >>> stay = torch.tensor([[0.9, 0.1], [0.1, 0.9]])
    >>> @zoo.model(x=zoo.Count("time"))
    ... def calm_and_busy(x):
    ...     rate = pyro.param("rate", torch.tensor([1.0, 5.0]), constraint=constraints.positive)
    ...     with pyro.plate("time", len(x)):
    ...         z = pyro.sample("z", zoo.MarkovChain(torch.tensor([0.5, 0.5]), stay))
    ...         pyro.sample("x", dist.Poisson(rate[z]), obs=x)
    >>> result = fit(calm_and_busy, [0, 1, 0, 2, 7, 6, 8, 5, 1, 0], method="em", seed=0)
    >>> result.assign().round(0).T
         0    1    2    3    4    5    6    7    8    9
    z
    0  0.0  0.0  0.0  0.0  1.0  1.0  1.0  1.0  0.0  0.0
    1  1.0  1.0  1.0  1.0  0.0  0.0  0.0  0.0  1.0  1.0
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
        """0, 1, ..., states - 1.

        Examples
        --------
        >>> import torch
        >>> import zoo
        >>> chain = zoo.MarkovChain(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.2, 0.8]]))
        >>> chain.support.lower_bound, chain.support.upper_bound
        (0, 1)
        """
        return constraints.integer_interval(0, len(self.initial) - 1)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> MarkovChain:
        """Return the chain over this many rows.

        Examples
        --------
        >>> import torch
        >>> import zoo
        >>> chain = zoo.MarkovChain(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.2, 0.8]]))
        >>> len(chain), len(chain.expand([4]))
        (1, 4)
        """
        return type(self)(self.initial, self.transition, self.start, batch_shape=batch_shape, validate_args=False)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """Return the states along a new dimension on the left.

        Examples
        --------
        >>> import torch
        >>> import zoo
        >>> chain = zoo.MarkovChain(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.2, 0.8]])).expand([4])
        >>> chain.enumerate_support().shape
        torch.Size([2, 4])
        >>> chain.enumerate_support(expand=False).flatten()
        tensor([0, 1])
        """
        states = torch.arange(len(self.initial), device=self.initial.device)
        states = states.reshape(-1, *[1] * len(self.batch_shape))
        return states.expand(-1, *self.batch_shape) if expand else states

    @property
    def table(self) -> Tensor:
        """log initial, then log transition probabilities: the log factor of the chain, shape (states + 1, states).

        Examples
        --------
        >>> import torch
        >>> import zoo
        >>> chain = zoo.MarkovChain(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.2, 0.8]]))
        >>> chain.table.exp()
        tensor([[0.5000, 0.5000],
                [0.9000, 0.1000],
                [0.2000, 0.8000]])
        """
        table = torch.cat([self.initial[None], self.transition])
        return torch.where(table > 0, table, 1.0).log().masked_fill(table == 0, -math.inf)

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.batch_shape[-1] if self.batch_shape else 1

    @property
    def first(self) -> Tensor:
        """Which rows begin a sequence, shape (rows,).

        Examples
        --------
        >>> import torch
        >>> import zoo
        >>> starts = torch.tensor([1, 0, 1, 0])  # two sequences of two rows
        >>> zoo.MarkovChain(torch.tensor([0.5, 0.5]), torch.eye(2), starts).expand([4]).first
        tensor([ True, False,  True, False])
        """
        return firsts(self.start, len(self), self.initial.device)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(z_t | z_{t-1}) of each row of a path; of the states as they are enumerated, the `table`.

        The table stands where the states do: its rows along their dimension, its columns along that of the plate.

        Examples
        --------
        >>> import torch
        >>> import zoo
        >>> chain = zoo.MarkovChain(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.2, 0.8]])).expand([4])
        >>> chain.log_prob(torch.tensor([0, 0, 1, 1])).exp()  # 0.5, then what stays and what moves
        tensor([0.5000, 0.9000, 0.1000, 0.8000])
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
        """Draw paths: each row maps every state to a next one, and the maps are composed.

        Examples
        --------
        >>> import torch
        >>> import zoo
        >>> turns = zoo.MarkovChain(torch.tensor([1.0, 0.0]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])).expand([5])
        >>> turns.sample()
        tensor([0, 1, 0, 1, 0])
        """
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
    # Adding U makes the singular I - A regular, and pi U is a row of ones because pi sums to 1.
    kept: Tensor = torch.linalg.solve(system.mT, one[0]).clamp_min(0.0)
    return kept
