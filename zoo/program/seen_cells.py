"""Cells of observed Normal sites, of all rows or of some, and their residuals."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from zoo.program.program import Program
from zoo.replay.evaluate import Replay
from zoo.replay.sites import Site, base_distribution


@dataclass(frozen=True)
class SeenCells:
    """Cells of Normal sites in one vector of N.

    Attributes
    ----------
    names
        The sites.
    at
        Which of a site's flat cells are seen, one tensor for each.
    weights
        What each counts for, (N,).
    """

    names: tuple[str, ...]
    at: tuple[Tensor, ...]
    weights: Tensor

    @classmethod
    def of(cls, program: Program, sites: list[Site], replay: Replay) -> SeenCells:
        """All that is not missing, with the weights of rows."""
        places, weights = [], []
        for site in sites:
            value, missing = replay.seen[site.name], program.missing(site)
            weight = torch.ones_like(value)
            if program.data.weights is not None and program.row in site.plates:
                axis = site.plate_dim(program.row) - site.event_dim
                weight = weight * program.data.weights.reshape(-1, *[1] * (-1 - axis))
            seen = (
                torch.ones_like(value, dtype=torch.bool) if missing is None else ~missing.missing.reshape(value.shape)
            )
            places.append(seen.reshape(-1).nonzero().squeeze(-1))
            weights.append(weight.reshape(-1)[places[-1]])
        return cls(tuple(s.name for s in sites), tuple(places), torch.cat(weights))

    def taken(self, chosen: Tensor) -> SeenCells:
        """Only some of them."""
        order, parts, start = chosen.sort().values, [], 0
        for at in self.at:
            mine = order[(order >= start) & (order < start + len(at))]
            parts.append(at[mine - start])
            start += len(at)
        return SeenCells(self.names, tuple(parts), self.weights[order])

    def rows(self, program: Program) -> Tensor:
        """Rows that they are in, each once, in order."""
        found = []
        for name, at in zip(self.names, self.at, strict=True):
            inner = _inside_of_row(program, name)
            found.append(at // inner % len(program.data))
        rows: Tensor = torch.cat(found).unique()
        return rows

    def on(self, program: Program, rows: Tensor) -> SeenCells:
        """The same where the program has no other rows than these."""
        places, count = [], len(program.data)
        for name, at in zip(self.names, self.at, strict=True):
            inner = _inside_of_row(program, name)
            outer, row = at // (inner * count), torch.searchsorted(rows, at // inner % count)
            places.append((outer * len(rows) + row) * inner + at % inner)
        return replace(self, at=tuple(places))

    def residuals(self, replay: Replay) -> tuple[Tensor, Tensor]:
        """(y - loc) / scale and log scale of the cells."""
        found, spread = [], []
        for name, at in zip(self.names, self.at, strict=True):
            fn, value = base_distribution(replay.distributions[name]), replay.seen[name]
            residual, scale = (value - fn.loc) / fn.scale, fn.scale.expand(value.shape)
            found.append(residual.reshape(-1)[at])
            spread.append(scale.reshape(-1)[at].log())
        return torch.cat(found), torch.cat(spread)


def _inside_of_row(program: Program, name: str) -> int:
    """How many cells of a site are to the right of a row."""
    site = program.sites[name]
    return math.prod(site.shape[len(site.shape) + site.plate_dim(program.row) - site.event_dim + 1 :])
