"""E-steps of factor models from the second moments of the rows: their cost does not grow with the number of rows."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from inference.families.expected import Expected, Statistics
from inference.families.factor_blocks import FactorBlock, factors
from inference.families.factor_posteriors import LocalNormal
from inference.families.plan import Plan, log_density_of
from inference.families.posteriors import Posterior
from zoo.declare.evaluate import Values
from zoo.declare.program import Program
from zoo.declare.sites import Site, base_distribution


class FactorSums:
    """Rows of which all that is in the data plate are factors and what these explain.

    The posterior of z_i is affine in x_i, with the same covariance in all rows, so that sum_i E[(1, z_i)(1, z_i)^T] and
    sum_i E[(1, z_i)] x_i^T follow from sum_i (1, x_i)(1, x_i)^T, which is added up once (Rubin and Thayer 1982). Use
    `FactorSums.of`, which returns None where a program is none of this kind.
    """

    def __init__(self, program: Program, plan: Plan, blocks: list[FactorBlock]) -> None:
        self.program, self.plan, self.blocks = program, plan, blocks
        self.probe = program.rebind(program.data.take(torch.zeros(1, dtype=torch.long, device=program.device)))

    @classmethod
    def of(cls, plan: Plan, program: Program) -> FactorSums | None:
        """Return None unless the data plate has factors and what they explain only, and more rows than columns."""
        blocks = [b for b in plan.blocks if isinstance(b, FactorBlock)]
        known = {n for b in blocks for n in (b.z.name, *(s.name for s in b.sites))}
        inside = {s.name for s in program.sites.values() if program.row in s.plates and s.role != "deterministic"}
        columns = max((sum(s.shape[-1] for s in b.sites) for b in blocks), default=0)
        if not blocks or known != inside or plan.rest or columns > len(program.data):
            return None
        return cls(program, plan, blocks)

    def expect(
        self, values: Values, beliefs: Mapping[str, Posterior], *, averaged: bool = False
    ) -> tuple[Tensor, Expected]:
        """Return the part of L that is in the data plate, and what updates see.

        Parameters
        ----------
        values, beliefs
            Of the unknowns.
        averaged
            Take the posterior of the latents given these, whatever `beliefs` say of them.
        """
        local = {b.z.name for b in self.blocks}
        replay = self.probe.replay({n: v[:1] if n in local else v for n, v in values.items()})
        found = dict(beliefs)
        expected = Expected(self.plan, self.program, values, replay, beliefs=found)
        sums: dict[str, Statistics] = {}
        for block in self.blocks:
            if averaged or block.z.name not in found:
                found[block.z.name] = block.posterior(expected)
            for site in block.sites:
                second, cross, squares = (t.to(self.program.dtype) for t in factors(self.plan, site).sums(expected))
                sums[site.name] = second[:1, 0], (cross[:1], squares[None])
            sums[block.z.name] = self._statistics(block.z, second)
        total = torch.zeros((), dtype=self.program.dtype, device=self.program.device)
        for block in self.blocks:
            total = total + self._latent(expected, block.z, sums[block.z.name])
            for site in block.sites:
                total = total + self._explained(expected, site, sums[site.name])
        if not averaged:  # the latents are about to be updated: what their own priors see comes from their rows
            sums = {n: s for n, s in sums.items() if n not in local}
            weights = self.program.data.weights
            every = replay.log_probs[self.blocks[0].z.name].new_ones(len(self.program.data))
            expected.marginals = dict.fromkeys(local, every if weights is None else weights)
        expected.sums = sums
        return total, expected

    def rest(self, expected: Expected, known: Values) -> Tensor:
        """Sum of the log densities of the sites outside the data plate, some of which are known."""
        total = torch.zeros((), dtype=self.program.dtype, device=self.program.device)
        for name, density in {**expected.replay.log_probs, **known}.items():
            if self.program.row not in self.program.sites[name].plates:
                total = total + density.sum()
        return total

    def _statistics(self, z: Site, second: Tensor) -> Statistics:
        """Statistics of a latent from sum w E[(1, z)(1, z)^T]: rows are one entry."""
        if self.plan.likelihoods[z.name].joint:
            return second[:1, 0], (second[:1, 1:], second[None, 1:, 1:])
        shape = 1, *z.shape[1:]
        parts = second[0, 1:].reshape(shape), second.diagonal()[1:].reshape(shape)
        return second[0, 0].reshape([1] * len(shape)), parts

    def _latent(self, expected: Expected, z: Site, statistics: Statistics) -> Tensor:
        """sum_i w_i (E[log p(z_i)] + H[q(z_i)])."""
        posterior, likelihood = expected.beliefs[z.name], self.plan.likelihoods[z.name]
        assert isinstance(posterior, LocalNormal)
        fn = base_distribution(expected.replay.distributions[z.name])
        cells = math.prod(z.shape[1:]) if not likelihood.joint else 1
        each = cells * likelihood.base(fn, {}) + posterior.entropy()[z.name][0]
        return log_density_of(expected, z, statistics) + statistics[0].reshape(()) * each

    def _explained(self, expected: Expected, site: Site, statistics: Statistics) -> Tensor:
        """sum_i w_i E[log p(x_i)] = sum_j (n (E[log t_j] - log 2 pi) - E[t_j] sum_i w_i E[(x_ij - m_ij)^2]) / 2."""
        precision = expected.argument(site, "precision", "positive")
        count, squares = factors(self.plan, site).deviations(expected, site, statistics)
        log = precision["log"] - math.log(2 * math.pi)
        return 0.5 * (count * log - precision["mean"] * squares).sum()
