"""The update of one unknown: its prior's natural parameters plus messages of the sites that it is an argument of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from inference.conjugate.block import EMPTY, Block, Use, is_unknown, unscaled
from inference.conjugate.e_step import EStep
from inference.conjugate.exponential_family import ConjugatePrior
from inference.conjugate.layout import broadcast
from inference.conjugate.location_scale import LocationScale
from inference.conjugate.posteriors import Posterior, Single
from zoo.program.program import Program
from zoo.replay.evaluate import Values


@dataclass
class ConjugateBlock(Block):
    """The update of one unknown.

    sum_i w_i log p(x_i | u) = <T(u), m> + constant, so that the posterior has the natural parameters of the prior
    plus m, and its mode, or without a prior the maximum, is the u that maximizes <T(u), .>.
    """

    name: str
    family: ConjugatePrior
    uses: tuple[Use, ...]
    bound: str = ""  # site of which the update uses a bound

    def __post_init__(self) -> None:
        """Name what is updated."""
        self.unknowns = (self.name,)

    def why_not(self, program: Program) -> str | None:
        """Say too where it is conjugate in a bound on the joint only."""
        if self.bound:
            law = program.sites[self.bound].family
            return f"{self.name!r} has no conjugate posterior: a Normal bounds the {law} density of {self.bound!r}"
        return super().why_not(program)

    def has_prior(self, expected: EStep) -> bool:
        """Whether the unknown is a latent, and no parameter."""
        return expected.program.sites[self.name].role != "parameter"

    def shape(self, expected: EStep, dims: int = 0) -> tuple[int, ...]:
        """Shape of a statistic of the unknown that has so many dimensions of its own."""
        whole, own = tuple(expected.values[self.name].shape), self.family.event_dim
        return (*whole[: len(whole) - own], *whole[len(whole) - 1 :] * dims) if own else whole

    def count(self, expected: EStep) -> Tensor:
        """Expected count of entries of each cell of the unknown."""
        counts = []
        for use in self.uses:
            entries = expected.entries(use.site, self.name)
            counts.append(expected.reduce(use.parent, entries.count, self.shape(expected)))
        return sum(counts[1:], counts[0])

    def anchor(self, expected: EStep) -> Tensor | None:
        """Origin near the data for the location of what is far from zero; None where the unknown is no location."""
        if not self.family.centered:
            return None
        use, current = self.uses[0], expected.values[self.name]
        center = expected.center(use.site)
        if center is None or not unscaled(use.parent):
            return torch.zeros_like(current)
        own = [None] * self.family.event_dim
        if (same := _laid_out(expected, use, center, tuple(current.shape))) is not None:
            return same
        count = expected.entries(use.site, self.name).count[(..., *own)]
        whole = expected.reduce(use.parent, count, tuple(current.shape))
        mean = expected.reduce(use.parent, count * center, tuple(current.shape)) / whole.clamp_min(EMPTY)
        return torch.where(whole > EMPTY, mean, current)

    def message(self, expected: EStep, anchor: Tensor | None) -> tuple[Tensor, ...]:
        """m about the anchor, each part in the shape of its statistic."""
        found = []
        for use in self.uses:
            likelihood, factor = expected.plan.likelihoods[use.site.name], expected.factor(use.site, use.argument)
            offset: Tensor | float = 0.0
            if anchor is not None:
                center = expected.center(use.site)
                offset = (0.0 if center is None else center) - factor * expected.place(use.parent, anchor)
            parts = list(likelihood.message(use.argument, expected.entries(use.site, self.name, offset)))
            for j, power in enumerate(self.family.powers or ()):
                if power and not unscaled(use.parent):
                    parts[j] = parts[j] * factor**power
            shapes = [self.shape(expected, dims) for dims in self.family.dims]
            found.append([expected.reduce(use.parent, p, s) for p, s in zip(parts, shapes, strict=True)])
        return tuple(sum(parts[1:], parts[0]) for parts in zip(*found, strict=True))

    def natural(self, expected: EStep, anchor: Tensor | None) -> tuple[Tensor, ...]:
        """Natural parameters of the posterior: the prior's plus the message."""
        site = expected.program.sites[self.name]
        prior = expected.prior(site, anchor)
        return tuple(a + b for a, b in zip(prior, self.message(expected, anchor), strict=True))

    def posterior(self, expected: EStep) -> Posterior | None:
        """Return the conjugate posterior, None for a parameter without prior."""
        if not self.has_prior(expected):
            return None
        anchor = self.anchor(expected)
        made = self.family.make(self.natural(expected, anchor), anchor)
        return Single.like(self.name, made, expected.replay.distributions[self.name])

    def maximize(self, expected: EStep) -> Values:
        """Maximum likelihood without a prior, the posterior's mode with one; cells without data keep their value."""
        if not self.has_prior(expected) and self._one_precision(expected):
            return self._average(expected)
        anchor, current = self.anchor(expected), expected.values[self.name]
        if self.has_prior(expected):
            found = self.family.mode(self.natural(expected, anchor), interior=True)
            alive = torch.ones((), dtype=torch.bool, device=found.device)
        else:
            found = self.family.mode(self.message(expected, anchor))
            alive = (self.count(expected) > EMPTY)[(..., *[None] * self.family.event_dim)]
        if anchor is not None:
            found = anchor + found
        return {self.name: torch.where(alive & found.isfinite(), found, current)}

    def _average(self, expected: EStep) -> Values:
        """Mean of the vectors of each cell, in which a precision that they share cancels."""
        use, current = self.uses[0], expected.values[self.name]
        entries, center = expected.entries(use.site, self.name), expected.center(use.site)
        count = expected.reduce(use.parent, entries.count, self.shape(expected))[..., None]
        mean = expected.reduce(use.parent, entries.sums[0], tuple(current.shape)) / count.clamp_min(EMPTY)
        return {self.name: torch.where(count > EMPTY, mean if center is None else center + mean, current)}

    def _one_precision(self, expected: EStep) -> bool:
        """Whether entries that share a cell of a mean vector share a precision and a center: solved for otherwise."""
        use = self.uses[0]
        if self.family.event_dim == 0 or len(self.uses) > 1 or not unscaled(use.parent):
            return False
        likelihood = expected.plan.likelihoods[use.site.name]
        if not isinstance(likelihood, LocationScale) or use.argument in (*likelihood.scales, *likelihood.by_bound):
            return False
        center, shape = expected.center(use.site), tuple(expected.values[self.name].shape)
        if center is not None and _laid_out(expected, use, center, shape) is None:
            return False
        scales = [p for a, p in use.site.args.items() if a in likelihood.scales]
        plain = [p for p in scales if is_unknown(p) or (p.kind == "constant" and not p.data)]
        return any(set(p.index) <= set(use.parent.index) and not p.by for p in plain)


