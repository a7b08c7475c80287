"""Linear-Gaussian regression: coefficients of a linear predictor, with their noise precision or given it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from inference.conjugate.block import Block, Matcher, uses
from inference.conjugate.coefficients import LinearPosterior
from inference.conjugate.e_step import EStep
from inference.conjugate.layout import broadcast
from inference.conjugate.linear import Coordinates, LinearLikelihood
from inference.conjugate.posteriors import Posterior
from inference.conjugate.recognition import Recognition
from zoo.program.program import Program
from zoo.replay.evaluate import Values
from zoo.replay.sites import Parent, Site


class RegressionMatcher(Matcher):
    """Coefficients of y ~ Normal(c + d^T beta, 1/t): statistics sum w d d^T, sum w d y.

    With beta ~ Normal(m0, L0^-1) the posterior given t is Normal with precision L = L0 + t sum w d d^T. With
    beta ~ Normal(m0, (t L0)^-1) and t ~ Gamma(a, b) the posterior is Normal-Gamma: beta given t ~ Normal(m, (t L)^-1),
    t ~ Gamma(a + n/2, b + (y^T y + m0^T L0 m0 - m^T L m) / 2) (Bishop 2006, section 3.3 and exercise 3.12). Without
    priors beta is the weighted least-squares solution. Laplace priors are bounded by Normals (Park and Casella 2008).
    """

    rank: ClassVar[int] = 0

    def match(self, seen: Recognition, example: EStep, unknown: Iterable[str]) -> list[Block]:
        """Claim the sites of each linear predictor together."""
        unknown = list(unknown)
        blocks: list[Block] = []
        for site in seen.program.sites.values():
            if not isinstance(seen.likelihoods.get(site.name), LinearLikelihood):
                continue
            names = site.args["loc"].sites
            if not set(names) <= set(unknown) or not all(self._fits(seen, site, n) for n in names):
                continue
            precision = self._joint(seen.program, site, names)
            bound = next((n for n in names if n in seen.likelihoods and seen.likelihoods[n].prior), "")
            blocks.append(RegressionBlock(site, names, precision if precision in unknown else None, bound))
        return blocks

    @staticmethod
    def _fits(seen: Recognition, site: Site, name: str) -> bool:
        """Whether a site's only use is this predictor, and its prior is Normal, or bounded by a Normal, or none."""
        own, family = seen.program.sites[name], seen.likelihoods.get(name)
        if own.role == "local" or {s.name for s, _ in uses(seen.program, name)} != {site.name}:
            return False
        return own.role == "parameter" or (family is not None and (family.prior or own.family) == "Normal")

    @staticmethod
    def _joint(program: Program, site: Site, names: tuple[str, ...]) -> str | None:
        """Precision latent of the noise that is also the unit of the coefficients' prior precision."""
        parent = site.args.get("precision")
        if parent is None or parent.kind != "site" or parent.scale != 1.0 or parent.entrywise or site.args["loc"].index:
            return None
        latent = program.sites[parent.sites[0]]
        used = {s.name for s, _ in uses(program, latent.name)}
        constant = all(p.kind == "constant" for p in latent.args.values())
        if latent.family != "Gamma" or not constant or latent.shape or used != {site.name, *names}:
            return None
        for name in names:
            args = program.sites[name].args
            prior = args.get("precision")
            if args["loc"].kind != "constant" or prior is None or prior.kind != "site":
                return None
        return latent.name


