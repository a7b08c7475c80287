"""Linear-Gaussian regression: coefficients of a linear predictor, with their noise precision or given it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from inference.conjugate.e_step import EStep, Statistics, broadcast, fn_of
from inference.conjugate.family import Argument, Block, Family, Known, Likelihood, uses
from inference.conjugate.linear_posterior import LinearPosterior, split
from inference.conjugate.normal import normal_predictive
from inference.conjugate.plan import Plan
from inference.conjugate.posteriors import Moments, Posterior
from zoo.program.program import Program
from zoo.replay.evaluate import Values
from zoo.replay.sites import Parent, Site, base_distribution


class LinearLikelihood(Likelihood):
    """y_i ~ Normal(c_i + d_i^T beta, 1/t): log p = -t/2 (y - c - d^T beta)^2 + (log t - log 2 pi) / 2.

    T = v v^T with v = (d', y - c - d^T beta_0), where d' are orthogonal combinations of the columns of d over all data
    and beta_0 the least-squares coefficients: sums of squares are then as accurate as a QR decomposition's.
    """

    inner: ClassVar[tuple[int, ...]] = (2,)

    def __init__(self, plan: Plan, site: Site) -> None:
        self.site, self.parent = site, site.args["loc"]
        self.sizes = [math.prod(self._own(plan.program.sites[n].shape)) for n in self.parent.sites]
        self.known: tuple[Program, Tensor, Tensor, Tensor] | None = None
        d, offset, y = self.rows(plan.program)
        flat, target = d.reshape(-1, d.shape[-1]), (y - offset).expand(d.shape[:-1]).reshape(-1)
        keep = flat.isfinite().all(-1) & target.isfinite()
        q, r = torch.linalg.qr(flat[keep])
        size = float(keep.sum()) ** 0.5
        diagonal = r.diagonal().abs()
        if len(q) < d.shape[-1] or bool((diagonal <= 1e-10 * diagonal.max()).any()):
            self.rotate = torch.eye(d.shape[-1], dtype=d.dtype, device=d.device)
            self.start = torch.zeros(d.shape[-1], dtype=d.dtype, device=d.device)
        else:
            eye = torch.eye(d.shape[-1], dtype=d.dtype, device=d.device)
            self.rotate = size * torch.linalg.solve_triangular(r, eye, upper=True)
            self.start = torch.linalg.solve_triangular(r, (q.mT @ target[keep])[:, None], upper=True)[:, 0]

    def frame(self) -> dict[str, Tensor]:
        """The orthogonal coordinates, and the coefficients they are about."""
        return {"rotate": self.rotate, "start": self.start}

    def _own(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the coefficients of one state."""
        return shape[1:] if self.parent.index else shape

    def rows(self, program: Program) -> tuple[Tensor, Tensor, Tensor]:
        """Columns d_i (..., P), offsets c_i and values y_i of the program's rows: the model run at unit vectors."""
        if self.known is not None and self.known[0] is program:
            return self.known[1:]
        structure = program.structure
        values = {**structure.example, **{n: p.detach() for n, p in program.model.named_parameters()}}
        values = {n: v.to(program.device) for n, v in values.items()}
        values.update({n: torch.zeros_like(values[n]) for n in self.parent.sites})
        for site in program.locals:
            values[site.name] = torch.zeros(program.site_shape(site), dtype=program.dtype, device=program.device)

        def location() -> Tensor:
            fn = base_distribution(program.replay(values, densities=False).distributions[self.site.name])
            loc: Tensor = fn.loc
            keep = max((-d for d in self.site.plate_dims), default=0) + self.site.event_dim
            while loc.ndim > keep:  # the same columns serve every state
                loc = loc[0]
            return loc

        with torch.no_grad():
            offset, columns = location(), []
            for name, size in zip(self.parent.sites, self.sizes, strict=True):
                shape = values[name].shape
                for j in range(size):
                    unit = torch.zeros(self._own(tuple(shape)), dtype=program.dtype, device=program.device)
                    unit.view(-1)[j] = 1.0
                    values[name] = unit.expand(shape).clone()
                    columns.append(location() - offset)
                values[name] = torch.zeros(shape, dtype=program.dtype, device=program.device)
        d = torch.stack(torch.broadcast_tensors(*columns), -1)
        self.known = program, d, offset, program.replay(values, densities=False).seen[self.site.name]
        return self.known[1:]

    def statistics(self, fn: Any, value: Moments, program: Program) -> tuple[Tensor, ...]:
        """Return v v^T."""
        v = self.vectors(program)
        return (v[..., :, None] * v[..., None, :],)

    def vectors(self, program: Program) -> Tensor:
        """Return v = (d', y - c - d^T beta_0) of each entry, shape (..., P + 1)."""
        d, offset, y = self.rows(program)
        rest = y - offset - d @ self.start
        rotated = d @ self.rotate
        return torch.cat([rotated.expand(*rest.shape, -1), rest[..., None]], -1)

    def natural(self, fn: Any, argument: Argument, center: Tensor | None) -> tuple[tuple[Tensor, ...], Tensor]:
        """-(t u u^T + Q) / 2 with u = (gamma, -1), gamma the rotated coefficients and Q = E[t] cov[gamma]."""
        loc, precision = argument("loc", "coefficients"), argument("precision", "positive")
        t = precision["mean"]
        u = torch.cat([loc["mean"], -torch.ones_like(loc["mean"][..., :1])], -1)
        matrix = t[..., None, None] * (u[..., :, None] * u[..., None, :])
        spread = loc["quad"] if "quad" in loc else (t[..., None, None] * loc["cov"] if "cov" in loc else None)
        if spread is not None:
            matrix = matrix + torch.nn.functional.pad(spread, (0, 1, 0, 1))
        return (-0.5 * matrix,), 0.5 * precision["log"]

    def base(self, fn: Any, value: Moments) -> Tensor | float:
        """-log(2 pi) / 2."""
        return -0.5 * math.log(2 * math.pi)

    def predictive(self, fn: Any, known: Known) -> Any:
        """Normal(c + d^T m, d^T C d + 1/t), or t_2a(c + d^T m, (1 + d^T C d) b/a) (Bishop 2006, section 3.3.2)."""
        return normal_predictive(known("loc"), known("precision"))

    def location(self, expected: EStep) -> Moments:
        """Mean c + d^T m of each entry's location, and its variance d^T C d (`quad`: divided by t) if uncertain."""
        d, offset, _ = self.rows(expected.program)
        beta = self.flat([expected.values[n] for n in self.parent.sites])
        found: Moments = {"mean": offset + (d * self.by_state(expected, beta, 1)).sum(-1)}
        belief = expected.beliefs.get(self.parent.sites[0])
        if isinstance(belief, LinearPosterior):
            root = self.by_state(expected, belief.tril, 2)
            found["quad" if belief.joint else "var"] = (d[..., None, :] @ root)[..., 0, :].square().sum(-1)
        return found

    def coefficients(self, expected: EStep) -> Moments:
        """Moments of the rotated coefficients about the starting ones, laid out by state."""
        names = self.parent.sites
        belief = expected.beliefs.get(names[0])
        parts = [expected.values[n] for n in names]
        found: Moments = {"mean": self.rotated(self.flat(parts))}
        if belief is not None:
            inverse = torch.linalg.inv(self.rotate)
            for name, matrix in belief.moments(names[0]).items():
                if name in ("cov", "quad"):
                    found[name] = inverse @ matrix @ inverse.mT
        return {n: self.by_state(expected, m, 1 if n == "mean" else 2) for n, m in found.items()}

    def flat(self, parts: list[Tensor]) -> Tensor:
        """Put the coefficients of all sites side by side, shape (P,) or (states, P)."""
        lead = 1 if self.parent.index else 0
        return torch.cat([p.reshape(*p.shape[:lead], -1) for p in parts], -1)

    def rotated(self, beta: Tensor) -> Tensor:
        """Return gamma with beta = beta_0 + rotate gamma."""
        gamma: Tensor = torch.linalg.solve_triangular(self.rotate, (beta - self.start)[..., None], upper=True)[..., 0]
        return gamma

    def by_state(self, expected: EStep, value: Tensor, own: int) -> Tensor:
        """Lay per-state numbers out along the dimension of the enumerated site."""
        if not self.parent.index:
            return value
        placed: Tensor = value[expected.plan.codes[self.parent.index[0]]]
        events = self.site.event_dim
        if not events:
            return placed
        at = placed.ndim - own
        return placed.reshape(*placed.shape[:at], *[1] * events, *placed.shape[at:])

    def deviations(self, expected: EStep, site: Site, statistics: Statistics) -> tuple[Tensor, Tensor]:
        """Weights of the entries, and weights times E[(y - c - d^T beta)^2], from weighted v v^T."""
        count, (second,) = statistics
        events = site.shape[len(site.shape) - site.event_dim :]
        count = count.expand((*count.shape[: count.ndim - len(events)], *events))
        loc = self.coefficients(expected)
        u = torch.cat([loc["mean"], -torch.ones_like(loc["mean"][..., :1])], -1)
        squares = (second * (u[..., :, None] * u[..., None, :])).sum((-1, -2))
        if "cov" in loc:
            squares = squares + (second[..., :-1, :-1] * loc["cov"]).sum((-1, -2))
        return count, squares.clamp_min(0.0)


class RegressionFamily(Family):
    """Coefficients of y ~ Normal(c + d^T beta, 1/t): statistics sum w d d^T, sum w d y.

    With beta ~ Normal(m0, L0^-1) the posterior given t is Normal with precision L = L0 + t sum w d d^T. With
    beta ~ Normal(m0, (t L0)^-1) and t ~ Gamma(a, b) the posterior is Normal-Gamma: beta given t ~ Normal(m, (t L)^-1),
    t ~ Gamma(a + n/2, b + (y^T y + m0^T L0 m0 - m^T L m) / 2) (Bishop 2006, section 3.3 and exercise 3.12). Without
    priors beta is the weighted least-squares solution.
    """

    rank = 0

    def match(self, plan: Plan, unknown: Iterable[str]) -> list[Block]:
        """Claim the sites of each linear predictor together."""
        unknown = list(unknown)
        blocks: list[Block] = []
        for site in plan.program.sites.values():
            likelihood = plan.likelihoods.get(site.name)
            if not isinstance(likelihood, LinearLikelihood):
                continue
            names = site.args["loc"].sites
            if not set(names) <= set(unknown) or not all(self._fits(plan, site, n) for n in names):
                continue
            precision = self._joint(plan, site, names)
            if precision is not None and precision not in unknown:
                precision = None
            blocks.append(RegressionBlock(site, names, precision))
        return blocks

    def _fits(self, plan: Plan, site: Site, name: str) -> bool:
        """Whether a site's only use is this predictor, and its prior is Normal or none."""
        own = plan.program.sites[name]
        if own.role == "local" or {s.name for s, _ in uses(plan.program, name)} != {site.name}:
            return False
        return own.role == "parameter" or (own.family == "Normal" and name in plan.likelihoods)

    def _joint(self, plan: Plan, site: Site, names: tuple[str, ...]) -> str | None:
        """Precision latent of the noise that is also the unit of the coefficients' prior precision."""
        parent = site.args.get("precision")
        if parent is None or parent.kind != "site" or parent.scale != 1.0 or parent.entrywise or site.args["loc"].index:
            return None
        latent = plan.program.sites[parent.sites[0]]
        fed = {s.name for s, _ in uses(plan.program, latent.name)}
        plain = all(f.kind == "constant" for f in latent.args.values())
        if latent.family != "Gamma" or not plain or latent.shape or fed != {site.name, *names}:
            return None
        for name in names:
            args = plan.program.sites[name].args
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

    def __post_init__(self) -> None:
        """Name what is updated."""
        self.unknowns = self.names if self.precision is None else (*self.names, self.precision)

    def posterior(self, expected: EStep) -> LinearPosterior | None:
        """Normal (with a Gamma precision: Normal-Gamma) posterior; None where a coefficient has no prior."""
        sites = expected.program.sites
        if any(sites[n].role == "parameter" for n in self.names):
            return None
        before, mean = self._prior(expected)
        return self._solve(expected, before, mean)

    def _prior(self, expected: EStep) -> tuple[Tensor, Tensor]:
        """Prior precision (in units of the noise's, if it is joint) and mean, each (..., P) or (..., P, P)."""
        likelihood = self._likelihood(expected)
        earlier = expected.priors.get(self.names[0])
        if isinstance(earlier, LinearPosterior):
            return earlier.precision(), earlier.loc
        precisions, means = [], []
        for name in self.names:
            site, shape = expected.program.sites[name], expected.values[name].shape
            if site.role == "parameter":
                zero = torch.zeros_like(expected.values[name])
                precisions.append(zero)
                means.append(zero)
                continue
            precision = expected.argument(site, "precision", "positive")["mean"]
            if self.precision is not None:
                precision = precision / expected.argument(self.site, "precision", "positive")["mean"]
            precisions.append(precision.expand(shape))
            means.append(expected.argument(site, "loc", "real")["mean"].expand(shape))
        return torch.diag_embed(likelihood.flat(precisions)), likelihood.flat(means)

    def _likelihood(self, expected: EStep) -> LinearLikelihood:
        likelihood = expected.plan.likelihoods[self.site.name]
        assert isinstance(likelihood, LinearLikelihood)
        return likelihood

    def _moments(self, expected: EStep) -> tuple[Tensor, Tensor]:
        """Weighted sums of v v^T, in units of precision unless that is joint, by state; and the count of entries."""
        count, (second,) = expected.statistics(self.site)
        events = self.site.shape[len(self.site.shape) - self.site.event_dim :]
        count = count.expand((*count.shape[: count.ndim - len(events)], *events))
        if self.precision is None:
            t = expected.argument(self.site, "precision", "positive")["mean"]
            second = second * t[..., None, None]
        parent = self.site.args["loc"]
        own = tuple(second.shape[-2:])
        if parent.index:
            states = len(expected.plan.codes[parent.index[0]])
            if events:
                second = second.sum(list(range(-2 - len(events), -2)))
            return expected.reduce(_plain(parent), second, (states, *own)), count
        return second.reshape(-1, *own).sum(0), count

    def _solve(self, expected: EStep, before: Tensor, mean: Tensor) -> LinearPosterior:
        likelihood = self._likelihood(expected)
        rotate, start = likelihood.rotate, likelihood.start
        second, count = self._moments(expected)
        lead = broadcast(second.shape[:-2], mean.shape[:-1])
        inner = second[..., :-1, :-1] + rotate.mT @ before @ rotate
        away = mean - start
        right = second[..., :-1, -1] + ((before @ away[..., None])[..., 0] @ rotate)
        p = inner.shape[-1]
        inner = inner.expand(*lead, p, p)
        inner = 0.5 * (inner + inner.mT)
        root = torch.linalg.cholesky(inner)
        gamma = torch.cholesky_solve(right.expand(*lead, p)[..., None], root)[..., 0]
        loc = start + gamma @ rotate.mT
        tril = torch.linalg.cholesky(rotate @ torch.cholesky_inverse(root) @ rotate.mT)
        shapes = tuple(tuple(expected.values[n].shape) for n in self.names)
        a = b = None
        if self.precision is not None:
            # (y - d beta)^T (y - d beta) + (beta - m0)^T L0 (beta - m0) at the posterior mean
            u = torch.cat([gamma, -torch.ones_like(gamma[..., :1])], -1)
            squares = (second * (u[..., :, None] * u[..., None, :])).sum((-1, -2)).clamp_min(0.0)
            gap = loc - mean
            squares = squares + (gap * (before @ gap[..., None])[..., 0]).sum(-1)
            a0, b0 = self._gamma_prior(expected)
            a, b = a0 + 0.5 * count.sum(), b0 + 0.5 * squares
        names = self.names if self.precision is None else (self.precision, *self.names)
        sites = expected.program.sites
        return LinearPosterior(names, shapes, tuple(sites[n].event_dim for n in self.names), loc, tril, a, b)

    def maximize(self, expected: EStep) -> Values:
        """Weighted least squares, ridge with priors; with a joint precision its mode too."""
        before, mean = self._prior(expected)
        likelihood = self._likelihood(expected)
        second, _ = self._moments(expected)
        p = second.shape[-1] - 1
        inner = second[..., :-1, :-1] + likelihood.rotate.mT @ before @ likelihood.rotate
        right = second[..., :-1, -1] + ((before @ (mean - likelihood.start)[..., None])[..., 0] @ likelihood.rotate)
        size = inner.diagonal(dim1=-2, dim2=-1).sum(-1) / p
        alive = size > 0
        ridge = torch.where(alive, 1e-12 * size, torch.ones_like(size))[..., None, None]
        eye = torch.eye(p, dtype=inner.dtype, device=inner.device)
        gamma = torch.linalg.solve(inner + ridge * eye, right[..., None])[..., 0]
        beta = likelihood.start + gamma @ likelihood.rotate.mT
        current = likelihood.flat([expected.values[n] for n in self.names])
        beta = torch.where(alive[..., None], beta, current)
        found = split(beta, tuple(tuple(expected.values[n].shape) for n in self.names), bool(likelihood.parent.index))
        values = dict(zip(self.names, found, strict=True))
        if self.precision is not None:
            posterior = self._solve(expected, before, mean)
            assert posterior.a is not None
            assert posterior.b is not None
            power = posterior.a - 1 + 0.5 * p
            values[self.precision] = torch.where(power > 0, power / posterior.b, expected.values[self.precision])
        return values

    def log_prior(self, expected: EStep, posterior: Posterior) -> Values | None:
        """E[log p(beta, t)] under a joint prior, of all coefficients together; None where each has its own."""
        assert isinstance(posterior, LinearPosterior)
        joint = self.precision is not None
        if not joint and not isinstance(expected.priors.get(self.names[0]), LinearPosterior):
            return None
        before, mean = self._prior(expected)
        gap = posterior.loc - mean
        fit = (gap * (before @ gap[..., None])[..., 0]).sum(-1)
        trace = (before * (posterior.tril @ posterior.tril.mT)).sum((-1, -2))
        constant = torch.linalg.slogdet(before)[1] - posterior.loc.shape[-1] * math.log(2 * math.pi)
        if self.precision is None:
            return posterior.laid_out(0.5 * (constant - fit - trace))
        t = posterior.moments(self.precision)
        density = 0.5 * (constant + posterior.loc.shape[-1] * t["log"] - t["mean"] * fit - trace)
        a0, b0 = self._gamma_prior(expected)
        gamma = a0 * b0.log() - torch.lgamma(a0) + (a0 - 1) * t["log"] - b0 * t["mean"]
        return {self.precision: gamma, **posterior.laid_out(density)}

    def _gamma_prior(self, expected: EStep) -> tuple[Tensor, Tensor]:
        """Shape and rate of the precision's prior."""
        assert self.precision is not None
        prior, earlier = fn_of(expected, self.precision), expected.priors.get(self.precision)
        if isinstance(earlier, LinearPosterior) and earlier.a is not None and earlier.b is not None:
            return earlier.a, earlier.b
        return prior.concentration, prior.rate


def _plain(parent: Parent) -> Parent:
    """Index of a linear predictor as that of an indexed unknown."""
    return Parent("indexed", parent.sites, parent.index)
