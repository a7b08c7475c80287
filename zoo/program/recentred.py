"""A program whose location-scale latents stand in other coordinates, in which scales do not make funnels of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.data.data import Data
from zoo.program.exchangeable import exchangeable
from zoo.program.program import Program
from zoo.replay.evaluate import Replay, Values, many
from zoo.replay.location_scale import FAMILIES, coordinates
from zoo.replay.sites import Site, base_distribution


class Recentred(Program):
    """The same posterior over other coordinates: w for the value z = m + s^(1 - l) (w - l m) of location-scale sites.

    Its values of these sites are w, and its log joint is the density of w. The model runs as it is written, and makes m
    and s of its other latents on the way; so recentred sites may depend on one another.

    Parameters
    ----------
    origin
        The program as it is declared.
    degrees
        Site -> l of each entry, in the shape of its value.
    """

    def __init__(self, origin: Program, degrees: Values) -> None:
        self.__dict__.update(origin.__dict__)
        self.origin, self.degrees, self.plans = origin, degrees, {}

    def rebind(self, data: Data, sizes: Mapping[str, int] | None = None) -> Program:
        """Return the program as declared on other rows: degrees are learned from the data."""
        return self.origin.rebind(data, sizes)

    def declared(self, values: Values, count: int, chunk: int) -> Values:
        """Values of all latents as they are declared, for `count` draws of them in these coordinates."""

        def one(given: Values) -> Values:
            seen = self.replay(given, densities=False).seen
            return {n: seen[n] for n in self.degrees}

        return {**values, **many(one, values, count, chunk)}

    def coordinates(self, values: Values) -> Values:
        """Values in these coordinates, for values of all latents as they are declared."""
        replay = self.origin.replay(values, densities=False)
        moved = {n: coordinates(replay.distributions[n], values[n], degree) for n, degree in self.degrees.items()}
        return {**values, **moved}


def location_scale(program: Program) -> list[Site]:
    """Latents with a location and a scale of which at least one depends on other latents, and that stand alone.

    Not those that go with states that are summed out, whose location is another for each state; nor those that
    exchangeable states index, as means of components: chains under other labels have other entries where there is much
    data, and where a component is empty, coordinates that suit it suit no other. Nor those of rows with weights, where
    a row's density is no density of w.
    """
    names = {s.name for s in program.latents}
    found = []
    for site in program.latents:
        moving = any(names.intersection(site.args[key].sites) for key in ("loc", "scale") if key in site.args)
        mixed = any(p.index for p in site.args.values())
        weighted = site.role == "local" and program.data.weights is not None
        if site.family in FAMILIES and moving and not mixed and not weighted:
            found.append(site)
    labelled = {n for group in exchangeable(program) for n in group.axes} if found and program.enumerated else set()
    return [s for s in found if s.name not in labelled]


def fitting(sites: Sequence[Site], replay: Replay) -> list[Site]:
    """Those whose location and scale have no more entries than the value, as the model runs."""
    return [s for s in sites if _fits(base_distribution(replay.distributions[s.name]), replay.seen[s.name])]


def _fits(base: Any, value: Tensor) -> bool:
    return all(torch.broadcast_shapes(t.shape, value.shape) == value.shape for t in (base.loc, base.scale))
