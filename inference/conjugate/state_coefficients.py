"""Coefficients whose priors depend on discrete latents: spike-and-slab regression, q(z_j) q(beta_j | z_j) for each.

Titsias and Lázaro-Gredilla (2011), "Spike and slab variational inference for multi-task and multiple kernel learning";
Carbonetto and Stephens (2012), "Scalable variational inference for Bayesian variable selection in regression", of which
the spike need not be a point here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from inference.conjugate.block import Block
from inference.conjugate.coefficients import LinearPosterior
from inference.conjugate.e_step import EStep
from inference.conjugate.linear import LinearLikelihood
from inference.conjugate.posteriors import Posterior
from inference.conjugate.recognition import Recognition
from inference.conjugate.regression import RegressionBlock, RegressionMatcher
from inference.conjugate.state_unknown import eliminated, log_states, own_states
from zoo.program.program import Program
from zoo.replay.evaluate import Values
from zoo.replay.masked import IMPOSSIBLE
from zoo.replay.sites import Site

SWEEPS = 3  # over all coefficients in one update; each raises the bound


class StateCoefficients(LinearPosterior):
    """q(beta) = prod_j sum_k share_kj Normal(beta_j | locs_kj, scales_kj^2), all of shape (states, P).

    Where coefficients have different numbers of states, the shares of those that are not there are 0.
    """

    kind: ClassVar[str] = "state_coefficients"
    mixed = True

    def __init__(
        self,
        names: tuple[str, ...],
        shapes: tuple[tuple[int, ...], ...],
        events: tuple[int, ...],
        share: Tensor,
        locs: Tensor,
        scales: Tensor,
    ) -> None:
        mean = (share * locs).sum(0)
        variance = (share * (scales.square() + (locs - mean).square())).sum(0)
        super().__init__(names, shapes, events, mean, torch.diag(variance.sqrt()))
        self.share, self.locs, self.scales = share, locs, scales

    def _by_site(self, flat: Tensor) -> Values:
        """Cut numbers of all coefficients (..., P) into those of their sites."""
        parts = flat.split([math.prod(s) for s in self.shapes], -1)
        return {n: p.reshape(*p.shape[:-1], *shape) for n, p, shape in zip(self.names, parts, self.shapes, strict=True)}

    def sample(self, count: int) -> Values:
        """Draw a state for each coefficient, and the value given it."""
        at = torch.multinomial(self.share.mT, count, replacement=True).mT  # (count, P)
        noise = torch.randn(at.shape, dtype=self.loc.dtype, device=self.loc.device)
        return self._by_site(self.locs.gather(0, at) + self.scales.gather(0, at) * noise)

    def log_prob(self, values: Mapping[str, Tensor]) -> Values:
        """Log density of each coefficient."""
        lead = values[self.names[0]].shape[: values[self.names[0]].ndim - len(self.shapes[0])]
        flat = torch.cat([values[n].reshape(*lead, -1) for n in self.names], -1)
        normal = torch.distributions.Normal(self.locs, self.scales)
        return self._by_site((self.share.log() + normal.log_prob(flat[..., None, :])).logsumexp(-2))

    def own_states(self) -> Values:
        """The shares, site by site."""
        parts = self.share.mT.split([math.prod(s) for s in self.shapes])
        return {n: p.reshape(*s, -1) for n, p, s in zip(self.names, parts, self.shapes, strict=True)}

    def tensors(self) -> dict[str, Tensor]:
        """share, locs, scales."""
        return {"share": self.share, "locs": self.locs, "scales": self.scales}


class Prior(NamedTuple):
    """log p(z_j = k) + log p(beta_j | k) = height_kj + first_kj beta + second_kj beta^2, of shape (states, P) each."""

    states: Tensor
    first: Tensor
    second: Tensor

    @property
    def constant(self) -> Tensor:
        """log p(beta | k) at beta = 0."""
        precision = -2 * self.second
        return 0.5 * (precision.log() - math.log(2 * math.pi) - self.first.square() / precision)


@dataclass
class StateRegressionBlock(RegressionBlock):
    """The update of coefficients of which some have a prior by the state of a discrete latent of their own.

    Given the other coefficients q(beta_j | z_j = k) is Normal with precision H_jj + 1 / s_k^2, where
    -beta^T H beta / 2 + b^T beta is the expected log likelihood, and q(z_j = k) is proportional to p(z_j = k) times
    the integral of the prior in that state and the likelihood; one coefficient after the other.
    """

    def _prior(self, expected: EStep) -> tuple[Tensor, Tensor]:
        """Precision and mean of the prior, natural parameters averaged over the states: for the mode given them."""
        precisions, means = [], []
        for name in self.names:
            site, like = expected.program.sites[name], expected.values[name]
            first, second = expected.prior(site)
            if site.by_state:
                weight = expected.marginals[name]
                lead = list(range(weight.ndim - like.ndim))
                first, second = (weight * first).sum(lead), (weight * second).sum(lead)
            precisions.append((-2 * second).expand(like.shape))
            means.append((-0.5 * first / second).expand(like.shape))
        likelihood = self._likelihood(expected)
        return torch.diag_embed(likelihood.flat(precisions)), likelihood.flat(means)

    def _by_state(self, expected: EStep) -> Prior:
        """Prior of each coefficient in each of its states."""
        parts = []
        for name in self.names:
            site = expected.program.sites[name]
            first, second = expected.prior(site)
            if not site.by_state:
                parts.append([first.new_zeros(()), first, second])
                continue
            parts.append([log_states(expected, site), first, second])
        return _beside(expected, self.names, parts)

    def posterior(self, expected: EStep) -> StateCoefficients:
        """A posterior in each state, and how probable that is, coefficient by coefficient."""
        likelihood, (second, _) = self._likelihood(expected), self._moments(expected)
        at = likelihood.coordinates
        turn = torch.block_diag(torch.linalg.inv(at.rotate), second.new_ones(1, 1))
        second = turn.mT @ second @ turn  # of (beta - start, y)
        h = second[:-1, :-1]
        b = second[:-1, -1] + h @ at.start
        prior = self._by_state(expected)
        mean = likelihood.flat([expected.values[n] for n in self.names]).clone()
        precision = h.diagonal() - 2 * prior.second  # (states, P)
        height = prior.states + prior.constant - 0.5 * precision.log()
        locs, log_share = torch.zeros_like(height), torch.zeros_like(height)
        for j in list(range(len(mean))) * SWEEPS:
            locs[:, j] = (b[j] - h[j] @ mean + h[j, j] * mean[j] + prior.first[:, j]) / precision[:, j]
            log_share[:, j] = (height[:, j] + 0.5 * precision[:, j] * locs[:, j].square()).log_softmax(0)
            mean[j] = log_share[:, j].exp() @ locs[:, j]
        shapes = tuple(tuple(expected.values[n].shape) for n in self.names)
        events = tuple(expected.program.sites[n].event_dim for n in self.names)
        return StateCoefficients(self.names, shapes, events, log_share.exp(), locs, precision.rsqrt())

    def kl(self, expected: EStep, posterior: Posterior) -> Values:
        """Minus log q(z) - E[log p(z)] + the bound, of which the elimination of the states makes q(z) and the bound."""
        assert isinstance(posterior, StateCoefficients)
        prior, share = self._by_state(expected), posterior.share
        square = posterior.locs.square() + posterior.scales.square()
        own = prior.first * posterior.locs + prior.second * square + prior.constant
        own = own + posterior.scales.log() + 0.5 * (1 + math.log(2 * math.pi))  # E[log p(beta | k)] + H[q(beta | k)]
        factor = eliminated(share.log().clamp_min(IMPOSSIBLE), prior.states, own)
        found, at = {}, 0
        for name in self.names:
            site, like = expected.program.sites[name], expected.values[name]
            part = slice(at, at := at + like.numel())
            if not site.by_state:
                found[name] = -factor[0, part].reshape(like.shape)
                continue
            code = expected.states(site.by_state[0])
            found[name] = -factor[: len(code), part].reshape(len(code), *[1] * (code.ndim - 1 - like.ndim), *like.shape)
        return found


def _beside(expected: EStep, names: tuple[str, ...], parts: list[list[Tensor]]) -> Prior:
    """Numbers of all coefficients beside each other, (states, P); of states that are not there an impossible one."""
    sites = [expected.program.sites[n] for n in names]
    sizes = [expected.program.sites[s.by_state[0]].cardinality if s.by_state else 1 for s in sites]
    fill = (IMPOSSIBLE, 0.0, -0.5)
    columns: list[list[Tensor]] = [[], [], []]
    for site, own, three in zip(sites, sizes, parts, strict=True):
        shape = expected.values[site.name].shape
        for column, part, empty in zip(columns, three, fill, strict=True):
            lead = part.shape[: part.ndim - len(shape)] if site.by_state else ()
            laid = part.expand((*lead, *shape)).reshape(-1, shape.numel()).expand(own, -1)
            column.append(torch.nn.functional.pad(laid, (0, 0, 0, max(sizes) - own), value=empty))
    return Prior(*(torch.cat(c, 1) for c in columns))


class StateRegressionMatcher(RegressionMatcher):
    """Coefficients of a linear predictor of which some have a prior by state, each of a discrete latent of its own."""

    states = True

    def match(self, seen: Recognition, example: EStep, unknown: Iterable[str]) -> list[Block]:
        """Claim the sites of each such predictor together."""
        unknown, program = list(unknown), seen.program
        blocks: list[Block] = []
        for site in program.sites.values():
            if not isinstance(seen.likelihoods.get(site.name), LinearLikelihood) or site.args["loc"].index:
                continue
            names = site.args["loc"].sites
            own = [program.sites[n] for n in names]
            fits = set(names) <= set(unknown) and any(s.by_state for s in own)
            if fits and all(self._fits(seen, site, n) and self._alone(program, program.sites[n]) for n in names):
                blocks.append(StateRegressionBlock(site, names, None))
        return blocks

    @staticmethod
    def _alone(program: Program, site: Site) -> bool:
        """Whether its prior is Normal, by no state or that of a site in its plates that feeds nothing else."""
        if site.role != "global" or site.event_dim or site.family != "Normal":
            return False
        return not site.by_state or own_states(program, site)
