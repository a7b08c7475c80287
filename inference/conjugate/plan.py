"""How the unknowns of a program are updated: which likelihoods its sites are, and which blocks have a closed form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from inference.conjugate.e_step import ALTERNATIVE_POINTS, EStep, Statistics, broadcast
from inference.conjugate.family import Block, Likelihood
from inference.conjugate.incomplete import log_marginal
from inference.conjugate.verify import in_values, made_values, mistaken
from zoo.errors import MethodError
from zoo.program.program import Program
from zoo.replay.evaluate import Replay, Values
from zoo.replay.normals import observed_density
from zoo.replay.sites import ALTERNATIVES, Site, base_distribution

PREDICTORS = ("linear", "bilinear")  # kinds of locations that have a likelihood of their own


@dataclass
class Plan:
    """What is updated how, and what does not change from step to step.

    Attributes
    ----------
    program
        The fit's program.
    likelihoods
        Site -> its exponential family, where its log density was seen to be that family's.
    plain
        Sites whose log density is that of their distribution, neither scaled nor masked.
    collapsible
        Sites whose arguments are the same in all entries of their plates, so that statistics can be summed first.
    blocks
        Closed-form updates, local unknowns first.
    rest
        Unknowns without one.
    codes
        Enumerated site -> its states, laid out along its dimension, as indices.
    centers
        Observed site -> the mean of its data, that statistics are taken about.
    spreads
        Observed site -> the variance of its data, that floors are relative to.
    example
        A few rows at made-up values.
    incomplete
        Sites that would have a likelihood here, were it not for missing values.
    in_values
        Unknowns that observed values depend on, which have no closed form.
    """

    program: Program
    likelihoods: dict[str, Likelihood] = field(default_factory=dict)
    plain: frozenset[str] = frozenset()
    collapsible: frozenset[str] = frozenset()
    blocks: list[Block] = field(default_factory=list)
    rest: list[str] = field(default_factory=list)
    codes: Values = field(default_factory=dict)
    centers: Values = field(default_factory=dict)
    spreads: Values = field(default_factory=dict)
    example: EStep | None = None
    incomplete: list[str] = field(default_factory=list)
    in_values: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Lay out states."""
        self.codes = {s.name: s.states.long() for s in self.program.enumerated if s.states is not None}

    @property
    def names(self) -> list[str]:
        """All unknowns."""
        return [*(n for block in self.blocks for n in block.unknowns), *self.rest]

    def frame(self) -> dict[str, Tensor]:
        """What statistics are taken about: centers of sites, and the coordinates of linear predictors."""
        found = {f"center {n}": v for n, v in self.centers.items()}
        for name, likelihood in self.likelihoods.items():
            found |= {f"{key} {name}": v for key, v in likelihood.frame().items()}
        return found

    def set_frame(self, frame: dict[str, Tensor]) -> None:
        """Take statistics about what they were taken about before."""
        for key, value in frame.items():
            what, _, name = key.partition(" ")
            if what == "center":
                self.centers[name] = value
            elif name in self.likelihoods:
                setattr(self.likelihoods[name], what, value)

    def summed(self, program: Program) -> list[Site]:
        """Sites of the data plate whose statistics are sums over its rows.

        Raises
        ------
        MethodError
            If a site's arguments vary by row, so that its rows cannot be summed first.
        """
        found = []
        for site in program.sites.values():
            if program.row not in site.plates or site.role not in ("observed", "enumerated"):
                continue
            if site.name not in self.collapsible or site.name not in self.likelihoods:
                raise MethodError(
                    f"rows in parts (a stream, several processes) need arguments that do not vary by row; those of "
                    f"{site.name!r} do, or have no closed form"
                )
            found.append(site)
        return found

    def recognize(self, likelihoods: dict[str, Likelihood], linear: Callable[[Plan, Site], Likelihood | None]) -> None:
        """Match sites with likelihoods, and keep those whose formula gives the site's own log density."""
        structure, program = self.program.structure, self.program
        data = program.data
        if structure.example_rows is not None:
            data = data.take(structure.example_rows.to(program.device))
        sample = program.rebind(data)
        values = {**structure.example, **{n: p.detach() for n, p in program.model.named_parameters()}}
        values = {n: v.to(program.device) for n, v in values.items()}
        with torch.no_grad():
            replay = sample.replay(values)
            expected = self.example = EStep(self, sample, values, replay)
            made = made_values(program, values, replay)
            for site in program.sites.values():
                if site.name not in replay.distributions:
                    continue
                full, cells = replay.distributions[site.name], sample.missing(site)
                value = replay.seen[site.name]
                own_density = full.log_prob(value) if cells is None else observed_density(site.name, full, value, cells)
                if _same(own_density, replay.log_probs[site.name]):
                    self.plain |= {site.name}
                fn = base_distribution(full)
                predicts = site.family == "Normal" and site.args["loc"].kind in PREDICTORS and site.field is not None
                own = linear(self, site) if predicts else None
                found = likelihoods.get(type(fn).__name__) if own is None else own
                if found is None or site.name not in self.plain:
                    continue
                if cells is not None and found.joint and not self._completes(site, found):
                    self.incomplete.append(site.name)
                    continue
                self.likelihoods[site.name] = found
                if _row_free(fn, site, () if own is None else ("loc",)):
                    self.collapsible |= {site.name}
                if self.likelihoods[site.name].centered and site.role == "observed":
                    self._center(site, made[site.name] if site.name in made else program.data.values[str(site.field)])
                if not _same(log_factor(expected, site), replay.log_probs[site.name]):
                    del self.likelihoods[site.name]
            self.in_values = in_values(program, values, made)
            if structure.example_rows is not None:
                for name in mistaken(program, values, self._predicted):
                    self.plain -= {name}
                    self.likelihoods.pop(name, None)

    def _predicted(self, site: Site, values: Values, replay: Replay) -> Tensor | None:
        """Location of a site by its linear predictor, if it has one."""
        likelihood = self.likelihoods.get(site.name)
        found = None if likelihood is None else likelihood.location(EStep(self, self.program, values, replay))
        return None if found is None else found["mean"]

    def _completes(self, site: Site, likelihood: Likelihood) -> bool:
        """Whether missing entries of a vector have a posterior of their own: not one with that of a local latent."""
        roles = {self.program.sites[n].role for parent in site.args.values() for n in parent.sites}
        return likelihood.completes and site.event_dim == likelihood.joint and "local" not in roles

    def _center(self, site: Site, value: Tensor) -> None:
        """Note the mean and the variance of a site's data, one number per column of an event; missing ones left out."""
        if not value.is_floating_point():
            return
        flat, cells = value.reshape(-1, *value.shape[value.ndim - site.event_dim :]), self.program.missing(site)
        anchor = flat[0]
        if cells is None:
            center = (flat - anchor).mean(0)
            spread = (flat - anchor - center).square().mean(0)
        else:
            seen = (~cells.missing).reshape(flat.shape).to(flat)
            share = seen / seen.sum(0).clamp_min(1)
            center = (share * (flat - anchor)).sum(0)
            spread = (share * (flat - anchor - center).square()).sum(0)
        self.centers[site.name] = anchor + center
        self.spreads[site.name] = torch.where(spread > 0, spread, torch.ones_like(spread))

    def spread(self, site: Site) -> Tensor:
        """Variance of a site's data, one number per column of an event; 1 where it is not known."""
        if site.name in self.spreads:
            return self.spreads[site.name]
        shape = site.shape[len(site.shape) - site.event_dim :]
        return torch.ones(shape, dtype=self.program.dtype, device=self.program.device)


