"""Several methods side by side: the table says what each found, or why it did not run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from scipy import stats

import zoo
from guides import Encoder, Point
from inference import CAVI, EM, MAP, NUTS, SVI, Comparison, Exact, Fit, az, compare, fit
from inference.method import Method, Outcome
from tests.cases.models import FLIPS, SCHOOLS, BernoulliMixture, EightSchools, NonCentred, Rate, coin

mpl.use("Agg")

COLUMNS = [
    *("objective", "kind", "log_likelihood", "free_parameters", "aic", "bic", "icl"),
    *("evidence", "evidence_kind", "evidence_error", "elpd_loo", "elpd_se", "elpd_diff", "elpd_diff_se"),
    *("held_out", "held_out_se", "held_out_diff", "held_out_diff_se"),
    *("khat", "seconds", "steps", "converged", "verdict", "note"),
]
GEYSER = zoo.datasets.load("faithful").iloc[:120]
SHORT = SVI(steps=200)
PIXELS = (np.random.default_rng(0).random((30, 4)) < 0.4).astype(float)


@dataclass(frozen=True)
class Broken(Method):
    """A method that is legal everywhere and fails, as its setting says."""

    how: str = "fit"

    def why_not(self, program) -> str | None:
        return None

    def run(self, program, *, progress=False) -> Outcome:
        if self.how == "fit":
            raise zoo.FitError("component 1 collapsed onto row 7")
        if self.how == "data":
            raise zoo.DataError("these rows break me")
        raise {"runtime": RuntimeError, "linear algebra": np.linalg.LinAlgError, "memory": MemoryError}[self.how](
            "singular at step 3\nand a second line"
        )


@cache
def mixture() -> Comparison:
    methods = {"em": "em", "mean field": SHORT, "point": MAP(steps=200), "exact": Exact(), "broken": Broken()}
    return compare(zoo.BayesianGMM(components=2), GEYSER, methods=methods, seed=0)


@cache
def tosses() -> Comparison:
    return compare(coin, FLIPS, methods=["exact", SHORT, "map", "em"], seed=0)


# -- the table -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("made", [pytest.param(mixture, marks=pytest.mark.slow), tosses])
def test_the_table_has_the_columns_of_the_contract(made):
    table = made().table
    assert isinstance(table, pd.DataFrame)
    assert list(table.columns) == COLUMNS


@pytest.mark.slow
def test_a_row_per_method_in_the_order_given():
    assert list(mixture().table.index) == ["em", "mean field", "point", "exact", "broken"]
    assert list(tosses().table.index) == ["exact", "svi", "map", "em"]


@pytest.mark.slow
def test_kinds_tell_objectives_apart():
    assert tosses().table["kind"].tolist() == ["log_evidence", "elbo", "log_posterior", ""]
    assert mixture().table["kind"].tolist() == ["log_posterior", "elbo", "log_posterior", "", ""]
    parameters = compare(zoo.GMM(components=2), GEYSER, methods=["em", MAP(steps=20)], seed=0)
    assert parameters.table["kind"].tolist() == ["log_likelihood", "log_likelihood"]


@pytest.mark.slow
@pytest.mark.parametrize("made", [mixture, tosses])
def test_rows_repeat_what_the_fits_say(made):
    result = made()
    for label, found in result.fits.items():
        row = result.table.loc[label]
        assert row["objective"] == found.objective.value
        assert row["kind"] == found.objective.kind
        assert row["seconds"] == found.seconds > 0
        assert row["steps"] == found.steps
        assert row["converged"] == found.converged
        assert (row["khat"] == found.khat) or (math.isnan(row["khat"]) and math.isnan(found.khat))
        for warning in found.warnings:
            assert warning in row["note"]


@pytest.mark.slow
def test_fits_are_those_of_fit_with_the_same_seed():
    result, model = mixture(), zoo.BayesianGMM(components=2)
    alone = fit(model, GEYSER, method=SHORT, seed=0)
    assert result["mean field"].objective == alone.objective
    assert result["mean field"].summary().equals(alone.summary())
    assert fit(model, GEYSER, method="em", seed=0).objective == result["em"].objective
    assert {f.seed for f in result.fits.values()} == {0}


def test_without_a_seed_all_share_one():
    result = compare(coin, FLIPS, methods=["exact", SVI(steps=5)])
    assert len({f.seed for f in result.fits.values()}) == 1
    assert result["exact"].seed != compare(coin, FLIPS, methods=["exact"])["exact"].seed


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["times", [2.0] * 10], ids=["column", "array"])
def test_options_reach_every_method(weights):
    table = pd.DataFrame({"flips": FLIPS, "times": 2.0})
    result = compare(coin, table, methods=["exact", "map"], seed=0, weights=weights)
    twice = compare(coin, FLIPS * 2, methods=["exact", "map"], seed=0)
    np.testing.assert_allclose(result.table["objective"], twice.table["objective"], rtol=1e-8)


# -- elpd ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_points_have_no_elpd_and_say_so():
    for result, labels in ((mixture(), ["em", "point"]), (tosses(), ["map"])):
        for label in labels:
            row = result.table.loc[label]
            assert row[["elpd_loo", "elpd_se", "khat"]].isna().all()
            assert "point estimate" in row["note"]


COUNTS = np.array([3, 0, 4, 1])
LEFT_OUT = 2.0 + COUNTS.sum() - COUNTS, 0.5 + len(COUNTS) - 1  # the Gamma posterior without each day in turn


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "data", "rows"),
    [
        (coin, FLIPS, [math.log(5 / 11)] * 10),  # without x_i, Beta(6, 5) or Beta(5, 6): the other side is favoured
        (Rate, COUNTS, stats.nbinom(LEFT_OUT[0], LEFT_OUT[1] / (LEFT_OUT[1] + 1)).logpmf(COUNTS)),
    ],
    ids=["coin", "rate"],
)
def test_elpd_is_leave_one_out(model, data, rows):
    """PSIS-LOO of an exact posterior against leaving each row out in closed form, as a z-test over seeds."""
    found = [compare(model, data, methods=["exact"], seed=s).table.loc["exact"] for s in range(16)]
    elpd = np.array([row["elpd_loo"] for row in found])
    error = elpd.std(ddof=1) / math.sqrt(len(elpd))
    assert abs(elpd.mean() - np.sum(rows)) < 5 * error
    assert error < 0.1
    if np.ptp(rows) > 0:
        errors = np.array([row["elpd_se"] for row in found])
        expected = math.sqrt(len(rows) * np.var(rows, ddof=1))
        assert abs(errors.mean() - expected) < 5 * errors.std(ddof=1) / math.sqrt(len(errors))


@pytest.mark.slow
def test_elpd_of_a_mixture_is_near_the_plug_in_density():
    """Held-out density is below the fitted one, by about the number of parameters it was fitted with."""
    row, found = mixture().table.loc["mean field"], mixture()["mean field"]
    fitted = found.log_prob().sum()
    assert fitted - 3 * 11 < row["elpd_loo"] < fitted
    assert 0 < row["elpd_se"] < abs(row["elpd_loo"])


def test_elpd_of_parameters_without_prior_is_left_out_and_said():
    result = compare(
        zoo.VAE(latent=1, hidden=(3,)), PIXELS, methods=[SVI(guide=Encoder(hidden=(3,)), steps=20)], seed=0
    )
    row = result.table.iloc[0]
    assert math.isnan(row["elpd_loo"])
    assert "point estimates" in row["note"]
    assert row["kind"] == "elbo"


@pytest.mark.slow
def test_a_bad_approximation_is_noted():
    """A funnel: the centred eight schools are far from any mean-field Normal."""
    result = compare(EightSchools, SCHOOLS, methods=[SVI(steps=400, collapse=False)], seed=0)
    row = result.table.iloc[0]
    assert row["khat"] > 0.7
    assert "khat" in row["note"]


# -- several models --------------------------------------------------------------------------------------------


@cache
def numbers_of_components() -> Comparison:
    models = {k: zoo.GMM(components=k) for k in (1, 2, 3, 200)}
    return compare(models=models, data=GEYSER, methods=["em"], seed=0, holdout=0.25)


@pytest.mark.slow
def test_several_models_are_one_table_by_model_and_method():
    result = numbers_of_components()
    assert list(result.table.index) == [(1, "em"), (2, "em"), (3, "em"), (200, "em")]
    assert result.table.index.names == ["model", "method"]
    assert list(result.table.columns) == COLUMNS
    for k in (1, 2, 3):
        row, found = result.table.loc[(k, "em")], result[k]
        assert found is result[k, "em"]
        assert row["free_parameters"] == found.free_parameters == 6 * k - 1
        assert row["bic"] == found.bic == 6 * k * math.log(120) - math.log(120) - 2 * row["log_likelihood"]
    assert "200" in result.table.loc[(200, "em"), "note"]
    with pytest.raises(zoo.MethodError, match="200"):
        result[200]


@pytest.mark.slow
def test_rankings_hold_one_kind_each_and_begin_with_the_best():
    text = str(numbers_of_components())
    criteria = text.partition("information criteria")[2].partition("\n\n")[0].splitlines()[2:]
    delta = [float(line.split()[-1]) for line in criteria]
    assert delta[0] == 0
    assert delta == sorted(delta)
    assert criteria[0].startswith(f"{numbers_of_components().table['bic'].astype(float).idxmin()[0]}, em")
    mixed = str(mixture())
    assert mixed.count("objective: log_posterior") == mixed.count("objective: elbo") == 1


def test_held_out_rows_are_those_of_a_fit_to_the_others():
    """The same split by hand: positions, fit and density."""
    rows = np.arange(0, 120, 5)
    result = compare(zoo.GMM(components=1), GEYSER, methods=["em"], seed=0, holdout=rows)
    alone = GEYSER.drop(index=GEYSER.index[rows]).to_numpy()
    normal = stats.multivariate_normal(alone.mean(0), np.cov(alone.T, ddof=0))
    expected = normal.logpdf(GEYSER.to_numpy()[rows])
    assert result.table.loc["em", "held_out"] == pytest.approx(expected.sum(), abs=1e-6)
    assert result.table.loc["em", "held_out_se"] == pytest.approx(math.sqrt(24) * expected.std(ddof=1), rel=1e-6)


@pytest.mark.slow
def test_folds_leave_every_row_out_once():
    """Of eight rows in eight folds: the Normal fitted to the other seven."""
    x = GEYSER["waiting"].to_numpy()[:8]
    result = compare(zoo.GMM(components=1), x[:, None], methods=["em"], seed=0, folds=8)
    others = [np.delete(x, i) for i in range(8)]
    expected = sum(stats.norm(o.mean(), o.std()).logpdf(v) for o, v in zip(others, x, strict=True))
    assert result.table.loc["em", "held_out"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("split", [{"holdout": 0.0}, {"holdout": [0, 0]}, {"folds": 1}, {"folds": 2, "holdout": 0.5}])
def test_what_is_no_split(split):
    with pytest.raises(zoo.DataError, match=r"holdout|folds"):
        compare(coin, FLIPS, methods=["exact"], seed=0, **split)


def test_elpd_differences_are_those_of_arviz():
    models = {"flat": coin(), "fair": coin(a=50.0, b=50.0)}
    result = compare(models=models, data=FLIPS, methods=["exact"], seed=0)
    trees = {name: result[name].posterior for name in models}
    expected = az.compare(trees)
    for name in models:
        row = result.table.loc[(name, "exact")]
        assert row["elpd_diff"] == pytest.approx(expected.loc[name, "elpd_diff"], abs=1e-9)
        others = expected.loc[name, "dse"] * np.array([1.0, math.sqrt(10 / 9)])  # ArviZ before 1.0 divides by n
        assert np.isclose(row["elpd_diff_se"], others, atol=1e-9).any()
        assert row["evidence_kind"] == "exact"


@pytest.mark.parametrize("models", [[], {}])
def test_no_models(models):
    with pytest.raises(zoo.ZooError, match="models"):
        compare(models=models, data=FLIPS, methods=["exact"], seed=0)


def test_one_model_or_several_and_data():
    with pytest.raises(zoo.ZooError, match="models="):
        compare(coin, FLIPS, models=[coin], methods=["exact"], seed=0)
    with pytest.raises(zoo.DataError, match="data"):
        compare(coin, methods=["exact"], seed=0)


# -- a reference -----------------------------------------------------------------------------------------------


def test_distance_to_a_summary_in_closed_form():
    """The truth shifted and widened by hand: Beta(6, 6) against a mean 0.3 sds away and an sd 1.25 times as large."""
    sd = math.sqrt(1 / 52)
    truth = pd.DataFrame({"mean": [0.5 - 0.3 * sd], "sd": [1.25 * sd], "mcse_mean": [0.01 * sd]}, index=["heads"])
    result = compare(coin, FLIPS, methods=["exact", "map"], seed=0, reference=truth)
    row = result.table.loc["exact"]
    assert row["error_mean"] == pytest.approx(0.3 / 1.25, abs=5 / math.sqrt(1000))
    assert row["sd_ratio"] == pytest.approx(1 / 1.25, rel=5 / math.sqrt(2000))
    assert row["error_mean_se"] >= 0.01 / 1.25
    assert row["worst"] == "heads"
    assert math.isnan(row["wasserstein"])
    assert math.isnan(row["seconds_to_accuracy"])  # it is further off than 0.1 sds
    mode = result.table.loc["map"]
    assert mode["error_mean"] == pytest.approx(0.3 / 1.25, abs=0.01)
    assert math.isnan(mode["sd_ratio"])
    assert "distance to the reference" in str(result)


def test_distance_of_margins_to_draws():
    """Draws moved by a constant: the Wasserstein distance is that constant."""
    exact = fit(coin, FLIPS, method="exact", seed=0)
    draws = exact.posterior["posterior"]["heads"].to_numpy()
    result = compare(coin, FLIPS, methods=["exact"], seed=0, reference={"heads": draws + 0.05})
    expected = 0.05 / draws.std(ddof=1)
    assert result.table.loc["exact", "wasserstein"] == pytest.approx(expected, rel=1e-6)
    assert result.table.loc["exact", "error_mean"] == pytest.approx(expected, rel=1e-6)
    same = compare(coin, FLIPS, methods=["exact"], seed=0, reference=exact)
    assert same.table.loc["exact", "error_mean"] == 0
    assert same.table.loc["exact", "sd_ratio"] == 1
    assert same.table.loc["exact", "seconds_to_accuracy"] == same.table.loc["exact", "seconds"]


@pytest.mark.slow
def test_chains_are_accurate_before_their_end():
    """Means of all draws so far, by hand: the first draw after which none leaves the 0.1 standard deviations."""
    truth = pd.DataFrame({"mean": [0.5], "sd": [math.sqrt(1 / 52)]}, index=["heads"])
    methods = {"nuts": NUTS(draws=200, warmup=100, chains=2)}
    result = compare(coin, FLIPS, methods=methods, seed=0, reference=truth, progress=False)
    found, row = result["nuts"], result.table.loc["nuts"]
    draws = found.posterior["posterior"]["heads"].to_numpy()
    near = np.abs(draws.mean(0).cumsum() / np.arange(1, 201) - 0.5) < 0.1 * math.sqrt(1 / 52)
    first = max((i for i in range(200) if not near[i]), default=-1) + 1
    if first == 200:
        assert math.isnan(row["gradients_to_accuracy"])
        assert math.isnan(row["seconds_to_accuracy"])
        return
    counts = found.posterior["sample_stats"]["n_steps"].to_numpy().sum(0).cumsum()
    assert row["gradients_to_accuracy"] == counts[first]
    at = np.interp(100 + first + 1, found.trace["step"], found.trace["seconds"])
    assert row["seconds_to_accuracy"] == pytest.approx(at)
    assert 0 < row["seconds_to_accuracy"] <= row["seconds"]


def test_summaries_may_count_from_one():
    """posteriordb's labels: beta[1] is the first entry, whatever the model calls it."""
    first = fit(zoo.GMM(components=2), GEYSER[["waiting"]], method="em", seed=0)
    means = first.points["means"].flatten().tolist()
    truth = pd.DataFrame({"parameter": ["means[1]", "means[2]"], "mean": [means[0], means[1] + 1], "sd": [1.0, 4.0]})
    result = compare(zoo.GMM(components=2), GEYSER[["waiting"]], methods=["em"], seed=0, reference=truth, relabel=False)
    assert result.table.loc["em", "error_mean"] == pytest.approx(0.25)
    assert result.table.loc["em", "worst"] == "means[1]"  # counted from 0, as in the fits' own labels


