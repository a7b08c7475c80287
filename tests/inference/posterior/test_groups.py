"""Every group of a fit holds what it says: densities by site, predictions at their draws, priors, labels."""

from __future__ import annotations

import copy
import pickle
import re
from functools import cache

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

import zoo
from inference import SVI, Fit, Laplace, az, fit
from inference.diagnostics.agreement import check_chains
from inference.diagnostics.coordinates import Names
from inference.diagnostics.shifts import place_of
from tests.cases.columns import CASES, COLUMNS, GAPS, TREES, N
from tests.cases.models import SCHOOLS, EightSchools
from zoo import Category, Real

SCHOOL_CASE = {"schools": (EightSchools, pd.DataFrame(SCHOOLS))}


@cache
def fitted(name: str) -> Fit:
    model, data = {**CASES, **SCHOOL_CASE}[name]
    method = SVI(steps=50, compile=False) if name == "schools" else Laplace()
    return fit(model, data, method=method, seed=0, progress=False)


def draws(name: str, group: str) -> dict[str, np.ndarray]:
    return {str(n): v.to_numpy()[0] for n, v in fitted(name).posterior[group].data_vars.items()}


# -- densities ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_each_observed_site_has_its_own_log_likelihood():
    latents, found = draws("two", "posterior"), draws("two", "log_likelihood")
    assert set(found) == {"x", "y"}
    x, y = COLUMNS["x"].to_numpy(), COLUMNS["y"].to_numpy()
    np.testing.assert_allclose(found["x"], stats.norm(latents["m"][:, None], 1).logpdf(x), rtol=1e-9)
    np.testing.assert_allclose(found["y"], stats.norm(0, latents["s"][:, None]).logpdf(y), rtol=1e-9)


@pytest.mark.slow
def test_rows_of_which_nothing_is_observed_are_left_out_and_named():
    tree, found, whole = fitted("gaps").posterior, draws("gaps", "log_likelihood"), draws("gaps", "posterior")
    kept = GAPS["x"].dropna()
    assert tree["log_likelihood"]["x"].coords["row_x"].to_numpy().tolist() == kept.index.tolist()
    np.testing.assert_allclose(found["x"], stats.norm(whole["m"][:, None], 1).logpdf(kept.to_numpy()), rtol=1e-9)
    assert tree["observed_data"].attrs["left_out"] == (
        "2 rows of x without an observed value: r3, r7; 1 rows of y without an observed value: r0"
    )
    for name, rows in (("x", N - 2), ("y", N - 1)):
        loo = az.loo(tree, var_name=name)
        assert loo.n_data_points == rows
        assert np.isfinite(loo.elpd)
        assert tree["posterior_predictive"][name].shape[2:] == tree["observed_data"][name].shape == (rows,)


@pytest.mark.slow
def test_sites_that_share_a_rows_state_add_up_by_the_chain_rule():
    m, found = draws("mixed", "posterior")["m"][:, None], draws("mixed", "log_likelihood")
    x, y = COLUMNS["x"].to_numpy(), COLUMNS["y"].to_numpy()
    off, on = (np.log(p) + stats.norm(m + z, 1).logpdf(x) for p, z in ((0.7, 0), (0.3, 1)))
    both = np.logaddexp(off + stats.norm(m, 1).logpdf(y), on + stats.norm(m - 1, 1).logpdf(y))
    np.testing.assert_allclose(found["x"], np.logaddexp(off, on), rtol=1e-9)
    np.testing.assert_allclose(found["x"] + found["y"], both, rtol=1e-9)
    assert "x, globals" in fitted("mixed").posterior["log_likelihood"]["y"].attrs["note"]


@pytest.mark.slow
def test_log_prior_has_a_density_for_each_prior():
    latents, found = draws("trees", "posterior"), draws("trees", "log_prior")
    np.testing.assert_allclose(found["rate"], stats.gamma(2, scale=2).logpdf(latents["rate"]), rtol=1e-9)
    np.testing.assert_allclose(found["height"], stats.norm.logpdf(latents["height"]), rtol=1e-9)
    np.testing.assert_allclose(found["share"], np.log(2), rtol=1e-6)


# -- simulations --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_predictions_stand_at_the_draws_they_come_from():
    found, latents = draws("schools", "posterior_predictive")["effect"], draws("schools", "posterior")["theta"]
    noise = (found - latents) / np.asarray(SCHOOLS["error"])
    assert stats.kstest(noise.ravel(), "norm").pvalue > 1e-3
    assert abs(np.corrcoef(noise.T)[np.triu_indices(8, 1)]).max() < 4.5 / np.sqrt(len(noise))


def test_prior_draws_have_the_distribution_of_the_prior():
    found = draws("trees", "prior")
    assert stats.kstest(found["rate"].ravel(), stats.gamma(2, scale=2).cdf).pvalue > 1e-3
    assert stats.kstest(found["height"], "norm").pvalue > 1e-3
    mean = (found["rate"] * np.exp(found["height"])[:, None]).mean(1)
    counts = draws("trees", "prior_predictive")["n"]
    error = np.sqrt(mean / N)  # of the mean of N counts
    assert abs(((counts.mean(1) - mean) / error).mean()) < 4 / np.sqrt(len(mean))


def test_simulations_are_whole_numbers_and_labels():
    for group in ("observed_data", "posterior_predictive", "prior_predictive"):
        variables = fitted("trees").posterior[group]
        assert variables["n"].dtype.kind == "i"
        assert set(np.unique(variables["kind"])) == {"ash", "beech", "oak"}


