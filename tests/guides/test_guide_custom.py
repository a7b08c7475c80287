"""Hand-written Pyro guides: densities, draws, parameters of their own, saving, and what is refused."""

from __future__ import annotations

import math
import sys
import textwrap

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule, PyroParam
from scipy import stats
from torch import distributions as td
from torch import nn
from torch.distributions import constraints
from torch.func import functional_call

import zoo
from guides import Custom, FullRank, MeanField
from inference import SVI, Fit, fit
from tests.cases.guides import built, flat
from tests.cases.linear_vae import data as linear_data
from tests.cases.linear_vae import kept
from tests.cases.models import SCHOOLS, EightSchools, LinearFactors, RandomEffects, SumOfTwo
from zoo.program.prepare import prepare

ROWS = np.random.default_rng(3).normal(1, 1, 12)


def schools(effect):
    """A guide whose locals depend on its globals."""
    loc = pyro.param("mu.loc", torch.tensor(4.0))
    scale = pyro.param("mu.scale", torch.tensor(2.0), constraint=constraints.positive)
    mu = pyro.sample("mu", dist.Normal(loc, scale))
    shape = pyro.param("shape", torch.tensor(2.0), constraint=constraints.positive)
    tau = pyro.sample("tau", dist.Gamma(shape, shape / 3.0))
    with pyro.plate("school", len(effect)):
        shift = pyro.param("shift", lambda: torch.zeros(len(effect)))
        spread = pyro.param("spread", lambda: torch.ones(len(effect)), constraint=constraints.positive)
        pyro.sample("theta", dist.Normal(shift + 0.5 * mu, spread * tau.sqrt()))


def some(effect):
    """A guide for two of three sites."""
    pyro.sample("mu", dist.Normal(pyro.param("m", torch.tensor(4.0)), 1.0))
    with pyro.plate("school", len(effect)):
        pyro.sample("theta", dist.Normal(pyro.param("t", lambda: torch.zeros(len(effect))), 1.0))


class Amortizing(PyroModule):
    """A guide with a network."""

    def __init__(self):
        super().__init__()
        self.network = nn.Linear(1, 2)
        self.width = PyroParam(torch.tensor(0.5), constraints.positive)
        self.mu = nn.Parameter(torch.tensor(0.5))

    def forward(self, effect, error):
        mu = pyro.sample("mu", dist.Normal(self.mu, 1.0))
        pyro.sample("tau", dist.LogNormal(0.0, self.width))
        out = self.network(effect[:, None] / 10)
        with pyro.plate("school", len(effect)):
            pyro.sample("theta", dist.Normal(out[:, 0] + mu, out[:, 1].exp() * error))


def pointed(effect):
    """A guide with a point among its sites."""
    tau = pyro.param("tau", torch.tensor(3.0), constraint=constraints.positive)
    pyro.sample("tau", dist.Delta(tau))
    pyro.sample("mu", dist.Normal(pyro.param("m", torch.tensor(4.0)), 1.0))
    with pyro.plate("school", len(effect)):
        pyro.sample("theta", dist.Normal(pyro.param("t", lambda: torch.zeros(len(effect))), 1.0))


GUIDES = [Custom(schools), Custom(Amortizing), Custom(some) & MeanField()]
every_guide = pytest.mark.parametrize("guide", GUIDES, ids=repr)


def traced(guide, q, values, data):
    """Pyro's own log density of the guide's function at these values and q's parameters."""
    store = {}
    if isinstance(guide.function, type):
        run = q.traced.function.inner
    else:
        names = zip(q.names, q.free, strict=True)
        store = {n: q.transforms[n](free.detach()) for n, free in names}
        run = guide.function
    inputs = {n: data.values[n] for n in q.traced.arguments}
    with pyro.get_param_store().scope():
        held = pyro.poutine.substitute(run.forward if isinstance(run, nn.Module) else run, data=store)
        trace = pyro.poutine.trace(pyro.condition(held, data=values)).get_trace(**inputs)
        return float(trace.log_prob_sum().detach())


