"""What a closed-form update sees: current values or posteriors, and weighted sufficient statistics of each site."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from inference.conjugate.exponential_family import Entries, ExponentialFamily, Likelihood, Moments, Statistics
from inference.conjugate.incomplete import completed, log_marginal
from inference.conjugate.layout import broadcast, collapsed, in_order, scaled, sum_to
from inference.conjugate.posteriors import Posterior
from inference.conjugate.recognition import Recognition
from zoo.data.patterns import MissingCells
from zoo.program.program import Program
from zoo.replay.evaluate import Replay, Values
from zoo.replay.sites import Parent, Site, base_distribution, views


@dataclass
class EStep:
    """The sites at the current values, and the posterior weight of each entry of their log densities.

    Attributes
    ----------
    plan
        What the sites are, which does not change from step to step.
    program
        The rows at hand (a batch of the plan's, or the plan's).
    values
        A value for each unknown: a point, or the mean of its posterior.
    replay
        The model run at some earlier values; constant arguments are read from it.
    marginals
        Weight of each entry of each site's log density, row weights included.
    posteriors
        Unknown -> the posterior of its block, for unknowns that are not points.
    sums
        Statistics that have been added up already, by site: rows are one entry.
    """

    plan: Recognition
    program: Program
    values: Values
    replay: Replay
    marginals: Values = field(default_factory=dict)
    posteriors: Mapping[str, Posterior] = field(default_factory=dict)
    sums: Mapping[str, Statistics] = field(default_factory=dict)

    def at(self, values: Values, posteriors: Mapping[str, Posterior] | None = None) -> EStep:
        """Return the same with some unknowns updated."""
        return replace(self, values=values, posteriors=self.posteriors if posteriors is None else posteriors)

    @property
    def priors(self) -> Mapping[str, Any]:
        """Posteriors that take the place of the model's priors."""
        return self.program.priors

    # -- sites ------------------------------------------------------------------------------------------------

    def fn(self, name: str) -> Any:
        """Distribution of a site without its wrappers."""
        return base_distribution(self.replay.distributions[name])

    def center(self, site: Site) -> Tensor | None:
        """What statistics of a site are taken about; None for 0."""
        return self.plan.centers.get(site.name)

    def states(self, name: str) -> Tensor:
        """States of an enumerated site as indices, laid out along its dimension."""
        return self.plan.codes[name]

    def value(self, site: Site) -> Moments:
        """Moments of a site's own value."""
        if site.name in self.posteriors:
            return self.posteriors[site.name].own(site.name)
        value = self.values[site.name] if site.latent else self.replay.seen[site.name]
        likelihood = self.plan.likelihoods.get(site.name)
        return {"mean": value} if likelihood is None else likelihood.observed(self.program, value)

    def prior(self, site: Site, center: Tensor | None = None) -> tuple[Tensor, ...]:
        """Natural parameters of an unknown's prior, its own arguments by their moments, with T about a center."""
        family, value = self.plan.likelihoods[site.name], self.value(site)
        return family.as_prior(self.fn(site.name), lambda name: self.argument(site, name), value, center)

    # -- arguments ---------------------------------------------------------------------------------------------

    def place(self, parent: Parent, value: Tensor) -> Tensor:
        """Lay an unknown (or a moment of it) out beside the entries of the site that it is an argument of.

        An index by states or categories becomes their dimensions, and event dimensions that it is broadcast over are
        added on the right.
        """
        if parent.kind == "indexed":
            value = value[self.codes(parent)]
        return value[(..., *[None] * parent.broadcast_dims)]

    def codes(self, parent: Parent) -> tuple[Tensor, ...]:
        """What an indexed unknown is indexed by: states of enumerated sites, or categories in the data."""
        if parent.by:
            return (self.program.data.values[parent.by],)
        return tuple(self.plan.codes[n] for n in parent.index)

    def factor(self, site: Site, name: str) -> Tensor | float:
        """Return the constant that multiplies the unknown in an argument."""
        parent = site.args[name]
        if not parent.entrywise:
            return parent.scale
        return self._view(site, name) / self.place(parent, self.replay.values[parent.sites[0]])

    def argument(self, site: Site, name: str) -> Moments:
        """Return the moments of an argument of a site: of its posterior where it has one, else of its value."""
        likelihood, parent = self.plan.likelihoods[site.name], site.args.get(name)
        if name == likelihood.composes:
            return likelihood.composed(self)
        if site.name not in self.priors:  # else yesterday's posterior is the prior, whose arguments are constants
            if parent is not None and self._is_unknown(parent):
                return self._moments(site, likelihood, name, parent)
            for other, convert in likelihood.alternatives.get(name, {}).items():
                parent = site.args.get(other)
                if parent is None or not self._is_unknown(parent):
                    continue
                if parent.sites[0] not in self.posteriors or other in likelihood.conjugate:
                    return convert(self._moments(site, likelihood, other, parent))
        return likelihood.moments_at(name, self._view(site, name))

    def _is_unknown(self, parent: Parent) -> bool:
        return parent.kind in ("site", "indexed") and parent.sites[0] in self.values

    def _moments(self, site: Site, likelihood: Likelihood, name: str, parent: Parent) -> Moments:
        """Moments of an argument that is an unknown, indexed or not, times a constant."""
        unknown, factor = parent.sites[0], self.factor(site, name)
        posterior = self.posteriors.get(unknown)
        if posterior is None:
            return likelihood.moments_at(name, factor * self.place(parent, self.values[unknown]))
        moments = posterior.moments(unknown)
        if "quad" in moments:  # of use only where the precision is of the same joint posterior as the location
            scales = [site.args[n].sites for n in likelihood.conjugate if n != "loc" and n in site.args]
            if not any(sites and self.posteriors.get(sites[0]) is posterior for sites in scales):
                del moments["quad"]
        return scaled({n: self.place(parent, m) for n, m in moments.items()}, factor)

    def _view(self, site: Site, name: str) -> Tensor:
        """Value of an argument, one entry for all rows where it does not vary by row."""
        fn = self.replay.distributions[site.name]
        view = views(fn)[name]
        if site.name not in self.plan.collapsible or site.name in self.priors:
            return view
        base = base_distribution(fn)
        events = view.ndim - len(base.batch_shape) + max(site.event_dim - len(base.event_shape), 0)
        for dim in range(max((-d for d in site.plate_dims), default=0)):
            axis = view.ndim - events - 1 - dim
            if axis >= 0:
                view = view.narrow(axis, 0, 1)
        return view

    # -- log densities -----------------------------------------------------------------------------------------

    def log_density(self, site: Site) -> Tensor:
        """E[log p] of each entry of a site, in the layout of its log density."""
        likelihood, fn, value = self.plan.likelihoods[site.name], self.fn(site.name), self.value(site)
        cells = self.program.missing(site)
        if cells is not None and likelihood.completes:
            loc, precision = self.argument(site, "loc"), self.argument(site, "precision_matrix")
            return log_marginal(self.replay.seen[site.name], loc, precision, self._covariance(site), cells)
        center = self.center(site)
        if site.latent and likelihood.centered:  # squares of differences, which are as small far from zero as near it
            center = value["mean"]
        entries = likelihood.log_density(fn, lambda name: self.argument(site, name), value, center)
        if cells is not None and not likelihood.skips:
            entries = torch.where(cells.missing, 0.0, entries)
        outer = self.plan.events_outside(site)
        if outer:
            entries = entries.expand(broadcast(entries.shape, outer)).sum(list(range(-len(outer), 0)))
        own = self.replay.log_probs.get(site.name)
        return entries if own is None else entries.expand(broadcast(entries.shape, own.shape))

    def log_density_of_sums(self, site: Site, statistics: Statistics) -> Tensor:
        """sum_i E[log p(x_i)] without the base measure, a scalar, from sums over the rows of a site."""
        likelihood = self.plan.likelihoods[site.name]
        assert isinstance(likelihood, ExponentialFamily)
        eta, constant = likelihood.natural(
            self.fn(site.name), lambda name: self.argument(site, name), self.center(site)
        )
        count, parts = statistics
        entries = torch.where(count == 0, 0.0, count * constant)
        total = entries.expand(broadcast(entries.shape, self.plan.events_outside(site))).sum()
        for t, e in zip(parts, eta, strict=True):
            total = total + torch.where(t == 0, 0.0, t * e).sum()
        return total

    # -- statistics --------------------------------------------------------------------------------------------

    def weight(self, site: Site, *, once: bool = False) -> Tensor:
        """Posterior probability of each entry of a site's log density, times its row's weight unless `once`."""
        marginal, weights = self.marginals.get(site.name), self.program.data.weights
        if marginal is None:  # outside the data plate: each entry counts once
            return torch.ones_like(self.replay.log_probs[site.name])
        if not once or weights is None or self.program.row not in site.plates:
            return marginal
        axis = site.plate_dims[site.plates.index(self.program.row)]
        weights = weights.reshape([-1, *[1] * (-1 - axis)])
        return torch.where(weights == 0, 0.0, marginal / weights)  # a row of weight 0 is not there

    def statistics(self, site: Site, unknown: str = "") -> Statistics:
        """Weights of a site's entries and weighted T_j, summed over plates where the arguments do not vary by them.

        Parameters
        ----------
        site
            An observed, enumerated or latent site.
        unknown
            What they are for: where it is local, a row's weight repeats it too and counts once.
        """
        if site.name in self.sums:
            return self.sums[site.name]
        likelihood = self.plan.likelihoods[site.name]
        once = bool(unknown) and self.program.sites[unknown].role == "local"
        weight = self.weight(site, once=once)
        cells, center = None if likelihood.skips else self.program.missing(site), self.center(site)
        if cells is not None and likelihood.completes:
            return self._completed(site, cells, weight)
        value = self.value(site)
        if center is not None:
            value = {**value, "mean": value["mean"] - center}
        parts, dims = likelihood.statistics(self.fn(site.name), value), likelihood.dims
        outer = len(self.plan.events_outside(site))
        if cells is not None:  # whether an entry is observed is a statistic too: its sum takes the place of the weights
            seen = (~cells.missing).to(weight.dtype)
            parts = (seen, *(seen[(..., *[None] * i)] * t for i, t in zip(dims, parts, strict=True)))
            dims = (0, *dims)
        if site.name in self.plan.collapsible and not site.latent:
            count, sums = collapsed(site, weight, parts, dims, outer)
        else:
            count = weight[(..., *[None] * outer)]
            sums = tuple(count[(..., *[None] * i)] * t for i, t in zip(dims, parts, strict=True))
        return (count, sums) if cells is None else (sums[0], sums[1:])

    def entries(self, site: Site, unknown: str, offset: Tensor | float = 0.0) -> Entries:
        """`statistics` as messages are made of, the weights laid out over all entries of an event."""
        count, sums = self.statistics(site, unknown)
        outer = self.plan.events_outside(site)
        count = count.expand((*count.shape[: count.ndim - len(outer)], *outer))
        return Entries(self, site, self.fn(site.name), count, sums, offset)

    def complete(self, *, guess: bool = False) -> None:
        """Add up statistics of vectors with missing entries now, at these values: they are unknowns of the E-step.

        With `guess`, where nothing is known yet, missing entries have the mean and variance of their column.
        """
        found = {}
        for site in self.program.observed:
            cells, likelihood = self.program.missing(site), self.plan.likelihoods.get(site.name)
            if cells is not None and likelihood is not None and likelihood.completes:
                found[site.name] = self._completed(site, cells, self.weight(site), guess=guess)
        self.sums = {**self.sums, **found}

    def _completed(self, site: Site, cells: MissingCells, weight: Tensor, *, guess: bool = False) -> Statistics:
        center, value = self.plan.centers[site.name], self.replay.seen[site.name]
        mean = center if guess else self.argument(site, "loc")["mean"]
        covariance = torch.diag(self.plan.spread(site)) if guess else self._covariance(site)
        summed = site.name in self.plan.collapsible
        return completed(value, cells, weight, mean, covariance, center, summed=summed)

    def _covariance(self, site: Site) -> Tensor:
        """E[P]^-1 of vectors: the covariance itself where it is known."""
        parent = site.args.get("covariance_matrix")
        if parent is not None and parent.kind != "function" and not self.posteriors.keys() & set(parent.sites):
            return self.argument(site, "covariance_matrix")["mean"]
        precision = self.argument(site, "precision_matrix")["mean"]
        inverted: Tensor = torch.cholesky_inverse(torch.linalg.cholesky(precision))
        return inverted

    def reduce(self, parent: Parent, entries: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Add entries up to the shape of the unknown that they come from: what `place` repeats, this sums."""
        codes, padded = (self.codes(parent) if parent.kind == "indexed" else ()), (*shape, *[1] * parent.broadcast_dims)
        if not codes:
            return sum_to(entries, padded).reshape(shape)
        layout = broadcast(*(c.shape for c in codes))
        placed = sum_to(entries, (*layout, *padded[len(codes) :]))
        if placed.shape[: len(layout)].numel() == torch.Size(padded[: len(codes)]).numel() and in_order(codes):
            return placed.reshape(shape)
        out = placed.new_zeros(padded)
        return out.index_put(tuple(c.expand(layout) for c in codes), placed, accumulate=True).reshape(shape)
