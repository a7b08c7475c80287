"""A model bound to data, and what running it has shown: its sites by their roles, and what ties rows to each other."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from zoo.data.data import Data
from zoo.data.patterns import MissingCells
from zoo.declare.model import Model
from zoo.errors import ModelError
from zoo.program.integrated import Integrated
from zoo.program.marginals import one_state_per_row
from zoo.program.view import View
from zoo.replay.evaluate import Values, model_context
from zoo.replay.masked import OBSERVED
from zoo.replay.sites import Site, Structure
from zoo.structure.observed import check_missing, check_unseen
from zoo.structure.structure import trace


class Traced:
    """The sites of a model on given data, traced once or known from other rows.

    Parameters
    ----------
    model, data, priors, structure, sizes
        As `Program` has them.
    """

    def __init__(
        self,
        model: Model,
        data: Data,
        priors: Mapping[str, Any] | None,
        structure: Structure | None,
        sizes: Mapping[str, int] | None,
    ) -> None:
        self.model, self.data, self.priors = model, data, dict(priors or {})
        # A PyroParam shows up twice: as a parameter site, and as this tensor behind it.
        self.networks = frozenset(n for n, _ in model.named_parameters() if not n.endswith("_unconstrained"))
        if structure is None:
            with model_context(self.dtype, self.device), torch.no_grad():
                networks = {n: p.detach() for n, p in model.named_parameters() if n in self.networks}
                structure = trace(model, data, networks, self.priors)
            check_unseen(structure, data)
        self.structure = structure
        if structure.parted:
            self.data = data = replace(data, parted=structure.parted)
        self.sites = structure.sites
        self.sizes = dict(structure.sizes(data.coords) if sizes is None else sizes)
        check_missing(structure, data)
        self.row = data.row if data.row in structure.plates else ""
        self.latents = [s for s in self.sites.values() if s.latent]
        self.locals = [s for s in self.latents if s.role == "local"]
        self.globals = [s for s in self.latents if s.role == "global"]
        self.enumerated = [s for s in self.sites.values() if s.role == "enumerated"]
        self.assigned = [s for s in self.enumerated if self.row and s.plates == (self.row,)]  # one state per row
        self.observed = [s for s in self.sites.values() if s.role == "observed"]
        self.parameters = [s for s in self.sites.values() if s.role == "parameter"]
        self.conditioning = {n for s in self.latents for n in self.behind(s)}  # states that priors of latents depend on
        self.degrees: Values = {}  # of centring, where values of some sites stand in other coordinates
        self._states = {s.name: s.states for s in self.enumerated if s.states is not None}
        self.chains = {s.name: s for s in self.enumerated if s.family == "MarkovChain"}
        gone = [s for s in self.sites.values() if s.role == "integrated"]
        names = {s.name for s in gone}
        seen = [s for s in self.observed if any(names.intersection(p.sites) for p in s.args.values())]
        self.integrated = Integrated(gone, seen, self.row) if gone else None
        self._firsts: Values = {}  # which rows begin a sequence of each chain, noted when the model runs
        if self.chained and self.shared:
            raise ModelError(
                f"site {self.shared[0].name!r} is discrete and outside the plate of a MarkovChain, where it cannot be "
                "summed out; write the chain with pyro.markov, or fit one model for each of its states"
            )

    @property
    def several(self) -> bool:
        """Whether there is a discrete latent that has more than one state."""
        return any(s.cardinality > 1 for s in self.enumerated)

    @property
    def view(self) -> View:
        """The flat unconstrained view of the latents."""
        return View(self.latents, self.row)

    @property
    def parameter_view(self) -> View:
        """The flat unconstrained view of the parameters, without network weights."""
        return View(self.parameters, self.row)

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the data."""
        return self.data.dtype

    @property
    def device(self) -> torch.device:
        """Where the data are."""
        return next(v.device for v in self.data.values.values())

    @property
    def chained(self) -> bool:
        """Whether rows depend on others given the globals, so that they cannot be shuffled, split or drawn apart."""
        moving = self.chains or self.integrated is not None
        return bool(moving) or any(t.kind in ("local", "data") for t in self.structure.ties)

    @property
    def tied(self) -> str:
        """Why rows cannot be taken in parts, each by itself; empty if they can."""
        chains = [*self.chains, *(s.name for s in (self.integrated.chains if self.integrated else ()))]
        if chains:
            return f"site {chains[0]!r} is a chain along the rows"
        return str(self.structure.ties[0]) if self.structure.ties else ""

    @property
    def together(self) -> str:
        """The observed site outside the plate of rows whose one event is made of all rows; empty if there is none."""
        fields, row = set(self.data.row_fields), self.data.row
        return next((s.name for s in self.observed if row not in s.plates and fields.intersection(s.observes)), "")

    @property
    def coupled(self) -> str:
        """Why the density of a row is none of its own: local latents of others, a factor of all rows; empty if not."""
        of_all = {s.name for s in self.observed if s.family == "Unit" and self.row not in s.plates}
        return next((str(t) for t in self.structure.ties if t.kind == "local" or t.site in of_all), "")

    @property
    def rowless(self) -> str:
        """Why the data have no rows that the model tells apart; empty if they have."""
        row = self.data.row
        outside = f"no site is in a plate of the rows; where each has a density, write `with pyro.plate({row!r}, ...)`"
        return "" if self.row else outside if row else "the model's data have no rows"

    @property
    def not_drawn(self) -> str:
        """Why data cannot be drawn from the model by running it; empty if they can."""
        return self.structure.not_drawn

    def site_shape(self, site: Site) -> tuple[int, ...]:
        """Shape of a site's value on the rows of the data."""
        if site.role != "local":
            return site.shape
        axis = site.batch_dim + site.plate_dim(self.row)
        return (*site.shape[:axis], len(self.data), *site.shape[axis + 1 :])

    def missing(self, site: Site) -> MissingCells | None:
        """Return the missing cells of what a site observes, None if there are none."""
        name = site.field or (site.part.field if site.part else None)
        return self.data.missing_cells(name, site.part) if site.role == "observed" and name else None

    @cached_property
    def _missing(self) -> dict[str, MissingCells]:
        found = {s.name: cells for s in self.observed if (cells := self.missing(s)) is not None}
        return {n: cells for n, cells in found.items() if n.removesuffix(OBSERVED) not in self.structure.parted}

    @cached_property
    def one_state_per_row(self) -> bool:
        """Whether the only enumerated site is one per row, which needs no elimination but a log-sum-exp."""
        return not self.chained and one_state_per_row(self.sites.values(), self.row)

    @cached_property
    def shared(self) -> list[Site]:
        """Enumerated sites outside the data plate, which rows share: given the other latents rows are dependent."""
        return [s for s in self.enumerated if self.row not in s.plates]

    @cached_property
    def entangled(self) -> list[Site]:
        """Enumerated sites whose states belong with the values of latents: shared ones, and those beside latents.

        Beside a latent is what its prior depends on, and what another site depends on together with a local one.
        """
        local = {s.name for s in self.locals}
        beside = {
            n
            for site in self.sites.values()
            if any(local.intersection(p.sites) for p in site.args.values())
            for p in site.args.values()
            for n in p.index
        }
        return [s for s in self.enumerated if s in self.shared or s.name in self.conditioning | beside]

    def behind(self, site: Site) -> list[str]:
        """Enumerated sites that the prior of a latent depends on, and those that these depend on in turn."""
        found = set(site.by_state)
        while more := {n for name in found for p in self.sites[name].args.values() for n in p.index} - found:
            found |= more
        return [s.name for s in self.enumerated if s.name in found]

    def depends_on(self, name: str, factor: Tensor, chain: Site) -> bool:
        """Whether a log factor of the site `name` has a dimension for the states of a chain that it depends on."""
        other, dim = self.sites[name], chain.enum_dim
        child = other.symbols.get(dim) == chain.symbols[dim] and self.row in other.plates and name != chain.name
        return child and factor.ndim >= -dim and factor.shape[dim] == chain.cardinality

    def derived_from(self, states: Collection[str]) -> list[str]:
        """Names of the `pyro.deterministic` sites that depend on these chains."""
        derived = (s for s in self.sites.values() if s.role == "deterministic")
        return [s.name for s in derived if any(n in states for parent in s.args.values() for n in parent.sites)]
