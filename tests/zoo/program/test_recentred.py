"""Location-scale latents in other coordinates: the same density, and the same draws, whatever the degree."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import zoo
from inference import NUTS, fit
from inference.diagnostics.agreement import mean_error
from inference.starts.centring import degrees, recentred
from inference.starts.values import starting_values
from tests.cases.models import FLIPS, SCHOOLS, EightSchools, coin
from zoo import Real
from zoo.program.flat_density import Density
from zoo.program.prepare import prepare
from zoo.program.recentred import Recentred, location_scale

X = [1.0, 2.5, -0.3, 4.0]


@zoo.model(x=Real("row"))
def nested(x):
    """Recentred sites under one another, with event dimensions, heavy tails and an affine location."""
    top = pyro.sample("top", dist.Normal(0.0, 2.0))
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    middle = pyro.sample("middle", dist.StudentT(4.0, 2 * top + 1, scale * torch.ones(3)).to_event(1))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Normal(middle.sum(), scale))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x)


@zoo.model(x=Real("row"))
def funnel(x):
    """Neal's funnel, of which the data say nothing."""
    v = pyro.sample("v", dist.Normal(0.0, 3.0))
    pyro.sample("y", dist.Normal(torch.zeros(99), torch.exp(v / 2)).to_event(1))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)


@zoo.model(x=Real("row"))
def components(x, *, alike: bool = True):
    """Levels of two components in units of a common scale; exchangeable, or of unequal prior means."""
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    with pyro.plate("states", 2):
        level = pyro.sample("level", dist.Normal(torch.tensor([0.0, 0.0 if alike else 1.0]), scale))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.tensor([0.5, 0.5])))
        pyro.sample("x", dist.Normal(level[z], 0.5), obs=x)


def test_what_changes_places_with_labels_stays_as_it_is_declared():
    """Degrees learned under some labels are those of other components in chains under others."""
    assert location_scale(prepare(components(), X)) == []
    assert [s.name for s in location_scale(prepare(components(alike=False), X))] == ["level"]
    assert location_scale(prepare(zoo.BayesianGMM(components=2, covariance="diag"), [[v, v] for v in X])) == []


@pytest.mark.parametrize("degree", [0.0, 0.3, 1.0])
def test_the_density_is_that_of_the_coordinates(degree):
    """log p(w) = log p(z(w)) + log|dz/dw|, the Jacobian by automatic differentiation of all coordinates at once."""
    program = prepare(nested(), X)
    sites = location_scale(program)
    assert [s.name for s in sites] == ["middle", "z"]
    moved = Recentred(program, {s.name: torch.full(program.site_shape(s), degree).double() for s in sites})
    ours, theirs = Density(moved), Density(program)
    w = torch.linspace(-1, 0.7, ours.size, dtype=torch.float64)

    def through(w):
        seen = moved.replay(ours.constrain(w), densities=False).seen
        return theirs.unconstrain({s.name: seen[s.name] for s in program.latents})

    jacobian = torch.linalg.slogdet(torch.func.jacrev(through)(w)).logabsdet
    torch.testing.assert_close(ours.log_prob(w), theirs.log_prob(through(w)) + jacobian)
    torch.testing.assert_close(torch.vmap(ours.log_prob)(w[None])[0], ours.log_prob(w))
    values = ours.constrain(w)
    draws = moved.declared({n: v[None] for n, v in values.items()}, 1, 1)
    back = moved.coordinates({n: v[0] for n, v in draws.items()})
    for name, value in values.items():
        torch.testing.assert_close(back[name], value)


def test_degrees_say_how_much_the_data_know():
    """l = s^2 I / (1 + s^2 I): of the schools I is 1 / error^2, of a funnel without data 0."""
    program = prepare(EightSchools(), SCHOOLS)
    values = {"mu": torch.tensor(4.0), "tau": torch.tensor(6.0), "theta": torch.linspace(-5, 20, 8)}
    values = {n: v.double() for n, v in values.items()}
    found = degrees(program, location_scale(program), values)["theta"]
    said = 36.0 / np.square(SCHOOLS["error"])
    np.testing.assert_allclose(found.numpy(), said / (1 + said), rtol=1e-9)
    empty = prepare(funnel(), X)
    values = {"v": torch.tensor(-1.0).double(), "y": torch.ones(99).double()}
    assert degrees(empty, location_scale(empty), values)["y"].abs().max() < 1e-9


def test_what_does_not_depend_is_left_alone():
    program = prepare(coin(), FLIPS)
    values = starting_values(program)
    same, still, gradients = recentred(program, values)
    assert same is program
    assert still is values
    assert gradients == 0
    weighted = prepare(EightSchools(), SCHOOLS, weights=[1.0] * 7 + [2.0])
    assert location_scale(weighted) == []
    assert "theta between value and noise" in NUTS(collapse=False).how(prepare(EightSchools(), SCHOOLS))
    assert NUTS(centring="declared", collapse=False).how(prepare(EightSchools(), SCHOOLS)) == ""


@pytest.mark.slow
def test_a_funnel_of_100_dimensions_is_drawn_from():
    found = fit(funnel(), [0.1], method=NUTS(), seed=0, progress=False)
    assert found.diagnostics["divergences"] == 0
    assert found.diagnostics["ess"] > 1000
    assert found.steps < 100_000
    draws = found.posterior["posterior"]
    v = draws["v"].to_numpy()
    assert abs(v.mean()) < 4 * mean_error(v)
    assert v.std() == pytest.approx(3.0, rel=0.05)
    first = (draws["y"].to_numpy()[..., 0] * np.exp(-v / 2)) ** 2  # of a standard Normal, whatever v is
    assert abs(first.mean() - 1) < 4 * mean_error(first)
    assert np.corrcoef(v.ravel(), np.log(first).ravel())[0, 1] == pytest.approx(0, abs=0.06)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_the_centred_schools_have_no_divergence(seed):
    """Against posteriordb's reference, which both versions of the model share."""
    found = fit(EightSchools(), SCHOOLS, method=NUTS(collapse=False), seed=seed, progress=False)
    assert found.diagnostics["divergences"] == 0
    assert found.verdict.startswith("trust")
    draws = found.posterior["posterior"]
    known = {"mu": (4.4105, 3.3093), "tau": (3.6021, 3.1985), "theta": (6.1505, 5.6159)}  # the first school's
    for name, (mean, sd) in known.items():
        x = draws[name].to_numpy().reshape(*draws[name].shape[:2], -1)[..., 0]
        assert abs(x.mean() - mean) < 4 * np.hypot(mean_error(x), sd / 100)
        assert x.std() == pytest.approx(sd, rel=0.12)
