"""The conformance suite catches faults: each of its checks fails on something with the fault it is for."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import zoo
from guides import MeanField
from guides.variational import Variational
from inference import CAVI, EM, SVI, Exact, Fit
from inference.conjugate.gamma import Gamma
from inference.conjugate.laplace import Laplace
from inference.conjugate.normal import Normal as NormalFamily
from inference.conjugate.poisson import Poisson
from zoo import Count, Real, testing
from zoo.program.program import Program
from zoo.program.view import View
from zoo.testing import CheckError

X = np.array([0.3, -1.2, 2.0, 0.7])
COUNTS = np.array([0, 3, 1, 9, 4])


def failing(checks):
    """Names of the checks that fail, with what they say."""
    said = {}
    for name, check in checks.items():
        try:
            check()
        except Exception as error:
            said[name] = f"{type(error).__name__}: {error}"
    return said


# -- models ------------------------------------------------------------------------------------------------------------


class Normal(zoo.Model):
    """mu ~ Normal(0, 3), x_i ~ Normal(mu, 1): nothing is wrong here; each fault below is one line of it."""

    x = Real("row")

    def mean(self, mu, x):
        return mu

    def width(self, x):
        return 3.0

    def noise(self, loc):
        return dist.Normal(loc, 1.0)

    def forward(self, x):
        mu = pyro.sample("mu", dist.Normal(0.0, self.width(x)))
        with pyro.plate("row", len(x)):
            pyro.sample("x", self.noise(self.mean(mu, x)), obs=x)


class Detached(Normal):
    """The gradient is lost on the way."""

    def mean(self, mu, x):
        return 0.5 * mu + 0.5 * mu.detach()


class Neighbours(Normal):
    """A row depends on the others."""

    def mean(self, mu, x):
        return mu + 0.1 * x.sum()


class Sized(Normal):
    """The prior depends on how many rows there are."""

    def width(self, x):
        return 3.0 + len(x)


class Wide(dist.Normal):
    """A Normal that draws too far out."""

    def rsample(self, sample_shape=()):
        return self.loc + 2 * (super().rsample(sample_shape) - self.loc)

    def sample(self, sample_shape=()):
        with torch.no_grad():
            return self.rsample(sample_shape)


class DrawsWide(Normal):
    """Simulation and density disagree."""

    def noise(self, loc):
        return Wide(loc, torch.ones(()).to(loc))


class Aside(dist.Normal):
    """A Normal that draws off its mean."""

    def rsample(self, sample_shape=()):
        return super().rsample(sample_shape) + 0.5

    def sample(self, sample_shape=()):
        with torch.no_grad():
            return self.rsample(sample_shape)


class DrawsAside(Normal):
    """Simulation and density disagree."""

    def noise(self, loc):
        return Aside(loc, torch.ones(()).to(loc))


class Below(dist.Poisson):
    """A Poisson that draws one less."""

    def sample(self, sample_shape=()):
        return super().sample(sample_shape) - 1


@zoo.model(x=Count("row"))
def draws_below(x):
    """Simulation leaves the support."""
    rate = pyro.sample("rate", dist.Gamma(2.0, 5.0))
    with pyro.plate("row", len(x)):
        pyro.sample("x", Below(rate), obs=x)


TICKS = itertools.count()


class Restless(Normal):
    """The density is another one each time, once it has been traced."""

    restless = False

    def mean(self, mu, x):
        return mu + (1e-3 * next(TICKS) if self.restless else 0.0)


class BadStart(Normal):
    """The start has no density."""

    def initial(self, x):
        return {"mu": torch.tensor(1e200)}


@pytest.mark.slow
def test_nothing_is_wrong_with_the_model_without_a_fault():
    said = testing.check_model(Normal(), X, methods=[SVI(steps=30), Exact()])
    assert said["gradient"] == said["simulated density"] == said["svi seeds"] == "holds"
    assert said["svi responsibilities"] == "no discrete latent is one per row"


def test_rows_that_depend_on_one_another_are_told():
    assert testing.model_checks(Neighbours(), X, methods=[])["rows"]().startswith("rows are coupled")


@pytest.mark.parametrize(
    ("model", "data", "check", "words"),
    [
        (Detached(), X, "gradient", "slope of the log joint"),
        (Sized(), X, "weights", "against those rows repeated"),
        (DrawsWide(), X, "simulated density", "squared slope plus curvature, of simulated rows: expected 0"),
        (DrawsAside(), X, "simulated density", "slope of the log density of simulated rows: expected 0"),
        (draws_below(), COUNTS, "simulation", "simulated 'x' is outside"),
        (BadStart(), X, "starts", "mu|-inf"),
    ],
    ids=lambda v: v if isinstance(v, str) and " " not in v else "",
)
def test_a_fault_of_a_model(model, data, check, words):
    said = failing(testing.model_checks(model, data, methods=[]))
    assert check in said
    with pytest.raises(CheckError, match=words) as caught:
        testing.check_model(model, data, methods=[])
    assert f"fails {len(said)} of " in str(caught.value)


def test_a_density_that_is_random(monkeypatch):
    checks = testing.model_checks(Restless(), X, methods=[])
    checks["legality"]()  # traced
    monkeypatch.setattr(Restless, "restless", True)
    assert "is it random?" in failing(checks)["density"]


def test_a_sum_that_is_a_maximum(monkeypatch):
    """Enumeration at the most probable states, instead of the sum over them."""
    right = Program.eliminate
    monkeypatch.setattr(Program, "eliminate", lambda self, log_probs, hard=False: right(self, log_probs, hard=True))
    said = failing(testing.model_checks(zoo.PoissonMixture(), COUNTS, methods=[]))
    assert "summed over 32 assignments: expected" in said["enumeration"]


def test_responsibilities_that_are_not(monkeypatch):
    right = Program.responsibilities
    monkeypatch.setattr(
        Program, "responsibilities", lambda self, values: {n: v.flip(1) for n, v in right(self, values).items()}
    )
    said = failing(testing.model_checks(zoo.PoissonMixture(), COUNTS, methods=[]))
    assert "responsibilities of 'z'" in said["enumeration"]


def test_coordinates_that_do_not_come_back(monkeypatch):
    right = View.unconstrain_globals
    monkeypatch.setattr(View, "unconstrain_globals", lambda self, values: right(self, values) + 1)
    assert "and back" in failing(testing.model_checks(Normal(), X, methods=[]))["coordinates"]


def test_no_legal_method(monkeypatch):
    for method in testing.quick_methods().values():
        monkeypatch.setattr(type(method), "why_not", lambda self, program: "it is Sunday, and nothing works")
    assert "no method is legal" in failing(testing.model_checks(Normal(), X, methods=[]))["legality"]


# -- methods -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Faulty(EM):
    """EM whose outcome is changed afterwards."""

    fault: str = ""

    def run(self, program, *, progress=False):
        outcome = super().run(program, progress=progress)
        objective, points, table = outcome.objective, outcome.points, outcome.trace
        if self.fault == "global":
            np.random.seed(0)
        changed = {
            "not a number": lambda: {"points": {n: v * float("nan") for n, v in points.items()}},
            "falls": lambda: {"trace": table.assign(value=table["value"].to_numpy()[::-1])},
            "silent": lambda: {"converged": False, "reason": "it is late", "warnings": []},
            "outside": lambda: {"points": {n: -v for n, v in points.items()}},
            "another density": lambda: {"objective": replace(objective, value=objective.value + 1)},
            "another kind": lambda: {"objective": replace(objective, kind="goodness")},
            "weights": lambda: {
                "objective": replace(objective, value=objective.value + (program.data.weights is not None))
            },
            "luck": lambda: {"points": {n: v + 1e-9 * next(TICKS) for n, v in points.items()}},
        }
        return replace(outcome, **changed.get(self.fault, dict)())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "check", "words"),
    [
        ("not a number", "numbers", "is not finite"),
        ("falls", "trace", "the objective falls, from"),
        ("silent", "convergence", "no warning says so"),
        ("outside", "supports", "is outside its support"),
        ("another density", "objective", "log_likelihood at the point: expected"),
        ("another kind", "objective", "'goodness'"),
        ("weights", "weights", "with weights of one the objective is"),
        ("luck", "seeds", "is another one the second time"),
        ("global", "seeds", "NumPy's global random state has changed"),
    ],
)
def test_a_fault_of_a_method(fault, check, words):
    said = failing(testing.method_checks(Faulty(fault=fault, max_steps=20), zoo.PoissonMixture(), COUNTS))
    assert words in said[check]


@pytest.mark.slow
def test_nothing_is_wrong_with_the_method_without_a_fault():
    assert "holds" in testing.check_method(Faulty(max_steps=20)).values()


@dataclass(frozen=True)
class TooHigh(SVI):
    """Its bound is above the evidence."""

    def run(self, program, *, progress=False):
        outcome = super().run(program, progress=progress)
        return replace(outcome, objective=replace(outcome.objective, value=outcome.objective.value + 20))


@dataclass(frozen=True)
class Refuses(CAVI):
    """It says no more than no, or raises something else."""

    why: str = ""

    def why_not(self, program):
        return self.why

    def check(self, program):
        raise zoo.MethodError("no")


@pytest.mark.slow
def test_a_bound_above_the_evidence():
    said = failing(testing.method_checks(TooHigh(steps=30), zoo.BetaBernoulli(), [1, 0, 1]))
    assert "is above log p(x)" in said["objective"]


@pytest.mark.parametrize(
    ("why", "words"), [("no", "no more than 'no'"), ("it is Sunday, and it rests", "does not give")]
)
def test_a_refusal_without_a_reason(why, words):
    said = failing(testing.method_checks(Refuses(why=why), zoo.BetaBernoulli(), [1, 0, 1]))
    assert set(said) == {"refusal"}
    assert words in said["refusal"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verb", "change", "check", "words"),
    [
        ("log_prob", lambda found: found + 1, "density", "log_prob of rows at a point: expected"),
        ("log_prob", lambda found: found + np.arange(len(found)), "order", "in another order: expected"),
        ("log_prob", lambda found: found + 1, "agreement", "over exp(log_prob): expected 1"),
        ("assign", lambda found: 2 * found, "responsibilities", "below 0 or above 1"),
        ("generate", lambda found: -1 - found, "generation", "is outside"),
        ("generate", lambda found: found.iloc[1:], "generation", "generate(7) has 6 values"),
    ],
)
def test_a_fault_in_an_answer(monkeypatch, verb, change, check, words):
    right = getattr(Fit, verb)

    def wrong(self, *args, **settings):
        found = right(self, *args, **settings)
        changed = change(found)
        changed.attrs.update(found.attrs)
        return changed

    monkeypatch.setattr(Fit, verb, wrong)
    said = failing(testing.method_checks(EM(max_steps=20), zoo.PoissonMixture(), COUNTS))
    assert words in said[check]


def test_a_fit_that_loads_as_another(monkeypatch):
    right = Fit.load

    def wrong(folder, model=None):
        loaded = right(folder, model)
        loaded.points["rates"] = loaded.points["rates"] + 1
        return loaded

    monkeypatch.setattr(Fit, "load", staticmethod(wrong))
    said = failing(testing.method_checks(EM(max_steps=20), zoo.PoissonMixture(), COUNTS))
    assert "the loaded point of 'rates' is another one" in said["storage"]


# -- guides ------------------------------------------------------------------------------------------------------------


class Changed(Variational):
    """Mean-field q with a fault in its draws."""

    fault = ""

    def draw(self, data, rows=None, noise=None):
        drawn = super().draw(data, rows, noise)
        if self.fault == "off":
            return replace(drawn, log_q=drawn.log_q + 0.5)
        if self.fault == "detached":
            return replace(drawn, globals=drawn.globals.detach())
        if self.fault == "detached log q":
            return replace(drawn, log_q=drawn.log_q.detach())
        if self.fault == "restless":
            return replace(drawn, globals=drawn.globals + 1e-3 * torch.randn_like(drawn.globals))
        if self.fault == "stuck":
            return super().draw(data, rows, tuple(torch.ones_like(n) for n in noise))
        return replace(drawn, globals=drawn.globals[:-1]) if self.fault == "short" else drawn


@dataclass(frozen=True)
class Wrong(MeanField):
    """Mean field with a fault."""

    fault: str = ""

    def build(self, program, start):
        right = super().build(program, start)
        made = Changed(right.over_globals, right.over_locals)
        made.fault = self.fault
        return made


@pytest.mark.parametrize(
    ("fault", "check", "words"),
    [
        ("off", "density", "expected 1"),
        ("detached", "gradients", "slope of a draw"),
        ("detached log q", "gradients", "gradient of log q"),
        ("restless", "repetition", "globals drawn twice with the same noise"),
        ("stuck", "repetition", "other noise gives the same draw"),
        ("short", "shapes", "globals of a draw has shape"),
    ],
)
def test_a_fault_of_a_guide(fault, check, words):
    checks = testing.guide_checks(Wrong(fault=fault), zoo.NormalNormal(), X)
    said = failing({n: c for n, c in checks.items() if not n.startswith("svi")})
    assert words in said[check]


@dataclass(frozen=True)
class Doubling(MeanField):
    """A guide that changes its settings."""

    width: float = 1.0

    def __post_init__(self):
        object.__setattr__(self, "width", 2 * self.width)
        super().__post_init__()


def test_a_guide_whose_settings_are_others():
    said = failing({"settings": testing.guide_checks(Doubling(), zoo.NormalNormal(), X)["settings"]})
    assert "differs from one with the same settings" in said["settings"]


@pytest.mark.slow
def test_nothing_is_wrong_with_the_guide_without_a_fault():
    assert "holds" in testing.check_guide(Wrong(), steps=20).values()


# -- families ----------------------------------------------------------------------------------------------------------

GAMMA, NORMAL, EVENTS = dist.Gamma(2.0, 3.0), dist.Normal(1.0, 2.0), dist.Poisson(2.0)


def plus(by):
    """A fault: a number is off."""
    return lambda said: said + by


def first_plus(by):
    """A fault: the first of several numbers is off."""
    return lambda said: (said[0] + by, *said[1:])


@pytest.mark.parametrize(
    ("family", "fn", "method", "change", "check", "words"),
    [
        (Poisson, EVENTS, "base", plus(0.1), "density", "log_density against log_prob"),
        (Poisson, EVENTS, "statistics", lambda t: (t[0][..., None],), "statistics", "statistic 0 has 1 dimensions"),
        (Poisson, EVENTS, "statistics", lambda t: (*t, *t), "statistics", "2 statistics, and `dims` has 1"),
        (Poisson, EVENTS, "natural", lambda n: (n[0], n[1] + 1), "statistics", "<T, eta> - A + log h"),
        (Poisson, EVENTS, "message", first_plus(0.1), "update of rate", "by the message of each value"),
        (Gamma, GAMMA, "message", lambda m: (m[0], 1.1 * m[1]), "update of rate", "log prior + log likelihood"),
        (NormalFamily, NORMAL, "deviations", plus(1.0), "update of variance", "log posterior of 'variance'"),
        (Laplace, dist.Laplace(1.0, 2.0), "message", lambda m: (m[0], 0.5 * m[1]), "update of loc", "is no bound"),
        (Gamma, GAMMA, "make", lambda fn: dist.Gamma(fn.concentration + 1, fn.rate), "made", "concentration of a"),
        (Gamma, GAMMA, "moments", lambda m: {**m, "log": m["log"] + 0.1}, "moments", r"E[T_0] against the slope of A"),
        (NormalFamily, NORMAL, "sample", plus(0.5), "moments", "draws have mean"),
        (Gamma, GAMMA, "entropy", plus(0.2), "entropy", "entropy: expected"),
        (Gamma, GAMMA, "entropy", plus(0.2), "divergence", "divergence is -"),
        (Gamma, GAMMA, "cross", plus(-0.2), "divergence", "E_q[log p]: expected"),
        (Gamma, GAMMA, "blend", lambda fn: dist.Gamma(fn.concentration, fn.rate + 1), "blend", "blended by 0"),
        (Gamma, GAMMA, "mode", plus(0.1), "mode", "at the mode and higher elsewhere"),
    ],
)
def test_a_fault_of_a_family(monkeypatch, family, fn, method, change, check, words):
    right = getattr(family, method)
    monkeypatch.setattr(family, method, lambda self, *args, **more: change(right(self, *args, **more)))
    assert words in failing(testing.family_checks(family, fn))[check]


def test_a_family_that_says_of_itself_what_is_not(monkeypatch):
    monkeypatch.setattr(Gamma, "powers", (0, -1))
    assert "statistic 1 of c u less c^-1 T" in failing(testing.family_checks(Gamma, GAMMA))["powers"]
    said = failing(testing.family_checks(Poisson, dist.Exponential(1.0)))
    assert "is of the family Exponential, not Poisson" in said["registration"]
    with pytest.raises(CheckError, match="has 1 event dimensions"):
        testing.check_family(Gamma, dist.Dirichlet(torch.ones(2)))


def test_a_prior_that_is_not_of_the_library(monkeypatch):
    monkeypatch.setattr("zoo.testing.families.PRIORS", {})
    assert "say in `priors`" in failing(testing.family_checks(Poisson, EVENTS))["update of rate"]
    given = {"Gamma": lambda rate: dist.Gamma(1.0 + rate, 2.0)}
    assert testing.check_family(Poisson, EVENTS, values=COUNTS, priors=given)["update of rate"] == "holds"


def test_nothing_is_wrong_with_the_family_without_a_fault():
    assert set(testing.check_family(Gamma, GAMMA, values=[0.3, 2.0]).values()) == {"holds"}


# -- how it is used ----------------------------------------------------------------------------------------------------


def test_data_belong_to_a_model():
    with pytest.raises(CheckError, match="give the data"):
        testing.check_method(EM(), zoo.GMM())
    with pytest.raises(CheckError, match="give the data"):
        testing.check_guide(MeanField(), zoo.GMM())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda: torch.manual_seed(1), "torch's global random state"),
        (lambda: np.random.seed(0), "NumPy's global random state"),
        (lambda: torch.set_default_dtype(torch.float64), "default dtype was torch.float32 before"),
        (lambda: torch.set_grad_enabled(False), "gradient mode"),
        (lambda: pyro.param("mine", torch.ones(1)), r"now holds \['mine', 'of_the_user'\]"),
        (lambda: pyro.clear_param_store(), r"now holds \[\]"),
    ],
)
def test_what_is_global_is_watched(change, words):
    before = torch.get_rng_state()
    try:
        with pytest.raises(CheckError, match=words), testing.nothing_global_changes():
            change()
    finally:
        torch.set_rng_state(before)
        torch.set_default_dtype(torch.float32)
        torch.set_grad_enabled(True)
