"""Initial and transition probabilities of a hidden Markov chain; Dirichlet priors."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from inference.conjugate.dirichlet import DirichletFamily
from inference.conjugate.e_step import EStep
from inference.conjugate.family import Argument, Likelihood, Use
from inference.conjugate.plan import Plan
from inference.conjugate.posteriors import Moments
from zoo.program.program import Program


class ChainLikelihood(Likelihood):
    """z ~ MarkovChain(p, A): log p(z) = sum_k first_k log p_k + sum_jk moves_jk log A_jk.

    Its log factor has an entry for beginning in k, and below it one for moving from j to k; their weights are expected
    counts.
    """

    distributions: ClassVar[tuple[str, ...]] = ("MarkovChain",)
    inner: ClassVar[tuple[int, ...]] = (1,)

    def statistics(self, fn: Any, value: Moments, program: Program) -> tuple[Tensor, ...]:
        """Where from, as an indicator vector: the beginning, or a state."""
        origins = len(fn.initial) + 1
        eye = torch.eye(origins, dtype=fn.initial.dtype, device=fn.initial.device)
        return (eye.reshape(origins, *[1] * (value["mean"].ndim - 1), origins),)

    def natural(self, fn: Any, argument: Argument, center: Tensor | None) -> tuple[tuple[Tensor, ...], Tensor]:
        """log p and log A, by where to and where from."""
        initial, transition = (argument(name, "simplex")["log"] for name in ("initial", "transition"))
        return (torch.cat([initial[None], transition]).mT,), torch.zeros_like(initial)


class ChainFamily(DirichletFamily):
    """What the first states and the moves of a chain have in common: counts of categories (Baum et al. 1970).

    Attributes
    ----------
    rows
        Which rows of the chain's log factor the unknown feeds.
    """

    arguments: ClassVar[dict[str, str]] = {}
    rows: ClassVar[slice | int]

    def accepts(self, plan: Plan, name: str, use: Use) -> bool:
        """Whether the unknown is this argument and feeds no other: a stationary start depends on the transitions."""
        others = [parent for key, parent in use.site.args.items() if key != use.argument]
        return super().accepts(plan, name, use) and all(name not in parent.sites for parent in others)

    def totals(self, expected: EStep, use: Use, name: str) -> tuple[Tensor, ...]:
        """Expected count of each first state, or of each move."""
        counts = expected.weight(use.site).flatten(0, -2)
        return (counts[self.rows],)


class InitialFamily(ChainFamily):
    """z_1 ~ p: maximum first_k / sequences; with p ~ Dirichlet(a) the posterior is Dirichlet(a + first)."""

    arguments: ClassVar[dict[str, str]] = {"MarkovChain": "initial"}
    rows = 0


class TransitionFamily(ChainFamily):
    """z_t ~ A_j after j: maximum moves_jk / sum_k moves_jk; with A_j ~ Dirichlet(a) it is Dirichlet(a + moves_j)."""

    arguments: ClassVar[dict[str, str]] = {"MarkovChain": "transition"}
    rows = slice(1, None)
