"""Checks of an exponential family: its density, updates against brute force, and what it says of a prior."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from operator import methodcaller
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution, Transform

from inference.conjugate.exponential_family import (
    ConjugatePrior,
    Entries,
    ExponentialFamily,
    Likelihood,
    Moments,
    Statistics,
    family_named,
    inner_product,
    prior_named,
)
from inference.conjugate.location_scale import LocationScale, Predictor
from zoo.program.prepare import prepare
from zoo.program.program import Program
from zoo.replay.evaluate import Values
from zoo.replay.sites import ALTERNATIVES, Site, views
from zoo.testing.checks import Check, require, require_close, run, without
from zoo.testing.small import for_guides

VALUES = 7  # drawn, where none are given
POINTS = 12  # of an argument, at which an update is compared with brute force
DRAWS = 4000  # behind a mean
ERRORS = 5.0  # standard errors that such a mean may be off by: by chance once in two million times
EXACT = 1e-7  # of formulas in double precision that lose a few digits to the inverse of a matrix
SHRUNK = 0.9  # factor of the natural parameters of another distribution of the family, where one only is given

Prior = Callable[[Tensor], Distribution]  # from the argument's value to a prior of that shape
PRIORS: dict[str, Prior] = {
    "Beta": lambda p: dist.Beta(2.0 + torch.zeros_like(p), 3.0),
    "Dirichlet": lambda p: dist.Dirichlet(1.5 + p),
    "Gamma": lambda r: dist.Gamma(2.5 + torch.zeros_like(r), 2.0 / r),
    "InverseGamma": lambda v: dist.InverseGamma(3.5 + torch.zeros_like(v), 2.0 * v),
    "Normal": lambda m: dist.Normal(m + 0.5, 1.5),
    "MultivariateNormal": lambda m: dist.MultivariateNormal(m + 0.5, scale_tril=1.5 * torch.eye(m.shape[-1]).to(m)),
    "Wishart": lambda p: dist.Wishart(p[..., 0, 0] * 0 + p.shape[-1] + 2.0, torch.eye(p.shape[-1]).to(p)),
}


@cache
def _program() -> Program:
    """A program in double precision, for what a family asks of any."""
    return prepare(*next(iter(for_guides())), device="cpu", dtype=torch.float64)


def _double(thing: Any) -> Any:
    """A copy of a distribution in double precision."""
    if isinstance(thing, Tensor):
        return thing.detach().double() if thing.is_floating_point() else thing
    if isinstance(thing, list):
        return [_double(one) for one in thing]
    if isinstance(thing, (Distribution, Transform)):
        made, own = copy.copy(thing), vars(thing)
        vars(made).update({name: _double(value) for name, value in own.items()})
        for group in ALTERNATIVES:  # of probs and logits one was rounded from the other: it is computed again
            for name in [n for n in own if n in group][0 if "_unbroadcasted_scale_tril" in own else 1 :]:
                del vars(made)[name]
        return made
    return thing


def _require_mean(draws: Tensor, expected: Tensor, what: str) -> None:
    """Raise unless the means of draws along dimension 0 are as expected, within their standard errors."""
    require(draws.shape[1:] == expected.shape, f"{what}: expected shape {tuple(draws.shape[1:])}, not {expected.shape}")
    mean, error = draws.mean(0), draws.std(0) / math.sqrt(len(draws))
    away = ((mean - expected).abs() / (error + 1e-9 * (1 + mean.abs()))).flatten()
    worst = int(away.nan_to_num(math.inf).argmax())
    require(
        bool(away[worst] <= ERRORS),
        f"{what}: expected {float(expected.flatten()[worst]):.6g}, but {len(draws)} draws have mean "
        f"{float(mean.flatten()[worst]):.6g} with standard error {float(error.flatten()[worst]):.2g}",
    )


@dataclass
class OneSite:
    """An E-step of one site whose arguments are all known."""

    family: Likelihood
    fn: Any
    middle: Tensor | None
    values: Values = field(default_factory=Values)
    posteriors: Mapping[str, Any] = field(default_factory=dict)

    @property
    def program(self) -> Program:
        """A program of other rows: nothing of a family may depend on them."""
        return _program()

    def argument(self, site: Site, name: str) -> Moments:
        """Moments of an argument of the distribution."""
        known = views(self.fn)
        return self.family.moments_at(name, known[name] if name in known else getattr(self.fn, name))

    def value(self, site: Site) -> Moments:
        """Nothing is asked of the value beside its statistics."""
        raise NotImplementedError

    def center(self, site: Site) -> Tensor | None:
        """What statistics are taken about."""
        return self.middle

    def states(self, name: str) -> Tensor:
        """Nothing is enumerated."""
        raise NotImplementedError


class FamilyChecks:
    """A family and one distribution of it."""

    def __init__(
        self, family: Likelihood, fn: Any, values: Any = None, priors: Mapping[str, Prior] | None = None
    ) -> None:
        self.family, self.fn, self.priors = family, _double(fn), {**PRIORS, **(priors or {})}
        require(not isinstance(family, Predictor), "a Predictor is made for a site: check a model with such a site")
        require(
            len(fn.event_shape) == family.event_dim,
            f"a value of {fn} has {len(fn.event_shape)} event dimensions, and the family's event_dim is "
            f"{family.event_dim}",
        )
        self.site = Site("x", "observed", type(fn).__name__, event_dim=family.event_dim)
        drawn = self.draws(VALUES) if values is None else torch.as_tensor(values, dtype=torch.float64)
        own = tuple(fn.batch_shape) + tuple(fn.event_shape)
        self.x = drawn if values is None else drawn.reshape(-1, *[1] * len(fn.batch_shape), *fn.event_shape)
        self.x = self.x.expand(len(self.x), *own)
        self.center = self.x.mean(0) if family.centered else None

    @property
    def prior(self) -> ConjugatePrior:
        """The family as a prior."""
        assert isinstance(self.family, ConjugatePrior)
        return self.family

    def draws(self, count: int, fn: Any = None, family: Likelihood | None = None) -> Tensor:
        """Draws, the same every time."""
        fn, family = self.fn if fn is None else fn, family or self.family
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            drawn = family.sample(fn, count) if isinstance(family, ConjugatePrior) else fn.sample((count,))
        return drawn.double()

    def known(self, center: Tensor | None = None) -> Callable[[str], Moments]:
        """Moments of the arguments."""
        return partial(OneSite(self.family, self.fn, center).argument, self.site)

    def moments_of(self, value: Tensor) -> Moments:
        """Moments of a known value."""
        return self.family.observed(_program(), value)

    def others(self) -> Iterable[Any]:
        """Another distribution of the family, with natural parameters nearer 0."""
        natural = self.prior.natural(self.fn, self.prior.known(self.fn))[0]
        yield self.prior.make(tuple(SHRUNK * eta for eta in natural))

    def same(self, actual: Any, expected: Any, what: str) -> None:
        """Raise unless two distributions of the family have the same parameters."""
        for name in self.prior.parameters:
            a, b = getattr(actual, name), getattr(expected, name)
            require_close(
                a.expand(torch.broadcast_shapes(a.shape, b.shape)), b.expand_as(a + b), f"{name} {what}", EXACT
            )

    # -- of every likelihood -----------------------------------------------------------------------------------------

    def registration(self) -> str | None:
        """The distribution's family, looked up by its name, is this one."""
        registered = family_named(type(self.fn).__name__)
        require(
            type(registered) is type(self.family),
            f"{type(self.fn).__name__} is of the family {type(registered).__name__}, not {type(self.family).__name__}: "
            "is it among `distributions`?",
        )
        return None

    def density(self) -> str | None:
        """log_density is the distribution's own log_prob, about a center or not."""
        own = self.fn.log_prob(self.x)
        for center in (None, self.center):
            mine = self.family.log_density(self.fn, self.known(center), self.moments_of(self.x), center)
            require_close(mine.expand(own.shape), own, "log_density against log_prob", EXACT)
        return None

    def statistics(self) -> str | None:
        """T_j has the dimensions that `dims` says, and for an exponential family <T, eta> - A + log h is log p."""
        value, batch = self.moments_of(self.x), self.x.shape[: self.x.ndim - self.family.event_dim]
        parts = self.family.statistics(self.fn, value)
        require(len(parts) == len(self.family.dims), f"{len(parts)} statistics, and `dims` has {len(self.family.dims)}")
        for j, (t, dims) in enumerate(zip(parts, self.family.dims, strict=True)):
            require(t.ndim - len(batch) == dims, f"statistic {j} has {t.ndim - len(batch)} dimensions, `dims` {dims}")
        if not isinstance(self.family, ExponentialFamily):
            return None
        eta, density = self.family.natural(self.fn, self.known())
        density = density + self.family.base(self.fn, value)
        for t, e, dims in zip(parts, eta, self.family.dims, strict=True):
            density = density + inner_product(t, e, dims)
        own = self.fn.log_prob(self.x)
        require_close(density.expand(own.shape), own, "<T, eta> - A + log h against log_prob", EXACT)
        return None

    def update(self, argument: str) -> str | None:
        """Prior times likelihood over the posterior is the same at every value of an argument, with T summed or not.

        Where the update is by a bound on the likelihood, the bound is below it and touches it at the current value.
        """
        name = self.family.conjugate[argument]
        require(name in self.priors, f"say in `priors` what {name} to check the update of {argument!r} with")
        family, current = prior_named(name), views(self.fn)[argument]
        prior = self.priors[name](current)
        u = self.draws(POINTS, prior, family)
        anchor = current if family.centered else None
        weights = torch.linspace(0.5, 2.0, len(self.x), dtype=torch.float64)
        lead = self.x.ndim - self.family.event_dim
        count = weights.reshape(-1, *[1] * (lead - 1)).expand(self.x.shape[:lead])
        for summed in (False, True) if self.family.summable else (False,):
            entries = self._entries(count, anchor, summed=summed)
            message = [
                (m + torch.zeros_like(entries.count[(..., *[None] * dims)])).sum(0)
                for m, dims in zip(self.family.message(argument, entries), family.dims, strict=True)
            ]
            likelihood = partial(self._log_likelihood, argument, count)
            how = "of summed statistics" if summed else "of each value"
            if argument in self.family.by_bound:
                at = torch.cat([current[None], u])
                gap = likelihood(at) - self._linear(family, at, anchor, message)
                require(bool((gap[1:] >= gap[0] - EXACT * (1 + gap[0].abs())).all()), f"the bound {how} is no bound")
                continue
            eta = family.natural(prior, family.known(prior), anchor)[0]
            posterior = family.make(tuple(a + b for a, b in zip(eta, message, strict=True)), anchor)
            ratio = prior.log_prob(u) + likelihood(u) - posterior.log_prob(u)
            what = f"log prior + log likelihood - log posterior of {argument!r}, by the message {how}"
            require_close(ratio, ratio[:1].expand_as(ratio), what, EXACT)
        return None

    def _entries(self, count: Tensor, anchor: Tensor | None, *, summed: bool) -> Entries:
        """Weighted statistics of the values, about their center."""
        value = self.moments_of(self.x)
        if self.center is not None:
            value = {**value, "mean": value["mean"] - self.center}
        sums = tuple(
            count[(..., *[None] * dims)] * t
            for dims, t in zip(self.family.dims, self.family.statistics(self.fn, value), strict=True)
        )
        statistics: Statistics = (count, sums)
        if summed:
            statistics = count.sum(0, keepdim=True), tuple(t.sum(0, keepdim=True) for t in sums)
        offset = 0.0 if anchor is None else (0.0 if self.center is None else self.center) - anchor
        return Entries(OneSite(self.family, self.fn, self.center), self.site, self.fn, *statistics, offset)

    def _log_likelihood(self, argument: str, count: Tensor, u: Tensor) -> Tensor:
        """sum_i w_i log p(x_i | u) for each u, (points, batch): of distributions made anew."""
        u = u[:, None]
        accepted = inspect.signature(type(self.fn).__init__).parameters
        scales = self.family.scales if isinstance(self.family, LocationScale) else {}
        if argument not in accepted and argument in scales:  # a Normal is made of its scale
            other = next(n for n in scales if n in accepted)
            argument, u = other, scales[other].argument(scales[argument].dispersion(u))
        require(argument in accepted, f"{type(self.fn).__name__} cannot be made with another {argument!r}")
        given: dict[str, Any] = {argument: u}
        for name in accepted:
            groups = [group for group in ALTERNATIVES if name in group]
            if name in given or any(group & set(given) for group in groups):
                continue
            if name in self.fn.arg_constraints or name == "total_count":
                given[name] = getattr(self.fn, name)
        log_prob: Tensor = type(self.fn)(**given).log_prob(self.x)
        return (count * log_prob).sum(1)

    def _linear(self, family: ConjugatePrior, u: Tensor, anchor: Tensor | None, natural: Sequence[Tensor]) -> Tensor:
        """<T(u), eta> of each u, T about the anchor."""
        value = family.at(u)
        if anchor is not None:
            value = {**value, "mean": value["mean"] - anchor}
        parts = zip(family.statistics(None, value), natural, family.dims, strict=True)
        return torch.stack(torch.broadcast_tensors(*(inner_product(t, eta, dims) for t, eta, dims in parts))).sum(0)

    # -- of a prior --------------------------------------------------------------------------------------------------

    def made(self) -> str | None:
        """A distribution comes back from its natural parameters, about a center or not, and from its `parameters`."""
        for center in (None, self.center):
            natural = self.prior.natural(self.fn, self.known(center), center)[0]
            self.same(self.prior.make(natural, center), self.fn, "of a distribution made of its natural parameters")
        again = type(self.fn)(**{n: getattr(self.fn, n) for n in self.prior.parameters})
        require_close(again.log_prob(self.x), self.fn.log_prob(self.x), "log_prob when made of `parameters`", EXACT)
        return None

    def moments(self) -> str | None:
        """E[T] is the slope of A in eta, and the mean of T of draws; other moments are means over draws, too."""
        natural = self.prior.natural(self.fn, self.prior.known(self.fn))[0]
        eta = tuple(n.detach().clone().requires_grad_() for n in natural)
        made, drawn = self.prior.make(eta), self.draws(DRAWS)
        moments, sampled = self.prior.moments(self.fn), self.moments_of(drawn)
        size = -self.prior.natural(made, self.prior.known(made))[1]
        slopes = torch.autograd.grad(size.sum(), eta)
        expected, at = self.prior.statistics(self.fn, moments), self.prior.statistics(self.fn, sampled)
        for j, (mean, slope, t) in enumerate(zip(expected, slopes, at, strict=True)):
            require_close(mean.expand(slope.shape), slope, f"E[T_{j}] against the slope of A", EXACT)
            _require_mean(t, mean, f"E[T_{j}]")
        for name in moments.keys() & sampled.keys():
            if bool(moments[name].isfinite().all()):
                _require_mean(sampled[name], moments[name], f"moment {name!r}")
        return None

    def entropy(self) -> str | None:
        """The entropy is the mean of -log_prob over draws."""
        _require_mean(-self.fn.log_prob(self.draws(DRAWS)), self.prior.entropy(self.fn), "entropy")
        return None

    def divergence(self) -> str | None:
        """E_q[log p] is the mean over draws from q, and not above E_q[log q]."""
        drawn = self.draws(DRAWS)
        for p in self.others():
            kl = -self.prior.entropy(self.fn) - self.prior.cross(self.fn, p)
            require(bool((kl >= -EXACT).all()), f"a Kullback-Leibler divergence is {float(kl.min()):.4g}, below 0")
            _require_mean(p.log_prob(drawn), self.prior.cross(self.fn, p), "E_q[log p]")
        return None

    def blend(self) -> str | None:
        """Blending by 0 and by 1 gives the ends, and by a half the mean of natural parameters."""
        for p in self.others():
            self.same(self.prior.blend(self.fn, p, 0.0), self.fn, "of q blended by 0")
            self.same(self.prior.blend(self.fn, p, 1.0), p, "of q blended with p by 1")
            half = self.prior.blend(self.fn, p, 0.5)
            each = [self.prior.natural(fn, self.prior.known(fn))[0] for fn in (self.fn, p, half)]
            for a, b, c in zip(*each, strict=True):
                require_close(c, 0.5 * (a + b), "natural parameters blended by a half", EXACT)
        return None

    def mode(self) -> str | None:
        """No <T(u), eta> of draws, or of points between them and the mode, is above that of the mode."""
        natural = self.prior.natural(self.fn, self.prior.known(self.fn))[0]
        mode = self.prior.mode(natural)
        if not bool(mode.isfinite().all()):
            return "it has no mode"
        top = self._linear(self.prior, mode, None, natural)
        for step in (1.0, 0.1, 0.01):
            near = mode + step * (self.draws(100) - mode)
            height = self._linear(self.prior, near, None, natural)
            higher = bool((height > top + 1e-9 * (1 + top.abs())).any())
            require(not higher, f"<T, eta> is {float(top.min()):.6g} at the mode and higher elsewhere")
        return None

    def powers(self) -> str | None:
        """c u has the statistics c^power T(u), up to a constant."""
        if self.prior.powers is None:
            return "a constant must not multiply the value"
        c = 1.7
        parts = (self.prior.statistics(self.fn, self.moments_of(v)) for v in (self.x, c * self.x))
        for j, (t, scaled, power) in enumerate(zip(*parts, self.prior.powers, strict=True)):
            rest = scaled - c**power * t
            require_close(rest, rest[:1].expand_as(rest), f"statistic {j} of c u less c^{power} T", EXACT)
        return None


