"""What the Normal and multivariate Normal families share: a location and a scale that are updated together."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from inference.families.family import EMPTY, Block, Expected, Family, explained, recognized, sum_to, uses
from zoo.declare.evaluate import Values
from zoo.declare.program import Program
from zoo.declare.sites import Feed, Site, base_distribution

FLOOR = 1e-6  # smallest variance, as a share of the data's own along the same column


class LocationScaleFamily(Family):
    """Matches a site whose location is one unknown and whose scale, in some parameterization, is another.

    Attributes
    ----------
    scales
        Argument that the scale unknown is -> its conjugate prior ("" if only a parameter is supported).
    joint
        Argument of the location's prior that a conjugate joint prior feeds with a multiple of the scale unknown.
    """

    scales: ClassVar[Mapping[str, str]]
    joint: ClassVar[str]

    def match(self, program: Program, unknown: Iterable[str]) -> list[Block]:
        """Claim pairs of location and scale that have no other use."""
        unknown = list(unknown)
        blocks: list[Block] = []
        for site in program.sites.values():
            if site.family not in self.likelihoods or not explained(site) or site.role == "enumerated":
                continue
            loc = site.args["loc"]
            scale = next((k for k in self.scales if k in site.args and recognized(site.args[k])), None)
            if scale is None or not recognized(loc) or loc.sites[0] not in unknown:
                continue
            names = loc.sites[0], site.args[scale].sites[0]
            if names[1] not in unknown or not self._alone(program, site, names):
                continue
            kappa = self._shrinkage(program, names, scale)
            if kappa is None or not self._cells(program, site, loc, site.args[scale], names):
                continue
            if not self._same_precision(program, site, loc, site.args[scale], names):
                continue
            blocks.append(self.block(site, names, scale, kappa))
        return blocks

    @abstractmethod
    def block(self, site: Site, names: tuple[str, str], argument: str, kappa: float) -> Block:
        """Make the block for one site."""

    def _alone(self, program: Program, site: Site, names: tuple[str, str]) -> bool:
        """Whether the two unknowns feed this site, and otherwise at most the location's own joint prior."""
        others = {s.name for n in names for s, _ in uses(program, n)} - {site.name}
        return others <= {names[0]}

    def _shrinkage(self, program: Program, names: tuple[str, str], argument: str) -> float | None:
        """Rows the joint prior counts for; 0 if the location has no prior, None if its prior is not conjugate."""
        loc, scale = program.sites[names[0]], program.sites[names[1]]
        if scale.role != "parameter":
            plain = all(f.kind == "constant" for f in scale.args.values())
            if not self.scales[argument] or scale.family != self.scales[argument] or not plain:
                return None
        if loc.role == "parameter":
            return 0.0
        feed = loc.args.get(self.joint)
        if argument != self.joint or feed is None or feed.kind != "site" or feed.sites != (names[1],):
            return None
        return feed.scale if loc.args["loc"].kind == "constant" and loc.plates == scale.plates else None

    def _cells(self, program: Program, site: Site, loc: Feed, scale: Feed, names: tuple[str, str]) -> bool:
        """Whether both unknowns vary by component and event only, not by row, and are indexed by one site."""
        if len({f.index for f in (loc, scale) if f.index}) > 1 or (scale.index and not loc.index):
            return False
        extra = 1 if self.joint == "precision_matrix" else 0
        for name, feed, matrix in ((names[0], loc, 0), (names[1], scale, extra)):
            room = site.event_dim + matrix + (1 if feed.index else 0)
            shape = (*program.sites[name].shape, *[1] * feed.pad)
            if any(size > 1 for size in shape[: max(0, len(shape) - room)]):
                return False
        return True

    def _same_precision(self, program: Program, site: Site, loc: Feed, scale: Feed, names: tuple[str, str]) -> bool:
        """Whether cells that share a location share a scale; else the location weighs them by precision."""
        if self.joint == "precision_matrix":
            return cell_shape(program.sites[names[0]].shape, loc, 2)[-1] == site.shape[-1]
        ndim = site.event_dim + 1
        location = cell_shape(program.sites[names[0]].shape, loc, ndim)
        spread = cell_shape(program.sites[names[1]].shape, scale, ndim)
        location, spread = ((*[1] * (ndim - len(s)), *s) for s in (location, spread))
        return all(a > 1 or b == 1 for a, b in zip(location, spread, strict=True))