def test_what_is_no_reference():
    for given in (3, pd.DataFrame({"mean": [1.0]}), {"heads": [1.0, 2.0]}):
        with pytest.raises(zoo.DataError, match="reference"):
            compare(coin, FLIPS, methods=["exact"], seed=0, reference=given)
    other = compare(coin, FLIPS, methods=["exact"], seed=0, reference={"tails": np.arange(9.0)[None]})
    assert "tails" in other.table.loc["exact", "note"]


# -- methods that do not run -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_illegal_method_shows_its_reason():
    result = mixture()
    reason = Exact().why_not(result["em"].program)
    assert reason
    row = result.table.loc["exact"]
    assert reason in row["note"]
    assert row[["objective", "elpd_loo", "elpd_se", "khat", "seconds", "steps", "converged"]].isna().all()
    assert "exact" not in result.fits
    assert isinstance(result.errors["exact"], zoo.MethodError)
    assert "nothing to enumerate" in tosses().table.loc["em", "note"]


@pytest.mark.slow
def test_a_failing_method_shows_its_error():
    row = mixture().table.loc["broken"]
    assert "component 1 collapsed onto row 7" in row["note"]
    assert math.isnan(row["objective"])


@pytest.mark.parametrize("how", ["fit", "data", "runtime", "linear algebra", "memory"])
def test_the_others_still_run(how):
    result = compare(coin, FLIPS, methods={"first": Broken(how), "second": "exact"}, seed=0)
    assert result.table.loc["second", "objective"] == pytest.approx(-7.927324360309794, abs=1e-9)
    note = result.table.loc["first", "note"]
    assert note
    assert "\n" not in note
    if how not in ("fit", "data"):
        assert "singular at step 3" in note


