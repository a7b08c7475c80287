"""Guides for some sites, put together; the low-rank guide and the flow, densities and what they reach."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import distributions as td
from torch.func import functional_call

import zoo
from guides import Conjugate, Encoder, Flow, FullRank, Guides, LowRank, MeanField, Point
from inference import MAP, SVI, Fit, fit
from tests.cases.guides import built, flat
from tests.cases.models import SCHOOLS, EightSchools, RandomEffects, SumOfTwo, coin
from zoo.program.prepare import prepare
from zoo.replay.random import reseed

ROWS = np.random.default_rng(3).normal(1, 1, 12)
COMBINED = [
    MeanField("tau") & FullRank("mu", "theta"),
    Guides({"theta": Encoder(hidden=(4,)), "mu": Point()}) & Flow(layers=2, hidden=(4,)),
    Guides({("mu", "tau"): LowRank(1), "theta": Conjugate()}),
    LowRank(2, "theta", "tau") & MeanField(),
]
every_combination = pytest.mark.parametrize("guide", COMBINED, ids=repr)
ALONE = [LowRank(3), Flow(layers=3, hidden=(6,)), Conjugate(), MeanField("mu", "tau", "theta")]


def pair(q, data, noise):
    draw = q.draw(data, noise=noise)
    return (*flat(draw), draw.log_q_rows)


# -- one guide for each site -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guide", [*COMBINED, *ALONE, Point("mu", "tau") & MeanField()], ids=repr)
def test_a_guide_is_written_as_it_shows_itself(guide):
    assert eval(repr(guide)) == guide
    assert guide.why_not(prepare(EightSchools(), SCHOOLS)) is None


@every_combination
def test_a_combination_has_the_factors_of_its_members(guide):
    """log q is the sum of the members' own, each on its own sites in the order of the model."""
    program, q = built(guide, EightSchools(), SCHOOLS)
    noise = q.noise(program.data)
    u, log_q, _ = pair(q, program.data, noise)
    eps = torch.cat([n.reshape(-1) for n in noise])
    if guide.points(program):
        return  # a point has no density; the others have one given it

    def value(eps):
        return pair(q, program.data, eps.split([n.numel() for n in noise]))[0]

    jacobian = torch.autograd.functional.jacobian(value, eps)
    if jacobian.shape[0] == jacobian.shape[1] and not isinstance(guide.members[0][1], LowRank):
        exact = td.Normal(0.0, 1.0).log_prob(eps).sum() - torch.linalg.slogdet(jacobian)[1]
    else:  # a Normal whose noise has more coordinates than the draw
        exact = td.MultivariateNormal(value(torch.zeros_like(eps)), jacobian @ jacobian.mT).log_prob(u)
    torch.testing.assert_close(log_q, exact)


@pytest.mark.parametrize("guide", [*COMBINED, *ALONE], ids=repr)
def test_draws_at_once_are_those_one_by_one(guide):
    program, q = built(guide, EightSchools(), SCHOOLS)
    noise = q.noise(program.data, 3)
    together = torch.vmap(lambda n: pair(q, program.data, n))(noise)
    several = {n: torch.stack([p, p + 0.1, p]) for n, p in (*q.named_parameters(), *q.named_buffers())}

    def at(state, noise):
        draw = functional_call(q, state, ("draw", program.data, None, noise))
        return (*flat(draw), draw.log_q_rows)

    over_states = torch.vmap(at)(several, noise)
    for i in range(3):
        for one, whole in zip(pair(q, program.data, (noise[0][i], noise[1][i])), together, strict=True):
            torch.testing.assert_close(whole[i], one)
        for one, whole in zip(
            at({n: v[i] for n, v in several.items()}, (noise[0][i], noise[1][i])), over_states, strict=True
        ):
            torch.testing.assert_close(whole[i], one)


@pytest.mark.parametrize("guide", [*COMBINED, *ALONE], ids=repr)
def test_rows_of_a_mini_batch(guide):
    program, q = built(guide, EightSchools(), SCHOOLS)
    at = torch.tensor([6, 1])
    draw = q.draw(program.data.take(at), at)
    assert draw.locals.shape == (2, 1)
    assert draw.log_q_rows.shape == (2,)


@pytest.mark.parametrize(
    "guide",
    [COMBINED[0], COMBINED[3], LowRank(3), Flow(layers=3, hidden=(6,)), Encoder(hidden=(4,), globals=Flow())],
    ids=repr,
)
def test_log_q_holds_the_parameters_fixed(guide):
    """Its gradient is (du/dphi)^T s, with s the gradient of log q along u, which its gradient along the noise gives."""
    program, q = built(guide, EightSchools(), SCHOOLS)
    noise = q.noise(program.data)
    sizes, shapes = [n.numel() for n in noise], [n.shape for n in noise]
    state = {n: p.detach().clone().requires_grad_() for n, p in q.named_parameters()}

    def at(eps):
        parts = [e.reshape(shape) for e, shape in zip(eps.split(sizes), shapes, strict=True)]
        return flat(functional_call(q, state, ("draw", program.data, None, parts)))

    eps = torch.cat([n.reshape(-1) for n in noise]).requires_grad_()
    u, log_q = at(eps)
    (along_noise,) = torch.autograd.grad(log_q, eps, retain_graph=True)
    jacobian = torch.autograd.functional.jacobian(lambda e: at(e)[0], eps)
    along_u = torch.linalg.lstsq(jacobian.mT, along_noise[:, None]).solution[:, 0]
    how = {"retain_graph": True, "materialize_grads": True, "allow_unused": True}
    found = torch.autograd.grad(log_q, list(state.values()), **how)
    expected = torch.autograd.grad(u, list(state.values()), along_u, **how)
    for name, one, other in zip(state, found, expected, strict=True):
        torch.testing.assert_close(one, other, msg=name)


