"""Categorical and multinomial likelihoods, and hidden Markov chains; Dirichlet priors of their probabilities."""

from __future__ import annotations

from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor

from inference.conjugate.exponential_family import Arguments, Entries, ExponentialFamily, Moments
from inference.conjugate.layout import broadcast
from zoo.replay.chain import MarkovChain


class Multinomial(ExponentialFamily):
    """x ~ Multinomial(n, p) or OneHotCategorical(p): T = x, eta = log p, h = n! / prod_j x_j! (Bishop 2006, 2.34).

    Probabilities p ~ Dirichlet(a) have the posterior Dirichlet(a + counts) (Gelman et al. 2013, section 3.4).
    """

    distributions: ClassVar[tuple[Any, ...]] = (dist.Multinomial, dist.OneHotCategorical)
    dims: ClassVar[tuple[int, ...]] = (1,)
    event_dim: ClassVar[int] = 1
    conjugate: ClassVar[dict[str, str]] = {"probs": "Dirichlet"}

    def statistics(self, fn: Any, value: Moments) -> tuple[Tensor, ...]:
        """Count of each category."""
        return (value["mean"],)

    def natural(self, fn: Any, argument: Arguments, center: Tensor | None = None) -> tuple[tuple[Tensor, ...], Tensor]:
        """E[log p]; 0."""
        p = argument("probs")["log"]
        return (p,), torch.zeros_like(p[..., 0])

    def base(self, fn: Any, value: Moments) -> Tensor | float:
        """log n! - sum_j log x_j!."""
        x = value["mean"]
        return torch.lgamma(x.sum(-1) + 1) - torch.lgamma(x + 1).sum(-1)


class Categorical(Multinomial):
    """x ~ Categorical(p): one trial, T = the indicator vector of x, eta = log p (Bishop 2006, equation 2.26)."""

    distributions: ClassVar[tuple[Any, ...]] = (dist.Categorical,)
    event_dim: ClassVar[int] = 0

    def statistics(self, fn: Any, value: Moments) -> tuple[Tensor, ...]:
        """Category of each entry as an indicator vector."""
        return (torch.nn.functional.one_hot(value["mean"].long(), fn.logits.shape[-1]).to(fn.logits.dtype),)

    def base(self, fn: Any, value: Moments) -> Tensor | float:
        """0: one trial has one order."""
        return 0.0

    def log_density(self, fn: Any, argument: Arguments, value: Moments, center: Tensor | None = None) -> Tensor:
        """E[log p_x], read off where it stands."""
        log, x = argument("probs")["log"], value["mean"].long()[..., None]  # (entries or 1, categories), (entries, 1)
        shape = broadcast(log.shape[:-1], x.shape[:-1])
        return log.expand((*shape, log.shape[-1])).gather(-1, x.expand((*shape, 1)))[..., 0]


class Chain(ExponentialFamily):
    """z ~ MarkovChain(p, A): log p(z) = sum_k first_k log p_k + sum_jk moves_jk log A_jk (Baum et al. 1970).

    The chain's log factor has an entry for beginning in k and, below it, one for moving from j to k: of shape
    (1 + states, ..., states). Their weights are expected counts, so that T only says which entry an entry is.
    """

    distributions: ClassVar[tuple[Any, ...]] = (MarkovChain,)
    dims: ClassVar[tuple[int, ...]] = (1,)
    conjugate: ClassVar[dict[str, str]] = {"initial": "Dirichlet", "transition": "Dirichlet"}
    summable: ClassVar[bool] = False

    def statistics(self, fn: Any, value: Moments) -> tuple[Tensor, ...]:
        """Where from, as an indicator vector: the beginning, or a state."""
        origins = len(fn.initial) + 1
        eye = torch.eye(origins, dtype=fn.initial.dtype, device=fn.initial.device)
        return (eye.reshape(origins, *[1] * (value["mean"].ndim - 1), origins),)

    def natural(self, fn: Any, argument: Arguments, center: Tensor | None = None) -> tuple[tuple[Tensor, ...], Tensor]:
        """E[log p] and E[log A], by where to and where from."""
        initial, transition = (argument(name)["log"] for name in ("initial", "transition"))
        return (torch.cat([initial[None], transition]).mT,), torch.zeros_like(initial)

    def message(self, argument: str, entries: Entries) -> tuple[Tensor, ...]:
        """Expected count of each first state, (states,), or of each move, (states, states)."""
        counts = entries.count.flatten(0, -2)
        return (counts[0] if argument == "initial" else counts[1:],)