@dataclass
class RegressionBlock(Block):
    """The update of the coefficients of one linear predictor, with the precision where they share a prior."""

    site: Site
    names: tuple[str, ...]
    precision: str | None
    bound: str = ""  # coefficients whose prior is bounded by a Normal

    def __post_init__(self) -> None:
        """Name what is updated."""
        self.unknowns = self.names if self.precision is None else (*self.names, self.precision)

    def why_not(self, program: Program) -> str | None:
        """Say too where it is conjugate in a bound on the joint only."""
        if self.bound:
            law = program.sites[self.bound].family
            return f"{self.bound!r} has no conjugate posterior: a Normal bounds its {law} prior"
        return super().why_not(program)

    def posterior(self, expected: EStep) -> LinearPosterior | None:
        """Normal (with a Gamma precision: Normal-Gamma) posterior; None where a coefficient has no prior."""
        sites = expected.program.sites
        if any(sites[n].role == "parameter" for n in self.names):
            return None
        return self._solve(expected)

    def _prior(self, expected: EStep) -> tuple[Tensor, Tensor]:
        """Prior precision (..., P, P), in units of the noise's if it is joint, and mean (..., P); 0 without a prior."""
        likelihood = self._likelihood(expected)
        earlier = expected.priors.get(self.names[0])
        if isinstance(earlier, LinearPosterior):
            return torch.cholesky_inverse(earlier.by_state(earlier.tril)), earlier.by_state(earlier.loc)
        precisions, means = [], []
        for name in self.names:
            site, like = expected.program.sites[name], expected.values[name]
            precision, mean = torch.zeros_like(like), torch.zeros_like(like)
            if site.role != "parameter":
                first, second = expected.prior(site)
                precision, mean = -2 * second, -0.5 * first / second
            if self.precision is not None:
                precision = precision / expected.argument(self.site, "precision")["mean"]
            precisions.append(precision.expand(like.shape))
            means.append(mean.expand(like.shape))
        return torch.diag_embed(likelihood.flat(precisions)), likelihood.flat(means)

    def _likelihood(self, expected: EStep) -> LinearLikelihood:
        likelihood = expected.plan.likelihoods[self.site.name]
        assert isinstance(likelihood, LinearLikelihood)
        return likelihood

    def _moments(self, expected: EStep) -> tuple[Tensor, Tensor]:
        """Weighted sums of v v^T, in units of precision unless that is joint, by state; and the count of entries."""
        entries = expected.entries(self.site, "")
        (second,) = entries.sums
        if self.precision is None:
            second = second * expected.argument(self.site, "precision")["mean"][..., None, None]
        parent, own = self.site.args["loc"], tuple(second.shape[-2:])
        if not parent.index:
            return second.reshape(-1, *own).sum(0), entries.count
        if self.site.event_dim:
            second = second.sum(list(range(-2 - self.site.event_dim, -2)))
        indexed = Parent("indexed", parent.sites, parent.index)
        return expected.reduce(indexed, second, (len(expected.states(parent.index[0])), *own)), entries.count

    def _coordinates(self, expected: EStep, second: Tensor) -> tuple[Coordinates, Tensor]:
        """Coordinates to solve in, and sums of v v^T in them.

        A prior that a Normal bounds may be tight in some coefficients beyond what combinations of columns resolve:
        Cholesky factors of the coefficients' own equations keep all digits of the others.
        """
        at = self._likelihood(expected).coordinates
        if not self.bound:
            return at, second
        turn = torch.block_diag(torch.linalg.inv(at.rotate), second.new_ones(1, 1))
        eye = torch.eye(len(at.start), dtype=second.dtype, device=second.device)
        return Coordinates(eye, at.start), turn.mT @ second @ turn

    @staticmethod
    def _equations(at: Coordinates, second: Tensor, before: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Normal equations of the coefficients in some coordinates, H (..., P, P) and r (..., P)."""
        inner = second[..., :-1, :-1] + at.rotate.mT @ before @ at.rotate
        right = second[..., :-1, -1] + (before @ (mean - at.start)[..., None])[..., 0] @ at.rotate
        return 0.5 * (inner + inner.mT), right

    def _solve(self, expected: EStep) -> LinearPosterior:
        (before, mean), (second, count) = self._prior(expected), self._moments(expected)
        at, second = self._coordinates(expected, second)
        inner, right = self._equations(at, second, before, mean)
        lead, p = broadcast(second.shape[:-2], mean.shape[:-1]), inner.shape[-1]
        root = torch.linalg.cholesky(inner.expand(*lead, p, p))
        gamma = torch.cholesky_solve(right.expand(*lead, p)[..., None], root)[..., 0]
        loc = at.beta(gamma)
        tril = torch.linalg.cholesky(at.rotate @ torch.cholesky_inverse(root) @ at.rotate.mT)
        a = b = None
        if self.precision is not None:
            # (y - d beta)^T (y - d beta) + (beta - m0)^T L0 (beta - m0) at the posterior mean
            u = torch.cat([gamma, -torch.ones_like(gamma[..., :1])], -1)
            squares = (second * (u[..., :, None] * u[..., None, :])).sum((-1, -2)).clamp_min(0.0)
            gap = loc - mean
            a0, b0 = self._gamma_prior(expected)
            a = a0 + 0.5 * count.sum()
            b = b0 + 0.5 * (squares + (gap * (before @ gap[..., None])[..., 0]).sum(-1))
        return self._made(expected, loc, tril, a, b)

    def _made(
        self, expected: EStep, loc: Tensor, tril: Tensor, a: Tensor | None = None, b: Tensor | None = None
    ) -> LinearPosterior:
        sites = [expected.program.sites[n] for n in self.names]
        names = self.names if self.precision is None else (self.precision, *self.names)
        shapes = tuple(tuple(expected.values[n].shape) for n in self.names)
        return LinearPosterior(names, shapes, tuple(s.event_dim for s in sites), loc, tril, a, b)

    def maximize(self, expected: EStep) -> Values:
        """Weighted least squares, ridge with priors; with a joint precision its mode too."""
        if self.bound and super().why_not(expected.program) is None:
            return self._solve(expected).mean()
        (before, mean), (second, _), likelihood = (
            self._prior(expected),
            self._moments(expected),
            self._likelihood(expected),
        )
        inner, right = self._equations(likelihood.coordinates, second, before, mean)
        p = inner.shape[-1]
        size = inner.diagonal(dim1=-2, dim2=-1).sum(-1) / p
        alive = size > 0
        ridge = torch.where(alive, 1e-12 * size, torch.ones_like(size))[..., None, None]  # columns may be dependent
        eye = torch.eye(p, dtype=inner.dtype, device=inner.device)
        gamma = torch.linalg.solve(inner + ridge * eye, right[..., None])[..., 0]
        current = likelihood.flat([expected.values[n] for n in self.names])
        beta = torch.where(alive[..., None], likelihood.coordinates.beta(gamma), current)
        values = likelihood.split(beta)
        if self.precision is not None:
            posterior = self._solve(expected)
            assert posterior.a is not None
            assert posterior.b is not None
            power = posterior.a - 1 + 0.5 * p
            values[self.precision] = torch.where(power > 0, power / posterior.b, expected.values[self.precision])
        return values

    def kl(self, expected: EStep, posterior: Posterior) -> Values:
        """KL to a joint prior, of all coefficients together; else to that of each."""
        assert isinstance(posterior, LinearPosterior)
        if self.precision is None and not isinstance(expected.priors.get(self.names[0]), LinearPosterior):
            return super().kl(expected, posterior)
        before, mean = self._prior(expected)
        tril = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(before)))
        a0, b0 = (None, None) if self.precision is None else self._gamma_prior(expected)
        return posterior.kl(self._made(expected, mean, tril, a0, b0))

    def _gamma_prior(self, expected: EStep) -> tuple[Tensor, Tensor]:
        """Shape and rate of the precision's prior."""
        assert self.precision is not None
        earlier = expected.priors.get(self.precision)
        if isinstance(earlier, LinearPosterior) and earlier.a is not None and earlier.b is not None:
            return earlier.a, earlier.b
        prior = expected.fn(self.precision)
        return prior.concentration, prior.rate
