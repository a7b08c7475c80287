"""A program: a model bound to data, traced once. Models and guides stand above it, methods below."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pyro
import torch
from torch import Tensor

from zoo.data.data import Data
from zoo.data.patterns import MissingCells
from zoo.declare.model import Model
from zoo.elimination.eliminate import Factor, contract, pack, rows_and_rest
from zoo.errors import ModelError
from zoo.program.view import View
from zoo.replay.chain import Link, joined, sum_out
from zoo.replay.evaluate import Replay, Values, call
from zoo.replay.sites import Site, Structure, check_arguments, check_support
from zoo.structure.observed import check_missing
from zoo.structure.structure import trace

PRIOR_DRAWS = 15
BOUNDED = ("Binomial", "BetaBinomial", "Uniform", "Pareto")  # whose arguments say where their values end


@dataclass(frozen=True)
class Terms:
    """A log joint density in two parts: `rest`, a scalar, and `rows`, one log density per row, shape (rows,)."""

    rest: Tensor
    rows: Tensor

    def total(self, weights: Tensor | None = None, scale: float = 1.0) -> Tensor:
        """Return rest + scale * sum_i w_i rows_i."""
        rows = self.rows.sum() if weights is None else (weights * self.rows).sum()
        return self.rest + scale * rows


def sum_of(tensors: Iterable[Tensor]) -> Tensor:
    """Add up at least one tensor."""
    first, *others = tensors
    for other in others:
        first = first + other
    return first


@contextmanager
def surroundings(dtype: torch.dtype, device: torch.device) -> Iterator[None]:
    """Run with this default precision and device, without Pyro's validation, with a parameter store of one's own."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        place = torch.device(device) if device.type != "cpu" else nullcontext()
        with pyro.validation_enabled(False), pyro.get_param_store().scope(), place:
            yield
    finally:
        torch.set_default_dtype(before)


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

    Raises
    ------
    ModelError
        If the model fails on the data, its plates do not fit, or its log density is not a number.
    """

    def __init__(
        self, model: Model, data: Data, priors: Mapping[str, Any] | None = None, structure: Structure | None = None
    ) -> None:
        self.model, self.data, self.priors = model, data, dict(priors or {})
        # A PyroParam shows up twice: as a parameter site, and as this tensor behind it.
        self.networks = frozenset(n for n, _ in model.named_parameters() if not n.endswith("_unconstrained"))
        if structure is None:
            with surroundings(self.dtype, self.device), torch.no_grad():
                networks = {n: p.detach() for n, p in model.named_parameters() if n in self.networks}
                structure = trace(model, data, networks, self.priors)
        self.structure = structure
        self.sites = structure.sites
        check_missing(structure, data)
        self.row = data.row if data.row in structure.plates else ""
        self.latents = [s for s in self.sites.values() if s.latent]
        self.locals = [s for s in self.latents if s.role == "local"]
        self.globals = [s for s in self.latents if s.role == "global"]
        self.enumerated = [s for s in self.sites.values() if s.role == "enumerated"]
        self.assigned = [s for s in self.enumerated if self.row and s.plates == (self.row,)]  # one state per row
        self.observed = [s for s in self.sites.values() if s.role == "observed"]
        self.parameters = [s for s in self.sites.values() if s.role == "parameter"]
        self.plans: dict[str, object] = {}  # what methods have worked out about this program
        self._states = {s.name: s.states for s in self.enumerated if s.states is not None}
        self.chains = {s.name: s for s in self.enumerated if s.family == "MarkovChain"}
        self._firsts: Values = {}  # which rows begin a sequence of each chain, noted when the model runs
        self._enum_symbols = frozenset(
            s.symbols[s.enum_dim] for s in self.enumerated if s.enum_dim in s.symbols and s.name not in self.chains
        )
        if self.chained and self.shared:
            raise ModelError(
                f"site {self.shared[0].name!r} is discrete and outside the plate of a MarkovChain, where it cannot be "
                "summed out; write the chain with pyro.markov, or fit one model for each of its states"
            )

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
        """Whether rows depend on the rows before them, so that they cannot be shuffled, split or drawn apart."""
        return bool(self.chains)

    def rebind(self, data: Data) -> Program:
        """Return the same program on other rows; nothing is traced or planned again."""
        other = Program(self.model, data, self.priors, self.structure)
        other.plans = self.plans
        return other

    def site_shape(self, site: Site, rows: int | None = None) -> tuple[int, ...]:
        """Shape of a site's value on `rows` rows (default: those of the data)."""
        if site.role != "local":
            return site.shape
        axis = site.batch_dim + site.plate_dims[site.plates.index(self.row)]
        return (*site.shape[:axis], len(self.data) if rows is None else rows, *site.shape[axis + 1 :])

    # -- densities ---------------------------------------------------------------------------------------------

    def replay(self, values: Values, *, densities: bool = True) -> Replay:
        """Run the model at these values, enumerated sites at all their states, and return what was recorded."""
        replay = Replay({**values, **self._states}, self.priors, densities=densities, missing=self._missing)
        with surroundings(self.dtype, self.device), replay:
            call(self.model, self.networks, values, self.data.values)
        self._firsts.update(replay.firsts)
        return replay

    def missing(self, site: Site) -> MissingCells | None:
        """Return the missing cells of what a site observes, None if there are none."""
        return self.data.missing_cells(site.field) if site.role == "observed" and site.field else None

    @cached_property
    def _missing(self) -> dict[str, MissingCells]:
        return {s.name: cells for s in self.observed if (cells := self.missing(s)) is not None}

    def log_probs(self, values: Values) -> Values:
        """Log density of every site at these values: enumeration dimensions left, plates right."""
        return self.replay(values).log_probs

    def eliminate(self, log_probs: Values, *, hard: bool = False) -> Terms:
        """Sum the enumerated sites out of the sites' log densities; with `hard`, maximize over them."""
        like = next(iter(log_probs.values())).new_zeros(())
        left, row = self._but_chains(log_probs, hard=hard), self._row_symbol
        if self.chains and row is not None:
            left = sum_out(left, self._links(log_probs), row, hard=hard)
        rest, rows = rows_and_rest(left, row, len(self.data), like)
        return Terms(rest, rows)

    def chain_factors(self, log_probs: Values) -> tuple[Tensor, Tensor]:
        """Return the log factors of the chain over all chains' states, every other enumerated site summed out.

        log initial and transition probabilities (states + 1, states), and what each row says, (states, rows).
        """
        assert self._row_symbol is not None
        _, table, evidence = joined(self._but_chains(log_probs), self._links(log_probs), self._row_symbol)
        return table, evidence

    @property
    def _row_symbol(self) -> str | None:
        return self.structure.plates.get(self.row) if self.row else None

    def _links(self, log_probs: Values) -> list[Link]:
        return [Link(log_probs[n], s.symbols[s.enum_dim], self._firsts[n]) for n, s in self.chains.items()]

    def _but_chains(self, log_probs: Values, *, hard: bool = False) -> dict[frozenset[str], Factor]:
        """Sum out all enumerated sites but chains."""
        plates = self.structure.plates
        factors: list[Factor] = []
        for name, log_prob in log_probs.items():
            site = self.sites[name]
            if name in self.chains:
                continue
            factors.append(pack(log_prob, site.symbols, frozenset(plates[p] for p in site.plates if p in plates)))
        return contract(factors, self._enum_symbols, self._row_symbol, self.data.weights, hard=hard)

    def log_joint(self, values: Values) -> Terms:
        """log p(x, z; theta), enumerated sites summed out, every constant kept."""
        return self.eliminate(self.log_probs(values))

    def expectations(self, values: Values, *, vectorized: bool = False) -> tuple[Terms, Values]:
        """Return the log joint and, for every site, the posterior probability of each entry of its log density.

        The gradient of the log normalizer with respect to a log factor is the posterior marginal of the factor's
        variables (Darwiche 2003); for a mixture these are the responsibilities. Row weights multiply them.

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
        weights = self.data.weights
        if self.one_state_per_row and not vectorized:
            return self._mixture_marginals(log_probs)
        if vectorized:

            def objective(factors: Values) -> tuple[Tensor, tuple[Tensor, Tensor]]:
                terms = self.eliminate(factors)
                return terms.total(weights), (terms.rest, terms.rows)

            found, parts = torch.func.grad(objective, has_aux=True)(log_probs)
            return Terms(*parts), found
        with torch.enable_grad():
            leaves = {n: v.detach().requires_grad_() for n, v in log_probs.items()}
            terms = self.eliminate(leaves)
            gradients = torch.autograd.grad(terms.total(weights), list(leaves.values()))
        return Terms(terms.rest.detach(), terms.rows.detach()), dict(zip(leaves, gradients, strict=True))

    def hard_marginals(self, log_probs: Values) -> tuple[Terms, Values]:
        """`marginals` at the most probable states instead of the average over them: classification.

        The gradient of the maximum of the log joint with respect to each log factor marks the states that attain it.
        """
        weights = self.data.weights
        with torch.enable_grad():
            leaves = {n: v.detach().requires_grad_() for n, v in log_probs.items()}
            terms = self.eliminate(leaves, hard=True)
            gradients = torch.autograd.grad(terms.total(weights), list(leaves.values()))
        return Terms(terms.rest.detach(), terms.rows.detach()), dict(zip(leaves, gradients, strict=True))

    @cached_property
    def one_state_per_row(self) -> bool:
        """Whether the only enumerated site is one per row, which needs no elimination but a log-sum-exp."""
        if len(self.enumerated) != 1 or self.chained:
            return False
        site = self.enumerated[0]
        if site.cardinality < 2 or (site.enum_dim, site.plate_dims) != (-2, (-1,)):
            return False
        return all(
            s.plates == (self.row,)
            for s in self.sites.values()
            if (self.row and s.name == site.name) or self.row in s.plates
        )

    def _mixture_marginals(self, log_probs: Values) -> tuple[Terms, Values]:
        """`marginals` for one enumerated site per row: p(z_i = k | x_i) is a softmax, the same for every factor."""
        rows, weights = len(self.data), self.data.weights
        inside = [n for n in log_probs if self.row in self.sites[n].plates]
        shared = [n for n in inside if log_probs[n].ndim > 1 and log_probs[n].shape[-2] > 1]
        joint = sum_of(log_probs[n] for n in shared)
        normalizer = joint.logsumexp(-2)
        posterior = (joint - normalizer[..., None, :]).exp_()
        if weights is not None:
            posterior *= weights
        found: Values = {}
        for name, value in log_probs.items():
            if name in shared:
                found[name] = posterior.expand(value.shape)
            elif name in inside and weights is not None:
                found[name] = weights.expand(value.shape)
            else:
                found[name] = torch.ones_like(value)
        plain = [log_probs[n].reshape(-1, rows).sum(0) for n in inside if n not in shared]
        rest = [log_probs[n].sum() for n in log_probs if n not in inside]
        total = sum_of([normalizer.reshape(rows), *plain])
        return Terms(sum_of(rest) if rest else normalizer.new_zeros(()), total), found

    def responsibilities(self, values: Values, *, vectorized: bool = False) -> dict[str, Tensor]:
        """p(z_i = k | x_i, globals) of each enumerated site with one state per row, shape (rows, states)."""
        program = self if self.data.weights is None else self.rebind(replace(self.data, weights=None))
        _, marginals = program.expectations(values, vectorized=vectorized)
        return {s.name: program.states_of(marginals, s) for s in self.assigned}

    def states_of(self, marginals: Values, site: Site) -> Tensor:
        """Posterior probability of the states of each row, times its weight, from `marginals`: (rows, states).

        A chain has the counts of its moves there, so its states are read off what they feed.
        """
        if site.name not in self.chains:
            return self.per_row(marginals[site.name], site)
        for name, marginal in marginals.items():
            if self.feels(name, marginal, site):
                found = self.per_row(marginal, site)
                found = found / found.sum(1, keepdim=True)  # in plates of its own, a site says the same several times
                return found if self.data.weights is None else self.data.weights[:, None] * found
        raise ModelError(f"nothing depends on the states of the chain {site.name!r}, so there is nothing to assign")

    def feels(self, name: str, factor: Tensor, chain: Site) -> bool:
        """Whether a factor of the site `name` has a dimension for the states of a chain that it depends on."""
        other, dim = self.sites[name], chain.enum_dim
        fed = other.symbols.get(dim) == chain.symbols[dim] and self.row in other.plates and name != chain.name
        return fed and factor.ndim >= -dim and factor.shape[dim] == chain.cardinality

    @property
    def first_rows(self) -> Tensor:
        """Which rows begin a sequence of the chains, as the model was last run, shape (rows,)."""
        return next(iter(self._firsts.values()))

    @cached_property
    def shared(self) -> list[Site]:
        """Enumerated sites outside the data plate, which rows share: given the other latents rows are dependent."""
        return [s for s in self.enumerated if self.row not in s.plates]

    def shared_marginals(self, values: Values, *, vectorized: bool = False) -> dict[str, Tensor]:
        """p(z = k | data, other latents) of each enumerated site without plates, shape (1, states)."""
        _, marginals = self.expectations(values, vectorized=vectorized)
        return {s.name: marginals[s.name].reshape(1, s.cardinality) for s in self.shared if not s.plates}

    def weigh(self, name: str, log_prob: Tensor, lead: int = 0) -> Tensor:
        """Sum a latent's log density, a local one's rows by their weight; `lead` dimensions on the left are kept."""
        site, weights = self.sites[name], self.data.weights
        if site.role == "local" and weights is not None:
            axis = site.plate_dims[site.plates.index(self.row)]
            log_prob = log_prob * weights.reshape([-1, *[1] * (-1 - axis)])
        return log_prob.reshape(*log_prob.shape[:lead], -1).sum(-1)

    def per_row(self, marginal: Tensor, site: Site) -> Tensor:
        """Reduce a factor's marginal to (rows, states)."""
        row_axis = marginal.ndim + site.plate_dims[site.plates.index(self.row)]
        enum_axis = marginal.ndim + site.enum_dim
        if enum_axis < 0:
            return marginal.movedim(row_axis, 0).reshape(len(self.data), -1)[:, :1]
        moved = marginal.movedim((row_axis, enum_axis), (0, 1))
        return moved.reshape(len(self.data), site.cardinality, -1).sum(-1)

    # -- simulation --------------------------------------------------------------------------------------------

    def simulate(self, values: Values, *, observed: bool = True) -> Values:
        """Draw every site that has no value in `values`, observed sites included if `observed`; return all sites.

        Raises
        ------
        ModelError
            If a site cannot be drawn from.
        """
        replay = Replay(values, self.priors, simulate=True, observed=observed)
        with torch.no_grad(), surroundings(self.dtype, self.device), replay:
            try:
                call(self.model, self.networks, values, self.data.values)
            except (RuntimeError, ValueError, NotImplementedError) as error:
                first = str(error.__cause__ or error).partition("\n")[0] or type(error).__name__
                raise ModelError(f"site {replay.now!r} cannot be drawn from: {first}") from error
        return replay.seen

    def deterministic(self, values: Values) -> Values:
        """Values of the `pyro.deterministic` sites."""
        names = [s.name for s in self.sites.values() if s.role == "deterministic"]
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
            values.update(self._proposed())
            missing = [s for s in self.latents if s.name not in values]
            if missing:
                with warnings.catch_warnings():  # torch warns of singular draws of a wide Wishart; their mean is not
                    warnings.simplefilter("ignore", UserWarning)
                    draws = [self.simulate(values, observed=False) for _ in range(PRIOR_DRAWS)]
                for site in missing:
                    stacked = torch.stack([d[site.name] for d in draws])
                    values[site.name] = _middle(stacked, site)
            self.check(values)
        return values

    @cached_property
    def proposes(self) -> bool:
        """Whether the model proposes starting values for every global and parameter itself."""
        with torch.random.fork_rng(devices=[]):
            proposed = self.model.initial(**self.data.values)
        return all(s.name in proposed for s in (*self.globals, *self.parameters))

    def _proposed(self) -> Values:
        """Return the model's proposal, checked."""
        proposed = self.model.initial(**self.data.values)
        owner = f"{type(self.model).__name__}.initial"
        if not isinstance(proposed, Mapping) or not all(isinstance(v, Tensor) for v in proposed.values()):
            raise ModelError(f"{owner} must return a dict from site or parameter to tensor, not {proposed!r}")
        for name, value in proposed.items():
            site = self.sites.get(name)
            if site is None or site.role not in ("global", "local", "parameter"):
                raise ModelError(
                    f"{type(self.model).__name__}.initial proposes {name!r}, which is no latent site or "
                    f"parameter; there are {', '.join(s.name for s in self.latents + self.parameters)}"
                )
            expected = self.site_shape(site)
            if tuple(value.shape) != expected:
                raise ModelError(
                    f"{type(self.model).__name__}.initial: {name!r} must have shape {expected}, not "
                    f"{tuple(value.shape)}"
                )
            if not bool(site.support.check(value).all()):
                raise ModelError(f"{type(self.model).__name__}.initial: {name!r} is outside its support {site.support}")
        return {n: v.to(self.device, self.dtype) for n, v in proposed.items()}

    def check(self, values: Values) -> None:
        """Raise if a site's log density at these values is not a finite number, naming the site."""
        replay = self.replay(values)
        for name, fn in replay.distributions.items():
            check_arguments(name, fn)
        for name, log_prob in replay.log_probs.items():
            site = self.sites[name]
            moving = any(self.sites[n].latent for parent in site.args.values() for n in parent.sites if n in self.sites)
            if site.role == "observed" and name in replay.seen and not (moving and site.family in BOUNDED):
                check_support(name, site.family, replay.distributions[name].support, replay.seen[name])
            if bool(log_prob.isnan().any()):
                raise ModelError(
                    f"site {name!r}: log density is NaN at the starting values; look for a division by "
                    "zero or a log of a negative number in what feeds it "
                    f"({', '.join(f'{k}: {v}' for k, v in site.args.items())})"
                )
        terms = self.eliminate(replay.log_probs)
        if not bool(terms.total().isfinite()):
            bad = [n for n, v in replay.log_probs.items() if not bool(v.isfinite().all())]
            raise ModelError(
                f"the log density is {float(terms.total())} at the starting values, because of site "
                f"{bad[0] if bad else '?'!r}; its value is impossible under its distribution there. Give better "
                "starting values with an `initial` method, or correct the model or the data"
            )


def _middle(draws: Tensor, site: Site) -> Tensor:
    """Return the median of prior draws where the support is an interval, their mean where it is a convex set."""
    mean = draws.mean(0)
    if site.event_dim == 0 or type(site.support).__name__ in ("_Real", "_IndependentConstraint"):
        mean = draws.median(0).values
    return mean
