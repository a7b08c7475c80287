"""Chains of continuous states integrated out of a program: the filter and smoother of what is observed of them.

The location of what is observed of a state is affine in it, so running the model at the zero and the unit states shows
which affine function it is, whatever the model's code looks like.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from zoo.data.patterns import MissingCells
from zoo.elimination.kalman import LinearGaussian
from zoo.elimination.kalman_gradient import log_evidence
from zoo.errors import ModelError
from zoo.replay.evaluate import Replay, Values, many
from zoo.replay.sites import Site, base_distribution


class Runs(Protocol):
    """What is asked of a program."""

    def locations(self, values: Values, states: Values, names: Sequence[str]) -> dict[str, Tensor]:
        """Locations of some sites at given states."""

    def missing(self, site: Site) -> MissingCells | None:
        """Missing cells of a site."""


@dataclass(frozen=True)
class Cells:
    """How the cells of an observed site stand in a row: (rows, p), whatever its plates and event are."""

    site: Site
    axis: int  # of the rows, from the right

    @classmethod
    def of(cls, site: Site, row: str) -> Cells:
        """Lay out a site in the plate of rows."""
        return cls(site, site.plate_dim(row) - site.event_dim)

    def flat(self, tensor: Tensor, like: Tensor) -> Tensor:
        """(rows, p) of something that is broadcast to the site's value."""
        wide = tensor.expand(like.shape).movedim(self.axis, 0)
        return wide.reshape(len(wide), -1)

    def folded(self, cells: Tensor, like: Tensor) -> Tensor:
        """Undo `flat`, and sum over events."""
        first = like.movedim(self.axis, 0).shape
        value = cells.reshape(first).movedim(0, self.axis)
        return value.sum(list(range(-self.site.event_dim, 0))) if self.site.event_dim else value


class Integrated:
    """The chains of a program, side by side as one, and what is observed of them.

    Parameters
    ----------
    chains
        Sites of the chains.
    children
        Observed sites that depend on them.
    row
        The plate of rows.
    """

    def __init__(self, chains: Sequence[Site], children: Sequence[Site], row: str) -> None:
        self.chains, self.children = list(chains), list(children)
        self.cells = {s.name: Cells.of(s, row) for s in children}
        self.names = frozenset(s.name for s in (*chains, *children))
        self.sizes = [s.shape[-1] for s in chains]
        inside = {s.name for s in chains}
        # Whether what is observed sees the state by numbers that no unknown moves, so that they are found once.
        self.fixed = all(set(s.args["loc"].sites) <= inside for s in children)

    @property
    def numbers(self) -> int:
        """How many numbers the filter holds for each row, about: matrices of steps, and what is made of them."""
        return 10 * sum(self.sizes) ** 2

    def states(self, rows: int, dtype: torch.dtype, device: torch.device) -> Values:
        """Return the zero states, (rows, d) of each chain."""
        return {
            s.name: torch.zeros(rows, d, dtype=dtype, device=device)
            for s, d in zip(self.chains, self.sizes, strict=True)
        }

    def designs(self, program: Runs, values: Values, replay: Replay) -> dict[str, Tensor]:
        """What each cell sees of the state of its row, (rows, p, d): the model run at unit states."""
        zero = {s.name: replay.seen[s.name] for s in self.chains}
        like = next(iter(zero.values()))
        units = torch.eye(sum(self.sizes), dtype=like.dtype, device=like.device)
        names = [s.name for s in self.children]

        def at(unit: Values) -> tuple[Tensor, ...]:
            parts = unit["unit"].split(self.sizes)
            states = {n: u.expand(len(like), -1) for n, u in zip(zero, parts, strict=True)}
            found = program.locations(values, states, names)
            return tuple(self.cells[n].flat(found[n], replay.seen[n]) for n in names)

        moved = many(at, {"unit": units}, len(units), len(units))  # (d, rows, p) each
        return {
            n: (m - self.cells[n].flat(_location(replay, n), replay.seen[n])).permute(1, 2, 0)
            for n, m in zip(names, moved, strict=True)
        }

    def model(self, program: Runs, replay: Replay, designs: dict[str, Tensor]) -> LinearGaussian:
        """Put the chain and its observations together, from a run of the model at the zero states."""
        chains = [base_distribution(replay.distributions[s.name]) for s in self.chains]
        first = chains[0].first
        if any(not torch.equal(c.first, first) for c in chains[1:]):
            raise ModelError("the chains of a model must begin at the same rows; give each the same start")
        steps = [c.steps for c in chains]
        design, value, spread, missing = [], [], [], []
        for site in self.children:
            cells, seen = self.cells[site.name], replay.seen[site.name]
            fn, gone = base_distribution(replay.distributions[site.name]), program.missing(site)
            design.append(designs[site.name])
            value.append(cells.flat(seen, seen) - cells.flat(_location(replay, site.name), seen))
            if type(fn).__name__ == "MultivariateNormal":
                spread.append(fn.covariance_matrix.expand(*value[-1].shape, value[-1].shape[-1]))
            else:
                spread.append(torch.diag_embed(cells.flat(fn.scale, seen).square()))
            none = torch.zeros_like(seen, dtype=torch.bool)
            missing.append(cells.flat(none if gone is None else gone.missing.reshape(seen.shape), seen))
        return LinearGaussian(
            _blocks([s[0] for s in steps]),
            torch.cat([s[1] for s in steps], -1),
            _blocks([s[2] for s in steps]),
            torch.cat(design, -2),
            torch.cat(value, -1),
            _blocks(spread),
            torch.cat(missing, -1),
            first,
        )

    def log_probs(self, model: LinearGaussian, replay: Replay) -> Values:
        """log p(x_t | x_1 .. x_{t-1}) by observed site, each given those before it in the row; 0 of the chains."""
        cells, found = log_evidence(model), {}
        sizes = [self.cells[s.name].flat(replay.seen[s.name], replay.seen[s.name]).shape[-1] for s in self.children]
        for site, own in zip(self.children, cells.split(sizes, -1), strict=True):
            seen = replay.seen[site.name]
            found[site.name] = self.cells[site.name].folded(own, seen).to(seen.dtype)
        like = next(iter(found.values()))
        return {**{s.name: like.new_zeros(len(model.first)) for s in self.chains}, **found}

    def split(self, states: Tensor) -> Values:
        """Cut states side by side, (..., d), into those of each chain."""
        return dict(zip([s.name for s in self.chains], states.split(self.sizes, -1), strict=True))


def _location(replay: Replay, name: str) -> Tensor:
    loc: Tensor = base_distribution(replay.distributions[name]).loc
    return loc


def _blocks(parts: Sequence[Tensor]) -> Tensor:
    """Matrices (..., a, b) one below the other, each beside zeros."""
    if len(parts) == 1:
        return parts[0]
    width, at, rows = sum(p.shape[-1] for p in parts), 0, []
    for part in parts:
        rows.append(torch.nn.functional.pad(part, (at, width - at - part.shape[-1])))
        at += part.shape[-1]
    return torch.cat(rows, -2)
