"""A program: a model bound to data, traced once. Models and guides stand above it, methods below."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from zoo.data.data import Data
from zoo.declare.model import Model
from zoo.errors import ModelError
from zoo.program.densities import Densities
from zoo.program.in_turn import drawn_in_turn
from zoo.program.starting import check_densities, check_observed, check_proposal, climbed, middle, origin, raised
from zoo.replay.evaluate import Drawn, Replay, Values, call, model_context
from zoo.replay.masked import OBSERVED
from zoo.replay.parting import rewritten
from zoo.replay.random import reseed
from zoo.replay.sites import Structure
from zoo.structure.observed import uncovered
from zoo.structure.structure import spread_rows

PRIOR_DRAWS = 15  # of which the middle is where a latent without a proposal starts
BLOCK = 1 << 25  # entries of the data times states that are evaluated at a time


class Program(Densities):
    """log p(x, z; theta) with enumerated sites summed out, its parts, and simulation from it.

    Values are dicts from the names of latents, parameters and network weights to tensors.

    Parameters
    ----------
    model
        The fit's own copy; `setup` has been called.
    data
        Bound to the model's fields.
    priors
        Distributions that replace the model's own at some latent sites (yesterday's posterior).
    structure
        What the model is made of, if it has been traced before.
    sizes
        Plate -> its length, for plates of groups: the same on all rows. None for those of the rows that were traced.

    Raises
    ------
    ModelError
        If the model fails on the data, its plates do not fit, or its log density is not a number.
    """

    def __init__(
        self,
        model: Model,
        data: Data,
        priors: Mapping[str, Any] | None = None,
        structure: Structure | None = None,
        sizes: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(model, data, priors, structure, sizes)
        self.plans: dict[str, object] = {}  # what methods have worked out about this program
        self.views: dict[tuple[str, ...], Program] = {}  # itself with latents integrated out, by those that are kept
        self._proposed: frozenset[str] | None = None  # what the model's `initial` proposes, once it was asked

    @property
    def whole(self) -> Program:
        """The program with all its latents; itself, if none are integrated out."""
        return self

    @property
    def collapsed(self) -> tuple[str, ...]:
        """Latents that are integrated out of what this program says of the others; none, of a program as it is."""
        return ()

    def rebind(self, data: Data, sizes: Mapping[str, int] | None = None) -> Program:
        """Return the same program on other rows, and with plates of other sizes; nothing is traced or planned again.

        But for rows in which a field has missing cells that other sites read, and had none before.
        """
        sizes = self.sizes if sizes is None else sizes
        if uncovered(self.structure, data):
            with torch.random.fork_rng(devices=[]):
                reseed(0)
                return Program(self.model, data, self.priors, sizes=sizes)
        other = Program(self.model, data, self.priors, self.structure, sizes)
        other.plans, other._proposed = self.plans, self._proposed
        return other

    def responsibilities(self, values: Values, *, vectorized: bool = False) -> dict[str, Tensor]:
        """p(z_i = k | x_i, globals) of each enumerated site with one state per row, shape (rows, states)."""
        program = self if self.data.weights is None else self.rebind(replace(self.data, weights=None))
        if len(blocks := program.row_blocks()) > 1:
            parts = [program.rebind(program.data.take(at)).responsibilities(values) for at in blocks]
            return {n: torch.cat([part[n] for part in parts]) for n in parts[0]}
        _, marginals = program.expectations(values, vectorized=vectorized)
        return {s.name: program.states_of(marginals, s) for s in self.assigned}

    def row_blocks(self) -> list[Tensor]:
        """Rows in blocks whose entries, times the states of a row, fit into memory; all of them where rows are tied."""
        rows = torch.arange(len(self.data), device=self.device)
        if self.tied or not self.row or self.view.locals:
            return [rows]
        states = max([1, *(s.cardinality for s in self.enumerated)])
        cells = states * sum(self.data.values[n].numel() for n in self.data.row_fields)
        return list(rows.split(max(1, len(rows) * BLOCK // max(BLOCK, cells))))

    def some(self, rows: Tensor, values: Values) -> tuple[Program, Values]:
        """Return the program on some of its rows, and these values of everything there."""
        own = {s.name: values[s.name].index_select(s.batch_dim + s.plate_dim(self.row), rows) for s in self.locals}
        return self.rebind(self.data.take(rows)), {**values, **own}

    # -- simulation --------------------------------------------------------------------------------------------

    def simulate(self, values: Values, *, observed: bool = True, lead: Tensor | None = None) -> Values:
        """Draw every site that has no value in `values`, observed sites included if `observed`; return all sites.

        Inside `torch.vmap`, `lead` is a number that varies over it, so that each entry gets draws of its own.

        Raises
        ------
        ModelError
            If a site cannot be drawn from.
        """
        if observed and self.structure.in_turn:
            return drawn_in_turn(self.structure, self.data, lambda data: self._drawn(values, data))
        return self._drawn(values, self.data, observed=observed, lead=lead)

    def _drawn(
        self,
        values: Values,
        data: Data,
        *,
        observed: bool = True,
        lead: Tensor | None = None,
        until: Collection[str] = (),
    ) -> Values:
        """Run the model once on these data, drawing what has no value; if told, no further than these sites."""
        completed = {n + OBSERVED for n in self.structure.completed}
        missing = {n: cells for n, cells in self._missing.items() if n in completed}
        replay = Replay(
            values,
            self.priors,
            simulate=True,
            observed=observed,
            lead=lead,
            missing=missing,
            sizes=self.sizes,
            until=until,
        )
        with torch.no_grad(), model_context(self.dtype, self.device), replay:
            try:
                with suppress(Drawn), rewritten(data):
                    call(self.model, self.networks, values, data.values)
            except (RuntimeError, ValueError, NotImplementedError) as error:
                first = str(error.__cause__ or error).partition("\n")[0] or type(error).__name__
                if replay.now in self.structure.improper:
                    first = f"its prior is flat ({first}); give it a proper prior, a wide Normal for example"
                raise ModelError(f"site {replay.now!r} cannot be drawn from: {first}") from error
        return replay.seen

    def deterministic(self, values: Values) -> Values:
        """Values of the `pyro.deterministic` sites, but for those that depend on enumerated ones."""
        names = [s.name for s in self.sites.values() if s.role == "deterministic" and not s.args]
        if not names:
            return {}
        seen = self.replay(values).seen
        return {n: seen[n] for n in names}

    # -- starting values ---------------------------------------------------------------------------------------

    def initial(self) -> Values:
        """Starting values: the model's own proposal, else declared parameter values and the middle of the prior."""
        values: Values = {n: p.detach().clone() for n, p in self.model.named_parameters() if n in self.networks}
        values.update({s.name: s.initial.clone() for s in self.parameters if s.initial is not None})
        with torch.no_grad():
            values.update(self._proposal())
            missing = [s for s in self.latents if s.name not in values]
            flat = [s for s in missing if s.name in self.structure.improper]
            values.update({s.name: origin(s, self.site_shape(s)).to(self.device, self.dtype) for s in flat})
            missing = [s for s in missing if s not in flat]
            if missing:
                with warnings.catch_warnings():  # torch warns of singular draws of a wide Wishart; their mean is not
                    warnings.simplefilter("ignore", UserWarning)
                    # Networks that come after the last latent, such as a decoder, are left out.
                    names = {s.name for s in missing}
                    draws = [self._drawn(values, self.data, observed=False, until=names) for _ in range(PRIOR_DRAWS)]
                for site in missing:
                    stacked = torch.stack([d[site.name] for d in draws])
                    values[site.name] = middle(stacked, site)
        values.update(climbed(values, flat, lambda v: self.log_joint(v).total(self.data.weights)))
        with torch.no_grad():
            values.update(raised(values, self._count_axes, self.log_joint))
            self.check(values)
        return values

    @property
    def _count_axes(self) -> dict[str, int | None]:
        """Latents that are counts, and the dimension of the rows in each; None in one of all rows."""
        counts = [s for s in self.latents if s.countable]
        inside = {s.name for s in counts if self.row in s.plates}
        return {s.name: s.batch_dim + s.plate_dim(self.row) if s.name in inside else None for s in counts}

    @property
    def proposes(self) -> bool:
        """Whether the model proposes starting values for every global and parameter itself."""
        if self._proposed is None:
            with torch.random.fork_rng(devices=[]):
                self._proposed = frozenset(self.model.initial(**self.data.values))
        return self._proposed.issuperset(s.name for s in (*self.globals, *self.parameters))

    def _proposal(self) -> Values:
        """Return the model's proposal, checked."""
        proposed = self.model.initial(**self.data.values)
        values = check_proposal(f"{type(self.model).__name__}.initial", proposed, self.sites, self.site_shape)
        self._proposed = frozenset(values)
        return {n: v.to(self.device, self.dtype) for n, v in values.items()}

    def check(self, values: Values) -> None:
        """Raise if a site's log density at these values is not a finite number, naming the site.

        Of rows that go through networks some are looked at; values outside of supports are found in all of them.
        """
        blocks, spread = self.row_blocks(), spread_rows(self.data, self.networks)
        if spread is not None and not self.tied and self.row:
            check_observed(self.observed, self.data)
            some, own = self.some(spread, values)
            some.check(own)
            return
        with torch.no_grad():
            for some in (self.rebind(self.data.take(rows)) for rows in blocks) if len(blocks) > 1 else (self,):
                check_densities(some.replay(values), self.sites, some.eliminate)
