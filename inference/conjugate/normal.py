"""Normals: the likelihood, its mean (Normal prior) and its precision (Gamma prior), each given the other."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor

from inference.conjugate.e_step import EStep, Statistics, broadcast, fn_of
from inference.conjugate.family import EMPTY, Argument, Block, Family, Known, Likelihood, Use, recognized, uses
from inference.conjugate.plan import Plan
from inference.conjugate.posteriors import Moments, Single
from inference.conjugate.single import wrapped
from zoo.errors import MethodError
from zoo.program.program import Program
from zoo.replay.evaluate import Values
from zoo.replay.sites import Site, base_distribution

FLOOR = 1e-6  # smallest variance, as a share of the data's own along the same column
SCALES = {"precision": 1, "variance": -1, "scale": -2}  # argument -> power of a constant factor in the precision


class NormalLikelihood(Likelihood):
    """x ~ Normal(m, 1/t): log p(x) = t m x - t x^2 / 2 + (log t - t m^2 - log 2 pi) / 2, x and m about the data's mean.

    (Murphy 2007, section 3.)
    """

    distributions: ClassVar[tuple[str, ...]] = ("Normal",)
    inner: ClassVar[tuple[int, ...]] = (0, 0)
    centered: ClassVar[bool] = True

    def statistics(self, fn: Any, value: Moments, program: Program) -> tuple[Tensor, ...]:
        """x and x^2."""
        x = value["mean"]
        square = x.square()
        return x, square + value["var"] if "var" in value else square

    def natural(self, fn: Any, argument: Argument, center: Tensor | None) -> tuple[tuple[Tensor, ...], Tensor]:
        """E[t m] and -E[t] / 2; E[log t - t m^2] / 2."""
        loc, precision = argument("loc", "real"), argument("precision", "positive")
        m, t = loc["mean"] if center is None else loc["mean"] - center, precision["mean"]
        spread = loc["quad"] if "quad" in loc else (t * loc["var"] if "var" in loc else 0.0)
        return (t * m, -0.5 * t), 0.5 * (precision["log"] - t * m.square() - spread)

    def base(self, fn: Any, value: Moments) -> Tensor | float:
        """-log(2 pi) / 2."""
        return -0.5 * math.log(2 * math.pi)

    def predictive(self, fn: Any, known: Known) -> Any:
        """Normal, or Student's t where the precision is uncertain."""
        return normal_predictive(known("loc"), known("precision"))

    def deviations(self, expected: EStep, site: Site, statistics: Statistics) -> tuple[Tensor, Tensor]:
        """Weights of the entries, and weights times E[(x - m)^2], in the layout of the entries."""
        count, (first, second) = statistics
        loc, center = expected.argument(site, "loc", "real"), expected.plan.centers.get(site.name)
        m = loc["mean"] if center is None else loc["mean"] - center
        events = site.shape[len(site.shape) - site.event_dim :]
        count = count.expand((*count.shape[: count.ndim - len(events)], *events))
        square = second - 2 * m * first + m.square() * count
        if "var" in loc:
            square = square + loc["var"] * count
        return count, square


def normal_predictive(loc: dict[str, Tensor], precision: dict[str, Tensor]) -> Any:
    """Distribution of x ~ Normal(m, 1/t) with m, t or both uncertain.

    Normal(m', s^2 + 1/t) for m ~ Normal(m', s^2); t_2a(m', (1 + 1/kappa) b/a) for t ~ Gamma(a, b) and
    m ~ Normal(m', 1/(kappa t)), with 1/kappa = 0 for known m (Murphy 2007, sections 2 and 3).
    """
    center = loc["value"] if "value" in loc else loc["loc"]
    if "value" in precision:
        variance = precision["value"].reciprocal()
        return dist.Normal(center, (variance + loc["scale"].square() if "scale" in loc else variance).sqrt())
    if "scale" in loc:
        raise MethodError("a Normal whose mean and precision are independent has no predictive in closed form")
    a, b = precision["concentration"], precision["rate"]
    wider = 1 + loc["kappa"].reciprocal() if "kappa" in loc else torch.ones_like(b)
    return dist.StudentT(2 * a, center, (wider * b / a).sqrt())


def as_precision(expected: EStep, use: Use) -> Tensor:
    """Expected precision of a Normal site's entries, from the current values."""
    return expected.argument(use.site, "precision", "positive")["mean"]


