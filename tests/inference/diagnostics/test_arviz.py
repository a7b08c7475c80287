"""ArviZ takes every result: groups, names, labels and numbers are right, on either generation of ArviZ."""

from __future__ import annotations

import math
import warnings
from functools import cache

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import stats

import zoo
from inference import MAP, NUTS, SVI, Fit, Laplace, az, fit
from inference.approximations.pareto import khat
from tests.cases.columns import CASES, normal
from tests.cases.models import FLIPS, SCHOOLS, BernoulliMixture, EightSchools, NonCentred, PoissonMixture, coin
from tests.cases.spread import spread

mpl.use("Agg")

NAMES = ["A", "B", "C", "D", "E", "F", "G", "H"]
SCHOOL_TABLE = pd.DataFrame(SCHOOLS, index=pd.Index(NAMES, name="who"))
GEYSER = zoo.datasets.load("faithful").iloc[:120]
PROFILES = np.random.default_rng(3).integers(0, 2, (40, 3))
BRIEF = SVI(steps=30)

SAMPLED = {
    "coin-exact": (coin, FLIPS, "exact"),
    "coin-svi": (coin, FLIPS, BRIEF),
    "schools-svi": (EightSchools, SCHOOL_TABLE, BRIEF),
    "schools-deterministic-svi": (NonCentred, SCHOOL_TABLE, BRIEF),
    "mixture-svi": (zoo.BayesianGMM(components=2), GEYSER, BRIEF),
    "mixture-diag-svi": (zoo.BayesianGMM(components=2, covariance="diag"), GEYSER, BRIEF),
}
POINTS = {
    "mixture-em": (zoo.GMM(components=2), GEYSER, "em"),
    "mixture-with-priors-em": (zoo.BayesianGMM(components=2), GEYSER, "em"),
    "counts-em": (PoissonMixture, np.random.default_rng(0).poisson(4, 50), "em"),
    "profiles-em": (BernoulliMixture, PROFILES, "em"),
    "coin-map": (coin, FLIPS, MAP(steps=60)),
    "schools-map": (NonCentred, SCHOOL_TABLE, MAP(steps=60)),
    "mixture-map": (zoo.BayesianGMM(components=2), GEYSER, MAP(steps=60)),
}


@cache
def fitted(name: str) -> Fit:
    model, data, method = {**SAMPLED, **POINTS}[name]
    return fit(model, data, method=method, seed=0, progress=False)


def draws(name: str, group: str = "posterior") -> xr.Dataset:
    """One chain's draws, the chain dimension dropped."""
    return fitted(name).posterior[group].to_dataset().isel(chain=0)


sampled = pytest.mark.parametrize("name", SAMPLED)
pointed = pytest.mark.parametrize("name", POINTS)


def drawn_something(figure, path) -> bool:
    """Whether a figure, saved, is more than blank paper."""
    figure.savefig(path)
    mpl.pyplot.close("all")
    return float(mpl.image.imread(path).std()) > 0


# -- ArviZ's own functions -------------------------------------------------------------------------------------


@pytest.mark.slow
@sampled
def test_summary_takes_it(name):
    table = az.summary(fitted(name).posterior)
    entries = sum(v.isel(chain=0, draw=0).size for v in fitted(name).posterior["posterior"].data_vars.values())
    assert len(table) == entries
    assert np.isfinite(table[["mean", "sd"]].astype(float)).all(axis=None)


@pytest.mark.slow
@sampled
def test_loo_takes_it(name):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Estimated shape parameter of Pareto", UserWarning)
        found = az.loo(fitted(name).posterior, pointwise=True)
    rows = len(fitted(name).program.data)
    assert np.asarray(found.pareto_k).shape == (rows,)
    pointwise = draws(name, "log_likelihood").to_dataarray().to_numpy().reshape(-1, rows)
    in_sample = (np.logaddexp.reduce(pointwise, 0) - math.log(len(pointwise))).sum()
    assert found.elpd < in_sample  # leaving a row out cannot raise its density on average
    assert np.isfinite(found.se)


@pytest.mark.slow
@sampled
def test_plots_take_it(name, tmp_path):
    variables = [n for n in ("heads", "mu", "tau", "theta", "weights") if n in draws(name)]
    tree = fitted(name).posterior
    assert drawn_something(az.plot_trace_dist(tree, var_names=variables, backend="matplotlib"), tmp_path / "trace.png")
    assert drawn_something(az.plot_forest(tree, var_names=variables, backend="matplotlib"), tmp_path / "forest.png")