@pytest.mark.slow
def test_nothing_is_worked_out_before_it_is_looked_at(monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("worked out")

    found = fit(CASES["two"][0], COLUMNS, method=Laplace(), seed=1, progress=False)
    for name in ("replicates.simulations", "densities.site_likelihoods", "densities.entry_densities"):
        monkeypatch.setattr(f"inference.posterior.{name}", refuse)
    found.summary()
    tree = found.posterior
    assert str(tree)
    with pytest.raises(AssertionError, match="worked out"):
        tree["posterior_predictive"]["x"].to_numpy()


def test_the_tree_can_be_copied_and_pickled():
    tree = fitted("two").posterior
    for again in (copy.deepcopy(tree), pickle.loads(pickle.dumps(tree))):
        for group in ("log_likelihood", "prior"):
            assert again[group].to_dataset().equals(tree[group].to_dataset())


@pytest.mark.slow
def test_fewer_draws_are_simulated_of_large_data(monkeypatch):
    monkeypatch.setattr("inference.posterior.replicates.LARGEST", 2 * N * 100)
    found = fit(CASES["two"][0], COLUMNS, method=Laplace(), seed=0, progress=False).posterior
    few, every = found["posterior_predictive"], fitted("two").posterior["posterior"]
    step = int(few.coords["draw"][1])
    assert few.sizes["draw"] == len(range(0, every.sizes["draw"], step)) <= 100
    assert few.attrs["draws"] == f"every {step}th of {every.sizes['draw']} in each chain"
    assert found["prior_predictive"].sizes["draw"] <= 100


# -- labels -------------------------------------------------------------------------------------------------------


def test_effects_of_groups_and_shares_of_categories_have_labels():
    found = fitted("trees")
    index = found.summary().index.tolist()
    assert index == ["rate[north]", "rate[south]", "height", "share[ash]", "share[beech]", "share[oak]"]
    assert found.posterior["constant_data"]["site"].to_numpy().tolist() == TREES["site"].tolist()
    assert found.sample(3).coords["place"].to_numpy().tolist() == ["north", "south"]
    predicted = found.predict(draws=5)["posterior_predictive"]["kind"]
    assert set(np.unique(predicted)) <= {"ash", "beech", "oak"}


def test_observed_categories_can_be_left_out_of_new_rows():
    for new in (pd.DataFrame({"site": ["south"]}), {"site": np.array(["south"])}):
        predicted = fitted("trees").predict(new, draws=50)["posterior_predictive"]
        assert set(np.unique(predicted["kind"])) <= {"ash", "beech", "oak"}


def test_a_dimension_of_the_same_size_that_is_not_about_the_groups_keeps_its_numbers():
    @zoo.model(y=Real("row"), g=Category("row"))
    def other(y, g):
        with pyro.plate("term", 2):
            c = pyro.sample("c", dist.Normal(0.0, 1.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(c.sum() + g, 1.0), obs=y)

    table = pd.DataFrame({"y": np.arange(20.0), "g": np.tile(["a", "b"], 10)})
    found = fit(other, table, method=Laplace(), seed=0, progress=False)
    assert found.posterior["posterior"].coords["term"].to_numpy().tolist() == [0, 1]


# -- names --------------------------------------------------------------------------------------------------------


def in_summary_and_in_words(found: Fit) -> tuple[list[str], list[str]]:
    """Names of all entries of float variables: in the summary, and in verdicts."""
    posterior = found.posterior["posterior"].to_dataset()
    names = Names(found.program, {**found.points, **{n: v[0] for n, v in found.draws.values.items()}})
    shapes = {str(n): v.shape[2:] for n, v in posterior.data_vars.items() if v.dtype.kind == "f"}
    said = [names.entry(*place_of(i, shapes)) for i in range(sum(int(np.prod(shape)) for shape in shapes.values()))]
    return found.summary().index.tolist(), said


@pytest.mark.slow
def test_verdicts_name_entries_as_the_summary_does():
    """Labels of rows, of categories and of columns, and numbers where there are none."""
    for name in ("trees", "schools", "two"):
        summary, said = in_summary_and_in_words(fitted(name))
        assert said == summary, name
    mixture = fit(zoo.BayesianGMM(components=2), zoo.datasets.load("faithful"), method="cavi", seed=0, progress=False)
    summary, said = in_summary_and_in_words(mixture)
    assert said == summary
    assert "means[0, eruptions]" in said


@zoo.model(x=Real("school"))
def effects(x):
    with pyro.plate("school", len(x)):
        theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(theta, 1.0), obs=x)


def test_verdicts_and_warnings_name_schools():
    names = pd.Index(["Choate", "Deerfield", "Exeter"], name="school")
    found = fit(effects, pd.DataFrame({"x": [0.1, 0.5, -0.3]}, index=names), method=Laplace(), seed=0, progress=False)
    said = re.findall(r"theta\[(\w+)\]", found.verdict)
    assert said
    assert set(said) <= set(names)
    chains = np.random.default_rng(0).standard_normal((2, 100, 3))
    chains[1, :, 2] += 5
    check = check_chains({"theta": chains}, Names(found.program, {"theta": torch.zeros(3)}).entry)
    assert check.worst_rhat == check.worst_ess == "theta[Exeter]"
