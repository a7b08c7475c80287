"""Random declared models against loops over all states and rows; `EXAMPLES=3000 pytest ...` tries more of them."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, assume, event, given, settings
from scipy.integrate import simpson
from torch.distributions import constraints

import zoo
from inference import CAVI, EM, Exact, fit
from tests.cases.random_models import Story, stories
from zoo.program.explain import legality
from zoo.program.prepare import prepare

MANY = int(os.environ.get("EXAMPLES", "100"))
QUICK = {"deadline": None, "database": None, "derandomize": True, "suppress_health_check": list(HealthCheck),
         "phases": (Phase.explicit, Phase.generate, Phase.shrink)}  # fmt: skip


def _program(story: Story):
    program = prepare(story.model(), story.data, device="cpu")
    if story.weights is not None:
        program = program.rebind(replace(program.data, weights=torch.tensor(story.weights, dtype=torch.float64)))
    return program


def _somewhere(program, seed):
    torch.manual_seed(seed)
    to = torch.distributions.transform_to
    return {s.name: to(s.support)(torch.randn(s.shape, dtype=torch.float64)) for s in program.latents}


def _held(story: Story) -> None:
    """The log joint and responsibilities, whole and one by one, are those of the loops."""
    try:
        program = _program(story)
    except zoo.ZooError as error:
        event(f"refused: {str(error)[:60]}")
        assume(False)
    with torch.random.fork_rng(devices=[]):
        values = _somewhere(program, 0)
    expected, probabilities = story.log_joint(values)
    terms = program.log_joint(values)
    found = float(terms.total(program.data.weights))
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)
    if story.weights is None:
        responsibilities = program.responsibilities(values)
        assert set(responsibilities) <= set(probabilities)
        for name, shares in responsibilities.items():
            np.testing.assert_allclose(shares.numpy(), probabilities[name], atol=1e-9, err_msg=name)


@settings(max_examples=6, **QUICK)
@given(stories())
def test_a_few_random_models(story):
    _held(story)


@pytest.mark.slow
@settings(max_examples=MANY, **QUICK)
@given(stories())
def test_random_models(story):
    _held(story)


@pytest.mark.slow
@settings(max_examples=MANY, **QUICK)
@given(stories(continuous=False))
def test_exact_on_random_discrete_models(story):
    """Without continuous latents the evidence is a sum; `assign` and `log_prob` of the fit are of the same sum."""
    assume(any(s.kind == "state" and not s.observed for s in story.sites))
    try:
        found = fit(story.model(), story.data, method=Exact(), weights=story.weights, seed=0, progress=False)
    except zoo.ZooError as error:
        event(f"refused: {str(error)[:60]}")
        assume(False)
    expected, probabilities = story.log_joint({})
    assert found.objective.value == pytest.approx(expected, rel=1e-9, abs=1e-9)
    if story.weights is None and len(probabilities) == 1:
        ((_, shares),) = probabilities.items()
        np.testing.assert_allclose(found.assign().to_numpy(), shares, atol=1e-9)


@pytest.mark.slow
@settings(max_examples=max(10, MANY // 4), **QUICK)
@given(stories(conjugate=True))
def test_closed_forms_of_random_conjugate_models(story):
    """No step of EM or CAVI goes down, no bound is above the evidence, and that is the integral over a fine grid."""
    try:
        program = _program(story)
        legal = {n.lower() for n, why in legality(program).items() if why is None} & {"em", "cavi", "exact"}
    except zoo.ZooError as error:
        event(f"refused: {str(error)[:60]}")
        assume(False)
    event(f"legal: {sorted(legal)}")
    assume(legal)
    ends = {}
    for method in (EM(max_steps=6), CAVI(max_steps=20), Exact()):
        name = type(method).__name__.lower()
        if name in legal:
            try:
                found = fit(story.model(), story.data, method=method, weights=story.weights, seed=0, progress=False)
            except zoo.ZooError as error:  # the mode of a Dirichlet of which nothing is seen, at a corner
                if "pole" not in str(error):
                    raise
                continue
            values = found.trace["value"].to_numpy()
            assert (np.diff(values) >= -1e-7 * (1 + np.abs(values[1:]))).all(), (name, values)
            ends[name] = found.objective.value
    if "exact" in ends:
        assert ends.get("cavi", -np.inf) <= ends["exact"] + 1e-7
        scalars = [s for s in program.latents if not s.shape]
        if len(program.latents) == len(scalars) == 1:
            assert ends["exact"] == pytest.approx(_integral(story, scalars[0]), abs=1e-5)


def _integral(story: Story, site) -> float:
    """Integrate over one latent by Simpson's rule in unconstrained space, on a grid as fine as where there is mass."""
    to = torch.distributions.transform_to(site.support)

    def heights(grid):
        at = to(grid)
        steps = to.log_abs_det_jacobian(grid, at)
        inside = site.support.check(at) & steps.isfinite()
        inside &= (at > 0) & (at != 1) if site.support is not constraints.real else inside  # which rounding reaches
        each = zip(at, steps, inside, strict=True)
        return np.array([story.log_joint({site.name: v})[0] + float(j) if ok else -np.inf for v, j, ok in each])

    wide = torch.linspace(-16.0, 16.0, 65, dtype=torch.float64)
    coarse = heights(wide)
    mass = np.flatnonzero(coarse > coarse.max() - 45)
    fine = torch.linspace(
        float(wide[max(mass[0] - 1, 0)]), float(wide[min(mass[-1] + 1, 64)]), 161, dtype=torch.float64
    )
    found = heights(fine)
    return float(np.log(simpson(np.exp(found - found.max()), x=fine.numpy())) + found.max())