@cache
def chains(name: str) -> xr.DataTree:
    """A tree of several chains: of two observed sites with gaps, of counts and categories, of a mixture."""
    model, data = {**CASES, "mixture": (zoo.BayesianGMM(components=2), GEYSER.iloc[:40])}[name]
    sampler = NUTS(chains=2, warmup=80, draws=100, compile=False)
    return fit(model, data, method=sampler, seed=0, progress=False).posterior


@pytest.mark.slow
def test_rank_plots_take_dimensions_that_nobody_labelled():
    """`component` has no labels of its own, and ArviZ asks for some."""
    tree = chains("trees")
    assert tree["posterior"].coords["share_dim_0"].to_numpy().tolist() == ["ash", "beech", "oak"]
    for name in ("posterior", "prior", "log_prior", "posterior_predictive"):
        assert set(tree[name].dims) <= set(tree[name].coords)
    az.plot_rank(tree, var_names=["share"], backend="matplotlib")
    mpl.pyplot.close("all")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gaps", "trees", "mixture"])
def test_standard_plots_take_chains(name, tmp_path):
    tree = chains(name)
    variable = {"gaps": "s", "trees": "height", "mixture": "weights"}[name]
    site = {"gaps": "x", "trees": "n", "mixture": "x"}[name]
    some = {"var_names": [variable], "backend": "matplotlib"}
    seen = {"var_names": [site], "backend": "matplotlib"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few draws, which is not what this is about
        loo = az.loo(tree, var_name=site, pointwise=True)
        assert np.isfinite(np.asarray(loo.elpd_i)).all()
        if name != "mixture":  # ArviZ's table has a column that is called `component`, too
            assert np.isfinite(az.psense_summary(tree)[["prior", "likelihood"]]).all(axis=None)
        assert np.isfinite(az.psense(tree, var_names=[variable])[variable]).all()
        assert len(az.compare({"a": tree, "b": tree}, var_name=site)) == 2
        figures = {
            "rank": az.plot_rank(tree, **some),
            "forest": az.plot_forest(tree, **some),
            "trace": az.plot_trace_dist(tree, **some),
            "energy": az.plot_energy(tree, backend="matplotlib"),
            "khat": az.plot_khat(loo, backend="matplotlib"),
            "prior": az.plot_prior_posterior(tree, **some),
            "psense": az.plot_psense_dist(tree, **some),
            "ppc": az.plot_ppc_dist(tree, **seen),
        }
        if name == "gaps":
            figures["pair"] = az.plot_pair(tree, var_names=["m", "s"], backend="matplotlib")
            figures["bf"] = az.plot_bf(tree, var_names=["m"], ref_val=0.0, backend="matplotlib")
        if name != "mixture":
            figures["pit"] = az.plot_ppc_pit(tree, **seen)
            # of all sites where they differ in dimensions: arviz-plots 0.8 cannot pick one then
            figures["loo_pit"] = az.plot_loo_pit(
                tree, backend="matplotlib", var_names=None if name == "gaps" else [site]
            )
            assert az.loo_pit(tree, var_names=[site])[site].shape == tree["observed_data"][site].shape
    for what, figure in figures.items():
        assert drawn_something(figure, tmp_path / f"{what}.png"), what


@pytest.mark.slow
def test_loo_pit_of_a_right_model_is_uniform():
    """Predictions and pointwise likelihoods belong to the same rows: leave-one-out ranks of 150 rows are uniform."""
    y = np.random.default_rng(2).normal(3, 2, 150)
    tree = fit(normal, y, method=Laplace(), seed=0, progress=False).posterior
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        ranks = np.asarray(az.loo_pit(tree)["y"])
    assert stats.kstest(ranks, "uniform").pvalue > 0.01


@pytest.mark.slow
def test_compare_takes_several():
    names = ["schools-svi", "schools-deterministic-svi"]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Estimated shape parameter of Pareto", UserWarning)
        table = az.compare({n: fitted(n).posterior for n in names})
    assert set(table.index) == set(names)
    assert table["weight"].sum() == pytest.approx(1)


@pytest.mark.slow
def test_forest_takes_several(tmp_path):
    trees = {n: fitted(n).posterior for n in ("coin-exact", "coin-svi")}
    assert drawn_something(az.plot_forest(trees, backend="matplotlib"), tmp_path / "forest.png")


# -- groups ----------------------------------------------------------------------------------------------------


@sampled
def test_groups_of_draws(name):
    tree = fitted(name).posterior
    assert isinstance(tree, xr.DataTree)
    assert {"posterior", "sample_stats", "log_likelihood", "observed_data"} <= set(tree.children)
    assert "point_estimate" not in tree.children
    for group in ("posterior", "sample_stats", "log_likelihood"):
        assert tree[group].sizes["chain"] == 1
        assert tree[group].sizes["draw"] == tree["posterior"].sizes["draw"] >= 200
        for variable in tree[group].data_vars.values():
            assert variable.dims[:2] == ("chain", "draw")
            assert bool(np.isfinite(variable).all())


@sampled
def test_summary_claims_nothing_of_chains(name):
    table = fitted(name).summary()
    assert {"mean", "sd"} <= set(table.columns)
    assert "r_hat" not in table.columns


@pytest.mark.slow
@pointed
def test_a_point_is_no_posterior(name):
    tree = fitted(name).posterior
    assert "point_estimate" in tree.children
    assert not {"posterior", "sample_stats", "log_likelihood"} & set(tree.children)
    for variable in tree["point_estimate"].data_vars.values():
        assert not {"chain", "draw"} & set(variable.dims)
        assert bool(np.isfinite(variable).all())
    table = fitted(name).summary()
    assert list(table.columns) == (["value"] if table.attrs["note"] else ["value", "se"])
    assert len(table) == sum(v.size for v in tree["point_estimate"].data_vars.values())
    assert math.isnan(fitted(name).khat)


@spread("name", [*SAMPLED, *POINTS], part=0, of=2)
def test_the_tree_says_where_it_comes_from(name):
    found, attrs = fitted(name), fitted(name).posterior.attrs
    assert attrs["seed"] == 0
    assert attrs["objective"] == found.objective.value
    assert attrs["objective_kind"] == found.objective.kind
    assert attrs["model"] == repr(found.model)
    assert attrs["method"] == repr(found.method)


# -- names and labels ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "variable", "dims"),
    [
        ("coin-exact", "heads", ()),
        ("schools-svi", "mu", ()),
        ("schools-svi", "theta", ("school",)),
        ("schools-deterministic-svi", "standard", ("school",)),
        ("schools-deterministic-svi", "theta", ("school",)),
        ("mixture-svi", "weights", ("component",)),
        ("mixture-svi", "means", ("component", "feature")),
        ("mixture-svi", "precisions", ("component", "feature", "feature_2")),
        ("mixture-diag-svi", "precisions", ("component", "feature")),
        ("mixture-em", "weights", ("component",)),
        ("mixture-em", "means", ("component", "feature")),
        ("mixture-em", "covariances", ("component", "feature", "feature_2")),
        ("mixture-with-priors-em", "precisions", ("component", "feature", "feature_2")),
        ("schools-map", "theta", ("school",)),
    ],
)
def test_dimensions_have_names(name, variable, dims):
    found = fitted(name)
    group = "point_estimate" if found.is_point else "posterior"
    lead = () if found.is_point else ("chain", "draw")
    lead = () if found.is_point else ("chain", "draw")
    assert found.posterior[group][variable].dims == (*lead, *dims)


