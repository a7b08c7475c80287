"""A program: a model bound to data, traced once. Models and guides stand above it, methods below."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from zoo.data.data import Data
from zoo.data.patterns import MissingCells
from zoo.declare.model import Model
from zoo.elimination.buckets import Buckets
from zoo.elimination.kalman import LinearGaussian
from zoo.errors import ModelError
from zoo.program.elimination import Elimination
from zoo.program.integrated import Integrated
from zoo.program.marginals import functional_marginals, gradient_marginals, mixture_marginals, one_state_per_row
from zoo.program.starting import check_densities, check_proposal, climbed, middle, origin
from zoo.program.terms import Terms
from zoo.program.view import View
from zoo.replay.evaluate import Replay, Values, call, model_context
from zoo.replay.masked import OBSERVED
from zoo.replay.parting import rewritten
from zoo.replay.random import reseed
from zoo.replay.sites import Site, Structure, base_distribution
from zoo.structure.observed import check_missing, check_unseen, uncovered
from zoo.structure.structure import trace

PRIOR_DRAWS = 15  # of which the middle is where a latent without a proposal starts


class Program:
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
        self.plans: dict[str, object] = {}  # what methods have worked out about this program
        self.views: dict[tuple[str, ...], Program] = {}  # itself with latents integrated out, by those that are kept
        self._proposed: frozenset[str] | None = None  # what the model's `initial` proposes, once it was asked
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
        return bool(moving) or any(t.kind != "whole" for t in self.structure.ties)

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
        """Why the density of a row is none of its own: it depends on the local latents of others; empty if not."""
        return next((str(t) for t in self.structure.ties if t.kind == "local"), "")

    @property
    def whole(self) -> Program:
        """The program with all its latents; itself, if none are integrated out."""
        return self

    @property
    def collapsed(self) -> tuple[str, ...]:
        """Latents that are integrated out of what this program says of the others; none, of a program as it is."""
        return ()

    @property
    def not_drawn(self) -> str:
        """Why data cannot be drawn from the model by running it; empty if they can."""
        return self.structure.not_drawn

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

    def site_shape(self, site: Site, rows: int | None = None) -> tuple[int, ...]:
        """Shape of a site's value on `rows` rows (default: those of the data)."""
        if site.role != "local":
            return site.shape
        axis = site.batch_dim + site.plate_dim(self.row)
        return (*site.shape[:axis], len(self.data) if rows is None else rows, *site.shape[axis + 1 :])

    # -- densities ---------------------------------------------------------------------------------------------

    def replay(
        self,
        values: Values,
        *,
        densities: bool = True,
        zeros: bool = False,
        noise: Values | None = None,
        left_out: Collection[str] = (),
    ) -> Replay:
        """Run the model at these values, enumerated sites at all their states, and return what was recorded.

        Chains of continuous states that have no value are integrated out: the log densities of what is observed of them
        are those of the filter. With `zeros` what is impossible has the log density -inf, and not that of the smallest
        number above 0. Normal latents that have `noise` get the values that their distributions make of it. Sites that
        are `left_out` have no log density.
        """
        gone = self.integrated
        if gone is None or all(s.name in values for s in gone.chains):
            return self._run(values, densities=densities, zeros=zeros, noise=noise, left_out=left_out)
        still = gone.states(len(self.data), self.dtype, self.device)
        names = {*gone.names, *left_out}
        replay = self._run({**still, **values}, densities=densities, left_out=names, zeros=zeros, noise=noise)
        if densities:
            replay.log_probs.update(gone.log_probs(self._linear_gaussian(values, replay), replay))
        return replay

    def _run(
        self,
        values: Values,
        *,
        densities: bool,
        left_out: Collection[str] = (),
        zeros: bool = False,
        noise: Values | None = None,
    ) -> Replay:
        replay = Replay(
            {**values, **self._states},
            self.priors,
            densities=densities,
            missing=self._missing,
            left_out=left_out,
            zeros=zeros,
            noise=noise,
            sizes=self.sizes,
            degrees=self.degrees,
        )
        with model_context(self.dtype, self.device), replay, rewritten(self.data):
            call(self.model, self.networks, values, self.data.values)
        self._firsts.update(replay.firsts)
        return replay

    def locations(self, values: Values, states: Values, names: Sequence[str]) -> Values:
        """Locations of Normal sites at given states of the chains that are integrated out."""
        seen = self._run({**values, **states}, densities=False).distributions
        return {n: base_distribution(seen[n]).loc for n in names}

    def linear_gaussian(self, values: Values) -> LinearGaussian:
        """Return the chain of continuous states and what was observed of it, at values of everything else.

        Raises
        ------
        ModelError
            If the model has no such chain.
        """
        return self._linear_gaussian(values, self.replay(values, densities=False))

    def _linear_gaussian(self, values: Values, replay: Replay) -> LinearGaussian:
        gone = self.integrated
        if gone is None:
            raise ModelError(f"{type(self.model).__name__} has no LinearGaussianChain")
        designs = self._designs if gone.fixed else gone.designs(self, values, replay)
        return gone.model(self, replay, designs)

    @cached_property
    def _designs(self) -> dict[str, Tensor]:
        """What is seen of the states, where no unknown moves it."""
        assert self.integrated is not None
        values = {**self.structure.example, **{n: p.detach() for n, p in self.model.named_parameters()}}
        values = {n: v.to(self.device) for n, v in values.items()}
        for site in self.locals:
            values[site.name] = torch.zeros(self.site_shape(site), dtype=self.dtype, device=self.device)
        with torch.no_grad():
            return self.integrated.designs(self, values, self.replay(values, densities=False))

    def missing(self, site: Site) -> MissingCells | None:
        """Return the missing cells of what a site observes, None if there are none."""
        return self.data.missing_cells(site.field) if site.role == "observed" and site.field else None

    @cached_property
    def _missing(self) -> dict[str, MissingCells]:
        found = {s.name: cells for s in self.observed if (cells := self.missing(s)) is not None}
        return {n: cells for n, cells in found.items() if n.removesuffix(OBSERVED) not in self.structure.parted}

    def log_probs(self, values: Values) -> Values:
        """Log density of every site at these values: enumeration dimensions left, plates right."""
        return self.replay(values).log_probs

    def eliminate(self, log_probs: Values, *, hard: bool = False) -> Terms:
        """Sum the enumerated sites out of the sites' log densities; with `hard`, maximize over them."""
        return self.elimination(log_probs, hard=hard)

    def log_prior(self, log_probs: Values, names: Collection[str] | None = None) -> Terms:
        """log p(latents) from the log densities of the sites: what they depend on of enumerated sites is summed out.

        Parameters
        ----------
        log_probs
            Of the sites.
        names
            Of which latents; None for all.
        """
        chosen = {s.name for s in self.latents} if names is None else {*names}
        kept = {n: v for n, v in log_probs.items() if n in chosen or n in self.conditioning}
        return self.eliminate(kept)

    def behind(self, site: Site) -> list[str]:
        """Enumerated sites that the prior of a latent depends on, and those that these depend on in turn."""
        found = set(site.by_state)
        while more := {n for name in found for p in self.sites[name].args.values() for n in p.index} - found:
            found |= more
        return [s.name for s in self.enumerated if s.name in found]

    def chain_factors(self, log_probs: Values, *, hard: bool = False) -> tuple[Tensor, Tensor]:
        """Return the log factors of the chain over all chains' states, every other enumerated site summed out.

        Or maximized over, with `hard`.

        log initial and transition probabilities (states + 1, states), and what each row says, (states, rows).
        """
        return self.elimination.chain(log_probs, hard=hard)

    def buckets(self, values: Values, *, hard: bool = False) -> Buckets:
        """Eliminate all enumerated sites but chains at these values; what it leaves can be read backwards."""
        return self.elimination.buckets(self.replay(values, zeros=True).log_probs, hard=hard)

    @cached_property
    def elimination(self) -> Elimination:
        """How enumerated sites are summed out of log densities."""
        plates, data = self.structure.plates, self.data
        return Elimination(self.sites, plates, self.row, len(data), data.weights, self.chains, self._firsts)

    def log_joint(self, values: Values) -> Terms:
        """log p(x, z; theta), enumerated sites summed out, every constant kept."""
        return self.eliminate(self.log_probs(values))

    def prior_and_joint(self, values: Values) -> tuple[Tensor, Tensor]:
        """Log density of the latents by their priors, and with all else; enumerated sites summed out of both."""
        by_site = self.log_probs(values)
        prior = self.log_prior(by_site).total()
        return prior, self.eliminate(by_site).total(self.data.weights)

    def expectations(self, values: Values, *, vectorized: bool = False) -> tuple[Terms, Values]:
        """Return the log joint and, for every site, the posterior probability of each entry of its log density.

        For a mixture these are the responsibilities. Row weights multiply them.

        Parameters
        ----------
        values
            Values of latents, parameters and network weights.
        vectorized
            Whether this runs inside `torch.vmap`, where only the functional gradient works (it is slower to start).
        """
        return self.marginals({n: v.detach() for n, v in self.log_probs(values).items()}, vectorized=vectorized)

    def marginals(self, log_probs: Values, *, vectorized: bool = False) -> tuple[Terms, Values]:
        """Return the eliminated log joint of these log densities and its gradient with respect to each.

        A chain's are the expected counts of its first states, and below them of its transitions.
        """
        if vectorized:
            return functional_marginals(self.eliminate, log_probs, self.data.weights)
        if self.one_state_per_row:
            inside = [n for n in log_probs if self.row in self.sites[n].plates]
            return mixture_marginals(log_probs, inside, len(self.data), self.data.weights)
        return gradient_marginals(self.eliminate, log_probs, self.data.weights)

    def hard_marginals(self, log_probs: Values) -> tuple[Terms, Values]:
        """`marginals` at the most probable states instead of the average over them: classification.

        The gradient of the maximum of the log joint with respect to each log factor marks the states that attain it.
        """
        return gradient_marginals(partial(self.eliminate, hard=True), log_probs, self.data.weights)

    @cached_property
    def one_state_per_row(self) -> bool:
        """Whether the only enumerated site is one per row, which needs no elimination but a log-sum-exp."""
        return not self.chained and one_state_per_row(self.sites.values(), self.row)

    def responsibilities(self, values: Values, *, vectorized: bool = False) -> dict[str, Tensor]:
        """p(z_i = k | x_i, globals) of each enumerated site with one state per row, shape (rows, states)."""
        program = self if self.data.weights is None else self.rebind(replace(self.data, weights=None))
        _, marginals = program.expectations(values, vectorized=vectorized)
        return {s.name: program.states_of(marginals, s) for s in self.assigned}

    def states_of(self, marginals: Values, site: Site) -> Tensor:
        """Posterior probability of the states of each row, times its weight, from `marginals`: (rows, states).

        A chain has the counts of its moves there, so its states are read off a site that depends on them.
        """
        if site.name not in self.chains:
            return self.per_row(marginals[site.name], site)
        for name, marginal in marginals.items():
            if self.depends_on(name, marginal, site):
                states = self.per_row(marginal, site)
                # A site with plates inside that of rows repeats the states of a row once for each of its entries.
                states = states / states.sum(1, keepdim=True)
                return states if self.data.weights is None else self.data.weights[:, None] * states
        raise ModelError(f"nothing depends on the states of the chain {site.name!r}, so there is nothing to assign")

    def depends_on(self, name: str, factor: Tensor, chain: Site) -> bool:
        """Whether a log factor of the site `name` has a dimension for the states of a chain that it depends on."""
        other, dim = self.sites[name], chain.enum_dim
        child = other.symbols.get(dim) == chain.symbols[dim] and self.row in other.plates and name != chain.name
        return child and factor.ndim >= -dim and factor.shape[dim] == chain.cardinality

    @property
    def first_rows(self) -> Tensor:
        """Which rows begin a sequence of the chains, as the model was last run, shape (rows,)."""
        return next(iter(self._firsts.values()))

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

    @cached_property
    def shared(self) -> list[Site]:
        """Enumerated sites outside the data plate, which rows share: given the other latents rows are dependent."""
        return [s for s in self.enumerated if self.row not in s.plates]

    def weigh(self, name: str, log_prob: Tensor, lead: int = 0) -> Tensor:
        """Sum a latent's log density, a local one's rows by their weight; `lead` dimensions on the left are kept."""
        site, weights = self.sites[name], self.data.weights
        if site.role == "local" and weights is not None:
            axis = site.plate_dim(self.row)
            log_prob = log_prob * weights.reshape([-1, *[1] * (-1 - axis)])
        return log_prob.reshape(*log_prob.shape[:lead], -1).sum(-1)

    def per_row(self, marginal: Tensor, site: Site) -> Tensor:
        """Reduce a factor's marginal to (rows, states)."""
        row_axis = marginal.ndim + site.plate_dim(self.row)
        enum_axis = marginal.ndim + site.enum_dim
        if enum_axis < 0:
            return marginal.movedim(row_axis, 0).reshape(len(self.data), -1)[:, :1]
        moved = marginal.movedim((row_axis, enum_axis), (0, 1))
        return moved.reshape(len(self.data), site.cardinality, -1).sum(-1)

    # -- simulation --------------------------------------------------------------------------------------------

    def simulate(self, values: Values, *, observed: bool = True, lead: Tensor | None = None) -> Values:
        """Draw every site that has no value in `values`, observed sites included if `observed`; return all sites.

        Inside `torch.vmap`, `lead` is a number that varies over it, so that each entry gets draws of its own.

        Raises
        ------
        ModelError
            If a site cannot be drawn from.
        """
        completed = {n + OBSERVED for n in self.structure.completed}
        missing = {n: cells for n, cells in self._missing.items() if n in completed}
        replay = Replay(
            values, self.priors, simulate=True, observed=observed, lead=lead, missing=missing, sizes=self.sizes
        )
        with torch.no_grad(), model_context(self.dtype, self.device), replay:
            try:
                with rewritten(self.data):
                    call(self.model, self.networks, values, self.data.values)
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

    def derived_from(self, states: Collection[str]) -> list[str]:
        """Names of the `pyro.deterministic` sites that depend on these chains."""
        derived = (s for s in self.sites.values() if s.role == "deterministic")
        return [s.name for s in derived if any(n in states for parent in s.args.values() for n in parent.sites)]

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
                    draws = [self.simulate(values, observed=False) for _ in range(PRIOR_DRAWS)]
                for site in missing:
                    stacked = torch.stack([d[site.name] for d in draws])
                    values[site.name] = middle(stacked, site)
        values.update(climbed(values, flat, lambda v: self.log_joint(v).total(self.data.weights)))
        with torch.no_grad():
            self.check(values)
        return values

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
        """Raise if a site's log density at these values is not a finite number, naming the site."""
        check_densities(self.replay(values), self.sites, self.eliminate)