class NormalMeanFamily(Family):
    """Mean m of x ~ Normal(c m, 1/t): statistics sum w t c^2 and sum w t c x.

    With m ~ Normal(m0, 1/t0) the posterior is Normal with precision t0 + sum w t c^2 and mean
    (t0 m0 + sum w t c x) / precision (Gelman et al. 2013, equation 2.12); t and t0 by their expectations where they
    are unknown too.
    """

    rank = 3

    def match(self, plan: Plan, unknown: Iterable[str]) -> list[Block]:
        """Claim parameters, and latents with a Normal prior, that are only ever the mean of a Normal."""
        blocks: list[Block] = []
        for name in unknown:
            site = plan.program.sites[name]
            if site.role != "parameter" and (site.family != "Normal" or name not in plan.likelihoods):
                continue
            found = []
            for child, args in uses(plan.program, name):
                parent = args.get("loc")
                if len(args) > 1 or parent is None or not recognized(parent) or child.family != "Normal":
                    break
                if child.name not in plan.likelihoods:
                    break
                found.append(Use(child, "loc", parent))
            else:
                if found:
                    blocks.append(NormalMeanBlock(name, tuple(found)))
        return blocks


@dataclass
class NormalMeanBlock(Block):
    """The update of one mean from all its uses."""

    name: str
    found: tuple[Use, ...]

    def __post_init__(self) -> None:
        """Name what is updated."""
        self.unknowns = (self.name,)

    def totals(self, expected: EStep) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Precision, precision times mean about an anchor, that anchor, and the count, in the unknown's shape."""
        shape = tuple(expected.values[self.name].shape)
        like = expected.values[self.name]
        precision, total, anchor, number = (torch.zeros_like(like) for _ in range(4))
        for i, use in enumerate(self.found):
            count, (first, _) = expected.statistics(use.site, self.name)
            center = expected.plan.centers.get(use.site.name)
            factor = expected.factor(use.site, "loc")
            t = as_precision(expected, use) * factor
            events = use.site.shape[len(use.site.shape) - use.site.event_dim :]
            count = count.expand((*count.shape[: count.ndim - len(events)], *events))
            plain = isinstance(factor, float) and factor == 1.0
            whole = expected.reduce(use.parent, count, shape)
            number = number + whole
            if center is not None and plain and i == 0:
                anchor = expected.reduce(use.parent, count * center, shape) / whole.clamp_min(EMPTY)
                anchor = torch.where(whole > EMPTY, anchor, like)
            about = expected.place(use.parent, anchor)
            offset = 0.0 if center is None else center
            moved = first + (offset - factor * about) * count
            precision = precision + expected.reduce(use.parent, t * factor * count, shape)
            total = total + expected.reduce(use.parent, t * moved, shape)
        return precision, total, anchor, number

    def posterior(self, expected: EStep) -> Single | None:
        """Normal with added precisions; None for a parameter without prior."""
        site = expected.program.sites[self.name]
        if site.role == "parameter":
            return None
        precision, total, anchor, _ = self.totals(expected)
        before, mean = self.prior(expected)
        after = before + precision
        loc = anchor + (before * (mean - anchor) + total) / after
        prior = expected.replay.distributions[self.name]
        return Single(self.name, wrapped(dist.Normal(loc, after.rsqrt()), prior))

    def prior(self, expected: EStep) -> tuple[Tensor, Tensor]:
        """Precision and mean of the prior."""
        site = expected.program.sites[self.name]
        return (
            expected.argument(site, "precision", "positive")["mean"],
            expected.argument(site, "loc", "real")["mean"],
        )

    def maximize(self, expected: EStep) -> Values:
        """Precision-weighted mean, of the prior's too where there is one."""
        posterior = self.posterior(expected)
        if posterior is not None:
            return posterior.mean()
        precision, total, anchor, number = self.totals(expected)
        alive = number > EMPTY
        moved = anchor + total / torch.where(alive, precision, torch.ones_like(precision))
        return {self.name: torch.where(alive, moved, expected.values[self.name])}


class PrecisionFamily(Family):
    """Precision t of x ~ Normal(m, 1/(c t)): statistics sum w / 2 and sum w c (x - m)^2 / 2.

    With t ~ Gamma(a, b) the posterior is Gamma(a + sum w / 2, b + sum w c E[(x - m)^2] / 2)
    (Gelman et al. 2013, section 2.6). Without a prior the unknown may also be the variance or the scale.
    """

    rank = 3

    def match(self, plan: Plan, unknown: Iterable[str]) -> list[Block]:
        """Claim scales without prior, and precisions with a Gamma prior, that are only ever a Normal's."""
        blocks: list[Block] = []
        for name in unknown:
            site = plan.program.sites[name]
            prior = site.role != "parameter"
            if prior and (site.family != "Gamma" or name not in plan.likelihoods or _fed(plan, name)):
                continue
            found = []
            for child, args in uses(plan.program, name):
                names = ("precision",) if prior else tuple(SCALES)
                argument = next((a for a in names if a in args and recognized(args[a])), None)
                if argument is None or "loc" in args or child.name not in plan.likelihoods or child.family != "Normal":
                    break
                found.append(Use(child, argument, args[argument]))
            else:
                if found and len({use.argument for use in found}) == 1:
                    blocks.append(PrecisionBlock(name, tuple(found)))
        return blocks