def family_checks(
    family: Likelihood | type[Likelihood],
    *distributions: Distribution,
    values: Any = None,
    priors: Mapping[str, Prior] | None = None,
) -> dict[str, Check]:
    """Return the checks of a family by name, each a function without arguments (see `check_family`).

    Examples
    --------
    >>> import pyro.distributions as dist
    >>> from inference.conjugate.poisson import Poisson
    >>> from zoo.testing import family_checks
    >>> checks = family_checks(Poisson, dist.Poisson(2.0), values=[0, 3, 1])
    >>> checks["density"]()
    >>> sorted(checks)[:3]
    ['density', 'registration', 'statistics']
    """
    one = family() if isinstance(family, type) else family
    require(bool(distributions), f"give a distribution of {type(one).__name__}")
    each = [FamilyChecks(one, fn, values, priors) for fn in distributions]
    names = ["registration", "density", "statistics"]
    if isinstance(one, ConjugatePrior):
        names += ["made", "moments", "entropy", "divergence", "blend", "mode", "powers"]

    def every(what: Callable[[FamilyChecks], str | None]) -> str | None:
        said = [what(checks) for checks in each]
        return None if None in said else said[0]

    checks: dict[str, Check] = {name: partial(every, methodcaller(name)) for name in names}
    for argument in one.conjugate:
        checks[f"update of {argument}"] = partial(every, methodcaller("update", argument))
    return checks