def test_an_illegal_guide_shows_its_reason():
    result = compare(coin, FLIPS, methods={"encoder": SVI(guide=Encoder()), "exact": "exact"}, seed=0)
    assert "local latents" in result.table.loc["encoder", "note"]
    assert result.table.loc["exact", "kind"] == "log_evidence"


def test_asking_for_a_fit_that_is_not_there():
    with pytest.raises(zoo.ZooError, match="em did not run: em is not legal for coin"):
        tosses()["em"]
    with pytest.raises(zoo.ZooError, match="nonsense"):
        tosses()["nonsense"]


def test_nothing_ran():
    result = compare(coin, FLIPS, methods=["em"], seed=0)
    assert result.fits == {}
    assert "nothing to enumerate" in str(result)
    assert "nothing to enumerate" in result._repr_html_()
    with pytest.raises(zoo.FitError, match="no method ran"):
        result.plot()


# -- what may be given -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_duplicates_are_numbered():
    result = compare(coin, FLIPS, methods=["map", SVI(guide=Point(), steps=5), "map", SVI(steps=5), MAP], seed=0)
    assert list(result.table.index) == ["map", "svi", "map_2", "svi_2", "map_3"]
    assert result.table.index.is_unique
    assert result.table.loc["map", "objective"] == result.table.loc["map_2", "objective"]