def _laid_out(expected: EStep, use: Use, columns: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """Mean of one number for each column of the data, over what shares an entry of an unknown of this shape.

    That is the number itself where each entry has a column of its own, or there is one column; else None.
    """
    if columns.numel() == 1:
        return columns.reshape(()).expand(shape)
    indexed = len(expected.codes(use.parent)) if use.parent.kind == "indexed" else 0
    own = shape[max(len(shape) - columns.ndim, indexed) :]
    apart = len(own) == columns.ndim and all(size in (1, n) for size, n in zip(columns.shape, own, strict=True))
    return columns.expand(shape) if apart and not use.parent.broadcast_dims else None


@dataclass
class ScaleBlock(ConjugateBlock):
    """The update of a scale, in whatever parameterization: without a prior it is bounded below by a floor."""

    last: bool = True

    def _likelihood(self, expected: EStep, use: Use) -> LocationScale:
        likelihood = expected.plan.likelihoods[use.site.name]
        assert isinstance(likelihood, LocationScale)
        return likelihood

    def maximize(self, expected: EStep) -> Values:
        """Mean deviation as a scale; with a prior the mode of the posterior, where there is one."""
        if self.has_prior(expected):
            return self._mode(expected)
        shape, deviations, counts = tuple(expected.values[self.name].shape), [], []
        for use in self.uses:
            entries, likelihood = expected.entries(use.site, self.name), self._likelihood(expected, use)
            factor = expected.factor(use.site, use.argument) ** likelihood.scales[use.argument].power
            deviations.append(expected.reduce(use.parent, factor * likelihood.deviations(entries), shape))
            counts.append(expected.reduce(use.parent, likelihood.count(entries), self.shape(expected)))
        count = sum(counts[1:], counts[0])
        mean = sum(deviations[1:], deviations[0]) / count.clamp_min(EMPTY)[(..., *[None] * self.family.event_dim)]
        use = self.uses[0]
        likelihood = self._likelihood(expected, use)
        found = likelihood.scales[use.argument].argument(
            likelihood.bounded(mean, self.spread(expected), self.axes(expected))
        )
        alive = (count > EMPTY)[(..., *[None] * self.family.event_dim)]
        return {self.name: torch.where(alive, found, expected.values[self.name])}

    def _mode(self, expected: EStep) -> Values:
        found, current = self.family.mode(self.natural(expected, None)), expected.values[self.name]
        alive = found.isfinite() & ((found > torch.finfo(found.dtype).tiny) if not self.family.event_dim else True)
        return {self.name: torch.where(alive, found, current)}

    def spread(self, expected: EStep, *, varying: bool = False) -> Tensor:
        """Variance of neighbours in the data, averaged over what shares a cell; of each column, if it is a matrix.

        With `varying`, of columns that do not vary it is 0.
        """
        shape, own = self.shape(expected, min(self.family.event_dim, 1)), [None] * min(self.family.event_dim, 1)
        found = []
        for use in self.uses:
            spread = expected.plan.spread(use.site, locally=True)
            if varying and use.site.name in expected.plan.still:
                spread = spread.masked_fill(expected.plan.still[use.site.name], 0.0)
            if (same := _laid_out(expected, use, spread, shape)) is not None:
                found.append(same)
                continue
            count = torch.ones_like(expected.statistics(use.site, self.name)[0])[(..., *own)]
            every = count.expand(broadcast(count.shape, spread.shape))
            shared = expected.reduce(use.parent, every, shape).clamp_min(1.0)
            found.append(expected.reduce(use.parent, spread * every, shape) / shared)
        return torch.stack(found).amin(0) if len(found) > 1 else found[0]

    def axes(self, expected: EStep) -> Tensor | None:
        """Axes along which the data of one site are tight, of a covariance; None of any other scale."""
        return expected.plan.axes.get(self.uses[0].site.name) if len(self.uses) == 1 else None

    def warnings(self, expected: EStep) -> list[str]:
        """Say which scales stand at their floor."""
        if self.has_prior(expected):
            return []
        use = self.uses[0]
        likelihood = self._likelihood(expected, use)
        dispersion = likelihood.scales[use.argument].dispersion(expected.values[self.name])
        low = likelihood.at_floor(dispersion, self.spread(expected, varying=True), self.axes(expected))
        low = low.reshape(low.shape[0] if low.ndim else 1, -1).any(-1)
        return collapse_notes(self.name, low.nonzero()[:, 0].tolist(), component=bool(use.parent.index))


def collapse_notes(name: str, cells: list[int], *, component: bool) -> list[str]:
    """Say that variances stand at their floor, all in one sentence."""
    if not cells:
        return []
    if not component:
        return [f"the variance in {name!r} is next to its floor"]
    if len(cells) == 1:
        what = f"component {cells[0]} has collapsed: the variance in {name!r} is next to its floor"
    else:
        what = f"components {listed(cells)} have collapsed: their variances in {name!r} are next to their floor"
    return [f"{what}, and the likelihood says nothing but how small a variance may be; use fewer components or a prior"]


def listed(numbers: Sequence[int]) -> str:
    """Numbers in words: "1, 2 and 5"."""
    *first, last = map(str, numbers)
    return f"{', '.join(first)} and {last}" if first else last
