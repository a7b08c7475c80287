"""Local latents given the states of discrete ones: q(z_i) q(t_i | z_i), the second factor conjugate in every state.

The posterior of t_i given that z_i = k has natural parameters of its own, the prior's in that state plus the messages
of what t_i feeds there, whatever the probability of the state. Its moments are laid out along the dimension of the
states, as log densities are, so that the sum over states of an E-step is

    log sum_k exp(E_{q(t | k)}[log p(z = k) p(t | k) p(x | t, k)] + H[q(t | k)]),

which is log p(x) where q(t | k) is the exact posterior (mixtures of factor analysers, of random effects; Ghahramani and
Hinton 1996), and the bound at the best q(z) elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from inference.conjugate.block import Block
from inference.conjugate.conjugate_block import ConjugateBlock
from inference.conjugate.conjugate_matcher import ConjugateMatcher
from inference.conjugate.e_step import EStep
from inference.conjugate.exponential_family import Likelihood, Moments
from inference.conjugate.layout import broadcast
from inference.conjugate.posteriors import Posterior, read
from inference.conjugate.recognition import Recognition
from zoo.errors import FitError
from zoo.program.conditional import by_state
from zoo.replay.evaluate import Values
from zoo.replay.sites import Parent, Site

OWN = "given "  # begins the names of the numbers of the posterior given the state


class ByState(Posterior):
    """q(z_i) q(t_i | z_i): a posterior for each state, and how probable the states are.

    Parameters
    ----------
    names
        Name of the latent.
    share
        q(z_i = k), shape (states ..., *batch of t).
    states
        How many dimensions of states stand on the left.
    each
        q(t | k), its batch laid out as the shares.
    """

    kind: ClassVar[str] = "by_state"
    mixed = True

    def __init__(self, names: tuple[str, ...], share: Tensor, states: int, each: Posterior) -> None:
        self.names, self.share, self.states, self.each = names, share, states, each

    @classmethod
    def from_numbers(cls, names: tuple[str, ...], described: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Make it again from what `describe` and `tensors` gave."""
        own = {n.removeprefix(OWN): v for n, v in tensors.items() if n.startswith(OWN)}
        return cls(names, tensors["share"], described["states"], read(described["each"], names, described["more"], own))

    def with_share(self, share: Tensor) -> Self:
        """Return the same with other probabilities of the states."""
        return type(self)(self.names, share, self.states, self.each)

    def _beside(self, like: Tensor) -> Tensor:
        """The shares beside values that have events on the right."""
        return self.share[(..., *[None] * (like.ndim - self.share.ndim))]

    def mean(self) -> Values:
        """Mean over the states."""
        (mean,) = self.each.mean().values()
        return {self.names[0]: (self._beside(mean) * mean).sum(list(range(self.states)))}

    def sample(self, count: int) -> Values:
        """Draw a state for each row, and the value given it."""
        (drawn,) = self.each.sample(count).values()  # (count, states ..., *batch, *events)
        lead = self.share.ndim - self.states
        flat = self.share.flatten(0, self.states - 1)  # (states, *batch)
        batch = flat.shape[1:]
        picked = torch.multinomial(flat.reshape(len(flat), -1).mT, count, replacement=True)  # (entries of batch, count)
        at = picked.mT.reshape(count, 1, *batch)
        drawn = drawn.flatten(1, self.states)
        at = at[(..., *[None] * (drawn.ndim - 2 - lead))].expand(count, 1, *drawn.shape[2:])
        return {self.names[0]: drawn.gather(1, at)[:, 0]}

    def log_prob(self, values: Values) -> Values:
        """log sum_k q(z = k) q(t | k)."""
        (mean,) = self.each.mean().values()
        value = values[self.names[0]]
        draws = value.ndim - (mean.ndim - self.states)
        beside = value.reshape(*value.shape[:draws], *[1] * self.states, *value.shape[draws:])
        (density,) = self.each.log_prob({self.names[0]: beside}).values()
        joint = self.share.log() + density
        return {self.names[0]: joint.logsumexp(list(range(draws, draws + self.states)))}

    def cross(self, other: Self) -> Values:
        """E[log other | state], in the layout of the shares."""
        return self.each.cross(other.each)

    def entropy(self) -> Values:
        """Entropy given the state, in the layout of the shares: that of the states is in the sum over them."""
        return self.each.entropy()

    def moments(self, name: str) -> Moments:
        """Moments given the state, in the layout of the shares."""
        return self.each.moments(name)

    def given(self, name: str, values: Mapping[str, Tensor]) -> Any:
        """A mixture serves as no prior of later rows, which have latents of their own."""
        raise FitError(f"{name!r} has a mixture of posteriors, one for each state, which is the prior of nothing")

    def blend(self, other: Self, rate: float) -> Self:
        """A step in each state, at the other's shares."""
        return type(self)(self.names, other.share, self.states, self.each.blend(other.each, rate))

    def tensors(self) -> dict[str, Tensor]:
        """The shares, and the numbers of the posterior given the state."""
        return {"share": self.share, **{f"{OWN}{n}": v for n, v in self.each.tensors().items()}}

    def describe(self) -> dict[str, Any]:
        """How many dimensions of states there are, and what the posterior given the state is."""
        return {"states": self.states, "each": self.each.kind, "more": self.each.describe()}