def test_labels_of_a_dict_are_kept():
    result = compare(coin, FLIPS, methods={"closed form": "exact", "by gradient": MAP(steps=50), 3: Exact}, seed=0)
    assert list(result.table.index) == ["closed form", "by gradient", "3"]
    assert isinstance(result["closed form"], Fit)


@pytest.mark.parametrize("methods", [("exact",), ["Exact"], [Exact], [Exact()], {"x": Exact()}], ids=repr)
def test_names_classes_and_instances(methods):
    assert compare(coin, FLIPS, methods=methods, seed=0).table["kind"].tolist() == ["log_evidence"]


@pytest.mark.parametrize("methods", [[], {}, "em", None, 5, [5], ["nonsense"], [None], {"a": 3}, EM()], ids=repr)
def test_methods_that_are_none(methods):
    with pytest.raises(zoo.ZooError, match="method"):
        compare(coin, FLIPS, methods=methods, seed=0)


def test_what_is_wrong_for_every_method_is_an_error():
    with pytest.raises(zoo.DataError, match="flips"):
        compare(coin, [1, 2], methods=["exact", "svi"], seed=0)
    with pytest.raises(zoo.UnknownNameError, match="nonsense"):
        compare("nonsense", FLIPS, methods=["exact"], seed=0)


# -- views -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("made", [mixture, tosses])
def test_the_text_view_has_every_row_and_note(made):
    result = made()
    assert repr(result) == str(result)
    assert all(len(line) <= 80 for line in str(result).splitlines())
    text = " ".join(str(result).split())
    assert "nan" not in text.lower().replace("nonsense", "")
    for label, row in result.table.iterrows():
        assert label in text
        assert row["kind"] in text
        assert row["note"] in text
        if label in result.fits:
            assert f"{row['objective']:.4f}" in text
    for column in ("objective", "kind", "log_likelihood", "bic", "evidence", "elpd_loo", "seconds", "converged"):
        assert column in text