def test_an_event_dimension_without_a_name_gets_one_of_its_own():
    dims = fitted("profiles-em").posterior["point_estimate"]["p"].dims
    assert dims[0] == "component"
    assert len(set(dims)) == 2


@pytest.mark.parametrize("name", ["schools-svi", "schools-deterministic-svi"])
def test_index_labels_become_coordinates(name):
    tree = fitted(name).posterior
    for group in ("posterior", "log_likelihood", "observed_data", "constant_data"):
        assert tree[group].coords["school"].to_numpy().tolist() == NAMES
    assert "theta[C]" in fitted(name).summary().index


@pytest.mark.parametrize("name", ["mixture-svi", "mixture-em", "mixture-map"])
def test_column_labels_become_coordinates(name):
    found = fitted(name)
    group = found.posterior["point_estimate" if found.is_point else "posterior"]
    assert group.coords["feature"].to_numpy().tolist() == ["eruptions", "waiting"]
    observed = found.posterior["observed_data"]["x"]
    assert observed.dims == ("row", "feature")
    assert observed.coords["row"].to_numpy().tolist() == list(GEYSER.index)
    assert "means[1, waiting]" in found.summary().index


@pytest.mark.parametrize(
    "index",
    [
        pd.Index(["b", "a", "c", "d"]),
        pd.Index([10, 3, 7, -1]),
        pd.date_range("2020-01-01", periods=4),
        pd.MultiIndex.from_product([["a", "b"], [1, 2]]),
        pd.Index([0.5, 1.5, 2.5, 3.5]),
        pd.CategoricalIndex(["x", "y", "z", "w"]),
        pd.Index([1, "one", None, 2.5], dtype=object),
    ],
    ids=["text", "numbers", "dates", "several levels", "fractions", "categories", "mixed"],
)
def test_any_index_survives_to_netcdf(index, tmp_path):
    found = fit(coin, pd.DataFrame({"flips": [1, 0, 1, 1]}, index=index), method="exact", seed=0)
    path = tmp_path / "fit.nc"
    found.posterior.to_netcdf(path, engine="h5netcdf")
    with xr.open_datatree(path, engine="h5netcdf") as back:
        assert back["observed_data"].sizes["toss"] == 4
        assert len(set(back["observed_data"].coords["toss"].to_numpy().tolist())) == 4
    assert found.log_prob().index.equals(index)


