"""Counts of categories whose probabilities are a mixture of several vectors, in shares of each row: topic models."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from inference.conjugate.block import Block, Matcher, Use, uses
from inference.conjugate.categorical import Multinomial
from inference.conjugate.conjugate_block import ConjugateBlock
from inference.conjugate.dirichlet import Dirichlet
from inference.conjugate.e_step import EStep
from inference.conjugate.exponential_family import Arguments, Current, Moments
from inference.conjugate.recognition import Recognition
from zoo.program.program import Program
from zoo.replay.sites import Site, views

OTHER = 2.0  # power of the shares at a second place, where the probabilities have to be their mixture too


class MixedShares(Multinomial):
    """x_i ~ Multinomial(n_i, s_i B): each of n_i trials is of one of the rows of B, by the shares s_i.

    The trials' own rows are summed out at their best: with q(s) and q(B),
    E[log p(x_i)] >= sum_j x_ij log sum_k exp(E[log s_ik] + E[log B_kj]) + log h, and a trial of category j is of row k
    with probability phi_ijk in proportion to the exponential. Shares s_i ~ Dirichlet(a) become
    Dirichlet(a + sum_j x_ij phi_ijk), rows of B ~ Dirichlet(c) become Dirichlet(c + sum_i x_ij phi_ijk) (Blei, Ng and
    Jordan 2003, section 5; Hoffman, Blei and Bach 2010, equations 4 to 6).

    Parameters
    ----------
    shares
        Site of s, a row's own, (rows, k).
    vectors
        Site of B, (k, categories).
    """

    distributions, composes, lays_out = (), "probs", True

    def __init__(self, shares: str, vectors: str) -> None:
        self.shares, self.vectors = shares, vectors
        self.known: tuple[Program, Tensor, tuple[Tensor, Tensor]] | None = None  # base, and cells above 0

    def observed(self, program: Program, value: Tensor) -> Moments:
        """The counts, log h of each row, and which cells are above 0: rows and categories."""
        if self.known is None or self.known[0] is not program:
            i, j = value.nonzero(as_tuple=True)
            single = torch.zeros_like(value[:, 0]).index_add_(0, i, (value[i, j] + 1).lgamma())
            self.known = program, (value.sum(-1) + 1).lgamma() - single, (i, j)
        _, base, (i, j) = self.known
        return {"mean": value, "base": base, "row": i, "category": j}

    def base(self, fn: Any, value: Moments) -> Tensor | float:
        """log n! - sum_j log x_j!."""
        return value["base"]

    def composed(self, current: Current) -> Moments:
        """E[log s], (rows, k), and E[log B], (k, categories)."""
        found = {}
        for name, unknown in (("shares", self.shares), ("vectors", self.vectors)):
            posterior = current.posteriors.get(unknown)
            known = Dirichlet().at(current.values[unknown]) if posterior is None else posterior.moments(unknown)
            found[name] = known["log"]
        return found

    def natural(self, fn: Any, argument: Arguments, center: Tensor | None = None) -> tuple[tuple[Tensor, ...], Tensor]:
        """log sum_k exp(E[log s_k] + E[log B_kj]), (rows, categories); 0."""
        parts = argument("probs")
        s, b, most = _relative(parts)
        eta = (s @ b).clamp_min_(torch.finfo(s.dtype).tiny).log_().add_(most[0]).add_(most[1])
        return (eta,), torch.zeros_like(eta[..., 0])

    def log_density(self, fn: Any, argument: Arguments, value: Moments, center: Tensor | None = None) -> Tensor:
        """sum_j x_ij log sum_k exp(E[log s_ik] + E[log B_kj]) + log h, (rows,)."""
        parts, (i, j) = argument("probs"), (value["row"], value["category"])
        if not _sparse(parts, i):
            return super().log_density(fn, argument, value, center)
        s, b, most = _relative(parts)
        mixed = (s[i] * b.mT[j]).sum(-1).clamp_min_(torch.finfo(s.dtype).tiny).log_()
        density = value["mean"][i, j] * (mixed + most[0][i, 0] + most[1][0, j])
        return value["base"].index_add(0, i, density)

    def counts(self, unknown: str, current: EStep, site: Site) -> Tensor:
        """Expected count of trials of each row of B: sum_j x_ij phi_ijk of shares, sum_i x_ij phi_ijk of vectors."""
        parts, (x,) = self.composed(current), current.entries(site, unknown).sums
        s, b, _ = _relative(parts)  # what divides them cancels
        seen = current.value(site)
        i, j = seen["row"], seen["category"]
        if _sparse(parts, i):
            phi = s[i] * b.mT[j]  # (cells above 0, k)
            phi *= (x[i, j] / phi.sum(-1).clamp_min_(torch.finfo(x.dtype).tiny))[:, None]
            return torch.zeros_like(s).index_add_(0, i, phi) if unknown == self.shares else _added(b, j, phi)
        # phi_ijk x_ij = s_ik B_kj x_ij / sum_k s_ik B_kj: two matrix products, and no (rows, k, categories) array.
        ratio = x / (s @ b).clamp_min_(torch.finfo(x.dtype).tiny)
        return s * (ratio @ b.mT) if unknown == self.shares else b * (s.mT @ ratio)


def _relative(parts: Moments) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """s (rows, k) and B (k, categories) over the largest of a row and of a category, and the logs of these."""
    s, b = parts["shares"], parts["vectors"]
    most = s.amax(-1, keepdim=True), b.amax(-2, keepdim=True)
    return (s - most[0]).exp(), (b - most[1]).exp(), most


def _sparse(parts: Moments, cells: Tensor) -> bool:
    """Whether k numbers for each cell above 0 are fewer than one for each cell."""
    s, b = parts["shares"], parts["vectors"]
    return 2 * len(cells) * len(b) < len(s) * b.shape[-1]


def _added(b: Tensor, category: Tensor, phi: Tensor) -> Tensor:
    """Sums of phi (cells, k) by category, (k, categories)."""
    return torch.zeros_like(b.mT).index_add_(0, category, phi).mT


def mixed_shares(seen: Recognition, example: EStep, site: Site) -> MixedShares | None:
    """The likelihood of counts whose probabilities are shares times vectors, at two places; else None."""
    parent = site.args.get("probs")
    if site.family != "Multinomial" or parent is None or len(parent.sites) != 2 or parent.index or parent.data:
        return None
    if any(seen.program.sites[n].family != "Dirichlet" for n in parent.sites):
        return None
    shares, vectors = sorted(parent.sites, key=lambda n: seen.program.sites[n].role != "local")
    rows = seen.program.sites[shares]
    if rows.role != "local" or rows.plates != site.plates or len(rows.plates) != 1 or site.event_dim != 1:
        return None
    s, b = example.values[shares], example.values[vectors]
    for power in (1.0, OTHER):
        other = s**power / (s**power).sum(-1, keepdim=True)
        replay = example.program.replay({**example.values, shares: other}, densities=False)
        probs = views(replay.distributions[site.name])["probs"]
        if b.ndim != 2 or s.shape[-1] != len(b) or probs.shape[-1] != b.shape[-1]:
            return None
        if not torch.allclose(probs, other @ b, rtol=1e-5):
            return None
    return MixedShares(shares, vectors)


@dataclass
class MixedBlock(ConjugateBlock):
    """The update of shares or of vectors, given the other, and of which vector each trial is."""

    in_turns: ClassVar[bool] = True

    def why_not(self, program: Program) -> str | None:
        """The bound is that of mean-field inference with the trials' own rows: no reason."""
        return Block.why_not(self, program)

    def count(self, expected: EStep) -> Tensor:
        """Expected count of trials of each vector."""
        return self.message(expected, None)[0].sum(-1)

    def message(self, expected: EStep, anchor: Tensor | None) -> tuple[Tensor, ...]:
        """Expected counts, to log s or log B."""
        found = torch.zeros(())
        for use in self.uses:
            likelihood = expected.plan.likelihoods[use.site.name]
            assert isinstance(likelihood, MixedShares)
            found = found + likelihood.counts(self.name, expected, use.site)
        return (found,)


class MixedMatcher(Matcher):
    """Shares and vectors with Dirichlet priors that feed nothing but counts by their product."""

    rank = 2

    def match(self, seen: Recognition, example: EStep, unknown: Iterable[str]) -> list[Block]:
        """Claim each such unknown."""
        return [block for block in (self._block(seen, name) for name in unknown) if block is not None]

    def _block(self, seen: Recognition, name: str) -> Block | None:
        site = seen.program.sites[name]
        if site.family != "Dirichlet" or name not in seen.likelihoods or any(p.sites for p in site.args.values()):
            return None
        children = [child for child, _ in uses(seen.program, name)]
        kinds = [seen.likelihoods.get(child.name) for child in children]
        if not kinds or not all(isinstance(kind, MixedShares) for kind in kinds):
            return None
        return MixedBlock(name, Dirichlet(), tuple(Use(child, "probs", child.args["probs"]) for child in children))
