"""Poisson and Exponential rates, and rates of Gammas of known shape; Gamma prior."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from inference.conjugate.e_step import EStep, fn_of
from inference.conjugate.family import EMPTY, Argument, Known, Likelihood, Use, beside
from inference.conjugate.plan import Plan
from inference.conjugate.posteriors import Moments
from inference.conjugate.single import SingleFamily
from zoo.program.program import Program


class RateLikelihood(Likelihood):
    """x ~ Poisson(r), Exponential(r) or Gamma(s, r): log p(x) = events log r - exposure r + h(x).

    Events and exposure are x and 1 of a Poisson, 1 and x of an Exponential, s and x of a Gamma
    (Gelman et al. 2013, section 2.6).
    """

    distributions: ClassVar[tuple[str, ...]] = ("Poisson", "Exponential", "Gamma")
    inner: ClassVar[tuple[int, ...]] = (0, 0)

    def statistics(self, fn: Any, value: Moments, program: Program) -> tuple[Tensor, ...]:
        """Events and exposure of each entry."""
        x, name = value["mean"], type(fn).__name__
        if name == "Poisson":
            return x, torch.ones_like(x)
        return (torch.ones_like(x) if name == "Exponential" else beside(fn.concentration, x), x)

    def natural(self, fn: Any, argument: Argument, center: Tensor | None) -> tuple[tuple[Tensor, ...], Tensor]:
        """log r and -r."""
        r = argument("rate", "positive")
        return (r["log"], -r["mean"]), torch.zeros_like(r["mean"])

    def base(self, fn: Any, value: Moments) -> Tensor | float:
        """-log x! of a Poisson, (s - 1) log x - log Gamma(s) of a Gamma."""
        name = type(fn).__name__
        if name == "Poisson":
            return -torch.lgamma(value["mean"] + 1)
        if name == "Exponential":
            return 0.0
        log = value["log"] if "log" in value else value["mean"].log()
        shape = beside(fn.concentration, value["mean"])
        found: Tensor = (shape - 1) * log - torch.lgamma(shape)
        return found

    def predictive(self, fn: Any, known: Known) -> Any:
        """GammaPoisson(a, b), or GammaGamma(s, a, b), s = 1 of an Exponential (Gelman et al. 2013, section 2.6)."""
        r = known("rate")
        if "value" in r:
            return fn
        a, b = r["concentration"], r["rate"]
        if type(fn).__name__ == "Poisson":
            return dist.GammaPoisson(a, b)
        return GammaGamma(fn.concentration if type(fn).__name__ == "Gamma" else torch.ones_like(a), a, b)


class GammaGamma(dist.TorchDistribution):
    """x given r ~ Gamma(s, r), r ~ Gamma(a, b): p(x) = b^a x^(s - 1) / (B(s, a) (b + x)^(s + a)), Lomax if s = 1.

    (Bernardo and Smith 2000, appendix A.)

    Parameters
    ----------
    shape, concentration, rate
        s, a and b.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "shape_": constraints.positive,
        "concentration": constraints.positive,
        "rate": constraints.positive,
    }
    support = constraints.positive

    def __init__(self, shape: Tensor, concentration: Tensor, rate: Tensor) -> None:
        self.shape_, self.concentration, self.rate = torch.broadcast_tensors(shape, concentration, rate)
        super().__init__(self.rate.shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> GammaGamma:
        """The same with a larger batch."""
        return GammaGamma(*(t.expand(batch_shape) for t in (self.shape_, self.concentration, self.rate)))

    @property
    def mean(self) -> Tensor:
        """s b / (a - 1), infinite if a <= 1."""
        a = self.concentration
        found: Tensor = torch.where(a > 1, self.shape_ * self.rate / (a - 1), math.inf)
        return found

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw a rate, then a value given it."""
        rate = dist.Gamma(self.concentration, self.rate).sample(sample_shape)
        draw: Tensor = dist.Gamma(self.shape_, rate).sample()
        return draw

    def log_prob(self, value: Tensor) -> Tensor:
        """a log b + (s - 1) log x - log B(s, a) - (s + a) log(b + x)."""
        s, a, b = self.shape_, self.concentration, self.rate
        beta = torch.lgamma(s) + torch.lgamma(a) - torch.lgamma(s + a)
        found: Tensor = a * b.log() + (s - 1) * value.log() - beta - (s + a) * (b + value).log()
        return found


class GammaFamily(SingleFamily):
    """Rate r of x ~ Poisson(c r), Exponential(c r) or Gamma(s, c r): statistics events and exposure.

    Maximum events / exposure; with r ~ Gamma(a, b) the posterior is Gamma(a + events, b + exposure)
    (Gelman et al. 2013, section 2.6).
    """

    arguments: ClassVar[dict[str, str]] = {"Poisson": "rate", "Exponential": "rate", "Gamma": "rate"}
    prior = "Gamma"
    scalable = True
    fed = ("rate",)

    def prior_of(self, expected: EStep, name: str) -> Any:
        """Gamma(a, b), b by its expectation where it is unknown too."""
        rate = expected.argument(expected.program.sites[name], "rate", "positive")["mean"]
        return dist.Gamma(fn_of(expected, name).concentration, rate)

    def accepts(self, plan: Plan, name: str, use: Use) -> bool:
        """Whether the shape of a Gamma is known."""
        return not any(f.sites for k, f in use.site.args.items() if k != "rate")

    def totals(self, expected: EStep, use: Use, name: str) -> tuple[Tensor, ...]:
        """Events and exposure."""
        shape = tuple(expected.values[name].shape)
        _, (events, exposure) = expected.statistics(use.site, name)
        exposure = exposure * expected.factor(use.site, use.argument)
        return expected.reduce(use.parent, events, shape), expected.reduce(use.parent, exposure, shape)

    def maximize(self, statistics: tuple[Tensor, ...], current: Tensor) -> Tensor:
        """Events per exposure, kept above zero."""
        events, exposure = statistics
        rate = events / exposure.clamp_min(EMPTY)
        return torch.where(exposure > EMPTY, rate.clamp_min(torch.finfo(rate.dtype).tiny), current)

    def update(self, prior: Any, statistics: tuple[Tensor, ...]) -> Any:
        """Gamma(a + events, b + exposure)."""
        events, exposure = statistics
        return dist.Gamma(prior.concentration + events, prior.rate + exposure)

    def mode(self, posterior: Any) -> Tensor:
        """(a - 1) / b, kept above zero."""
        tiny = torch.finfo(posterior.rate.dtype).tiny
        mode: Tensor = ((posterior.concentration - 1) / posterior.rate).clamp_min(tiny)
        return mode