# -- numbers ---------------------------------------------------------------------------------------------------


def mixture_density(x: np.ndarray, weights: np.ndarray, means: np.ndarray, covariances: np.ndarray) -> np.ndarray:
    parts = [
        np.log(w) + stats.multivariate_normal(m, c).logpdf(x)
        for w, m, c in zip(weights, means, covariances, strict=True)
    ]
    return np.logaddexp.reduce(parts, 0)


@pytest.mark.parametrize("name", ["mixture-svi", "mixture-diag-svi"])
@pytest.mark.parametrize("at", [0, 17, -1])
def test_pointwise_likelihood_of_a_mixture_is_the_sum_over_its_states(name, at):
    found = draws(name).isel(draw=at)
    precisions = found["precisions"].to_numpy()
    covariances = np.linalg.inv(precisions) if precisions.ndim == 3 else np.stack([np.diag(1 / p) for p in precisions])
    expected = mixture_density(GEYSER.to_numpy(), found["weights"].to_numpy(), found["means"].to_numpy(), covariances)
    got = draws(name, "log_likelihood")["x"].isel(draw=at).to_numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-9)


@pytest.mark.parametrize("name", ["coin-exact", "coin-svi"])
def test_pointwise_likelihood_of_a_coin(name):
    heads = draws(name)["heads"].to_numpy()[:, None]
    expected = np.where(np.asarray(FLIPS) == 1, np.log(heads), np.log1p(-heads))
    np.testing.assert_allclose(draws(name, "log_likelihood")["flips"].to_numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["schools-svi", "schools-deterministic-svi"])
def test_pointwise_likelihood_has_local_latents_integrated_out(name):
    """p(effect | mu, tau) = Normal(mu, tau^2 + error^2); an importance-sampled density is right on average."""
    found = draws(name)
    mu, tau = found["mu"].to_numpy()[:, None], found["tau"].to_numpy()[:, None]
    exact = stats.norm(mu, np.hypot(tau, SCHOOLS["error"])).logpdf(SCHOOLS["effect"])
    ratio = np.exp(draws(name, "log_likelihood")["effect"].to_numpy() - exact)
    error = ratio.std(0, ddof=1) / math.sqrt(len(ratio))
    assert (np.abs(ratio.mean(0) - 1) < 5 * error).all()
    assert (error < 0.05).all()  # else the line above could not fail


def log_coin(heads: np.ndarray) -> np.ndarray:
    return stats.bernoulli(heads[:, None]).logpmf(FLIPS).sum(1)


@pytest.mark.parametrize("name", ["coin-exact", "coin-svi"])
def test_log_p_is_the_joint_density(name):
    heads = draws(name)["heads"].to_numpy()
    np.testing.assert_allclose(draws(name, "sample_stats")["log_p"].to_numpy(), log_coin(heads), rtol=1e-10)


@pytest.mark.parametrize("name", ["schools-svi", "schools-deterministic-svi"])
def test_log_p_of_a_hierarchy_counts_every_latent(name):
    found = {n: v.to_numpy() for n, v in draws(name).items()}
    expected = stats.norm(0, 5).logpdf(found["mu"]) + stats.halfcauchy(scale=5).logpdf(found["tau"])
    if "standard" in found:
        expected += stats.norm.logpdf(found["standard"]).sum(1)
    else:
        expected += stats.norm(found["mu"][:, None], found["tau"][:, None]).logpdf(found["theta"]).sum(1)
    expected += stats.norm(found["theta"], SCHOOLS["error"]).logpdf(SCHOOLS["effect"]).sum(1)
    np.testing.assert_allclose(draws(name, "sample_stats")["log_p"].to_numpy(), expected, rtol=1e-10)


def test_log_q_of_an_exact_posterior_is_its_density():
    heads = draws("coin-exact")["heads"].to_numpy()
    log_q = draws("coin-exact", "sample_stats")["log_q"].to_numpy()
    np.testing.assert_allclose(log_q, stats.beta(6, 6).logpdf(heads), rtol=1e-10, atol=1e-10)


