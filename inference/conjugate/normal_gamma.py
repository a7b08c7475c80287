"""Mean and precision of a Normal together; Normal-Gamma prior."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from inference.conjugate.e_step import EStep, fn_of
from inference.conjugate.family import Block, Family, Use, unscaled, uses, within
from inference.conjugate.joint_posteriors import NormalGamma
from inference.conjugate.normal import NormalMeanBlock, PrecisionBlock
from inference.conjugate.plan import Plan
from inference.conjugate.posteriors import Posterior, total
from zoo.replay.evaluate import Values
from zoo.replay.sites import Site


class NormalGammaFamily(Family):
    """x ~ Normal(m, 1/t) with t ~ Gamma(a, b) and m ~ Normal(m0, 1/(kappa t)): statistics sum w, sum w x, sum w x^2.

    The posterior is Normal-Gamma: kappa' = kappa + n, m' = (kappa m0 + sum w x) / kappa', a' = a + n/2,
    b' = b + (sum w (x - m')^2 + kappa (m' - m0)^2) / 2 (Murphy 2007, section 3).
    """

    def match(self, plan: Plan, unknown: Iterable[str]) -> list[Block]:
        """Claim pairs of mean and precision with this prior and one use."""
        blocks: list[Block] = []
        for site in plan.program.sites.values():
            if site.family != "Normal" or site.name not in plan.likelihoods or "precision" not in site.args:
                continue
            loc, precision = site.args["loc"], site.args["precision"]
            if not (unscaled(loc) and unscaled(precision) and loc.broadcast_dims == 0):
                continue
            names = loc.sites[0], precision.sites[0]
            mean, t = (plan.program.sites[n] for n in names)
            if mean.family != "Normal" or t.family != "Gamma" or not {*names} <= set(plan.likelihoods):
                continue
            prior = mean.args.get("precision")
            if (
                prior is None
                or prior.kind != "site"
                or prior.sites != (t.name,)
                or prior.broadcast_dims != precision.broadcast_dims
            ):
                continue
            plain = all(f.kind == "constant" for f in (mean.args["loc"], *t.args.values()))
            alone = {s.name for n in names for s, _ in uses(plan.program, n)} == {site.name, mean.name}
            # A row that is repeated has a mean of its own each time, but one precision.
            alike = mean.role == t.role or plan.program.data.weights is None
            if plain and alone and alike and within(precision, loc):
                blocks.append(NormalGammaBlock(site, names))
        return blocks


@dataclass
class NormalGammaBlock(Block):
    """The update of a mean and a precision together."""

    site: Site
    names: tuple[str, str]

    def __post_init__(self) -> None:
        """Name what is updated."""
        self.unknowns = self.names

    def _uses(self, expected: EStep) -> tuple[Use, Use, Use]:
        """Use of the mean, use of the precision, and use of the precision in the mean's prior."""
        mean = expected.program.sites[self.names[0]]
        return (
            Use(self.site, "loc", self.site.args["loc"]),
            Use(self.site, "precision", self.site.args["precision"]),
            Use(mean, "precision", mean.args["precision"]),
        )

    def _prior(self, expected: EStep) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """m0 and kappa in the mean's shape, a and b in the precision's."""
        earlier = expected.priors.get(self.names[0])
        if isinstance(earlier, NormalGamma):
            return earlier.loc, earlier.kappa, earlier.a, earlier.b
        like, unit = (expected.values[n] for n in self.names)
        gamma, mean = fn_of(expected, self.names[1]), expected.program.sites[self.names[0]]
        kappa = torch.as_tensor(expected.factor(mean, "precision"), dtype=like.dtype, device=like.device)
        return (
            fn_of(expected, self.names[0]).loc.expand(like.shape),
            kappa.expand(like.shape),
            gamma.concentration.expand(unit.shape),
            gamma.rate.expand(unit.shape),
        )

    def posterior(self, expected: EStep) -> NormalGamma:
        """Normal-Gamma posterior."""
        loc_use, use, prior_use = self._uses(expected)
        mean, unit = (tuple(expected.values[n].shape) for n in self.names)
        m0, kappa0, a0, b0 = self._prior(expected)
        count, (first, second) = expected.statistics(self.site, self.names[0])
        events = self.site.shape[len(self.site.shape) - self.site.event_dim :]
        count = count.expand((*count.shape[: count.ndim - len(events)], *events))
        center = expected.plan.centers.get(self.site.name)
        whole = expected.reduce(loc_use.parent, count, mean)
        start = torch.zeros_like(m0)
        if center is not None:
            start = expected.reduce(loc_use.parent, count * center, mean) / whole.clamp_min(1e-300)
            start = torch.where(whole > 0, start, m0)
        offset = torch.zeros_like(count) if center is None else center - expected.place(loc_use.parent, start)
        kappa = kappa0 + whole
        away = (kappa0 * (m0 - start) + expected.reduce(loc_use.parent, first + offset * count, mean)) / kappa
        m = expected.place(loc_use.parent, away) - offset  # about the site's own center
        square = expected.reduce(use.parent, second - 2 * m * first + m.square() * count, unit).clamp_min(0.0)
        gap = kappa0 * (start + away - m0).square()
        prior_feed = prior_use.parent
        a = a0 + 0.5 * expected.reduce(use.parent, count, unit)
        b = b0 + 0.5 * (square + expected.reduce(prior_feed, gap, unit))
        # Where several means share a precision, its exponent counts rows once: each mean's own density cancels.
        sites = expected.program.sites
        dims = (sites[self.names[0]].event_dim, sites[self.names[1]].event_dim)
        return NormalGamma(self.names, start + away, kappa, a, b, dims, prior_feed.broadcast_dims)

    def log_prior(self, expected: EStep, posterior: Posterior) -> Values | None:
        """E[log p(m, t)] = E[log Normal(m; m0, 1/(kappa t))] + E[log Gamma(t; a, b)]."""
        assert isinstance(posterior, NormalGamma)
        m0, kappa0, a0, b0 = self._prior(expected)
        t, log_t = posterior.a / posterior.b, torch.digamma(posterior.a) - posterior.b.log()
        gap = t[(..., *[None] * posterior.pad)] * (posterior.loc - m0).square() + posterior.kappa.reciprocal()
        lifted = log_t[(..., *[None] * posterior.pad)]
        mean = 0.5 * (kappa0.log() + lifted - math.log(2 * math.pi) - kappa0 * gap)
        gamma = a0 * b0.log() - torch.lgamma(a0) + (a0 - 1) * log_t - b0 * t
        return {
            self.names[0]: total(mean, posterior.events[0]),
            self.names[1]: total(gamma, posterior.events[1]),
        }

    def maximize(self, expected: EStep) -> Values:
        """Mode of the joint posterior: the mean first, then the precision about it."""
        loc_use, use, prior_use = self._uses(expected)
        found = NormalMeanBlock(self.names[0], (loc_use,)).maximize(expected)
        after = expected.at({**expected.values, **found})
        return {**found, **PrecisionBlock(self.names[1], (use, prior_use)).maximize(after)}