@pytest.mark.slow
@every_combination
def test_saving_and_loading(guide, tmp_path):
    found = fit(EightSchools(), SCHOOLS, method=SVI(guide=guide, steps=3, compile=False, corrected=False), seed=0)
    found.save(tmp_path / "fit")
    again = Fit.load(tmp_path / "fit")
    assert again.method == found.method
    assert repr(again.method.guide) == repr(guide)
    for name, value in found.approximation.q.state_dict().items():
        torch.testing.assert_close(again.approximation.q.state_dict()[name], value, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("guide", "reason"),
    [
        (MeanField("mu"), "no guide covers 'tau', 'theta'.*& MeanField"),
        (FullRank("mu", "mu") & MeanField(), "names 'mu' twice"),
        (FullRank("mu") & Guides({"mu": Point()}) & MeanField(), "'mu' is covered twice"),
        (FullRank("nu") & MeanField(), "unknown latent 'nu'; did you mean 'mu'"),
        (FullRank("effect") & MeanField(), "'effect' is observed"),
        (FullRank() & MeanField(), "at most one guide can cover the rest"),
        (MeanField("mu", "tau", "theta") & FullRank(), "no site left"),
        (
            Guides({"mu": Encoder()}) & MeanField(),
            "for mu, Encoder maps data rows to local latents",
        ),
        (Encoder(globals=FullRank("mu")), "no guide covers 'tau'"),
    ],
    ids=repr,
)
def test_what_does_not_cover_every_site_once_is_refused(guide, reason):
    with pytest.raises(zoo.MethodError, match=reason):
        fit(EightSchools(), SCHOOLS, method=SVI(guide=guide))


def test_enumerated_sites_need_no_guide():
    with pytest.raises(zoo.MethodError, match="'z' is summed out exactly"):
        fit(zoo.BayesianGMM(), "faithful", method=SVI(guide=MeanField("z") & FullRank()))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Guides({}),
        lambda: Guides({"mu": 3}),
        lambda: Guides({"mu": MeanField("tau")}),
        lambda: LowRank(0),
        lambda: LowRank("mu"),
        lambda: Flow(layers=0),
        lambda: MeanField(3),
    ],
)
def test_settings_are_checked(make):
    with pytest.raises(zoo.ZooError):
        make()


def test_points_beside_others_count_in_constrained_space():
    """log w = log p(x, z, z*) - log q(z): no Jacobian of z*, so any units of z* give the same."""
    program, q = built(Point("tau") & MeanField(), EightSchools(), SCHOOLS)
    noise = q.noise(program.data)
    draw = q.draw(program.data, noise=noise)
    globals_, jacobian = program.view.constrain_globals(draw.globals)
    mean_field = built(MeanField("mu") & MeanField(), EightSchools(), SCHOOLS)[1]
    assert mean_field.noise_shapes(8)[0] == (2,)
    part = q.over_globals.parts[1]
    normal = td.Normal(part.start + part.unit * part.loc, part.unit * part.log_scale.exp())
    torch.testing.assert_close(draw.log_q - jacobian, normal.log_prob(globals_["mu"]).sum())


@pytest.mark.slow
def test_points_of_all_sites_are_a_point():
    guide = Point("mu") & Point()
    assert guide.point
    program, _ = built(guide, EightSchools(), SCHOOLS)
    assert guide.points(program) == ("mu", "tau", "theta")
    assert (Point("mu") & MeanField()).points(program) == ("mu",)
    one, other = (fit(RandomEffects(), ROWS, method=MAP(guide=g), seed=0) for g in (Point("mu") & Point(), Point()))
    assert one.objective.value == pytest.approx(other.objective.value, abs=1e-4)


@pytest.mark.slow
def test_a_point_beside_others_is_said_in_the_kind_and_the_verdict():
    found = fit(RandomEffects(), ROWS, method=SVI(guide=Point("mu") & MeanField(), steps=300), seed=0)
    assert found.objective.kind == "elbo_at_point"
    assert "log p(x, mu) = " in found.verdict
    x, point = torch.as_tensor(ROWS), torch.tensor(float(found.posterior["posterior"]["mu"].mean()))
    marginal = td.Normal(point, 2**0.5).log_prob(x).sum() + td.Normal(0.0, 10.0).log_prob(point)
    assert found.diagnostics["evidence"] == pytest.approx(float(marginal), abs=4 * found.diagnostics["evidence_error"])