def _fed(plan: Plan, name: str) -> bool:
    """Whether a Gamma prior's shape depends on another unknown, which is not conjugate."""
    parent = plan.program.sites[name].args["concentration"]
    return bool(parent.sites or parent.index)


@dataclass
class PrecisionBlock(Block):
    """The update of one precision (without prior: or variance, or scale) from all its uses."""

    name: str
    found: tuple[Use, ...]
    last: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Name what is updated."""
        self.unknowns = (self.name,)

    def totals(self, expected: EStep) -> tuple[Tensor, Tensor]:
        """Count of entries and sum of their squared deviations, in the unknown's shape."""
        shape = tuple(expected.values[self.name].shape)
        counts, squares = [], []
        for use in self.found:
            statistics = expected.statistics(use.site, self.name)
            likelihood = expected.plan.likelihoods[use.site.name]
            count, square = likelihood.deviations(expected, use.site, statistics)
            factor = expected.factor(use.site, use.argument)
            factor = factor ** SCALES[use.argument]
            counts.append(expected.reduce(use.parent, count, shape))
            squares.append(expected.reduce(use.parent, factor * square, shape))
        return sum(counts[1:], counts[0]), sum(squares[1:], squares[0]).clamp_min(0.0)

    def posterior(self, expected: EStep) -> Single | None:
        """Return Gamma(a + n / 2, b + squares / 2); None for a parameter without prior."""
        site = expected.program.sites[self.name]
        if site.role == "parameter":
            return None
        count, square = self.totals(expected)
        base = fn_of(expected, self.name)
        a, b = base.concentration, expected.argument(site, "rate", "positive")["mean"]
        prior = expected.replay.distributions[self.name]
        return Single(self.name, wrapped(dist.Gamma(a + 0.5 * count, b + 0.5 * square), prior))

    def maximize(self, expected: EStep) -> Values:
        """Mean squared deviation, as a variance, scale or precision; the mode of the posterior with a prior."""
        current = expected.values[self.name]
        posterior = self.posterior(expected)
        if posterior is not None:
            base = base_distribution(posterior.distribution)
            power = base.concentration - 1
            return {self.name: torch.where(power > 0, power / base.rate, current)}
        count, square = self.totals(expected)
        variance = torch.maximum(square / count.clamp_min(EMPTY), self.floor(expected))
        argument = self.found[0].argument
        new = {"variance": variance, "scale": variance.sqrt(), "precision": variance.reciprocal()}[argument]
        return {self.name: torch.where(count > EMPTY, new, current)}

    def floor(self, expected: EStep) -> Tensor:
        """Smallest variance: a share of the data's own, averaged over what the unknown is shared by."""
        shape = tuple(expected.values[self.name].shape)
        floors = []
        for use in self.found:
            spread = expected.plan.spread(use.site)
            count, _ = expected.statistics(use.site, self.name)
            layout = broadcast(count.shape, spread.shape)
            count = torch.ones((), dtype=spread.dtype, device=spread.device).expand(layout)
            shared = expected.reduce(use.parent, count, shape).clamp_min(1.0)
            floors.append(FLOOR * expected.reduce(use.parent, spread * count, shape) / shared)
        return torch.stack(floors).amin(0)

    def warnings(self, expected: EStep) -> list[str]:
        """Say which variances stand at their floor."""
        if expected.program.sites[self.name].role != "parameter":
            return []
        argument = self.found[0].argument
        value = expected.values[self.name]
        variance = {"variance": value, "scale": value.square(), "precision": value.reciprocal()}[argument]
        at_floor = (variance <= 10 * self.floor(expected)).reshape(value.shape[0] if value.ndim else 1, -1).any(-1)
        return [
            collapse_note(self.name, k, bool(self.found[0].parent.index)) for k in at_floor.nonzero()[:, 0].tolist()
        ]


def collapse_note(name: str, k: int, component: bool) -> str:
    """Say that a variance stands at its floor."""
    if not component:
        return f"the variance in {name!r} is next to its floor"
    return (
        f"component {k} has collapsed: the variance in {name!r} is next to its floor, and its likelihood "
        "says nothing but how small a variance may be; use fewer components or a prior"
    )