@pytest.mark.parametrize("guide", GUIDES[:2], ids=repr)
def test_density_is_the_one_pyro_gives(guide):
    program, q = built(guide, EightSchools(), SCHOOLS, shake=0.1)
    for _ in range(3):
        draw = q.draw(program.data)
        globals_, one = program.view.constrain_globals(draw.globals)
        locals_, two = program.view.constrain_locals(draw.locals)
        values = {n: v.detach() for n, v in {**globals_, **locals_}.items()}
        found = flat(draw)[1] - one - two.sum()
        assert float(found.detach()) == pytest.approx(traced(guide, q, values, program.data), rel=1e-9)


@every_guide
def test_draws_at_once_are_those_one_by_one(guide):
    program, q = built(guide, EightSchools(), SCHOOLS)
    noise = q.noise(program.data, 3)
    states = {n: torch.stack([p, p + 0.1, p]) for n, p in (*q.named_parameters(), *q.named_buffers())}

    def at(state, noise):
        draw = functional_call(q, state, ("draw", program.data, None, noise))
        return (*flat(draw), draw.log_q_rows)

    together = torch.vmap(at)(states, noise)
    for i in range(3):
        alone = at({n: v[i] for n, v in states.items()}, (noise[0][i], noise[1][i]))
        for one, whole in zip(alone, together, strict=True):
            torch.testing.assert_close(whole[i], one)


@every_guide
def test_rows_of_a_mini_batch_have_their_own_parameters(guide):
    program, q = built(guide, EightSchools(), SCHOOLS)
    at = torch.tensor([6, 1])
    whole = q.noise(program.data)
    part = whole[0], whole[1].reshape(8, -1)[at].reshape(-1)
    if len(whole[1]) != 8:
        pytest.fail("one number for each row")
    draw, few = q.draw(program.data, noise=whole), q.draw(program.data.take(at), at, part)
    torch.testing.assert_close(few.locals, draw.locals[at])
    torch.testing.assert_close(few.log_q_rows, draw.log_q_rows[at])


def test_log_q_holds_the_parameters_fixed():
    """Where a Normal site's draw is loc + scale * eps, log q at the draw has no gradient to loc, as nothing moves."""
    program, q = built(Custom(schools), EightSchools(), SCHOOLS, shake=0)
    draw = q.draw(program.data)
    (found,) = torch.autograd.grad(draw.log_q, q.free[0], retain_graph=True)
    loc, scale = q.free[0].detach(), q.free[1].detach().exp()
    torch.testing.assert_close(found, -(draw.globals[0].detach() - loc) / scale.square())


@pytest.mark.slow
def test_it_climbs_to_the_posterior_of_a_normal_model():
    found = fit(SumOfTwo(), ROWS, method=SVI(guide=Custom(chained), steps=600, compile=False), seed=0)
    evidence = float(
        td.MultivariateNormal(torch.zeros(12).double(), torch.eye(12).double() + 2).log_prob(torch.as_tensor(ROWS))
    )
    assert evidence - 0.05 < found.objective.value < evidence + 4 * found.objective.error + 1e-6


def chained(x):
    """q(a) q(b | a), which holds any bivariate Normal."""
    scales = pyro.param("scales", torch.ones(2), constraint=constraints.positive)
    m = pyro.param("m", torch.zeros(2))
    a = pyro.sample("a", dist.Normal(m[0], scales[0]))
    pyro.sample("b", dist.Normal(m[1] + pyro.param("slope", torch.tensor(0.0)) * a, scales[1]))


@pytest.mark.slow
def test_parameters_belong_to_the_fit():
    pyro.get_param_store()["m"] = torch.full((2,), 7.0)
    one, other = (
        fit(SumOfTwo(), ROWS, method=SVI(guide=Custom(chained), steps=20, compile=False), seed=0) for _ in range(2)
    )
    assert one.objective.value == other.objective.value
    assert pyro.get_param_store()["m"].tolist() == [7.0, 7.0]
    del pyro.get_param_store()["m"]


