"""Latents outside the data plate whose prior depends on discrete ones of their own: q(z_g) q(t_g | z_g), together.

What t_g feeds does not know the state, and sees the mixture over it (mixtures of group effects, say).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from inference.conjugate.block import Block
from inference.conjugate.by_state import ByState
from inference.conjugate.conjugate_block import ConjugateBlock
from inference.conjugate.conjugate_matcher import ConjugateMatcher
from inference.conjugate.e_step import EStep
from inference.conjugate.exponential_family import Likelihood, Moments, inner_product
from inference.conjugate.posteriors import Posterior, Single
from inference.conjugate.recognition import Recognition
from zoo.program.program import Program
from zoo.replay.evaluate import Values
from zoo.replay.masked import IMPOSSIBLE
from zoo.replay.sites import Parent, Site


def own_states(program: Program, site: Site) -> bool:
    """Whether a global latent's prior depends on one discrete latent, of its own plates, that feeds nothing else."""
    if len(site.by_state) != 1 or site.role != "global":
        return False
    z = program.sites[site.by_state[0]]
    fed = {s.name for s in program.sites.values() for p in s.args.values() if z.name in p.index}
    return fed == {site.name} and not program.behind(z) and (z.plates, z.plate_dims) == (site.plates, site.plate_dims)


def log_states(expected: EStep, site: Site) -> Tensor:
    """E[log p(z = k)] beside the entries of what depends on it, (states, ...)."""
    z = expected.program.sites[site.by_state[0]]
    density = expected.log_density(z) if z.name in expected.plan.likelihoods else expected.replay.log_probs[z.name]
    code = expected.states(z.name)
    return density.expand(torch.broadcast_shapes(density.shape, code.shape))


def eliminated(log_share: Tensor, states: Tensor, own: Tensor) -> Tensor:
    """The log factor of which the sum over states makes q(z = k) = share_k, and the bound.

    log sum_k exp(E[log p(z = k)] + factor_k) is sum_k share_k (E[log p(z = k)] + own_k - log share_k), own_k being
    E[log p(t | k)] + H[q(t | k)]. States stand along dimension 0.
    """
    share = log_share.exp()
    whole = (share * (states + own - log_share)).sum(0)
    return log_share - states + whole


class OwnStates(ByState):
    """q(z_g) q(t_g | z_g): what t_g feeds sees the mixture, its own prior each state."""

    kind: ClassVar[str] = "own_states"

    def moments(self, name: str) -> Moments:
        """Moments of the mixture."""
        each = self.each.moments(name)
        lead = list(range(self.states))
        found = {n: (self._beside(m) * m).sum(lead) for n, m in each.items() if n != "var"}
        if "var" in each:
            spread = each["var"] + (each["mean"] - found["mean"]).square()
            found["var"] = (self._beside(spread) * spread).sum(lead)
        return found

    def own(self, name: str) -> Moments:
        """Moments given the state."""
        return self.each.moments(name)

    def own_states(self) -> Values:
        """The shares."""
        return {self.names[0]: self.share.flatten(0, self.states - 1).movedim(0, -1)}


@dataclass
class OwnStatesBlock(ConjugateBlock):
    """The conjugate posterior in every state, and q(z = k) in proportion to p(z = k) and the integral over t."""

    def natural(self, expected: EStep, anchor: Tensor | None) -> tuple[Tensor, ...]:
        """Natural parameters of the prior averaged over the states, plus the message: for the mode given them."""
        site, weight = expected.program.sites[self.name], expected.marginals[self.name]
        prior = expected.prior(site, anchor)
        lead = list(range(weight.ndim - site.batch_dim))
        weight = weight[(..., *[None] * site.event_dim)]
        averaged = [(weight * p).sum(lead) if lead else p for p in prior]
        return tuple(a + b for a, b in zip(averaged, self.message(expected, anchor), strict=True))

    def posterior(self, expected: EStep) -> OwnStates:
        """A posterior in each state, and how probable that is."""
        site, anchor = expected.program.sites[self.name], self.anchor(expected)
        message = self.message(expected, anchor)
        natural = tuple(a + b for a, b in zip(expected.prior(site, anchor), message, strict=True))
        made = self.family.make(natural, anchor)
        each = Single.like(self.name, made, expected.replay.distributions[self.name])
        moments = each.moments(self.name)
        if anchor is not None:
            moments = {**moments, "mean": moments["mean"] - anchor}
        statistics = self.family.statistics(made, moments)
        terms = zip(statistics, message, self.family.dims, strict=True)
        seen = sum((inner_product(t, m, d) for t, m, d in terms), torch.zeros_like(natural[0]))
        seen = seen.sum(list(range(-site.event_dim, 0))) if site.event_dim else seen
        states = log_states(expected, site)
        log_share = (states + self._own(expected, each) + seen).log_softmax(0)
        return OwnStates((self.name,), log_share.exp(), log_share.ndim - site.batch_dim, each)

    def _own(self, expected: EStep, each: Posterior) -> Tensor:
        """E[log p(t | k)] + H[q(t | k)], (states, ...)."""
        at = expected.at(expected.values, {**expected.posteriors, self.name: each})
        return at.log_density(expected.program.sites[self.name]) + each.entropy()[self.name]

    def kl(self, expected: EStep, posterior: Posterior) -> Values:
        """Minus the log factor of which the elimination makes q(z) and the bound."""
        assert isinstance(posterior, OwnStates)
        states = log_states(expected, expected.program.sites[self.name])
        log_share = posterior.share.log().clamp_min(IMPOSSIBLE)
        return {self.name: -eliminated(log_share, states, self._own(expected, posterior.each))}


class OwnStatesMatcher(ConjugateMatcher):
    """Global latents that are conjugate in every state of a discrete one of their own."""

    rank = 2
    states = True

    def match(self, seen: Recognition, example: EStep, unknown: Iterable[str]) -> list[Block]:
        """Claim each."""
        found: list[Block] = []
        for name in unknown:
            if own_states(seen.program, seen.program.sites[name]):
                block = self._block(seen, example, name)
                if isinstance(block, ConjugateBlock) and not block.family.event_dim:
                    found.append(OwnStatesBlock(block.name, block.family, block.uses, block.bound))
        return found

    def _prior_argument(self, own: Likelihood, argument: str, parent: Parent) -> bool:
        """Whether an argument of a prior is known, or an unknown itself, in each state."""
        return True