@pytest.mark.parametrize("made", [mixture, tosses])
def test_the_notebook_view_is_a_table(made):
    result = made()
    html = result._repr_html_()
    titles = [
        line for line in str(result).splitlines() if line.startswith(("objective:", "information", "log ev", "exp"))
    ]
    assert html.count("<h4>") == html.count("<table") == len(titles)
    for label in result.fits:
        assert f"<th>{label}</th>" in html
    for label in result.errors:
        assert f"<li>{label}: " in html


def test_notes_are_escaped_in_a_notebook():
    result = compare(coin, FLIPS, methods={"<b>bold</b>": "em", "<i>": "exact"}, seed=0)
    assert "<b>bold" not in result._repr_html_()
    assert "<i>" not in result._repr_html_()


@pytest.mark.slow
def test_the_plot_shows_every_fit(tmp_path):
    for result in (mixture(), tosses(), compare(NonCentred, SCHOOLS, methods=[MAP(steps=5), SVI(steps=5)], seed=0)):
        collection = result.plot()
        collection.savefig(tmp_path / "plot.png")
        mpl.pyplot.close("all")
        assert mpl.image.imread(tmp_path / "plot.png").std() > 0


# -- files -----------------------------------------------------------------------------------------------------


def picture(path) -> np.ndarray:
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    pixels = mpl.image.imread(path)
    assert min(pixels.shape[:2]) > 100
    assert len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 10
    return pixels


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return mixture().save(tmp_path_factory.mktemp("runs") / "faithful" / "again")