@dataclass
class StateBlock(ConjugateBlock):
    """The conjugate posterior of a local latent in every state."""

    by_state = True

    def shape(self, expected: EStep, dims: int = 0) -> tuple[int, ...]:
        """Shape of a statistic, dimensions of states on its left."""
        return (*self._states(expected), *super().shape(expected, dims))

    def _states(self, expected: EStep) -> tuple[int, ...]:
        """Sizes of the dimensions of states left of the latent's own, 1 for those of other states."""
        program = expected.program
        site = program.sites[self.name]
        codes = [expected.states(n) for n in by_state(program, site)]
        layout = broadcast(*(tuple(c.shape) for c in codes))
        return tuple(layout[: len(layout) - site.batch_dim])

    def maximize(self, expected: EStep) -> Values:
        """Mean of the posterior."""
        return self.posterior(expected).mean()

    def posterior(self, expected: EStep) -> ByState:
        """Prior plus messages in each state, each counted once; states as probable as they last were."""
        single = super().posterior(replace(expected, marginals={}, sums={}))
        assert single is not None
        site, states = expected.program.sites[self.name], self._states(expected)
        batch = expected.program.site_shape(site)[: site.batch_dim]
        return ByState((self.name,), shares(expected, site, (*states, *batch)), len(states), single)


def shares(expected: EStep, site: Site, shape: tuple[int, ...]) -> Tensor:
    """Probability of the states beside each entry of a latent, as last seen; even before anything is seen."""
    marginal = expected.marginals.get(site.name)
    if marginal is None or tuple(marginal.shape) != shape:
        states = torch.Size(shape[: len(shape) - site.batch_dim]).numel()
        return torch.full(shape, 1 / states, dtype=expected.program.dtype, device=expected.program.device)
    total = marginal.sum(list(range(len(shape) - site.batch_dim)), keepdim=True)
    return torch.where(total > 0, marginal / total, 1 / torch.Size(shape[: len(shape) - site.batch_dim]).numel())


def settled(expected: EStep) -> list[Posterior]:
    """The posteriors of an E-step, each once, those by state with the probabilities of the states found there."""
    found: dict[int, Posterior] = {}
    for q in expected.posteriors.values():
        if isinstance(q, ByState):
            site = expected.program.sites[q.names[0]]
            found[id(q)] = q.with_share(shares(expected, site, tuple(q.share.shape)))
        else:
            found[id(q)] = q
    return list(found.values())


class StateMatcher(ConjugateMatcher):
    """Local latents that are conjugate in every state of the discrete ones that they and what they feed depend on."""

    rank = 2
    states = True

    def match(self, seen: Recognition, example: EStep, unknown: Iterable[str]) -> list[Block]:
        """Claim each."""
        found: list[Block] = []
        for name in unknown:
            site = seen.program.sites[name]
            if not by_state(seen.program, site):
                continue
            block = self._block(seen, example, name)
            if not isinstance(block, ConjugateBlock):
                continue
            if all(use.parent.kind == "site" and not use.parent.by for use in block.uses):
                found.append(StateBlock(block.name, block.family, block.uses, block.bound))
        return found

    def _prior_argument(self, own: Likelihood, argument: str, parent: Parent) -> bool:
        """Whether an argument of a prior is known, or an unknown itself, in each state."""
        return True
