"""E-steps of factor models from the second moments of the rows: their cost does not grow with the number of rows."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from inference.conjugate.e_step import EStep
from inference.conjugate.exponential_family import Entries, ExponentialFamily, Statistics
from inference.conjugate.factor_blocks import FactorBlock, factors
from inference.conjugate.factor_posteriors import LocalNormal
from inference.conjugate.factor_tables import padded
from inference.conjugate.factors import FactorLikelihood
from inference.conjugate.plan import Plan
from inference.conjugate.posteriors import Posterior
from zoo.program.program import Program
from zoo.replay.evaluate import Values
from zoo.replay.sites import Site


class FactorSums:
    """Rows of which all that is in the data plate are factors and what these explain.

    The posterior of z_i is affine in x_i, with the same covariance in all rows, so that sum_i E[(1, z_i)(1, z_i)^T] and
    sum_i E[(1, z_i)] x_i^T follow from sum_i (1, x_i)(1, x_i)^T, which is added up once (Rubin and Thayer 1982). Use
    `FactorSums.of`, which returns None where a program is none of this kind.
    """

    def __init__(self, program: Program, plan: Plan, blocks: list[FactorBlock]) -> None:
        self.program, self.plan, self.blocks = program, plan, blocks
        self.changes = {b.z.name: _changes(plan, b) for b in blocks}
        self.probe = program.rebind(program.data.take(torch.zeros(1, dtype=torch.long, device=program.device)))

    @classmethod
    def of(cls, plan: Plan, program: Program) -> FactorSums | None:
        """Return None unless all that is in the data plate are factors and what they explain."""
        blocks = [b for b in plan.blocks if isinstance(b, FactorBlock)]
        known = {n for b in blocks for n in (b.z.name, *(s.name for s in b.sites))}
        inside = {s.name for s in program.sites.values() if program.row in s.plates and s.role != "deterministic"}
        return cls(program, plan, blocks) if blocks and known == inside and not plan.rest else None

    def expect(
        self, values: Values, posteriors: Mapping[str, Posterior], *, averaged: bool = False
    ) -> tuple[Tensor, EStep]:
        """Return the part of L that is in the data plate, and what updates see.

        Parameters
        ----------
        values, posteriors
            Of the unknowns.
        averaged
            Take the posterior of the latents given these, whatever `posteriors` say of them.
        """
        local = {b.z.name for b in self.blocks}
        replay = self.probe.replay({n: v[:1] if n in local else v for n, v in values.items()})
        found = dict(posteriors)
        expected = EStep(self.plan, self.program, values, replay, posteriors=found)
        sums: dict[str, Statistics] = {}
        for block in self.blocks:
            if averaged or block.z.name not in found:
                found[block.z.name] = block.posterior(expected)
            for site in block.sites:
                rows, squares, _ = factors(self.plan, site).sums(expected)
                second, cross, squares = (t.to(self.program.dtype) for t in (rows.total, rows.cross, squares))
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
        return total, self._expanded(expected) if averaged else expected

    def _expanded(self, expected: EStep) -> EStep:
        """Let the M-step estimate the mean and covariance of z too, then bring z back to its prior: PX-EM.

        Where the coefficients can make up for it, (1, z') = T (1, z) takes the place of z, with T such that z' has in
        the mean over all rows the first two moments of the prior. What is then estimated has the likelihood of a model
        with z ~ Normal(m, C) of any m and C, so that each step gains at least as much, and often far more (Liu, Rubin
        and Wu 1998).
        """
        found = dict(expected.posteriors)
        for block in self.blocks:
            posterior, change = found[block.z.name], self.changes[block.z.name]
            assert isinstance(posterior, LocalNormal)
            assert posterior.affine is not None
            if change is None:
                continue
            second, affine = posterior.affine.sums.total / posterior.affine.table.count, posterior.affine
            precision, right = block.prior(expected)
            cov = torch.cholesky_inverse(torch.linalg.cholesky(precision))
            one = torch.cat([torch.ones_like(right[:1]), cov @ right])
            wanted = one[:, None] * one + padded(cov)
            if change == "linear":
                second, wanted = (torch.block_diag(m.new_ones(1, 1), m[1:, 1:]) for m in (second, wanted))
            roots = torch.linalg.cholesky(wanted), torch.linalg.cholesky(second)
            turn = torch.linalg.solve_triangular(roots[1], roots[0], upper=False, left=False)
            moved = affine.turned(turn)
            tril = torch.linalg.cholesky(moved.cov).to(posterior.tril.dtype)
            found[block.z.name] = posterior.moved(tril, moved)
        return expected.at(expected.values, found)

    def rest(self, expected: EStep, known: Values) -> Tensor:
        """Sum of the log densities of the sites outside the data plate, some of which are known."""
        total = torch.zeros((), dtype=self.program.dtype, device=self.program.device)
        for name, density in {**expected.replay.log_probs, **known}.items():
            if self.program.row not in self.program.sites[name].plates:
                total = total + density.sum()
        return total

    def _statistics(self, z: Site, second: Tensor) -> Statistics:
        """Statistics of a latent from sum w E[(1, z)(1, z)^T]: rows are one entry."""
        if self.plan.likelihoods[z.name].event_dim:
            return second[:1, 0], (second[:1, 1:], second[None, 1:, 1:])
        shape = 1, *z.shape[1:]
        parts = second[0, 1:].reshape(shape), second.diagonal()[1:].reshape(shape)
        return second[0, 0].reshape([1] * len(shape)), parts

    def _latent(self, expected: EStep, z: Site, statistics: Statistics) -> Tensor:
        """sum_i w_i (E[log p(z_i)] + H[q(z_i)])."""
        posterior, likelihood = expected.posteriors[z.name], self.plan.likelihoods[z.name]
        assert isinstance(posterior, LocalNormal)
        assert isinstance(likelihood, ExponentialFamily)
        cells = math.prod(z.shape[1:]) if not likelihood.event_dim else 1
        base = statistics[0].reshape(()) * cells * likelihood.base(expected.fn(z.name), {})
        assert posterior.affine is not None
        entropy = posterior.affine.table.add_up(posterior.entropy()[z.name])
        return expected.log_density_of_sums(z, statistics) + base + entropy

    def _explained(self, expected: EStep, site: Site, statistics: Statistics) -> Tensor:
        """sum_i w_i E[log p(x_i)] = sum_j (n (E[log t_j] - log 2 pi) - E[t_j] sum_i w_i E[(x_ij - m_ij)^2]) / 2."""
        precision, likelihood = expected.argument(site, "precision"), factors(self.plan, site)
        entries = Entries(expected, site, expected.fn(site.name), *statistics)
        count, squares = likelihood.count(entries), likelihood.deviations(entries)
        log = precision["log"] - math.log(2 * math.pi)
        return 0.5 * (count * log - precision["mean"] * squares).sum()


def _changes(plan: Plan, block: FactorBlock) -> str | None:
    """Say which changes of z the coefficients can make up for: "affine" ones, "linear" ones, or None.

    Only parameters can, and of z with a prior that is known; a linear change needs a prior of mean 0.
    """
    if any(parent.kind != "constant" for parent in block.z.args.values()):
        return None
    assert plan.example is not None
    _, right = block.prior(plan.example)
    likelihoods = [factors(plan, site) for site in block.sites]
    for name in ("affine", "linear") if bool((right == 0).all()) else ("affine",):
        if all(_closed(plan, likelihood, name) for likelihood in likelihoods):
            return name
    return None


def _closed(plan: Plan, likelihood: FactorLikelihood, change: str) -> bool:
    """Whether coefficients can make W R out of any W, R being lower triangular with first row (1, 0, ..., 0)."""
    if len(likelihood.groups) != 1 or plan.program.sites[likelihood.groups[0].names[0]].role != "parameter":
        return False
    group, constant = likelihood.groups[0], likelihood.constant
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator).to(constant.device)

    groups, _, width, size = group.design.shape
    r = random(width, width).tril()
    r[0, 0] = 1.0
    if change == "linear":
        r[1:, 0] = 0.0
    design = group.design.reshape(groups, -1, size)
    moved = ((constant + group.columns(random(groups, size))) @ r - constant).reshape(groups, -1, 1)
    normal = design.mT @ design
    root, info = torch.linalg.cholesky_ex(normal + torch.diag_embed((normal.diagonal(dim1=-2, dim2=-1) == 0).double()))
    found = design @ torch.cholesky_solve(design.mT @ moved, root)
    return not bool(info.any()) and bool(((found - moved).abs() <= 1e-9 * moved.abs().max()).all())