@pytest.mark.slow
def test_save_writes_the_table(folder):
    table = pd.read_csv(folder / "table.csv", index_col=0)
    assert list(table.columns) == COLUMNS
    assert list(table.index) == list(mixture().table.index)
    np.testing.assert_allclose(table["objective"], mixture().table["objective"].astype(float))
    assert table.loc["exact", "note"] == mixture().table.loc["exact", "note"]


@pytest.mark.slow
def test_save_writes_the_fits(folder):
    assert {p.parent.name for p in folder.glob("*/fit.json")} == {"em", "mean field", "point"}
    for label, found in mixture().fits.items():
        assert Fit.load(folder / label).log_prob().equals(found.log_prob())


@pytest.mark.slow
def test_save_writes_figures(folder):
    picture(folder / "traces.png")
    picture(folder / "mixtures.png")


@pytest.mark.slow
def test_figures_leave_matplotlib_as_it_was(folder):
    before = dict(mpl.rcParams)
    backend, figures = mpl.get_backend(), mpl.pyplot.get_fignums()
    tosses().save(folder.parent / "coin")
    assert (mpl.get_backend(), mpl.pyplot.get_fignums()) == (backend, figures)
    assert dict(mpl.rcParams) == before


@pytest.mark.slow
def test_no_mixtures_where_there_are_none(tmp_path):
    place = tosses().save(tmp_path / "coin")
    picture(place / "traces.png")
    assert not (place / "mixtures.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "data", "normal"),
    [
        (zoo.GMM(components=1), GEYSER, False),  # no mixture
        (zoo.GMM(components=3, covariance="spherical"), GEYSER.to_numpy(), True),
        (BernoulliMixture, PIXELS[:, :2], False),
        (zoo.GMM(components=2), GEYSER[["waiting"]], True),
    ],
    ids=["one component", "no names", "zeros and ones", "one column"],
)
def test_any_mixture_can_be_written(model, data, normal, tmp_path):
    place = compare(model, data, methods=["em"], seed=0).save(tmp_path)
    picture(place / "traces.png")
    assert (place / "mixtures.png").exists() == normal