@pytest.mark.slow
@every_guide
def test_saving_and_loading(guide, tmp_path):
    found = fit(EightSchools(), SCHOOLS, method=SVI(guide=guide, steps=3, compile=False, corrected=False), seed=0)
    found.save(tmp_path / "fit")
    again = Fit.load(tmp_path / "fit")
    assert again.method == found.method
    for name, value in found.approximation.q.state_dict().items():
        torch.testing.assert_close(again.approximation.q.state_dict()[name], value, rtol=0, atol=0)


@pytest.mark.slow
def test_a_guide_that_is_gone_is_named(tmp_path, monkeypatch):
    file = tmp_path / "passing.py"
    file.write_text(
        textwrap.dedent("""
        import pyro, pyro.distributions as dist, torch
        def brief(x):
            pyro.sample("a", dist.Normal(pyro.param("m", torch.tensor(0.0)), 1.0))
            pyro.sample("b", dist.Normal(0.0, 1.0))
        """)
    )
    monkeypatch.syspath_prepend(tmp_path)
    import passing

    fit(SumOfTwo(), ROWS, method=SVI(guide=Custom(passing.brief), steps=2), seed=0).save(tmp_path / "fit")
    assert Fit.load(tmp_path / "fit").method.guide == Custom(passing.brief)
    file.unlink()
    monkeypatch.delitem(sys.modules, "passing")
    with pytest.raises(zoo.ModelError, match="brief of passing, which cannot be imported"):
        Fit.load(tmp_path / "fit")


def test_a_delta_is_a_point_in_constrained_space():
    program, q = built(Custom(pointed), EightSchools(), SCHOOLS, shake=0)
    assert Custom(pointed).points(program) == ("tau",)
    draw = q.draw(program.data)
    values, jacobian = program.view.constrain_globals(draw.globals)
    assert float(values["tau"].detach()) == pytest.approx(3.0)
    torch.testing.assert_close(draw.log_q - jacobian, td.Normal(4.0, 1.0).log_prob(values["mu"]).reshape(()))


@pytest.mark.slow
def test_it_joins_other_guides():
    guide = Custom(some) & FullRank("tau")
    assert repr(guide) == "Custom(some) & FullRank('tau')"
    found = fit(EightSchools(), SCHOOLS, method=SVI(guide=guide, steps=50, compile=False), seed=0)
    assert math.isfinite(found.objective.value)


# -- refusals ----------------------------------------------------------------------------------------------------------


def wrong(body):
    """Make a guide for `RandomEffects` out of its story."""

    def guide(x):
        return body(x)

    return guide


def normal(name, shape=()):
    pyro.sample(name, dist.Normal(torch.zeros(shape), 1.0))


def rows(x, fn):
    with pyro.plate("row", len(x)):
        pyro.sample("effect", fn)


def register(x):
    pyro.module("deep", nn.Linear(1, 1))