# -- what families reach -----------------------------------------------------------------------------------------------

NORMAL_EVIDENCE = float(
    td.MultivariateNormal(torch.zeros(12).double(), torch.eye(12).double() + 2).log_prob(torch.as_tensor(ROWS))
)


@pytest.mark.slow
@pytest.mark.parametrize("guide", [LowRank(1), FullRank("a", "b")], ids=repr)
def test_low_rank_reaches_the_evidence_of_a_correlated_normal_posterior(guide):
    found = fit(SumOfTwo(), ROWS, method=SVI(guide=guide, steps=500, compile=False), seed=0)
    assert NORMAL_EVIDENCE - 0.05 < found.objective.value < NORMAL_EVIDENCE + 4 * found.objective.error + 1e-6


def test_low_rank_density_is_a_low_rank_normal():
    program, q = built(LowRank(3), EightSchools(), SCHOOLS)
    part = q.over_globals
    normal = td.LowRankMultivariateNormal(
        part.start + part.unit * part.loc,
        part.unit[:, None] * part.factor,
        (part.unit * part.log_scale.exp()).square(),
    )
    for _ in range(3):
        u, log_q = flat(q.draw(program.data))
        torch.testing.assert_close(log_q, normal.log_prob(u))


def test_low_rank_takes_many_coordinates():
    program, q = built(LowRank(2), RandomEffects(), np.zeros(20_000))
    assert FullRank().why_not(program).startswith("FullRank over 20001 coordinates")
    u, log_q = flat(q.draw(program.data))
    assert u.shape == (20_001,)
    assert log_q.isfinite()
    assert "at rank 2000" in LowRank(2000).why_not(program)


@pytest.mark.parametrize(("model", "data"), [(EightSchools(), SCHOOLS), (coin(), [1, 0, 1])], ids=["ten", "one"])
def test_flow_density_is_that_of_the_noise_over_the_jacobian(model, data):
    program, q = built(Flow(layers=4, hidden=(5,)), model, data)
    noise = q.noise(program.data)
    jacobian = torch.autograd.functional.jacobian(
        lambda e: flat(q.draw(program.data, noise=(e, noise[1])))[0], noise[0]
    )
    exact = td.Normal(0.0, 1.0).log_prob(noise[0]).sum() - torch.linalg.slogdet(jacobian)[1]
    torch.testing.assert_close(flat(q.draw(program.data, noise=noise))[1], exact)


@pytest.mark.parametrize("guide", [Flow(), LowRank(2), Conjugate()], ids=repr)
def test_a_guide_starts_at_the_models_start(guide):
    program, q = built(guide, EightSchools(), SCHOOLS, shake=0)
    _, mean_field = built(MeanField(), EightSchools(), SCHOOLS, shake=0)
    shapes = q.noise_shapes(8)
    zero = [torch.zeros(s).double() for s in shapes]
    other = [torch.zeros(s).double() for s in mean_field.noise_shapes(8)]
    u, start = flat(q.draw(program.data, noise=zero))[0], flat(mean_field.draw(program.data, noise=other))[0]
    torch.testing.assert_close(u, start)


class Banana(zoo.Model):
    """A curved prior that the data say nothing about."""

    x = zoo.Real("row")

    def forward(self, x):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        pyro.sample("b", dist.Normal(a.square(), 0.3))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)


@pytest.mark.slow
def test_a_flow_bends_where_a_normal_cannot():
    evidence = float(td.Normal(0.0, 1.0).log_prob(torch.tensor([0.3, -0.2])).sum())
    gaps = []
    for guide in (Flow(layers=2, hidden=(16,)), FullRank()):
        found = fit(Banana(), [0.3, -0.2], method=SVI(guide=guide, steps=400, compile=False), seed=0)
        assert found.objective.value < evidence + 4 * found.objective.error
        gaps.append(evidence - found.objective.value)
    assert gaps[0] < 0.5 * gaps[1]
    assert gaps[1] > 0.5


@pytest.mark.parametrize("guide", [LowRank(2), Flow(layers=2, hidden=(4,)), Conjugate(), COMBINED[0]], ids=repr)
def test_importance_weights_have_mean_one(guide):
    """E[exp(log r - log q)] = 1 for any density r: here r is q itself widened by a tenth."""
    program, q = built(guide, EightSchools(), {n: v[:2] for n, v in SCHOOLS.items()}, shake=0.1)
    with torch.no_grad():
        reseed(0)
        u, log_q = torch.vmap(lambda n: pair(q, program.data, n)[:2])(q.noise(program.data, 4000))
    wide = td.MultivariateNormal(u.mean(0), 1.1 * torch.cov(u.T))
    weights = (wide.log_prob(u) - log_q).exp()
    assert abs(weights.mean() - 1) < 4 * weights.std() / math.sqrt(len(u)) + 0.01


def test_a_flow_refuses_long_vectors():
    program = prepare(RandomEffects(), np.zeros(300))
    assert "Flow('mu') & MeanField()" in Flow().why_not(program)
    assert (Flow("mu") & MeanField()).why_not(program) is None
