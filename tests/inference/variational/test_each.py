"""Many data sets in one tensor program: each climbs its own bound, and ends where it would alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from inference import SVI, Laplace
from inference.runtime.random import seeded
from inference.starts.natural import several_starts
from inference.variational.bound import Bound
from inference.variational.each import BoundOfEach
from tests.cases.models import NonCentred, NormalMean
from zoo.program.prepare import prepare
from zoo.program.rows import Batch, rows_of

SCHOOLS = {"effect": [28.0, 8.0, -3.0], "error": [15.0, 10.0, 16.0]}


def others(program, count):
    """The program on other data of the same shape."""
    with seeded(5):
        drawn = [program.simulate({}) for _ in range(count)]
    values = program.data.values
    fields = [{s.field: d[s.name].detach() for s in program.observed} for d in drawn]
    return [program.rebind(replace(program.data, values={**values, **f})) for f in fields]


def test_each_bound_is_that_of_its_own_data():
    programs = others(prepare(NonCentred(), SCHOOLS), 3)
    guide = SVI().guide
    starts = [several_starts(p, 1)[0] for p in programs]
    bound = BoundOfEach(programs, guide, starts)
    noise, beta = bound.noise(3, 3, 4), torch.ones((), dtype=torch.float64)
    position = bound.start
    value, slope, _ = bound.gradient(position.coordinates, position.weights, position.fixed, noise, beta, Batch({}))
    for i, (program, start) in enumerate(zip(programs, starts, strict=True)):
        alone = Bound(program, guide, [start])
        own = tuple(n[i : i + 1] for n in noise)
        at, batch = alone.start, rows_of(program.data)
        one, gradient, _ = alone.gradient(at.coordinates, at.weights, at.fixed, own, beta, batch)
        assert float(value[i]) == pytest.approx(float(one), abs=1e-10)
        assert torch.allclose(slope[i], gradient[0], atol=1e-10)


@pytest.mark.slow
def test_each_ends_at_its_own_posterior():
    """mu ~ Normal(0, 10), x ~ Normal(mu, 2): the posterior is known, and a mean-field guide reaches it."""
    programs = others(prepare(NormalMean(), {"x": [0.3, 1.2, -0.4]}), 4)
    method = SVI(corrected=False, compile=False)
    assert method.together(programs[0]) > 4
    with seeded(1):
        outcomes = method.run_each(programs)
        for program, outcome in zip(programs, outcomes, strict=True):
            x = program.data.values["x"]
            precision = 1 / 100 + len(x) / 4
            draws = outcome.approximation.draw(program, 1000)[0]["mu"]
            assert float(draws.mean()) == pytest.approx(float(x.sum() / 4 / precision), abs=0.15 * precision**-0.5)
            assert float(draws.std()) == pytest.approx(precision**-0.5, rel=0.08)


def test_what_cannot_go_together_goes_one_by_one():
    program = prepare(NormalMean(), {"x": [0.3, float("nan"), -0.4]})
    assert SVI().together(program) == 1
    assert SVI(restarts=2).together(prepare(NormalMean(), {"x": [0.3, 1.2]})) == 1
    assert Laplace().together(program) == 1


@pytest.mark.slow
def test_laplace_hands_out_the_same_normal_unjudged():
    program = prepare(NonCentred(), SCHOOLS)
    with seeded(2):
        judged = Laplace(corrected=False).run(program).approximation
    with seeded(2):
        alone = Laplace(corrected=False).fit_unjudged(program).approximation
    for name, value in judged.tensors().items():
        assert torch.equal(value, alone.tensors()[name])
