"""Mean vector and precision matrix of a multivariate Normal together; Normal-Wishart prior."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from inference.conjugate.e_step import EStep, fn_of
from inference.conjugate.family import Block, Family, Use, unscaled, uses, within
from inference.conjugate.joint_posteriors import NormalWishart
from inference.conjugate.multivariate_normal import (
    MultivariateMeanBlock,
    WishartBlock,
    inverse_root,
    one_factor,
    wishart_cross_entropy,
    wishart_prior,
)
from inference.conjugate.plan import Plan
from inference.conjugate.posteriors import Posterior
from zoo.replay.evaluate import Values
from zoo.replay.sites import Site


class NormalWishartFamily(Family):
    """x ~ Normal(m, P^-1) with P ~ Wishart(nu, V) and m ~ Normal(m0, (kappa P)^-1): statistics n, sum w x, sum w x x^T.

    The posterior is Normal-Wishart: kappa' = kappa + n, m' = (kappa m0 + sum w x) / kappa', nu' = nu + n,
    V'^-1 = V^-1 + sum w (x - m')(x - m')^T + kappa (m' - m0)(m' - m0)^T (Murphy 2007, section 8).
    """

    def match(self, plan: Plan, unknown: Iterable[str]) -> list[Block]:
        """Claim pairs of mean and precision with this prior and one use."""
        blocks: list[Block] = []
        for site in plan.program.sites.values():
            if site.family != "MultivariateNormal" or site.name not in plan.likelihoods:
                continue
            loc, precision = site.args["loc"], site.args.get("precision_matrix")
            if precision is None or not (
                unscaled(loc) and unscaled(precision) and loc.broadcast_dims == precision.broadcast_dims == 0
            ):
                continue
            names = loc.sites[0], precision.sites[0]
            mean, p = (plan.program.sites[n] for n in names)
            if mean.family != "MultivariateNormal" or p.family != "Wishart" or p.name not in plan.plain:
                continue
            prior = mean.args.get("precision_matrix")
            if prior is None or prior.kind != "site" or prior.sites != (p.name,) or prior.broadcast_dims:
                continue
            plain = all(f.kind == "constant" for f in (mean.args["loc"], *p.args.values()))
            alone = {s.name for n in names for s, _ in uses(plan.program, n)} == {site.name, mean.name}
            whole = mean.shape[-1] == site.shape[-1]
            if not one_factor(plan, mean, "precision_matrix") or mean.name not in plan.likelihoods:
                continue
            alike = mean.role == p.role or plan.program.data.weights is None  # as for a Normal-Gamma
            if plain and alone and whole and alike and within(precision, loc):
                blocks.append(NormalWishartBlock(site, names))
        return blocks


@dataclass
class NormalWishartBlock(Block):
    """The update of a mean vector and a precision matrix together."""

    site: Site
    names: tuple[str, str]

    def __post_init__(self) -> None:
        """Name what is updated."""
        self.unknowns = self.names

    def _prior(self, expected: EStep) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """m0 (..., d), kappa (...), nu and V^-1."""
        df, inverse_scale = wishart_prior(expected, self.names[1])
        earlier = expected.priors.get(self.names[0])
        if isinstance(earlier, NormalWishart):
            return earlier.loc, earlier.kappa, df, inverse_scale
        like, mean = expected.values[self.names[0]], expected.program.sites[self.names[0]]
        kappa = torch.as_tensor(expected.factor(mean, "precision_matrix"), dtype=like.dtype, device=like.device)
        kappa = kappa[..., 0, 0] if kappa.ndim >= 2 else kappa
        return fn_of(expected, self.names[0]).loc.expand(like.shape), kappa.expand(like.shape[:-1]), df, inverse_scale

    def posterior(self, expected: EStep) -> NormalWishart:
        """Normal-Wishart posterior."""
        loc, precision = self.site.args["loc"], self.site.args["precision_matrix"]
        mean, matrix = (tuple(expected.values[n].shape) for n in self.names)
        m0, kappa0, df, inverse_scale = self._prior(expected)
        count, (first, second) = expected.statistics(self.site, self.names[0])
        center = expected.plan.centers.get(self.site.name, torch.zeros_like(m0))
        n = expected.reduce(loc, count[..., None].expand(first.shape), mean)[..., 0]
        kappa = kappa0 + n
        away = kappa0[..., None] * (m0 - center) + expected.reduce(loc, first, mean)
        away = away / kappa[..., None]
        m = expected.place(loc, away)
        cross = m[..., :, None] * first[..., None, :]
        scatter = second - cross - cross.mT + count[..., None, None] * (m[..., :, None] * m[..., None, :])
        gap = center + away - m0
        own = kappa0[..., None, None] * (gap[..., :, None] * gap[..., None, :])
        prior_feed = expected.program.sites[self.names[0]].args["precision_matrix"]
        whole = inverse_scale + expected.reduce(precision, scatter, matrix) + expected.reduce(prior_feed, own, matrix)
        counts = expected.reduce(precision, count[..., None, None].expand(scatter.shape), matrix)[..., 0, 0]
        return NormalWishart(self.names, center + away, kappa, df + counts, inverse_root(whole))

    def log_prior(self, expected: EStep, posterior: Posterior) -> Values | None:
        """E[log p(m, P)] = E[log Normal(m; m0, (kappa P)^-1)] + E[log Wishart(P; nu, V)]."""
        assert isinstance(posterior, NormalWishart)
        m0, kappa0, df, inverse_scale = self._prior(expected)
        found = posterior.moments(self.names[1])
        d, gap = m0.shape[-1], posterior.loc - m0
        square = (gap * (found["mean"] @ gap[..., None])[..., 0]).sum(-1) + d / posterior.kappa
        mean = 0.5 * (d * kappa0.log() + found["logdet"] - d * math.log(2 * math.pi) - kappa0 * square)
        return {self.names[0]: mean, self.names[1]: wishart_cross_entropy(df, inverse_scale, found)}

    def maximize(self, expected: EStep) -> Values:
        """Mode of the joint posterior: the mean first, then the precision about it."""
        mean = expected.program.sites[self.names[0]]
        loc_use = Use(self.site, "loc", self.site.args["loc"])
        scales = (
            Use(self.site, "precision_matrix", self.site.args["precision_matrix"]),
            Use(mean, "precision_matrix", mean.args["precision_matrix"]),
        )
        found = MultivariateMeanBlock(self.names[0], (loc_use,)).maximize(expected)
        after = expected.at({**expected.values, **found})
        return {**found, **WishartBlock(self.names[1], scales).maximize(after)}