def known_without_running(plan: Plan, site: Site) -> bool:
    """Whether every argument of a site follows from the unknowns' values, or is constant."""
    for name, parent in site.args.items():
        if parent.kind in ("constant", "site", "indexed", "linear"):
            continue
        group = next((g for g in ALTERNATIVES if name in g), set())
        others = [site.args[n].kind for n in group if n in site.args]
        if not any(kind in ("site", "indexed", "constant") for kind in others):
            return False
    needed = {"Normal": "precision", "MultivariateNormal": "precision_matrix"}.get(site.family)
    if needed is None:
        return all(f.kind != "function" for n, f in site.args.items() if n in ("probs", "rate", "concentration"))
    return any(
        site.args[n].kind in ("constant", "site", "indexed")
        for n in (needed, *ALTERNATIVE_POINTS[needed])
        if n in site.args
    )


def log_factor(expected: EStep, site: Site) -> Tensor:
    """E[log p] of each entry of a site, in the layout of its log density."""
    likelihood = expected.plan.likelihoods[site.name]
    fn = base_distribution(expected.replay.distributions[site.name])
    value, center = expected.value(site), expected.plan.centers.get(site.name)
    base = likelihood.base(fn, value)
    cells = expected.program.missing(site)
    if cells is not None and likelihood.completes:
        return log_marginal(expected, site, cells)
    if site.latent and likelihood.centered:  # squares of differences, which are as small far from zero as near it
        center = value["mean"]
    if center is not None:
        value = {**value, "mean": value["mean"] - center}
    parts = likelihood.statistics(fn, value, expected.program)
    eta, constant = likelihood.natural(fn, lambda name, kind: expected.argument(site, name, kind), center)
    entries = constant + base
    for inner, t, e in zip(likelihood.inner, parts, eta, strict=True):
        entries = entries + _product(t, e, inner)
    if cells is not None:
        entries = torch.where(cells.missing, 0.0, entries)
    outer = site.event_dim - likelihood.joint
    if outer:
        events = value["mean"].shape[value["mean"].ndim - site.event_dim :][:outer]
        entries = entries.expand(torch.broadcast_shapes(entries.shape, events)).sum(list(range(-outer, 0)))
    own = expected.replay.log_probs.get(site.name)
    return entries if own is None else entries.expand(torch.broadcast_shapes(entries.shape, own.shape))