REFUSED = {
    "missing": (lambda x: normal("mu"), "no site 'effect'.*Custom.guide. & MeanField"),
    "extra": (lambda x: (normal("mu"), rows(x, dist.Normal(0.0, 1.0)), normal("nu")), "site 'nu', which is no latent"),
    "shape": (lambda x: (normal("mu", (3,)), rows(x, dist.Normal(0.0, 1.0))), r"'mu' has shape \(3,\).*\(\)"),
    "plate": (lambda x: (normal("mu"), normal("effect", (12,))), "'effect' is outside the data plate.*'row'"),
    "discrete": (lambda x: (normal("mu"), rows(x, dist.Poisson(1.0))), "'effect' is drawn from Poisson.*discrete"),
    "observed": (
        lambda x: pyro.sample("mu", dist.Normal(0.0, 1.0), obs=torch.tensor(1.0)),
        "'mu' of the guide has obs",
    ),
    "broken": (lambda x: torch.zeros(2) @ torch.zeros(3), "guide guide fails on the data: RuntimeError"),
    "network": (
        lambda x: (register(x), normal("mu"), rows(x, dist.Normal(0.0, 1.0))),
        "registers the network 'deep' by pyro.module; write the guide as a class",
    ),
    "points": (
        lambda x: (pyro.sample("mu", dist.Delta(torch.tensor(0.0))), rows(x, dist.Delta(torch.zeros(len(x))))),
        "every site of guide is a Delta; use Point",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_guide_that_does_not_fit_is_refused(case):
    body, reason = REFUSED[case]
    with pytest.raises(zoo.MethodError, match=reason):
        fit(RandomEffects(), ROWS, method=SVI(guide=Custom(wrong(body))))


def test_a_support_that_is_too_wide_is_refused():
    def guide(effect):
        normal("mu")
        normal("tau")
        with pyro.plate("school", len(effect)):
            normal("theta")

    with pytest.raises(zoo.MethodError, match="'tau', from Normal, leave its support"):
        fit(EightSchools(), SCHOOLS, method=SVI(guide=Custom(guide)))


def test_an_enumerated_site_is_refused():
    def guide(x):
        with pyro.plate("row", len(x)):
            normal("z")
        for name in ("weights", "means", "precisions"):
            normal(name)

    with pytest.raises(zoo.MethodError, match="site 'z', which is summed out exactly"):
        fit(zoo.BayesianGMM(), "faithful", method=SVI(guide=Custom(guide)))


def test_an_argument_that_is_no_field_is_refused():
    def guide(y):
        normal("mu")

    with pytest.raises(zoo.MethodError, match="asks for 'y', which is no data field; there are x"):
        fit(RandomEffects(), ROWS, method=SVI(guide=Custom(guide)))


def test_parameters_of_rows_outside_the_plate_are_found_in_a_mini_batch():
    def guide(x):
        normal("mu")
        loc = pyro.param("loc", torch.zeros(12))
        with pyro.plate("row", len(loc)):
            pyro.sample("effect", dist.Normal(loc, 1.0))

    program, q = built(Custom(guide), RandomEffects(), ROWS)
    at = torch.tensor([0, 5])
    with pytest.raises(zoo.MethodError, match=r"'effect' takes noise of shape .12,.*\(2,\).*inside the data plate"):
        q.draw(program.data.take(at), at, (torch.zeros(1).double(), torch.zeros(2).double()))


def test_a_program_is_left_as_it_was():
    program = prepare(EightSchools(), SCHOOLS)
    before = torch.random.get_rng_state()
    assert Custom(schools).why_not(program) is None
    assert torch.equal(before, torch.random.get_rng_state())
    assert not list(pyro.get_param_store())


# -- rows by themselves -------------------------------------------------------------------------------------------


def encoding(x):
    """An encoder of LinearFactors without networks: a linear map of each row."""
    weight = pyro.param("weight", lambda: 0.2 * torch.ones(4, 2))
    width = pyro.param("width", torch.tensor(0.5), constraint=constraints.positive)
    with pyro.plate("row", len(x)):
        pyro.sample("z", dist.Normal(x @ weight, width).to_event(1))


def by_rows(x):
    """A parameter for each row."""
    with pyro.plate("row", len(x)):
        loc = pyro.param("loc", lambda: torch.zeros(len(x), 2), event_dim=1)
        pyro.sample("z", dist.Normal(loc, 0.5).to_event(1))


def following(effect):
    """Rows of which the second local follows the first ones of those before."""
    with pyro.plate("row", len(effect)):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        pyro.sample("b", dist.Normal(a.cumsum(0), 1.0))


def alone(effect):
    """Rows of which the second local follows the first."""
    with pyro.plate("row", len(effect)):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        pyro.sample("b", dist.Normal(a * a, 1.0))


@zoo.model(effect=zoo.Real("row"))
def two_locals(effect):
    with pyro.plate("row", len(effect)):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        b = pyro.sample("b", dist.Normal(a, 1.0))
        pyro.sample("effect", dist.Normal(b, 1.0), obs=effect)


@pytest.mark.parametrize(
    ("guide", "model", "apart", "new"),
    [
        (encoding, LinearFactors(), True, True),
        (by_rows, LinearFactors(), True, False),
        (following, two_locals, False, False),
        (alone, two_locals, True, True),
        (pointed, EightSchools(), False, False),
    ],
)
def test_it_is_seen_whether_rows_are_drawn_by_themselves(guide, model, apart, new):
    data = SCHOOLS if guide is pointed else np.random.default_rng(0).normal(size=(6, 4))
    _, q = built(Custom(guide), model, data if isinstance(model, (LinearFactors, EightSchools)) else data[:, 0])
    assert q.apart == apart
    assert q.for_new_rows == new


@pytest.mark.slow
def test_an_encoder_of_ones_own_is_corrected_row_by_row():
    """z_i given x_i is Normal in closed form; new rows are proposed by the guide."""
    rng = np.random.default_rng(0)
    loadings = LinearFactors.loadings.double().numpy()
    x = rng.normal(size=(100, 2)) @ loadings.T + 0.5 * rng.normal(size=(100, 4))
    found = fit(LinearFactors(), x, method=SVI(guide=Custom(encoding), steps=25, compile=False), seed=0)
    assert found.diagnostics["khat_rows"] == 100
    assert found.diagnostics["khat_rows_above"] < 0.05
    covariance = np.linalg.inv(np.eye(2) + 4 * loadings.T @ loadings)
    mean, sd = x @ loadings @ covariance * 4, np.sqrt(np.diag(covariance))
    z = found.draws.values["z"].numpy()
    off = np.abs((z.mean(0) - mean) / sd)
    before, _ = found.approximation.propose(found.program, found.points, 1000)
    off_before = np.abs((before["z"].numpy().mean(0) - mean) / sd)
    assert np.median(off) < 0.04  # 0.7 of the standard error 0.045
    assert np.median(off_before) > 3 * np.median(off)
    exact = stats.multivariate_normal(np.zeros(4), loadings @ loadings.T + 0.25 * np.eye(4)).logpdf(x[:10] + 0.1)
    given = found.log_prob(x[:10] + 0.1, samples=2000)
    assert (np.abs(given.to_numpy() - exact) < 5 * np.array(given.attrs["mcse"]) + 1e-6).all()
    assert max(given.attrs["mcse"]) < 0.1


class CoupledEncoder(torch.nn.Module):
    """An encoder whose codes go through a coupling of Pyro's, which keeps what it has seen last."""

    def __init__(self) -> None:
        super().__init__()
        self.network = torch.nn.Linear(4, 2)
        self.coupling = pyro.distributions.transforms.affine_coupling(2, hidden_dims=[4])

    def forward(self, x: torch.Tensor) -> None:
        with pyro.plate("row", len(x)):
            base = dist.Normal(self.network(x), 0.5).to_event(1)
            pyro.sample("z", dist.TransformedDistribution(base, [self.coupling]))


def test_a_guide_with_a_flow_proposes_codes_of_new_rows():
    found = kept(CoupledEncoder, linear_data())
    assert found.approximation.covers_new_rows
    new = linear_data(5, seed=4)
    network, coupling = (
        found.approximation.uncorrected.q.get_submodule(f"network.inner.{n}") for n in ("network", "coupling")
    )
    draws = found.encode(new, draws=2000)["z"].to_numpy()
    with torch.no_grad():
        base = network(torch.tensor(new)) + 0.5 * torch.randn(2000, 5, 2, dtype=torch.float64)
        expected = coupling(base).numpy()
    error = expected.std(0) * np.sqrt(2 / 2000)
    assert np.all(np.abs(draws.mean(0) - expected.mean(0)) < 5 * error)
