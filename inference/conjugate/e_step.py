"""What a closed-form update sees: current values or posteriors, and weighted sufficient statistics of each site."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from inference.conjugate.incomplete import completed
from inference.conjugate.posteriors import Moments, Posterior
from zoo.program.program import Program
from zoo.replay.evaluate import Replay, Values
from zoo.replay.sites import Parent, Site, base_distribution, views

if TYPE_CHECKING:
    from inference.conjugate.plan import Plan

Statistics = tuple[Tensor, tuple[Tensor, ...]]  # weights of the entries, and weights times each T_j


@dataclass
class EStep:
    """The sites at the current values, and the posterior weight of each entry of their log densities.

    Attributes
    ----------
    plan
        What is updated how, and what does not change from step to step.
    program
        The rows at hand (a batch of the plan's, or the plan's).
    values
        A value for each unknown: a point, or the mean of its posterior.
    replay
        The model run at some earlier values; constant arguments are read from it.
    marginals
        Weight of each entry of each site's log density, row weights included.
    beliefs
        Unknown -> the posterior of its block, for unknowns that are not points.
    sums
        Statistics that have been added up already, by site: rows are one entry.
    """

    plan: Plan
    program: Program
    values: Values
    replay: Replay
    marginals: Values = field(default_factory=dict)
    beliefs: Mapping[str, Posterior] = field(default_factory=dict)
    sums: Mapping[str, Statistics] = field(default_factory=dict)

    def at(self, values: Values, beliefs: Mapping[str, Posterior] | None = None) -> EStep:
        """Return the same with some unknowns updated."""
        return replace(self, values=values, beliefs=self.beliefs if beliefs is None else beliefs)

    @property
    def priors(self) -> Mapping[str, Any]:
        """Posteriors that take the place of the model's priors."""
        return self.program.priors

    # -- arguments ---------------------------------------------------------------------------------------------

    def place(self, parent: Parent, value: Tensor) -> Tensor:
        """Lay an unknown (or a moment of it) out beside the entries that it feeds."""
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

    def argument(self, site: Site, name: str, kind: str) -> Moments:
        """Return the moments of an argument of a site: of its posterior where it has one, else of its value."""
        parent = site.args.get(name)
        if kind == "coefficients":
            return self.plan.likelihoods[site.name].coefficients(self)
        replaced = site.name in self.priors  # by yesterday's posterior, whose arguments are constants
        if parent is None or replaced or parent.kind not in ("site", "indexed") or parent.sites[0] not in self.values:
            other = None if replaced else self._alternative(site, name)
            return point(kind, self._view(site, name)) if other is None else other
        unknown, factor = parent.sites[0], self.factor(site, name)
        belief = self.beliefs.get(unknown)
        if belief is None:
            return point(kind, factor * self.place(parent, self.values[unknown]))
        moments = belief.moments(unknown)
        if "quad" in moments and not self._shared(site, belief):
            moments = {n: m for n, m in moments.items() if n != "quad"}
        return scaled(kind, {n: self.place(parent, m) for n, m in moments.items()}, factor)

    def _alternative(self, site: Site, name: str) -> Moments | None:
        """Moments of an argument of which another parameterization is a known unknown: a precision from a scale."""
        for other, moments_of in ALTERNATIVE_POINTS.get(name, {}).items():
            parent = site.args.get(other)
            if parent is None or parent.kind not in ("site", "indexed") or parent.sites[0] in self.beliefs:
                continue
            if parent.sites[0] in self.values:
                return moments_of(self.factor(site, other) * self.place(parent, self.values[parent.sites[0]]))
        return None

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

    def _shared(self, site: Site, belief: Posterior) -> bool:
        """Whether the location and the precision of a site belong to one joint posterior."""
        feeds = [site.args[n] for n in ("precision", "precision_matrix") if n in site.args]
        return any(f.sites and self.beliefs.get(f.sites[0]) is belief for f in feeds)

    def value(self, site: Site) -> Moments:
        """Moments of a site's own value."""
        if site.name in self.beliefs:
            return self.beliefs[site.name].moments(site.name)
        if site.latent:
            return {"mean": self.values[site.name]}
        return {"mean": self.replay.seen[site.name]}

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
        fn = self.replay.distributions[site.name]
        once = bool(unknown) and self.program.sites[unknown].role == "local"
        weight = self.weight(site, once=once)
        value, center = self.value(site), self.plan.centers.get(site.name)
        if center is not None:
            value = {**value, "mean": value["mean"] - center}
        cells = self.program.missing(site)
        if cells is not None and likelihood.completes:
            return completed(self, site, cells, weight)
        parts = likelihood.statistics(base_distribution(fn), value, self.program)
        outer = site.event_dim - likelihood.joint
        inner = likelihood.inner
        if cells is not None:  # whether an entry is observed is a statistic too: its sum takes the place of the weights
            seen = (~cells.missing).to(weight.dtype)
            parts = (seen, *(seen[(..., *[None] * i)] * t for i, t in zip(inner, parts, strict=True)))
            inner = (0, *inner)
        if site.name in self.plan.collapsible and not site.latent:
            count, sums = self._collapsed(site, weight, parts, inner, outer)
        else:
            count = weight[(..., *[None] * outer)]
            sums = tuple(count[(..., *[None] * i)] * t for i, t in zip(inner, parts, strict=True))
        return (count, sums) if cells is None else (sums[0], sums[1:])

    def complete(self, how: Callable[..., Statistics] = completed) -> None:
        """Add up statistics of vectors with missing entries now, at these values: they are unknowns of the E-step."""
        found = {}
        for site in self.program.observed:
            cells, likelihood = self.program.missing(site), self.plan.likelihoods.get(site.name)
            if cells is not None and likelihood is not None and likelihood.completes:
                found[site.name] = how(self, site, cells, self.weight(site))
        self.sums = {**self.sums, **found}

    @staticmethod
    def _collapsed(
        site: Site, weight: Tensor, parts: tuple[Tensor, ...], inner: tuple[int, ...], outer: int
    ) -> Statistics:
        """Sum over all plates at once, by matrix products."""
        plates = max((-d for d in site.plate_dims), default=0)
        lead = weight.shape[: weight.ndim - plates]
        flat = weight.reshape(lead.numel(), -1)
        sums = []
        if site.role == "enumerated":  # its states are the same in every row
            whole = flat.sum(-1).reshape((*lead, *[1] * plates))[(..., *[None] * outer)]
            return whole, tuple(whole[(..., *[None] * i)] * t for i, t in zip(inner, parts, strict=True))
        for i, t in zip(inner, parts, strict=True):
            own = t.shape[t.ndim - outer - i :]
            if t.ndim > plates + len(own):  # it differs by state
                dims = list(range(-plates - len(own), -len(own)))
                sums.append((weight[(..., *[None] * len(own))] * t).sum(dims, keepdim=True))
                continue
            t = t.expand((*weight.shape[weight.ndim - plates :], *own))
            sums.append((flat @ t.reshape(flat.shape[1], -1)).reshape((*lead, *[1] * plates, *own)))
        count = flat.sum(-1).reshape((*lead, *[1] * plates))
        return count[(..., *[None] * outer)], tuple(sums)

    def reduce(self, parent: Parent, entries: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Add entries up to the shape of the unknown that feeds them: what `place` repeats, this sums."""
        return reduce(
            entries,
            self.codes(parent) if parent.kind == "indexed" else (),
            (*shape, *[1] * parent.broadcast_dims),
            shape,
        )


def reduce(entries: Tensor, codes: tuple[Tensor, ...], padded: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
    """Sum `entries` to `padded`, scattering by codes where the unknown is indexed; return it in `shape`."""
    if not codes:
        return sum_to(entries, padded).reshape(shape)
    layout = broadcast(*(c.shape for c in codes))
    placed = sum_to(entries, (*layout, *padded[len(codes) :]))
    if placed.shape[: len(layout)].numel() == torch.Size(padded[: len(codes)]).numel() and _in_order(codes):
        return placed.reshape(shape)
    out = placed.new_zeros(padded)
    out = out.index_put(tuple(c.expand(layout) for c in codes), placed, accumulate=True)
    return out.reshape(shape)


def broadcast(*shapes: tuple[int, ...]) -> torch.Size:
    """Shape that shapes which fit are broadcast to; `torch.broadcast_shapes` takes ten times as long."""
    ndim = max(len(s) for s in shapes)
    return torch.Size(max(s[len(s) - i] if i <= len(s) else 1 for s in shapes) for i in range(ndim, 0, -1))


def _in_order(codes: tuple[Tensor, ...]) -> bool:
    """Whether codes run through all states, each along a dimension of its own, in the order of the dimensions."""
    dims = [c.ndim for c in codes]
    return all(c.numel() == c.shape[0] and c.ndim > 1 for c in codes) and dims == sorted(dims, reverse=True)


def sum_to(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Sum a tensor down to a shape it would be broadcast from, expanding it where it is itself broadcast."""
    if len(shape) > tensor.ndim:
        tensor = tensor.reshape((1,) * (len(shape) - tensor.ndim) + tuple(tensor.shape))
    lead = tensor.ndim - len(shape)
    full = [max(a, b) for a, b in zip(tensor.shape[lead:], shape, strict=True)]
    return tensor.expand((*tensor.shape[:lead], *full)).sum_to_size(shape)


def point(kind: str, value: Tensor) -> Moments:
    """Moments of a known value, by kind of argument."""
    if kind == "probability":
        return {"mean": value, "log": value.log(), "log1m": (-value).log1p()}
    if kind in ("simplex", "positive"):
        return {"mean": value, "log": value.log()}
    if kind == "matrix":
        return {"mean": value, "logdet": 2 * torch.linalg.cholesky(value).diagonal(dim1=-2, dim2=-1).log().sum(-1)}
    return {"mean": value}


def _from_covariance(value: Tensor) -> Moments:
    return _from_tril(torch.linalg.cholesky(value))


def _from_tril(tril: Tensor) -> Moments:
    logdet = -2 * tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return {"mean": torch.cholesky_inverse(tril), "logdet": logdet}


ALTERNATIVE_POINTS: dict[str, dict[str, Callable[[Tensor], Moments]]] = {
    "precision": {
        "variance": lambda v: {"mean": v.reciprocal(), "log": -v.log()},
        "scale": lambda s: {"mean": s.square().reciprocal(), "log": -2 * s.log()},
    },
    "precision_matrix": {"covariance_matrix": _from_covariance, "scale_tril": _from_tril},
}


def scaled(kind: str, moments: Moments, factor: Tensor | float) -> Moments:
    """Moments of a constant times an unknown."""
    if isinstance(factor, float) and factor == 1.0:
        return moments
    c = torch.as_tensor(factor, dtype=moments["mean"].dtype, device=moments["mean"].device)
    found = {**moments, "mean": c * moments["mean"]}
    if "log" in moments:
        found["log"] = moments["log"] + c.log()
    for name in ("var", "quad"):
        if name in moments:
            found[name] = c.square() * moments[name]
    if "logdet" in moments:
        found["logdet"] = moments["logdet"] + moments["mean"].shape[-1] * (c[..., 0, 0] if c.ndim > 1 else c).log()
    return found


def fn_of(expected: EStep, name: str) -> Any:
    """Distribution of a site without its wrappers."""
    return base_distribution(expected.replay.distributions[name])
