"""Multivariate Normals: the likelihood, its mean (Normal prior) and its scale (Wishart prior), each given the other."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor

from inference.conjugate.e_step import EStep, fn_of
from inference.conjugate.family import (
    EMPTY,
    Argument,
    Block,
    Family,
    Known,
    Likelihood,
    Use,
    recognized,
    unscaled,
    uses,
)
from inference.conjugate.normal import FLOOR, collapse_note
from inference.conjugate.plan import Plan
from inference.conjugate.posteriors import Moments, Posterior, Single
from inference.conjugate.single import wrapped
from zoo.errors import MethodError
from zoo.program.program import Program
from zoo.replay.evaluate import Values
from zoo.replay.sites import Site, base_distribution

SCALES = ("precision_matrix", "covariance_matrix", "scale_tril")


class MultivariateNormalLikelihood(Likelihood):
    """x ~ Normal(m, P^-1): log p = x^T P m - x^T P x / 2 + (log |P| - m^T P m - d log 2 pi) / 2.

    x and m are taken about the mean of the data (Murphy 2007, section 8).
    """

    distributions: ClassVar[tuple[str, ...]] = ("MultivariateNormal",)
    inner: ClassVar[tuple[int, ...]] = (1, 2)
    joint: ClassVar[int] = 1
    centered: ClassVar[bool] = True
    completes: ClassVar[bool] = True

    def statistics(self, fn: Any, value: Moments, program: Program) -> tuple[Tensor, ...]:
        """x and x x^T."""
        x = value["mean"]
        outer = x[..., :, None] * x[..., None, :]
        return x, outer + value["cov"] if "cov" in value else outer

    def natural(self, fn: Any, argument: Argument, center: Tensor | None) -> tuple[tuple[Tensor, ...], Tensor]:
        """E[P] m and -E[P] / 2; E[log |P| - m^T P m] / 2."""
        loc, precision = argument("loc", "real"), argument("precision_matrix", "matrix")
        m, p = loc["mean"] if center is None else loc["mean"] - center, precision["mean"]
        pm = (p @ m[..., None])[..., 0]
        spread: Tensor | float = 0.0
        if "quad" in loc:
            spread = loc["quad"]
        elif "cov" in loc:
            spread = (p * loc["cov"]).sum((-1, -2))
        return (pm, -0.5 * p), 0.5 * (precision["logdet"] - (pm * m).sum(-1) - spread)

    def base(self, fn: Any, value: Moments) -> Tensor | float:
        """-d log(2 pi) / 2."""
        return -0.5 * float(fn.event_shape[-1]) * math.log(2 * math.pi)

    def predictive(self, fn: Any, known: Known) -> Any:
        """Normal(m', C + P^-1) for m ~ Normal(m', C); multivariate t where P is unknown.

        For P ~ Wishart(nu, V) and m ~ Normal(m', (kappa P)^-1) it is t with f = nu - d + 1 degrees of freedom, location
        m' and scale matrix (1 + 1/kappa) V^-1 / f, with 1/kappa = 0 for known m (Murphy 2007, section 8).
        """
        loc, precision = known("loc"), known("precision_matrix")
        center = loc["value"] if "value" in loc else loc["loc"]
        if "value" in precision:
            covariance = inverse(precision["value"])
            root = loc.get("scale_tril")
            return dist.MultivariateNormal(center, covariance if root is None else covariance + root @ root.mT)
        if "scale_tril" in loc:
            raise MethodError("a Normal whose mean and precision are independent has no predictive in closed form")
        df = precision["df"] - center.shape[-1] + 1
        wider = 1 + loc["kappa"].reciprocal() if "kappa" in loc else torch.ones_like(df)
        scale = torch.cholesky_inverse(precision["scale_tril"])
        return dist.MultivariateStudentT(df, center, torch.linalg.cholesky((wider / df)[..., None, None] * scale))


class MultivariateMeanFamily(Family):
    """Mean m of x ~ Normal(m, P^-1): statistics sum w P and sum w P x.

    With m ~ Normal(m0, P0^-1) the posterior is Normal with precision P0 + sum w P and mean
    precision^-1 (P0 m0 + sum w P x) (Murphy 2007, section 6); P by its expectation where it is unknown too.
    """

    rank = 3

    def match(self, plan: Plan, unknown: Iterable[str]) -> list[Block]:
        """Claim parameters, and latents with a multivariate Normal prior, that are only ever the mean of one."""
        blocks: list[Block] = []
        for name in unknown:
            site = plan.program.sites[name]
            if site.role != "parameter" and (site.family != "MultivariateNormal" or name not in plan.likelihoods):
                continue
            found = _uses(plan, name, ("loc",))
            if found:
                blocks.append(MultivariateMeanBlock(name, found))
        return blocks


def _uses(plan: Plan, name: str, arguments: tuple[str, ...]) -> tuple[Use, ...]:
    """All uses of an unknown, if each is one argument of a multivariate Normal; else none."""
    found: list[Use] = []
    for child, args in uses(plan.program, name):
        key = next((a for a in arguments if a in args and unscaled(args[a]) and args[a].broadcast_dims == 0), None)
        other = [a for a in args if (a == "loc") != ("loc" in arguments)]
        if key is None or other or child.family != "MultivariateNormal" or child.name not in plan.likelihoods:
            return ()
        found.append(Use(child, key, args[key]))
    return tuple(found) if len({u.argument for u in found}) == 1 else ()


@dataclass
class MultivariateMeanBlock(Block):
    """The update of one mean vector from all its uses."""

    name: str
    found: tuple[Use, ...]

    def __post_init__(self) -> None:
        """Name what is updated."""
        self.unknowns = (self.name,)

    def totals(self, expected: EStep, *, plain: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Precision (..., d, d), precision times mean about a center, and the center; counts if `plain`."""
        shape = tuple(expected.values[self.name].shape)
        matrix = (*shape, shape[-1])
        center = expected.plan.centers.get(self.found[0].site.name, torch.zeros_like(expected.values[self.name]))
        precisions, totals = [], []
        for use in self.found:
            count, (first, _) = expected.statistics(use.site, self.name)
            own = expected.plan.centers.get(use.site.name)
            first = first + ((0.0 if own is None else own) - center) * count[..., None]
            if plain:
                precisions.append(expected.reduce(use.parent, count[..., None].expand(first.shape), shape))
                totals.append(expected.reduce(use.parent, first, shape))
                continue
            p = expected.argument(use.site, "precision_matrix", "matrix")["mean"]
            precisions.append(expected.reduce(use.parent, count[..., None, None] * p, matrix))
            totals.append(expected.reduce(use.parent, (p @ first[..., None])[..., 0], shape))
        return sum(precisions[1:], precisions[0]), sum(totals[1:], totals[0]), center

    def prior(self, expected: EStep) -> tuple[Tensor, Tensor]:
        """Precision and mean of the prior."""
        site = expected.program.sites[self.name]
        return (
            expected.argument(site, "precision_matrix", "matrix")["mean"],
            expected.argument(site, "loc", "real")["mean"],
        )

    def posterior(self, expected: EStep) -> Posterior | None:
        """Normal with added precisions; None for a parameter without prior."""
        if expected.program.sites[self.name].role == "parameter":
            return None
        precision, total, center = self.totals(expected)
        before, mean = self.prior(expected)
        root = torch.linalg.cholesky(before + precision)
        right = (before @ (mean - center)[..., None])[..., 0] + total
        loc = center + torch.cholesky_solve(right[..., None], root)[..., 0]
        made = dist.MultivariateNormal(loc, scale_tril=torch.linalg.cholesky(torch.cholesky_inverse(root)))
        return Single(self.name, wrapped(made, expected.replay.distributions[self.name]))

    def maximize(self, expected: EStep) -> Values:
        """Precision-weighted mean, of the prior's too where there is one."""
        posterior = self.posterior(expected)
        if posterior is not None:
            return posterior.mean()
        current = expected.values[self.name]
        if all(self._one_precision(use) for use in self.found):  # it cancels
            count, total, center = self.totals(expected, plain=True)
            return {self.name: torch.where(count > EMPTY, center + total / count.clamp_min(EMPTY), current)}
        precision, total, center = self.totals(expected)
        alive = self.totals(expected, plain=True)[0][..., 0] > EMPTY
        eye = torch.eye(precision.shape[-1], dtype=precision.dtype, device=precision.device)
        safe = torch.where(alive[..., None, None], precision, eye)
        moved = center + torch.linalg.solve(safe, total[..., None])[..., 0]
        return {self.name: torch.where(alive[..., None], moved, current)}

    def _one_precision(self, use: Use) -> bool:
        """Whether all entries that share a cell of the mean share a precision."""
        feeds = [f for a, f in use.site.args.items() if a in SCALES]
        plain = [f for f in feeds if f.kind in ("site", "indexed") or (f.kind == "constant" and not f.data)]
        return len(self.found) == 1 and any(set(f.index) <= set(use.parent.index) and not f.by for f in plain)


class WishartFamily(Family):
    """Precision P of x ~ Normal(m, P^-1): statistics sum w and sum w (x - m)(x - m)^T.

    With P ~ Wishart(nu, V) the posterior is Wishart(nu + sum w, (V^-1 + sum w E[(x - m)(x - m)^T])^-1)
    (Murphy 2007, section 7). Without a prior the unknown may also be the covariance or its Cholesky factor.
    """

    rank = 3

    def match(self, plan: Plan, unknown: Iterable[str]) -> list[Block]:
        """Claim scales without prior, and precisions with a Wishart prior, that are only ever a Normal's."""
        blocks: list[Block] = []
        for name in unknown:
            site = plan.program.sites[name]
            prior = site.role != "parameter"
            plain = all(f.kind == "constant" for f in site.args.values())
            if prior and (site.family != "Wishart" or not plain or name not in plan.plain):
                continue
            found = _uses_scaled(plan, name) if prior else _uses(plan, name, SCALES)
            if found:
                blocks.append(WishartBlock(name, found))
        return blocks


def _uses_scaled(plan: Plan, name: str) -> tuple[Use, ...]:
    """All uses of a precision, each times a constant, if each is that of a multivariate Normal; else none."""
    found: list[Use] = []
    for child, args in uses(plan.program, name):
        parent = args.get("precision_matrix")
        good = parent is not None and recognized(parent) and parent.broadcast_dims == 0 and "loc" not in args
        good = good and one_factor(plan, child, "precision_matrix")
        if parent is None or not good or child.family != "MultivariateNormal" or child.name not in plan.likelihoods:
            return ()
        found.append(Use(child, "precision_matrix", parent))
    return tuple(found)


def one_factor(plan: Plan, site: Site, argument: str) -> bool:
    """Whether the constant that multiplies a matrix is one number, or one for each matrix."""
    if not site.args[argument].entrywise or plan.example is None:
        return True
    factor = torch.as_tensor(plan.example.factor(site, argument))
    return torch.allclose(factor, factor[..., :1, :1].expand_as(factor), rtol=1e-9, atol=0.0)


@dataclass
class WishartBlock(Block):
    """The update of one precision (without prior: or covariance, or Cholesky factor) from all its uses."""

    name: str
    found: tuple[Use, ...]
    last: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Name what is updated."""
        self.unknowns = (self.name,)

    def totals(self, expected: EStep) -> tuple[Tensor, Tensor]:
        """Count and scatter about the means, in the unknown's shape."""
        shape = tuple(expected.values[self.name].shape)
        counts, scatters = [], []
        for use in self.found:
            count, scatter = scatter_about(expected, use, self.name)
            factor = expected.factor(use.site, use.argument)
            counts.append(expected.reduce(use.parent, count[..., None, None].expand(scatter.shape), shape)[..., 0, 0])
            scatters.append(expected.reduce(use.parent, factor * scatter, shape))
        return sum(counts[1:], counts[0]), sum(scatters[1:], scatters[0])

    def posterior(self, expected: EStep) -> Posterior | None:
        """Wishart(nu + count, (V^-1 + scatter)^-1); None for a parameter without prior."""
        if expected.program.sites[self.name].role == "parameter":
            return None
        count, scatter = self.totals(expected)
        df, inverse = wishart_prior(expected, self.name)
        tril = inverse_root(inverse + scatter)
        made = dist.Wishart((df + count).expand(tril.shape[:-2]), scale_tril=tril)
        return Single(self.name, wrapped(made, expected.replay.distributions[self.name]))

    def log_prior(self, expected: EStep, posterior: Posterior) -> Values | None:
        """E[log Wishart(P; nu, V)]."""
        if expected.program.sites[self.name].role == "parameter":
            return None
        return {self.name: wishart_cross_entropy(*wishart_prior(expected, self.name), posterior.moments(self.name))}

    def maximize(self, expected: EStep) -> Values:
        """Mean scatter as a covariance, factor or precision; the mode of the posterior with a prior."""
        current = expected.values[self.name]
        posterior = self.posterior(expected)
        if isinstance(posterior, Single):
            base = base_distribution(posterior.distribution)
            d = current.shape[-1]
            power = (base.df - d - 1)[..., None, None]
            new = power * (base.scale_tril @ base.scale_tril.mT)
            return {self.name: torch.where(power > 0, new, current)}
        count, scatter = self.totals(expected)
        unit = expected.plan.spread(self.found[0].site).sqrt()
        covariance = floored(scatter / count.clamp_min(EMPTY)[..., None, None], unit)
        argument = self.found[0].argument
        new = covariance
        if argument == "scale_tril":
            new = torch.linalg.cholesky(covariance)
        elif argument == "precision_matrix":
            new = inverse(covariance)
        return {self.name: torch.where((count > EMPTY)[..., None, None], new, current)}

    def warnings(self, expected: EStep) -> list[str]:
        """Say which covariances have an eigenvalue at its floor."""
        if expected.program.sites[self.name].role != "parameter":
            return []
        value, argument = expected.values[self.name], self.found[0].argument
        covariance = {
            "covariance_matrix": lambda: value,
            "precision_matrix": lambda: inverse(value),
            "scale_tril": lambda: value @ value.mT,
        }[argument]()
        unit = expected.plan.spread(self.found[0].site).sqrt()
        scaled = (covariance / (unit[:, None] * unit)).reshape(-1, len(unit), len(unit))
        low = (torch.linalg.eigvalsh(scaled)[:, 0] <= 10 * FLOOR).nonzero()[:, 0].tolist()
        return [collapse_note(self.name, k, bool(self.found[0].parent.index)) for k in low]


def scatter_about(expected: EStep, use: Use, unknown: str) -> tuple[Tensor, Tensor]:
    """Weights of a site's entries, and weights times E[(x - m)(x - m)^T], in the layout of the entries."""
    count, (first, second) = expected.statistics(use.site, unknown)
    loc, center = expected.argument(use.site, "loc", "real"), expected.plan.centers.get(use.site.name)
    m = loc["mean"] if center is None else loc["mean"] - center
    cross = m[..., :, None] * first[..., None, :]
    weight = count[..., None, None]
    scatter = second - cross - cross.mT + weight * (m[..., :, None] * m[..., None, :])
    return count, scatter + weight * loc["cov"] if "cov" in loc else scatter


def wishart_prior(expected: EStep, name: str) -> tuple[Tensor, Tensor]:
    """Degrees of freedom and inverse scale matrix of a Wishart prior."""
    base = fn_of(expected, name)
    return base.df, inverse(base.scale_tril @ base.scale_tril.mT)


def wishart_cross_entropy(df: Tensor, inverse_scale: Tensor, moments: Moments) -> Tensor:
    """E[log Wishart(P; nu, V)] from E[P] and E[log |P|] (Bishop 2006, equation B.78)."""
    d = inverse_scale.shape[-1]
    log_det = 2 * torch.linalg.cholesky(inverse_scale).diagonal(dim1=-2, dim2=-1).log().sum(-1)
    constant = 0.5 * df * (log_det - d * math.log(2.0)) - torch.mvlgamma(0.5 * df, d)
    trace = (inverse_scale * moments["mean"]).sum((-1, -2))
    found: Tensor = constant + 0.5 * (df - d - 1) * moments["logdet"] - 0.5 * trace
    return found


def inverse_root(matrix: Tensor) -> Tensor:
    """Cholesky factor of the inverse of a positive-definite matrix."""
    root: Tensor = torch.linalg.cholesky(inverse(matrix))
    return root


def inverse(matrix: Tensor) -> Tensor:
    """Inverse of positive-definite matrices through their Cholesky factors."""
    inverted: Tensor = torch.cholesky_inverse(torch.linalg.cholesky(0.5 * (matrix + matrix.mT)))
    return inverted


def floored(covariance: Tensor, unit: Tensor) -> Tensor:
    """Raise eigenvalues below FLOOR, in units of the data's standard deviations, to FLOOR.

    This is the maximum of the likelihood over covariances with no eigenvalue below the floor, so EM stays monotone.
    """
    scale = unit[:, None] * unit[None, :]
    scaled = 0.5 * (covariance + covariance.mT) / scale
    floor = FLOOR * torch.eye(len(unit), dtype=covariance.dtype, device=covariance.device)
    batched = torch._C._functorch.is_batchedtensor(scaled)
    if not batched and not bool(torch.linalg.cholesky_ex(scaled - floor).info.any()):
        return scaled * scale
    values, vectors = torch.linalg.eigh(scaled)
    raised = (vectors * values.clamp_min(FLOOR)[..., None, :]) @ vectors.mT
    low = values[..., :1, None] < FLOOR
    found: Tensor = torch.where(low, raised, scaled) * scale
    return found
