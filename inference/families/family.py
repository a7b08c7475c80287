"""What a family is, and how statistics of data entries are added up to the shape of the unknown they inform."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from zoo.declare.evaluate import Replay, Values
from zoo.declare.program import Program
from zoo.declare.sites import Feed, Site

EMPTY = 1e-10  # expected count below which a cell has no data and keeps its value


@dataclass(frozen=True)
class Use:
    """One place where an unknown is an argument: of which site, which argument, and how it gets there."""

    site: Site
    argument: str
    feed: Feed


@dataclass(frozen=True)
class Expected:
    """What a closed-form update sees: the sites at the current values, and the posterior weight of each entry."""

    program: Program
    values: Values
    replay: Replay
    marginals: Values

    def weight(self, site: Site, *, once: bool = False) -> Tensor:
        """Posterior probability of each entry of a site's log density, times its row's weight unless `once`."""
        marginal, weights = self.marginals[site.name], self.program.data.weights
        if not once or weights is None:
            return marginal
        axis = site.plate_dims[site.plates.index(self.program.row)]
        return marginal / weights.reshape([-1, *[1] * (-1 - axis)])

    def value(self, site: Site) -> Tensor:
        """Value of an observed site, or the states of an enumerated one."""
        return self.replay.seen[site.name]


class Block(ABC):
    """A closed-form update of some unknowns given the rest."""

    unknowns: tuple[str, ...]

    @abstractmethod
    def maximize(self, expected: Expected) -> Values:
        """Return the unknowns' values that maximize the expected log joint."""

    def posterior(self, expected: Expected) -> dict[str, Any] | None:
        """Return the conjugate posterior of each unknown, a distribution; None if there is none."""
        return None

    def warnings(self, expected: Expected) -> list[str]:
        """Say what makes the fitted values less trustworthy."""
        return []


class Family(ABC):
    """A kind of likelihood argument with closed-form updates.

    Attributes
    ----------
    likelihoods
        Distribution name -> the argument that the unknown is.
    rank
        Order in which families claim unknowns; joint families come first.
    """

    likelihoods: ClassVar[Mapping[str, str]] = {}
    rank: ClassVar[int] = 1

    @abstractmethod
    def match(self, program: Program, unknown: Iterable[str]) -> list[Block]:
        """Return the blocks this family can update."""


def uses(program: Program, name: str) -> list[tuple[Site, dict[str, Feed]]]:
    """Sites whose distribution depends on `name`, each with the arguments (in every parameterization) that do."""
    found = []
    for site in program.sites.values():
        args = {key: feed for key, feed in site.args.items() if name in feed.sites}
        if args:
            found.append((site, args))
    return found


def recognized(feed: Feed) -> bool:
    """Whether the argument is an unknown itself, indexed or not, unscaled."""
    return feed.kind in ("site", "indexed") and feed.scale == 1.0


def explained(site: Site) -> bool:
    """Whether a site's value is known up to enumeration: observed or enumerated."""
    return site.role in ("observed", "enumerated")


def sum_to(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Sum a tensor down to a shape it would be broadcast from."""
    if len(shape) > tensor.ndim:
        tensor = tensor.reshape((1,) * (len(shape) - tensor.ndim) + tuple(tensor.shape))
    return tensor.sum_to_size(shape)


def add_up(
    expected: Expected, use: Use, statistic: Tensor, shape: tuple[int, ...], event_dim: int, unknown: str
) -> Tensor:
    """Sum weight * statistic over everything the unknown is shared by.

    Parameters
    ----------
    statistic
        One entry per entry of the site: (enumeration dims, plate dims, event dims), broadcastable on the left.
    shape
        Shape of the result: that of the unknown.
    event_dim
        How many dimensions of `statistic` on the right are not weighted.
    unknown
        Name of the unknown: where it is local, a row's weight repeats the unknown too and counts once.
    """
    site, feed = use.site, use.feed
    weight = expected.weight(site, once=expected.program.sites[unknown].role == "local")
    plates = max((-d for d in site.plate_dims), default=0)
    enumerated = weight.ndim - plates
    keep = _enum_axis(expected, feed, weight.ndim)
    padded = (*shape, *[1] * feed.pad)
    own_states = site.role == "enumerated"
    if not own_states and statistic.ndim <= plates + event_dim:  # the statistic knows no states: sum over rows at once
        if keep is None:
            weight = weight.sum(list(range(enumerated))) if enumerated > 0 else weight
            return sum_to(weight[(..., *[None] * event_dim)] * statistic, padded).reshape(shape)
        weight = weight.movedim(keep, 0)
        weight = weight.sum(list(range(1, enumerated))) if enumerated > 1 else weight
        events = statistic.shape[statistic.ndim - event_dim :]
        flat = statistic.expand(weight.shape[1:] + events).reshape(-1, events.numel())
        total = (weight.reshape(weight.shape[0], -1) @ flat).reshape(weight.shape[0], *events)
        return sum_to(total, padded).reshape(shape)
    if own_states and plates:  # states are the same in every row
        weight = weight.sum(list(range(enumerated, weight.ndim)), keepdim=True)
    full = weight[(..., *[None] * event_dim)] * statistic
    if keep is not None or own_states:
        keep = None if keep is None else keep + full.ndim - weight.ndim - event_dim
        axes = [d for d in range(full.ndim - event_dim) if d != keep]
        full = full.sum(axes) if axes else full
    return sum_to(full, padded).reshape(shape)


def _enum_axis(expected: Expected, feed: Feed, ndim: int) -> int | None:
    """Position in a weight of `ndim` dimensions of the enumerated site that indexes the unknown."""
    if not feed.index:
        return None
    axis = ndim + expected.program.sites[feed.index[0]].enum_dim
    return axis if axis >= 0 else None