def check_family(
    family: Likelihood | type[Likelihood],
    *distributions: Distribution,
    values: Any = None,
    priors: Mapping[str, Prior] | None = None,
    skip: Iterable[str] = (),
) -> dict[str, str]:
    """Check that an exponential family keeps what inference takes for granted of every one.

    Its log density is the distribution's own; the statistics have the shapes it says; prior times likelihood is
    proportional to the posterior by its messages. Of a conjugate prior also: natural parameters lead back to the
    distribution; moments are the slopes of the log normalizer and, with entropy and divergence, means over draws;
    blends have the right ends; the mode is a maximum.

    Parameters
    ----------
    family
        A family of your own: its class, or an instance.
    distributions
        One or several distributions of it, of any batch shape, without wrappers.
    values
        At which they are compared; drawn from each distribution if None.
    priors
        Name of a conjugate prior -> a function from an argument's value to a prior of its shape, where the prior is not
        one of the library's.
    skip
        Names of checks to leave out, or patterns of names: what is known not to hold.

    Returns
    -------
    dict
        Check -> "holds", or why it does not apply.

    Raises
    ------
    CheckError
        An `AssertionError` that names each check that fails, what was expected and what is the case.

    Examples
    --------
    >>> import pyro.distributions as dist
    >>> from inference.conjugate.poisson import Poisson
    >>> from zoo.testing import check_family
    >>> check_family(Poisson, dist.Poisson(2.0), values=[0, 3, 1])["update of rate"]
    'holds'
    """
    title = (family if isinstance(family, type) else type(family)).__name__
    return run(title, without(family_checks(family, *distributions, values=values, priors=priors), skip))