@pytest.mark.slow
def test_labels_that_are_paths_stay_inside_the_folder(tmp_path):
    labels = ["a/b", "../out", "..", f"{tmp_path}/out", "", "table.csv", "svi: lr=0.1?"]
    place = compare(coin, FLIPS, methods=dict.fromkeys(labels, "exact"), seed=0).save(tmp_path / "runs")
    assert len(list(place.glob("*/fit.json"))) == len(labels)
    assert {p.name for p in tmp_path.iterdir()} == {"runs"}
    assert (place / "table.csv").is_file()


def test_nothing_that_ran_is_still_a_table(tmp_path):
    place = compare(coin, FLIPS, methods=["em"], seed=0).save(tmp_path)
    assert pd.read_csv(place / "table.csv", index_col=0).loc["em", "kind"] != "elbo"
    assert not list(place.glob("*.png"))


@pytest.mark.slow
def test_fits_of_a_mixture_have_the_labels_of_one():
    """Two restarts that end under different labels; the table does not change, the parameters can be compared."""
    model, x = zoo.BayesianGMM(components=3), zoo.datasets.load("faithful")
    methods = {"one": CAVI(start="random"), "two": CAVI(start="random", restarts=2), "em": EM()}
    matched = compare(model, x, methods=methods, seed=1, progress=False)
    as_they_are = compare(model, x, methods=methods, seed=1, progress=False, relabel=False)
    numbers = ["objective", "elpd_loo", "khat", "note"]
    pd.testing.assert_frame_equal(matched.table[numbers], as_they_are.table[numbers])
    assert "states of z have the labels of one in all fits" in str(matched)
    assert as_they_are.labels == ""
    weights = [
        matched["one"].posterior["posterior"]["weights"].mean(("chain", "draw")).to_numpy(),
        matched["two"].posterior["posterior"]["weights"].mean(("chain", "draw")).to_numpy(),
        matched["em"].posterior["point_estimate"]["weights"].to_numpy(),
    ]
    assert (np.diff(weights[0]) < 0).all()
    np.testing.assert_allclose(weights[1], weights[0], atol=0.05)
    np.testing.assert_allclose(weights[2], weights[0], atol=0.1)
