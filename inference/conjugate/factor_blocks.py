"""Updates of factor models: the latent of every row given the columns' loadings, and these given the latents."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from inference.conjugate.block import Block, Matcher, uses
from inference.conjugate.coefficients import Coefficients
from inference.conjugate.e_step import EStep
from inference.conjugate.factor_posteriors import LocalNormal, PatternNormal
from inference.conjugate.factor_tables import AffineMap, PatternMap, Table
from inference.conjugate.factors import FactorLikelihood, LoadingGroup, tabulate
from inference.conjugate.posteriors import Posterior
from inference.conjugate.recognition import Recognition
from inference.conjugate.verify import on_all_rows
from zoo.program.program import Program
from zoo.replay.evaluate import Values
from zoo.replay.sites import Site, views


class FactorMatcher(Matcher):
    """Latents z_i ~ Normal(m0, P0^-1) of x_i ~ Normal(m + W z_i, 1/t), and what m and W are made of.

    The posterior of z_i is Normal with precision P0 + W^T t W, the same in all rows, and a mean affine in x_i. Given
    E[z_i] and E[z_i z_i^T], m and W are the weighted least-squares coefficients of the regression of each column on
    (1, z_i), or have its Normal posterior where they have Normal priors (Rubin and Thayer 1982; Bishop 2006, equations
    12.66 to 12.70; Bishop 1999 for the variational updates).
    """

    rank = 0
    likelihood: ClassVar[type[FactorLikelihood]] = FactorLikelihood

    def match(self, seen: Recognition, example: EStep, unknown: Iterable[str]) -> list[Block]:
        """Claim local latents that are only ever factors, and the coefficients that multiply them."""
        unknown, program = list(unknown), seen.program
        blocks: list[Block] = []
        for z in program.locals:
            children = uses(program, z.name)
            sites = tuple(s for s, args in children if set(args) == {"loc"} and self._explains(seen, s))
            if not sites or len(sites) < len(children) or z.name not in unknown or not _normal(seen, example, z):
                continue
            blocks.append(self.block(z, sites))
            for site in sites:
                closed = [g for g in factors(seen, site).groups if g.closed and set(g.names) <= set(unknown)]
                blocks += [CoefficientBlock(site, g) for g in closed]
        return blocks

    def block(self, z: Site, sites: tuple[Site, ...]) -> FactorBlock:
        """The block of a latent."""
        return FactorBlock(z, sites)

    def _explains(self, seen: Recognition, site: Site) -> bool:
        return type(seen.likelihoods.get(site.name)) is self.likelihood and site.name in seen.collapsible


def factors(seen: Recognition, site: Site) -> FactorLikelihood:
    """Return the likelihood of a site that is one of factors."""
    likelihood = seen.likelihoods[site.name]
    assert isinstance(likelihood, FactorLikelihood)
    return likelihood


def _normal(seen: Recognition, example: EStep, site: Site) -> bool:
    """Whether a local latent has a Normal prior that is the same in all rows."""
    if site.family not in ("Normal", "MultivariateNormal") or site.name not in seen.likelihoods:
        return False
    if (site.plates, site.plate_dims) != ((seen.program.row,), (-1,)):
        return False
    if site.name in seen.collapsible:
        return True
    if any(parent.kind != "constant" or parent.data for parent in site.args.values()):
        return False
    values = on_all_rows(seen.program, example.values)
    fn = seen.program.replay(values, densities=False).distributions[site.name]
    rows = len(seen.program.data)
    if not all(bool((v == v[:1]).all()) for v in views(fn).values() if v.ndim and v.shape[0] == rows):
        return False
    seen.collapsible |= {site.name}  # made for every row, and the same in each
    return True


@dataclass(eq=False)
class FactorBlock(Block):
    """The posterior of the latent of every row."""

    z: Site
    sites: tuple[Site, ...]
    known: tuple[Program, Table] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Name what is updated."""
        self.unknowns = (self.z.name,)

    def table(self, expected: EStep) -> Table:
        """Return the rows, laid out once."""
        if self.known is None or self.known[0] is not expected.program:
            self.known = expected.program, tabulate(expected, self.sites)
        return self.known[1]

    def prior(self, expected: EStep) -> tuple[Tensor, Tensor]:
        """E[P0] and E[P0 m0], (q, q) and (q,), in double precision."""
        events = self.z.shape[1:]
        size = math.prod(events)
        m = expected.argument(self.z, "loc")["mean"].expand(1, *events).reshape(size).double()
        if self.z.family == "MultivariateNormal":
            p = expected.argument(self.z, "precision_matrix")["mean"].reshape(size, size).double()
        else:
            t = expected.argument(self.z, "precision")["mean"]
            p = torch.diag(t.expand(1, *events).reshape(size).double())
        return p, p @ m

    def posterior(self, expected: EStep) -> Posterior:
        """Precision P0 + sum_j E[t_j w_j w_j^T], and a mean affine in x_i, w_j the loadings of column j.

        The sum is over the columns that are observed in the row.
        """
        table, (before, right) = self.table(expected), self.prior(expected)
        every = [factors(expected.plan, site).products(expected) for site in self.sites]
        product, gain = (torch.cat(parts) for parts in zip(*every, strict=True))
        product, shift, gain = product[:, 1:, 1:], product[:, 1:, 0], gain[:, 1:]  # (D, q, q), (D, q), (D, q)
        dtype, events = expected.program.dtype, tuple(self.z.shape[1:])
        if table.missing is not None:
            precision = before + (table.seen @ product.flatten(1)).unflatten(1, before.shape)
            cov = torch.cholesky_inverse(torch.linalg.cholesky(precision))  # (patterns, q, q)
            rows = (right - table.seen @ shift)[table.which] + table.x.double() @ gain
            found = PatternMap(table, table.times(rows, cov), cov)
            tril = torch.linalg.cholesky(cov).to(dtype)
            return PatternNormal(self.unknowns, tril, table.which, events, affine=found)
        root = torch.linalg.cholesky(before + product.sum(0))
        solved = torch.cholesky_solve(torch.cat([(right - shift.sum(0))[:, None], gain.mT], 1), root)
        first = torch.zeros_like(solved[:1])
        first[0, 0] = 1.0
        cov = torch.cholesky_inverse(root)
        affine = AffineMap(table, torch.cat([first, solved]), cov)
        return LocalNormal(self.unknowns, torch.linalg.cholesky(cov).to(dtype), events, affine=affine)

    def maximize(self, expected: EStep) -> Values:
        """Mean of the posterior, which is its mode without states."""
        return self.posterior(expected).mean()