def test_log_q_of_a_mean_field_is_a_normalized_normal_on_the_log_odds():
    """log q + log |d heads / du| is -(u - m)^2 / (2 s^2) - log(s sqrt(2 pi)): a parabola with the right height."""
    heads = draws("coin-svi")["heads"].to_numpy()
    u = np.log(heads) - np.log1p(-heads)
    flat = draws("coin-svi", "sample_stats")["log_q"].to_numpy() + np.log(heads) + np.log1p(-heads)
    a, b, c = np.polyfit(u, flat, 2)
    scale = math.sqrt(-1 / (2 * a))
    loc = b * scale**2
    np.testing.assert_allclose(np.polyval((a, b, c), u), flat, atol=1e-8)
    assert c == pytest.approx(-(loc**2) / (2 * scale**2) - math.log(scale * math.sqrt(2 * math.pi)), abs=1e-8)


@pytest.mark.parametrize("name", [n for n in SAMPLED if n.endswith("svi")])
def test_the_elbo_is_the_mean_of_log_p_minus_log_q(name):
    found = draws(name, "sample_stats")
    ratio = (found["log_p"] - found["log_q"]).to_numpy()
    objective = fitted(name).objective
    # Draws that were taken by their weights are back at q when each counts for one over its weight.
    back = 1 / found["weight"].to_numpy() if "weight" in found else np.ones(len(ratio))
    mean = (back * ratio).sum() / back.sum()
    error = math.hypot(np.sqrt(np.square(back * (ratio - mean)).sum()) / back.sum(), objective.error)
    assert abs(mean - objective.value) < 5 * error


@pytest.mark.parametrize("name", ["schools-svi", "schools-deterministic-svi", "schools-map"])
def test_data_groups_hold_the_data(name):
    tree = fitted(name).posterior
    assert list(tree["observed_data"].data_vars) == ["effect"]
    assert list(tree["constant_data"].data_vars) == ["error"]
    assert tree["observed_data"]["effect"].to_numpy().tolist() == SCHOOLS["effect"]
    assert tree["constant_data"]["error"].to_numpy().tolist() == SCHOOLS["error"]
    assert tree["observed_data"]["effect"].dims == ("school",)


def test_no_covariates_no_constant_data():
    assert "constant_data" not in fitted("coin-exact").posterior.children


def test_deterministic_sites_follow_the_draws():
    found = draws("schools-deterministic-svi")
    expected = found["mu"] + found["tau"] * found["standard"]
    np.testing.assert_allclose(found["theta"].to_numpy(), expected.transpose("draw", "school").to_numpy(), rtol=1e-12)
    point = fitted("schools-map").posterior["point_estimate"]
    np.testing.assert_allclose(point["theta"], point["mu"] + point["tau"] * point["standard"], rtol=1e-12)


# -- files -----------------------------------------------------------------------------------------------------


@spread("name", [*SAMPLED, *POINTS], part=1, of=3)
def test_netcdf_round_trip(name, tmp_path):
    tree, path = fitted(name).posterior, tmp_path / "fit.nc"
    tree.to_netcdf(path, engine="h5netcdf")
    with xr.open_datatree(path, engine="h5netcdf") as back:
        assert set(back.children) == set(tree.children)
        for group in tree.children:
            xr.testing.assert_equal(tree[group].to_dataset(), back[group].to_dataset())
        assert back.attrs["objective"] == tree.attrs["objective"]


def test_read_back_it_is_as_good(tmp_path):
    path = tmp_path / "fit.nc"
    fitted("coin-exact").posterior.to_netcdf(path, engine="h5netcdf")
    with xr.open_datatree(path, engine="h5netcdf") as back:
        back.load()
        assert az.loo(back).elpd == az.loo(fitted("coin-exact").posterior).elpd
        pd.testing.assert_frame_equal(
            pd.DataFrame(az.summary(back)), pd.DataFrame(az.summary(fitted("coin-exact").posterior))
        )


# -- Pareto shapes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [0.2, 0.5, 1.0])
def test_khat_is_the_shape_of_the_largest_ratios(shape):
    """U^-k has a Pareto tail of shape k on the right and ends at 1 on the left."""
    log_ratio = -shape * np.log(np.random.default_rng(0).random(10_000))
    tail = 3 * np.sqrt(10_000)
    assert abs(khat(log_ratio) - shape) < 4 * (1 + shape) / np.sqrt(tail)
    assert khat(-log_ratio) < 0  # bounded ratios
