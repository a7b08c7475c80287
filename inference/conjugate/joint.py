"""The update of a mean and a scale together, where their prior is conjugate to both."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from inference.conjugate.block import EMPTY, Block, Matcher, Use, unscaled, uses, within
from inference.conjugate.conjugate_block import ConjugateBlock, ScaleBlock
from inference.conjugate.conjugate_matcher import one_factor
from inference.conjugate.e_step import EStep
from inference.conjugate.exponential_family import prior_named
from inference.conjugate.joint_normal import JointNormal, NormalGamma, NormalInverseGamma, NormalWishart
from inference.conjugate.posteriors import Posterior
from inference.conjugate.recognition import Recognition
from zoo.replay.evaluate import Values
from zoo.replay.sites import Site

SCALES = {"precision": "Gamma", "variance": "InverseGamma", "precision_matrix": "Wishart"}


class JointMatcher(Matcher):
    """x ~ Normal(m, 1/t) with m ~ Normal(m0, 1/(kappa t)), t ~ Gamma(a, b); or 1/t inverse Gamma; vectors, Wishart.

    The posterior is of the same kind, with kappa' = kappa + n, m' = (kappa m0 + sum w x) / kappa', a' = a + n/2,
    b' = b + (sum w (x - m')^2 + kappa (m' - m0)^2) / 2 (Murphy 2007, sections 3, 6 and 8).
    """

    def match(self, seen: Recognition, example: EStep, unknown: Iterable[str]) -> list[Block]:
        """Claim pairs of mean and scale with this prior and one use."""
        blocks: list[Block] = []
        for site in seen.program.sites.values():
            for argument, prior in SCALES.items():
                names = self._pair(seen, example, site, argument, prior)
                if names is not None:
                    blocks.append(JointBlock(site, names, argument))
        return blocks

    @staticmethod
    def _pair(seen: Recognition, example: EStep, site: Site, argument: str, prior: str) -> tuple[str, str] | None:
        """Mean and scale of a site, if they have the joint prior."""
        program = seen.program
        if site.name not in seen.likelihoods or not {"loc", argument} <= set(site.args):
            return None
        loc, scale = site.args["loc"], site.args[argument]
        matrix = prior == "Wishart"
        if not (unscaled(loc) and unscaled(scale)) or loc.broadcast_dims or (matrix and scale.broadcast_dims):
            return None
        names = loc.sites[0], scale.sites[0]
        mean, t = (program.sites[n] for n in names)
        if mean.family != site.family or t.family != prior or not {*names} <= set(seen.likelihoods):
            return None
        parent = mean.args.get(argument)
        if (
            parent is None
            or parent.kind != "site"
            or parent.sites != (t.name,)
            or parent.broadcast_dims != scale.broadcast_dims
        ):
            return None
        constant = all(p.kind == "constant" for p in (mean.args["loc"], *t.args.values()))
        alone = {s.name for n in names for s, _ in uses(program, n)} == {site.name, mean.name}
        # A row that is repeated has a mean of its own each time, but one scale.
        alike = mean.role == t.role or program.data.weights is None
        if matrix and not (mean.shape[-1] == site.shape[-1] and one_factor(example, mean, argument)):
            return None
        return names if constant and alone and alike and within(scale, loc) else None


@dataclass
class JointBlock(Block):
    """The update of a mean and a scale together."""

    site: Site
    names: tuple[str, str]
    argument: str

    def __post_init__(self) -> None:
        """Name what is updated."""
        self.unknowns = self.names

    def prior(self, expected: EStep) -> JointNormal:
        """m0, kappa and the distribution of the scale: those of yesterday's posterior, or the model's."""
        earlier = expected.priors.get(self.names[0])
        if isinstance(earlier, JointNormal):
            return earlier
        like, unit = (expected.values[n] for n in self.names)
        mean, scale = (expected.program.sites[n] for n in self.names)
        m0, law = expected.fn(self.names[0]).loc.expand(like.shape), expected.fn(self.names[1])
        kappa = torch.as_tensor(expected.factor(mean, self.argument), dtype=like.dtype, device=like.device)
        if self.argument == "precision_matrix":
            kappa = (kappa[..., 0, 0] if kappa.ndim >= 2 else kappa).expand(like.shape[:-1])
            return NormalWishart(self.names, m0, kappa, law.df, law.scale_tril)
        kind, kappa = NormalGamma, kappa.expand(like.shape)
        if self.argument == "variance":
            kind, kappa = NormalInverseGamma, kappa.reciprocal()
        a, b = law.concentration.expand(unit.shape), law.rate.expand(unit.shape)
        pad = mean.args[self.argument].broadcast_dims
        return kind(self.names, m0, kappa, a, b, (mean.event_dim, scale.event_dim), pad)

    def posterior(self, expected: EStep) -> JointNormal:
        """The posterior, its mean taken about the mean of the data in each cell."""
        prior, loc, scale = self.prior(expected), self.site.args["loc"], self.site.args[self.argument]
        mean, unit = (tuple(expected.values[n].shape) for n in self.names)
        family = prior.scale.family
        own = [None] * min(family.event_dim, 1)  # vectors: weights of entries beside sums of x
        entries, center = expected.entries(self.site, self.names[0]), expected.center(self.site)
        count, (first, second) = entries.count, entries.sums
        beside = count[(..., *own)].expand(first.shape) if own else count
        whole = expected.reduce(loc, beside, mean)
        start = torch.zeros_like(prior.loc)
        if center is not None:
            start = expected.reduce(loc, beside * center, mean) / whole.clamp_min(EMPTY)
            start = torch.where(whole > EMPTY, start, prior.loc)
        offset = (0.0 if center is None else center) - expected.place(loc, start)
        kappa0 = prior.kappa[(..., *own)]
        right = kappa0 * (prior.loc - start) + expected.reduce(loc, first + offset * beside, mean)
        away = right / (kappa0 + whole)
        # Squares about the new location, as small far from zero as near it.
        m = expected.place(loc, away) - offset
        scatter = second - _product(m, first, own) - _product(first, m, own)
        scatter = scatter + count[(..., *own, *own)] * _product(m, m, own)
        gaps = prior.squares(start + away - prior.loc)
        natural = family.natural(prior.scale.base, family.known(prior.scale.base))[0]
        half = 0.5 if self.argument != "variance" else -0.5
        counts = expected.reduce(scale, half * count, unit[: len(unit) - family.event_dim])
        whole_scatter = expected.reduce(scale, scatter, unit)
        whole_scatter = whole_scatter if own else whole_scatter.clamp_min(0.0)
        law = family.make((natural[0] + counts, natural[1] - 0.5 * (whole_scatter + gaps)))
        n = expected.reduce(loc, count, mean[: len(mean) - len(own)])
        return prior.made(start + away, prior.kappa + n, law)

    def kl(self, expected: EStep, posterior: Posterior) -> Values:
        """KL to the joint prior."""
        assert isinstance(posterior, JointNormal)
        return posterior.kl(self.prior(expected))

    def maximize(self, expected: EStep) -> Values:
        """Mode of the joint posterior: the mean first, then the scale about it."""
        mean, family = expected.program.sites[self.names[0]], prior_named(self.site.family)
        use = Use(self.site, "loc", self.site.args["loc"])
        scales = tuple(Use(s, self.argument, s.args[self.argument]) for s in (self.site, mean))
        found = ConjugateBlock(self.names[0], family, (use,)).maximize(expected)
        after = expected.at({**expected.values, **found})
        return {**found, **ScaleBlock(self.names[1], prior_named(SCALES[self.argument]), scales).maximize(after)}


def _product(a: Tensor, b: Tensor, own: list[None]) -> Tensor:
    """Product of two numbers, outer product of two vectors."""
    return a[..., :, None] * b[..., None, :] if own else a * b