def cell_shape(shape: tuple[int, ...], feed: Feed, ndim: int) -> tuple[int, ...]:
    """Shape of an unknown beside statistics of `ndim` dimensions: components first, then the event."""
    padded = (*shape, *[1] * feed.pad)
    if feed.index:
        return padded
    return (1, *padded[max(0, len(padded) - ndim + 1) :])


@dataclass
class LocationScaleBlock(Block):
    """Update of a location and a scale: the location first, then the scale about it."""

    site: Site
    names: tuple[str, str]
    argument: str
    kappa: float

    def __post_init__(self) -> None:
        """Name what is updated."""
        self.unknowns = self.names
        self._about: tuple[Tensor, Tensor, Tensor] | None = None

    def about(self, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the centred entries (n, ...), and the data's mean and variance by column that floors are relative to.

        Kept from step to step: the data do not change.
        """
        if self._about is None:
            rows = value.reshape(-1, *value.shape[value.ndim - self.site.event_dim :])
            center = rows.mean(0)
            spread = rows.var(0, correction=0)
            self._about = rows - center, center, torch.where(spread > 0, spread, torch.ones_like(spread))
        return self._about

    def cell_weight(self, expected: Expected) -> Tensor:
        """Weights as (components, entries); one component if the location is not indexed."""
        weight = expected.weight(self.site)
        plates = max((-d for d in self.site.plate_dims), default=0)
        feed = self.site.args["loc"]
        axis = weight.ndim + expected.program.sites[feed.index[0]].enum_dim if feed.index else -1
        weight = weight.movedim(axis, 0) if axis >= 0 else weight[None]
        extra = weight.ndim - 1 - plates
        return (weight.sum(list(range(1, 1 + extra))) if extra > 0 else weight).reshape(weight.shape[0], -1)

    def location(self, expected: Expected, s0: Tensor, s1: Tensor, center: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the new location, its value per cell (about the centre), and the prior's mean per cell."""
        current = expected.values[self.names[0]]
        feed = self.site.args["loc"]
        shape = cell_shape(tuple(current.shape), feed, s1.ndim)
        shared = s1.numel() // max(1, math.prod(shape))
        offset = sum_to(center.expand_as(s1), shape) / shared  # sums are about the data's mean, the location is not
        prior = torch.zeros_like(s1)
        count, total = s0.expand_as(s1), s1
        if self.kappa:
            fn = base_distribution(expected.replay.distributions[self.names[0]])
            prior = fn.loc.reshape(shape) - center
            count, total = count + self.kappa, total + self.kappa * prior
        count, total = sum_to(count, shape), sum_to(total, shape)
        mean = torch.where(count > EMPTY, total / count.clamp_min(EMPTY), current.reshape(shape) - offset)
        return (mean + offset).reshape(current.shape), (mean + (offset - center)).expand_as(s1), prior

    def maximize(self, expected: Expected) -> Values:
        """Return the new location and scale."""
        flat, center, spread = self.about(expected.value(self.site))
        return self.update(expected, self.cell_weight(expected), flat, center, spread)

    def warnings(self, expected: Expected) -> list[str]:
        """Say which components have closed in on a few rows: their smallest variance is next to the floor."""
        if self.prior(expected) is not None:
            return []
        _, _, spread = self.about(expected.value(self.site))
        smallest = self.smallest(expected.values[self.names[1]], spread)
        at_floor = (smallest <= 10 * FLOOR).nonzero()[:, 0].tolist()
        one = self.site.args[self.argument].index
        return [
            f"component {k} has collapsed: the variance in {self.names[1]!r} is next to its floor, and its likelihood "
            "says nothing but how small a variance may be; use fewer components or a prior"
            if one
            else f"the variance in {self.names[1]!r} is next to its floor"
            for k in at_floor
        ]

    @abstractmethod
    def smallest(self, value: Tensor, spread: Tensor) -> Tensor:
        """Smallest variance of each component relative to the data's, shape (components,)."""

    @abstractmethod
    def update(self, expected: Expected, weight: Tensor, x: Tensor, center: Tensor, spread: Tensor) -> Values:
        """Update from weights (k, n) and centred entries (n, ...)."""

    def prior(self, expected: Expected) -> Any | None:
        """Return the scale's prior, None for a parameter."""
        if expected.program.sites[self.names[1]].role == "parameter":
            return None
        return base_distribution(expected.replay.distributions[self.names[1]])