def log_density_of(expected: EStep, site: Site, statistics: Statistics) -> Tensor:
    """sum_i E[log p(x_i)] without the base measure, a scalar, from sums over the rows of a site."""
    likelihood = expected.plan.likelihoods[site.name]
    fn, center = base_distribution(expected.replay.distributions[site.name]), expected.plan.centers.get(site.name)
    eta, constant = likelihood.natural(fn, lambda name, kind: expected.argument(site, name, kind), center)
    count, parts = statistics
    outer = site.event_dim - likelihood.joint
    events = site.shape[len(site.shape) - site.event_dim :][:outer]
    entries = torch.where(count == 0, 0.0, count * constant)
    total = entries.expand(broadcast(entries.shape, events)).sum()
    for t, e in zip(parts, eta, strict=True):
        total = total + torch.where(t == 0, 0.0, t * e).sum()
    return total


def _product(t: Tensor, eta: Tensor, inner: int) -> Tensor:
    """<T, eta> over the `inner` dimensions on the right; of all rows under all states by one matrix product."""
    if not inner:
        return torch.where(t == 0, 0.0, t * eta)  # no count of what is impossible is no surprise
    own = t.shape[t.ndim - inner :].numel()
    lead, rows = eta.shape[: eta.ndim - inner], t.shape[: t.ndim - inner]
    same = len(rows) <= len(lead) and all(size == 1 for size in lead[len(lead) - len(rows) :])
    if same and not torch._C._functorch.is_batchedtensor(eta) and bool(eta.isfinite().all()):
        product = eta.reshape(-1, own) @ t.reshape(-1, own).mT
        return product.reshape((*lead[: len(lead) - len(rows)], *rows))
    return torch.where(t == 0, 0.0, t * eta).sum(list(range(-inner, 0)))


def _same(mine: Tensor, own: Tensor) -> bool:
    """Whether two log densities agree up to rounding."""
    try:
        shape = torch.broadcast_shapes(mine.shape, own.shape)
    except RuntimeError:
        return False
    mine, own = mine.expand(shape), own.expand(shape)
    tolerance = 1e-7 if own.dtype == torch.float64 else 1e-2
    return bool(((mine - own).abs() <= tolerance * (1 + own.abs())).logical_or(mine == own).all())


def _row_free(fn: Any, site: Site, skip: tuple[str, ...]) -> bool:
    """Whether no argument of a distribution varies along the plates of its site."""
    given = [n for n in fn.arg_constraints if isinstance(fn.__dict__.get(n), Tensor) and n not in skip]
    for name in given:
        # Of alternatives (probs or logits) one is derived from the other, entry by entry.
        others = next((group for group in ALTERNATIVES if name in group), {name})
        data = any(site.args[n].data for n in others if n in site.args)
        if not any(_without_rows(fn, fn.__dict__[n], site, data=data) for n in given if n in others):
            return False
    return True


def _without_rows(fn: Any, value: Tensor, site: Site, *, data: bool) -> bool:
    """Whether an argument is the same all along the plates; of one row only where it does not come from the data."""
    # Dimensions on the right that are an event: those of the base distribution, and those wrapped around it.
    events = value.ndim - len(fn.batch_shape) + max(site.event_dim - len(fn.event_shape), 0)
    for dim in range(max((-d for d in site.plate_dims), default=0)):
        axis = value.ndim - events - 1 - dim
        if axis >= 0 and (value.stride(axis) != 0 if value.shape[axis] > 1 else data):
            return False
    return True
