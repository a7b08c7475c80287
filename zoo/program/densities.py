"""Log densities of a traced model as pure functions of values, and the posterior of its discrete sites there."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property, partial

import torch
from torch import Tensor

from zoo.elimination.buckets import Buckets
from zoo.elimination.kalman import LinearGaussian
from zoo.errors import ModelError
from zoo.program.elimination import Elimination
from zoo.program.marginals import functional_marginals, gradient_marginals, mixture_marginals
from zoo.program.terms import Terms
from zoo.program.traced import Traced
from zoo.replay.evaluate import Replay, Values, call, model_context
from zoo.replay.parting import rewritten
from zoo.replay.sites import Site, base_distribution


class Densities(Traced):
    """log p(x, z; theta) with enumerated sites and chains summed out, site by site and row by row."""

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
            call(self.model, self.networks, {**values, **(noise or {})}, self.data.values)
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

    @property
    def first_rows(self) -> Tensor:
        """Which rows begin a sequence of the chains, as the model was last run, shape (rows,)."""
        return next(iter(self._firsts.values()))

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

    def per_row(self, marginal: Tensor, site: Site) -> Tensor:
        """Reduce a factor's marginal to (rows, states)."""
        row_axis = marginal.ndim + site.plate_dim(self.row)
        enum_axis = marginal.ndim + site.enum_dim
        if enum_axis < 0:
            return marginal.movedim(row_axis, 0).reshape(len(self.data), -1)[:, :1]
        moved = marginal.movedim((row_axis, enum_axis), (0, 1))
        return moved.reshape(len(self.data), site.cardinality, -1).sum(-1)

    def weigh(self, name: str, log_prob: Tensor, lead: int = 0) -> Tensor:
        """Sum a latent's log density, a local one's rows by their weight; `lead` dimensions on the left are kept."""
        site, weights = self.sites[name], self.data.weights
        if site.role == "local" and weights is not None:
            axis = site.plate_dim(self.row)
            log_prob = log_prob * weights.reshape([-1, *[1] * (-1 - axis)])
        return log_prob.reshape(*log_prob.shape[:lead], -1).sum(-1)
