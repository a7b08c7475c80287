"""Formulas: what they make of a table, the models they make, and what they refuse."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import patsy
import polars as pl
import pyro
import pyro.distributions as dist
import pytest
import torch

import zoo
from inference import Fit, compare, fit
from zoo import DataError, ModelError, UnknownNameError
from zoo.data.bind import bind
from zoo.frames.formula import Design

RNG = np.random.default_rng(0)
ROWS = pd.DataFrame(
    {"age": RNG.normal(50, 8, 120), "site": RNG.choice([*"abc"], 120), "sex": RNG.choice(["f", "m"], 120)}
)
ROWS["sbp"] = 80 + 0.8 * ROWS["age"] + 5 * (ROWS["site"] == "b") - 3 * (ROWS["sex"] == "m") + RNG.normal(size=120)
ROWS["days"] = RNG.uniform(1, 9, 120)
ROWS["falls"] = RNG.poisson(ROWS["days"] * np.exp(0.03 * (ROWS["age"] - 50)))
NEW = pd.DataFrame({"age": [50.0, 60.0], "site": ["b", "b"], "sex": ["m", "f"]}, index=["p", "q"])


@pytest.mark.parametrize(
    "formula", ["age + site + sex", "site * sex", "log(age) + site:sex", "center(age) + I(age**2)", "0 + site + age"]
)
def test_columns_are_those_of_patsy(formula):
    """The coding, of the data and of new rows that show one level only, by another implementation."""
    design = Design(f"sbp ~ {formula}", ROWS)
    oracle = patsy.dmatrix(formula.replace("log(", "np.log("), ROWS, return_type="dataframe")
    later = patsy.build_design_matrices([oracle.design_info], NEW, return_type="dataframe")[0]
    for made, expected in ((design(ROWS), oracle), (design(NEW), later)):
        expected = expected.drop(columns="Intercept", errors="ignore").to_numpy()
        columns = made[list(design.predictors)].to_numpy()
        assert sorted(map(tuple, columns.T.round(9))) == sorted(map(tuple, expected.T.round(9)))


@pytest.mark.slow
def test_a_regression_by_formula_keeps_names_and_coding(tmp_path):
    model = zoo.BayesianRegression.from_formula("sbp ~ scale(age) + site + sex", pl.from_pandas(ROWS))
    result = fit(model, ROWS, method="exact", seed=0)
    names = ["scale(age)", "site[b]", "site[c]", "sex[m]"]
    assert list(result.posterior["posterior"]["feature"].values) == names
    table = patsy.dmatrix("standardize(age) + site + sex", ROWS)
    by_hand, *_ = np.linalg.lstsq(np.asarray(table), ROWS["sbp"], rcond=None)
    draws = result.posterior["posterior"]["coefficients"]
    terms = ("standardize(age)", "site[T.b]", "site[T.c]", "sex[T.m]")
    order = [table.design_info.column_names.index(term) for term in terms]
    error = draws.std(("chain", "draw")).values / np.sqrt(draws.sizes["draw"] * draws.sizes["chain"])
    # Least squares, but for the prior, which counts for 1e-4 of a row.
    assert (abs(draws.mean(("chain", "draw")).values - by_hand[order]) < 4 * error + 1e-4 * abs(by_hand[order])).all()
    result.save(tmp_path / "fit")
    expected = [80 + 0.8 * 50 + 5 - 3, 80 + 0.8 * 60 + 5]
    for found in (result, Fit.load(tmp_path / "fit")):
        assert repr(found.model).startswith("BayesianRegression.from_formula('sbp ~ scale(age) + site + sex', data, ")
        drawn = found.predict(NEW, draws=400, seed=0)["posterior_predictive"]["y"]
        assert list(drawn["row"].values) == ["p", "q"]
        assert drawn.mean(("chain", "draw")).values == pytest.approx(expected, abs=1.0)
        again = found.predict(NEW.to_dict("list"), draws=400, seed=0)["posterior_predictive"]["y"]
        assert (again.values == drawn.values).all()
        assert found.log_prob(ROWS.head(3).to_dict("list")).tolist() == result.log_prob(ROWS.head(3)).tolist()
        made = found.generate(4, seed=0)
        assert list(made.columns) == [*names, "sbp"]
        assert np.isfinite(found.log_prob(made)).all()


def test_responses_may_be_functions_and_answers():
    model = zoo.BayesianRegression.from_formula("log(sbp) ~ 0 + age", ROWS)
    assert not model.intercept
    rows = ROWS.assign(sbp=ROWS["sbp"].where(ROWS.index != 2))
    data = bind(model, rows)
    assert data.missing["y"].nonzero().tolist() == [[2]]
    assert data.values["y"][:2].tolist() == np.log(ROWS["sbp"][:2]).tolist()
    answers = bind(zoo.LogisticRegression.from_formula("sex['m'] ~ sbp + age", ROWS), ROWS)
    assert answers.values["y"].tolist() == (ROWS["sex"] == "m").astype(float).tolist()


def test_other_fields_come_from_columns():
    model = zoo.PoissonRegression.from_formula("falls ~ age", ROWS)
    data = bind(model, ROWS, columns={"exposure": "days"})
    assert data.values["exposure"].tolist() == ROWS["days"].tolist()
    assert data.columns == {"exposure": ("days",), "x": ("age",), "y": ("falls",)}


@pytest.mark.slow
def test_group_terms_are_groups():
    model = zoo.HierarchicalRegression.from_formula("sbp ~ age + sex + (1 | site)", ROWS)
    assert not model.slopes
    result = fit(model, ROWS, method="laplace", seed=0)
    assert list(result.posterior["posterior"]["intercepts"].dims) == ["chain", "draw", "group"]
    assert result.program.data.levels["group"] == ("a", "b", "c")
    assert zoo.HierarchicalRegression.from_formula("sbp ~ age + sex + (age + sex | site)", ROWS).slopes
    new = NEW.assign(site=["a", "elsewhere"])  # a group of which no row was fitted
    assert result.predict(new, draws=2, seed=0)["posterior_predictive"]["y"].shape == (1, 2, 2)


@pytest.mark.parametrize(
    ("name", "formula", "error", "said"),
    [
        ("BayesianRegression", "sbp ~ age + weight", DataError, "there is no column 'weight'; the table has 'age'"),
        ("BayesianRegression", "sbp ~ lag(age)", UnknownNameError, "unknown function in the formula 'sbp ~ lag"),
        ("BayesianRegression", "sbp", DataError, "expected a response and its predictors"),
        ("BayesianRegression", "sbp ~ age +", DataError, r"'sbp ~ age \+': it ends where a term is expected"),
        ("BayesianRegression", "sbp ~ .", DataError, "'.' does not stand for the other columns; name the predictors"),
        ("BayesianRegression", "sbp + age ~ sex", DataError, "expected one response"),
        ("BayesianRegression", "sbp ~ ~ age", DataError, "formula 'sbp ~ ~ age': "),
        ("BayesianRegression", "sbp ~ 1", DataError, "no predictors"),
        ("BayesianRegression", "sbp ~ age + (1 | site)", DataError, "has no groups; fit HierarchicalRegression"),
        ("BayesianRegression", "sbp ~ log.__class__(age)", DataError, "expected a response and its predictors"),
        ("BayesianRegression", "scale(sbp) ~ age", DataError, "depends on no other row; make a column of it first"),
        ("LogisticRegression", "sex ~ age", DataError, r"say what counts as 1: sex\['"),
        ("LogisticRegression", "sex['m'] ~ 0 + age", DataError, "always has an intercept"),
        ("PoissonRegression", "falls ~ age + offset(log(days))", DataError, r"columns=\{'exposure'"),
        ("HierarchicalRegression", "sbp ~ age", DataError, r"add \(1 \| group\)"),
        ("HierarchicalRegression", "sbp ~ age + sex + (age | site)", DataError, r"write \(age \+ sex \| site\)"),
    ],
)
def test_formulas_that_cannot_be_are_told(name, formula, error, said):
    with pytest.raises(error, match=said):
        fit(getattr(zoo, name).from_formula(formula, ROWS), ROWS, method="map", seed=0)


def test_rows_that_do_not_fit_a_formula_are_told():
    model = zoo.BayesianRegression.from_formula("sbp ~ age + site", ROWS)
    with pytest.raises(DataError, match=r"column 'age' has 1 missing values, the first at row 3"):
        fit(model, ROWS.assign(age=ROWS["age"].where(ROWS.index != 3)), method="exact", seed=0)
    result = fit(model, ROWS, method="exact", seed=0)
    with pytest.raises(DataError, match=r"column 'site' has levels .* have not: z; drop these rows"):
        result.predict(NEW.assign(site="z"), draws=2)
    many = pd.DataFrame({"age": 1.0, "site": [f"z{i:02}" for i in range(30)]})
    with pytest.raises(DataError, match=r"z06, z07 and 22 more; drop"):
        result.predict(many, draws=2)
    for age, found in (("x", "'x'"), (pd.Timestamp("2020-01-01"), "'2020-01-01 00:00:00'")):
        with pytest.raises(
            DataError, match=rf"column 'age': expected numbers, found {found} at row 'p' and 1 more; clean"
        ):
            result.predict(NEW.assign(age=age), draws=2)
    assert result.model.formula.design(NEW.assign(age=["50", "60"]))["age"].tolist() == [50.0, 60.0]
    with pytest.raises(DataError, match="says intercept=True, not False"):
        zoo.BayesianRegression.from_formula("sbp ~ age", ROWS, intercept=False)


def test_dates_are_no_predictors_and_identifiers_are_told():
    days = pd.Series(pd.date_range("2020-01-01", periods=120))
    for day in (days, days.astype(str)):
        with pytest.raises(
            DataError, match=r"column 'day': expected numbers or words, found dates such as '2020-01-01"
        ):
            Design("sbp ~ age + day", ROWS.assign(day=day))
    rows = ROWS.assign(day=days.astype(str).astype("category"))
    notes = bind(zoo.BayesianRegression.from_formula("sbp ~ age + site + day", rows), rows).notes
    assert [note.partition(",")[0] for note in notes] == ["column 'day' of the formula: 120 levels in 120 rows"]
    labelled = ROWS.assign(age=ROWS["age"].where(ROWS.index != 3)).set_axis([f"r{i}" for i in range(120)])
    with pytest.raises(DataError, match="the first at row 'r3'"):
        Design("sbp ~ age", labelled)


@pytest.mark.slow
def test_models_of_two_formulas_are_told_apart_and_pickle():
    two = [zoo.BayesianRegression.from_formula(f"sbp ~ {x}", ROWS) for x in ("age", "log(age)")]
    table = compare(two, ROWS, methods=["exact"], seed=0, progress=False).table
    assert [i[0] for i in table.index] == ["BayesianRegression('sbp ~ age')", "BayesianRegression('sbp ~ log(age)')"]
    again = pickle.loads(pickle.dumps(two[1]))
    assert bind(again, NEW.assign(sbp=0.0)).values["x"].tolist() == [[np.log(50.0)], [np.log(60.0)]]


class Straight(zoo.Regression):
    """A regression of one's own."""

    height = zoo.Real("row")
    x = zoo.Real("row", "cause")

    def forward(self, height, x):
        coefficients = pyro.sample("coefficients", dist.Normal(torch.zeros(x.shape[1]), 100.0).to_event(1))
        with pyro.plate("row", len(x)):
            pyro.sample("height", dist.Normal(80.0 + x @ coefficients, 5.0), obs=height)


class Mixed(zoo.Regression):
    """No response."""

    x = zoo.Real("row", "feature")


def test_regressions_of_ones_own_take_formulas():
    result = fit(Straight.from_formula("sbp ~ age + site", ROWS), ROWS, method="exact", seed=0)
    assert list(result.posterior["posterior"]["coefficients"].dims)[2:] == ["coefficients_dim_0"]
    assert list(result.program.data.coords["cause"]) == ["age", "site[b]", "site[c]"]
    with pytest.raises(ModelError, match="Mixed has the fields x="):
        Mixed.from_formula("sbp ~ age", ROWS)