@dataclass(eq=False)
class CoefficientBlock(Block):
    """The update of intercepts and loadings: for each column, the regression of x on (1, z)."""

    site: Site
    group: LoadingGroup

    def __post_init__(self) -> None:
        """Name what is updated."""
        self.unknowns = self.group.names

    def _equations(self, expected: EStep) -> tuple[Tensor, Tensor, Tensor]:
        """H (G, p, p) and r (G, p) of the expected log joint -gamma^T H gamma / 2 + r^T gamma, and gamma now."""
        likelihood = factors(expected.plan, self.site)
        second, cross = likelihood.normal_equations(expected)
        t, (w, _) = likelihood.precision(expected), likelihood.about(expected)
        gamma, design = self.group.places(expected.values[n] for n in self.group.names), self.group.design
        rest = w - self.group.columns(gamma)
        t = t.reshape(design.shape[:2])
        target = t[..., None] * (cross - (rest[:, None] @ second)[:, 0]).reshape(design.shape[:3])
        second = second if len(second) == 1 else second.unflatten(0, design.shape[:2])
        h = (design.mT @ (t[..., None, None] * (second @ design))).sum(1)
        return h, (design * target[..., None]).sum((1, 2)), gamma

    def maximize(self, expected: EStep) -> Values:
        """Weighted least squares, with priors ridge regression; what feeds nothing keeps its value."""
        posterior = self.posterior(expected)
        if posterior is not None:
            return posterior.mean()
        h, r, gamma = self._equations(expected)
        diagonal = h.diagonal(dim1=-2, dim2=-1)
        dead = diagonal <= 0
        root = torch.linalg.cholesky(h + torch.diag_embed(torch.where(dead, 1.0, 1e-14 * diagonal)))
        gamma = torch.where(dead, gamma, torch.cholesky_solve(r[..., None], root)[..., 0])
        return self._posterior(expected, gamma, torch.zeros_like(h)).mean()

    def posterior(self, expected: EStep) -> Coefficients | None:
        """Normal with added precisions; None for parameters without prior."""
        sites = [expected.program.sites[n] for n in self.group.names]
        if sites[0].role == "parameter":
            return None
        before, mean = [], []
        for site in sites:
            shape = expected.values[site.name].shape
            before.append(expected.argument(site, "precision")["mean"].expand(shape))
            mean.append(expected.argument(site, "loc")["mean"].expand(shape))
        h, r, _ = self._equations(expected)
        precision = self.group.places(before, 1.0)
        root = torch.linalg.cholesky(h + torch.diag_embed(precision))
        gamma = torch.cholesky_solve((r + precision * self.group.places(mean))[..., None], root)[..., 0]
        return self._posterior(expected, gamma, torch.linalg.cholesky(torch.cholesky_inverse(root)))

    def _posterior(self, expected: EStep, gamma: Tensor, tril: Tensor) -> Coefficients:
        sites = [expected.program.sites[n] for n in self.group.names]
        shapes, events = tuple(tuple(s.shape) for s in sites), tuple(s.event_dim for s in sites)
        dtype = expected.program.dtype
        return Coefficients(self.group.names, shapes, events, self.group.where, gamma.to(dtype), tril.to(dtype))
