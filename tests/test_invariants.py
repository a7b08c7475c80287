"""What must hold for every model of the zoo and every method that is legal for it, on a few rows of data."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

import zoo
from inference import CAVI, EM, MAP, NUTS, SVI, Exact, Laplace, Pathfinder, fit
from tests.cases.models import OWN_CASES, ZOO_CASES, EightSchools
from tests.conftest import nothing_global_changes
from zoo import catalogue
from zoo.program.explain import legality
from zoo.program.prepare import prepare

METHODS = {
    "em": EM(max_steps=30),
    "cavi": CAVI(max_steps=30),
    "svi": SVI(steps=60),
    "map": MAP(steps=60),
    "exact": Exact(),
    "laplace": Laplace(compile=False),
    "pathfinder": Pathfinder(paths=2, draws=50, compile=False),
    "nuts": NUTS(chains=2, warmup=10, draws=10, max_tree_depth=3, compile=False),
}
CASES = [*(case for cases in ZOO_CASES.values() for case in cases), *OWN_CASES]
KINDS = {
    "exact": {"log_evidence"},
    "em": {"log_likelihood", "log_posterior"},
    "cavi": {"elbo"},
    "map": {"log_likelihood", "log_posterior"},
    "svi": {"log_likelihood", "elbo"},
    "laplace": {"elbo"},
    "pathfinder": {"elbo"},
    "nuts": {"log_posterior"},
}


def rows_in(data):
    return len(next(iter(data.values()))) if isinstance(data, dict) else len(data)


def pick(data, rows):
    """The rows at these positions."""
    if isinstance(data, dict):
        return {n: [v[i] for i in rows] for n, v in data.items()}
    return [data[i] for i in rows]


@cache
def program(case):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return prepare(*CASES[case], device="cpu")


@cache
def verdicts(case):
    return {name.lower(): why for name, why in legality(program(case)).items()}


def name_of(case):
    return f"{case}-{type(CASES[case][0]).__name__}"


ON = {method: [i for i in range(len(CASES)) if verdicts(i).get(method) is None] for method in METHODS}
for brief in ("laplace", "pathfinder", "nuts"):  # one case of each model; these look at its density only
    kinds = {type(CASES[i][0]): i for i in reversed(ON[brief])}
    # The centred eight schools have no mode: their density rises without bound as tau falls to 0.
    ON[brief] = sorted(i for kind, i in kinds.items() if (brief, kind) != ("laplace", EightSchools))


@cache
def fitted(case, method):
    model, data = CASES[case]
    return fit(model, data, method=METHODS[method], seed=0, device="cpu", progress=False)


everywhere = pytest.mark.parametrize("case", range(len(CASES)), ids=name_of)
always = pytest.mark.parametrize(
    ("case", "method"),
    [pytest.param(case, method, id=f"{name_of(case)}-{method}") for method in METHODS for case in ON[method]],
)
points = pytest.mark.parametrize(
    ("case", "method"),
    [
        pytest.param(case, method, id=f"{name_of(case)}-{method}")
        for method in ("em", "map", "svi")
        for case in ON[method]
        if not program(case).locals and (method != "svi" or not program(case).latents)
    ],
)


def test_every_registered_model_has_small_data():
    missing = set(zoo.models()) - set(ZOO_CASES)
    assert not missing, f"add a few rows of data for {sorted(missing)} to ZOO_CASES"


def test_every_registered_method_is_here():
    missing = {name.lower() for name in catalogue.entries("method")} - set(METHODS)
    assert not missing, f"add settings for {sorted(missing)} to METHODS"


@everywhere
def test_each_model_has_a_legal_method_and_reasons_for_the_others(case):
    found = verdicts(case)
    assert set(found) == set(METHODS)
    assert None in found.values()
    assert all(why is None or len(why) > 10 for why in found.values())
    if program(case).locals:  # legal where their posterior given parameters without prior has a closed form
        assert found["em"] is not None or not (program(case).enumerated or program(case).globals)
    else:
        assert (found["em"] is None) == bool(program(case).enumerated)
    assert found["exact"] is not None or found["cavi"] is None  # one block after the other, or all at once


@everywhere
def test_an_illegal_method_says_why_and_names_a_legal_one(case):
    legal = [n for n, reason in verdicts(case).items() if reason is None]
    for method in set(METHODS) - set(legal):
        with pytest.raises(zoo.MethodError) as caught:
            fit(*CASES[case], method=METHODS[method], device="cpu")
        assert verdicts(case)[method] in str(caught.value)
        assert str(caught.value).endswith(f"Legal here: {', '.join(legal)}.")


@always
def test_nothing_is_ever_not_a_number(case, method):
    found = fitted(case, method)
    assert found.objective.kind in KINDS[method]
    assert np.isfinite([found.objective.value, found.objective.error]).all()
    assert found.objective.error >= 0
    assert list(found.trace.columns) == ["step", "seconds", "value"]
    assert np.isfinite(found.trace["value"]).all()
    assert (np.diff(found.trace["seconds"]) >= 0).all()
    assert (np.diff(found.trace["step"]) > 0).all()
    assert all(bool(v.isfinite().all()) for v in found.points.values())
    for group in ("posterior", "point_estimate"):
        if group in found.posterior.children:
            assert all(np.isfinite(v).all() for v in found.posterior[group].data_vars.values())
    density = found.log_prob(samples=50)
    assert len(density) == rows_in(CASES[case][1])
    assert np.isfinite(density).all()
    assert np.isfinite(density.attrs["mcse"]).all()


@always
def test_convergence_is_never_silent(case, method):
    found = fitted(case, method)
    assert isinstance(found.converged, bool)
    assert found.reason
    assert found.converged or found.reason in found.warnings


@always
def test_values_are_inside_their_supports(case, method):
    found = fitted(case, method)
    values, _ = found.approximation.draw(found.program, 20)
    assert set(values) == {s.name for s in found.program.latents}
    values.update({n: v for n, v in found.points.items() if n in found.program.sites})
    for name, value in values.items():
        assert found.program.sites[name].support.check(value).all(), name


@pytest.mark.parametrize(
    ("case", "method"),
    [pytest.param(case, method, id=f"{name_of(case)}-{method}") for method in ("em", "cavi") for case in ON[method]],
)
def test_coordinate_ascent_never_falls(case, method):
    values = fitted(case, method).trace["value"].to_numpy()
    assert (np.diff(values) >= -1e-9 * np.abs(values[1:])).all()


@pytest.mark.parametrize("case", ON["exact"], ids=name_of)
def test_the_bound_is_below_the_evidence(case):
    evidence, bound = fitted(case, "exact").objective, fitted(case, "svi").objective
    assert evidence.error == 0
    assert bound.value < evidence.value + 4 * bound.error
    assert fitted(case, "cavi").objective.value == pytest.approx(evidence.value, rel=1e-9)  # its q is the posterior
    # log p(x, z) - log p(z | x) is the same at every z.
    found = fitted(case, "exact")
    values, log_q = found.approximation.draw(found.program, 400)
    joint = torch.stack(
        [found.program.log_joint({n: v[i] for n, v in values.items()}).total() for i in range(len(log_q))]
    )
    torch.testing.assert_close(joint - log_q, torch.full_like(log_q, evidence.value))


@points
def test_the_objective_of_a_point_is_the_density_of_its_rows_and_its_prior(case, method):
    found = fitted(case, method)
    values = {**found.points, **{n: v[0] for n, v in found.approximation.draw(found.program, 1)[0].items()}}
    terms = found.program.log_joint(values)
    rows = found.log_prob()
    assert found.objective.value == pytest.approx(rows.sum() + float(terms.rest), rel=1e-9, abs=1e-9)
    assert set(rows.attrs["mcse"]) == {0.0}
    if found.objective.kind == "log_likelihood":
        assert float(terms.rest) == 0


@always
def test_responsibilities_are_probabilities(case, method):
    found = fitted(case, method)
    if not found.program.enumerated:
        with pytest.raises(zoo.FitError, match="no discrete latent"):
            found.assign()
        return
    table = found.assign()
    assert table.shape == (rows_in(CASES[case][1]), program(case).enumerated[0].states.numel())
    assert ((table >= 0) & (table <= 1 + 1e-12)).all(axis=None)  # rounding of an average
    np.testing.assert_allclose(table.sum(axis=1), 1, rtol=1e-12)


@always
def test_the_order_of_rows_does_not_matter(case, method):
    """Asked about rows of its own in another order, a fit gives the same answers in that order."""
    found = fitted(case, method)
    if found.program.locals:  # rows have latents of their own, whose draws go by position
        return
    if found.program.chained:  # rows are in the order of time
        return
    data, order = CASES[case][1], np.random.default_rng(0).permutation(rows_in(CASES[case][1]))
    np.testing.assert_allclose(found.log_prob(pick(data, order)), found.log_prob().to_numpy()[order], rtol=1e-9)
    if found.program.enumerated and found.is_point:
        np.testing.assert_allclose(found.assign(pick(data, order)), found.assign().to_numpy()[order], atol=1e-9)


@always
def test_a_weight_of_one_is_no_weight(case, method):
    plain = fitted(case, method)
    model, data = CASES[case]
    ones = np.ones(rows_in(data))
    weighted = fit(model, data, method=METHODS[method], seed=0, device="cpu", weights=ones)
    # Single precision keeps six digits, and sixty steps of a network spread rounding.
    accuracy = 1e-8 if plain.program.dtype == torch.float64 else 1e-3
    assert weighted.objective.value == pytest.approx(plain.objective.value, rel=accuracy)


@pytest.mark.parametrize("case", ON["exact"], ids=name_of)
def test_a_weight_of_two_is_a_row_twice(case):
    model, data = CASES[case]
    settings = {"method": "exact", "seed": 0, "device": "cpu"}
    twice = fit(model, pick(data, [*range(rows_in(data))] * 2), **settings)
    weighted = fit(model, data, weights=np.full(rows_in(data), 2.0), **settings)
    assert weighted.objective.value == pytest.approx(twice.objective.value, rel=1e-8)
    kept = np.arange(rows_in(data)) != 0
    if kept.any():
        dropped = fit(model, data, weights=kept.astype(float), **settings)
        assert dropped.objective == fit(model, pick(data, np.flatnonzero(kept)), **settings).objective


@always
def test_the_same_seed_gives_the_same_bytes_and_leaves_no_trace(case, method):
    first = fitted(case, method)
    with nothing_global_changes():
        again = fit(*CASES[case], method=METHODS[method], seed=0, device="cpu")
        assert np.array_equal(again.log_prob(samples=50), first.log_prob(samples=50))
    assert again.objective == first.objective
    assert again.trace["value"].equals(first.trace["value"])
    assert set(again.points) == set(first.points)
    assert all(torch.equal(v, first.points[n]) for n, v in again.points.items())


@always
def test_rows_are_drawn_in_the_shape_and_support_of_the_data(case, method):
    found = fitted(case, method)
    drawn = found.generate(7, seed=0)
    model = CASES[case][0]
    for name, field in model.fields.items():
        if isinstance(drawn, dict):
            values = np.asarray(drawn[name])
        else:
            rest = drawn.drop(columns=[n for n in model.fields if n in drawn.columns])
            values = np.asarray(drawn[name] if name in drawn.columns else rest)
        assert len(values) == 7
        shape = found.program.data.values[name].shape[1:]
        assert values.reshape(7, -1).shape[1] == max(1, int(np.prod(shape)))
        assert field.support.check(torch.as_tensor(values.astype(float))).all()


@everywhere
def test_states_remember_no_distribution(case):
    """Pyro marks states with the address of the distribution they came from, which another may have later."""
    for site in program(case).enumerated:
        assert vars(site.states) == {}
