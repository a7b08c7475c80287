"""Pictures show what was fitted: asserted on what matplotlib is told to draw."""

from __future__ import annotations

from functools import cache

import matplotlib as mpl
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr

import zoo
from inference import fit
from inference.diagnostics.arviz import forest_plot
from inference.posterior.pictures import mixture
from inference.report import forest, pictures
from inference.reporting.components import components, mixed_site
from inference.reporting.figures import mixtures, traces

GEYSER = zoo.datasets.load("faithful")
GAPS = GEYSER.mask(np.column_stack([np.zeros(272, bool), np.arange(272) < 71]))


@cache
def fitted(kind: str):
    if kind == "gaps":
        return fit(zoo.GMM(components=2), GAPS, method="em", seed=0)
    if kind == "bayes":
        return fit(zoo.BayesianGMM(components=2), GEYSER, method="cavi", seed=0)
    if kind == "line":
        return fit(zoo.GMM(components=2), GEYSER[["waiting"]], method="em", seed=0)
    return fit(zoo.GMM(components=2, covariance=kind), GEYSER, method="em", seed=0)


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
def test_components_are_those_fitted(kind):
    found = fitted(kind)
    point = found.posterior["point_estimate"]
    means, matrices = point["means"].to_numpy(), point["covariances"].to_numpy()
    whole = {
        "full": lambda: matrices,
        "tied": lambda: np.stack([matrices, matrices]),
        "diag": lambda: np.stack([np.diag(v) for v in matrices]),
        "spherical": lambda: matrices[:, None, None] * np.eye(2),
    }[kind]()
    drawn = components(found.program, found.points, {}, 1)
    np.testing.assert_allclose(drawn.means[0], means, rtol=1e-12)
    np.testing.assert_allclose(drawn.covariances[0], whole, rtol=1e-9)


def test_components_of_draws_are_those_of_each_draw():
    found = fitted("bayes")
    draws = found.globals(7)
    drawn = components(found.program, found.points, draws, 7)
    np.testing.assert_allclose(drawn.means, draws["means"], rtol=1e-12)
    np.testing.assert_allclose(drawn.covariances, torch.linalg.inv(draws["precisions"]), rtol=1e-6)


class Levels(zoo.Model):
    """A mixture of Normals by its structure, whatever its names."""

    y = zoo.Real("row")

    def forward(self, y):
        level = pyro.param("level", torch.tensor([50.0, 80.0]))
        with pyro.plate("row", len(y)):
            kind = pyro.sample("kind", dist.Categorical(torch.tensor([0.5, 0.5])))
            pyro.sample("seen", dist.Normal(level[kind], 2.0), obs=y)


def test_a_mixture_is_known_by_its_structure():
    found = fit(Levels, GEYSER["waiting"].to_numpy(), method="em", seed=0)
    shown, rows = mixture(found)
    assert (shown.field, shown.state, rows.columns) == ("y", "kind", ["y"])
    np.testing.assert_allclose(shown.means[0, :, 0], found.points["level"], rtol=1e-12)
    np.testing.assert_allclose(shown.covariances, 4.0, rtol=1e-12)


@pytest.mark.parametrize(
    ("model", "data"),
    [
        ("PoissonMixture", np.array([0, 1, 9, 8])),
        ("NormalNormal", np.array([0.0, 1.0, 2.0])),
        ("MixtureOfRegressions", zoo.datasets.load("faithful").rename(columns={"eruptions": "y"})),
    ],
)
def test_what_is_no_mixture_of_normals_has_no_components(model, data):
    assert mixed_site(zoo.program.prepare.prepare(model, data)) is None


def test_missing_cells_are_no_points():
    figure = mixtures({"em": mixture(fitted("gaps"))})
    axis = figure.axes[0]
    points = np.concatenate([c.get_offsets() for c in axis.collections if hasattr(c, "get_sizes")])
    there = GAPS.dropna().to_numpy()
    np.testing.assert_array_equal(points[np.lexsort(points.T)], there[np.lexsort(there.T)])
    assert "71 rows with a missing cell" in axis.get_title()


def test_contours_are_those_of_the_fitted_components():
    found = fitted("full")
    axis = mixtures({"em": mixture(found)}).axes[0]
    lines = [c for c in axis.collections if not hasattr(c, "get_sizes")]
    point = found.posterior["point_estimate"]
    for k, line in enumerate(lines):
        for contour, mass in zip(line.get_segments(), (0.5, 0.9), strict=True):
            gap = contour - point["means"].to_numpy()[k]
            distance = np.einsum("pi,ij,pj->p", gap, np.linalg.inv(point["covariances"].to_numpy()[k]), gap)
            # P(chi-squared with 2 degrees of freedom < d) = 1 - exp(-d / 2)
            np.testing.assert_allclose(1 - np.exp(-distance / 2), mass, rtol=1e-9)
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("eruptions", "waiting")
    assert "50 % and 90 % of a component" in [t.get_text() for t in axis.get_legend().get_texts()]


def test_draws_have_contours_each():
    axis = mixtures({"cavi": mixture(fitted("bayes"))}).axes[0]
    lines = [c for c in axis.collections if not hasattr(c, "get_sizes")]
    assert [len(line.get_segments()) for line in lines] == [80, 80]


def test_densities_of_one_column_have_the_mass_of_their_rows():
    found = fitted("line")
    axis = mixtures({"em": mixture(found)}).axes[0]
    for k, line in enumerate(axis.lines):
        x, density = line.get_data()
        inside = found.program.replay(found.points, densities=False).distributions["x"]
        mean, sd = float(inside.mean[k].flatten()[0]), float(inside.variance[k].flatten()[0]) ** 0.5
        normal = torch.distributions.Normal(mean, sd)
        within = float(normal.cdf(torch.tensor(x[-1])) - normal.cdf(torch.tensor(x[0])))
        assert np.trapezoid(density, x) == pytest.approx(within * found.assign().mean()[k], rel=1e-3)


def test_axes_of_traces_are_read_without_offsets():
    trace = pd.DataFrame({"step": range(40), "seconds": 0.0, "value": -1e5 - 0.5 ** np.arange(40.0)})
    figure = traces({"em": (trace, "log_likelihood"), "svi": (trace, "elbo")})
    pictured = [(a.get_title(), a.get_xlabel(), a.get_ylabel()) for a in figure.axes]
    assert pictured == [("em", "step", "log likelihood (nats)"), ("svi", "step", "elbo (nats)")]
    figure.canvas.draw()
    for axis in figure.axes:
        assert axis.yaxis.get_offset_text().get_text() == ""
        shown = [float(t.get_text().replace("\N{MINUS SIGN}", "-")) for t in axis.get_yticklabels()]
        np.testing.assert_allclose(shown, -1e5, rtol=1e-5)


def test_many_fits_have_a_panel_each():
    trace = pd.DataFrame({"step": [1], "seconds": [0.0], "value": [-3.0]})
    figure = traces({str(i): (trace, "elbo") for i in range(6)})
    assert [a.get_title() for a in figure.axes] == list("012345")


def test_the_forest_shows_fits_of_any_number_of_chains_and_draws():
    rng = np.random.default_rng(0)
    sizes = {"nuts": (4, 50), "cavi": (1, 1000), "short": (2, 3)}
    data = {n: xr.Dataset({"m": (("chain", "draw"), rng.normal(size=s))}) for n, s in sizes.items()}
    data["em"] = xr.Dataset({"m": (("chain", "draw"), np.full((1, 2), 0.25))})
    plot = forest_plot(data)
    try:
        shown = plot.viz["point_estimate"]["m"]
        for name, own in data.items():
            at = float(np.ravel(shown.sel(model=name).item().get_offsets())[0])
            draws = own["m"].to_numpy().ravel()
            assert at == pytest.approx(draws.mean(), abs=0.02 * draws.std() + 1e-12)
        figure = plot.viz["figure"].item()
        texts = [t.get_text() for legend in figure.legends for t in legend.get_texts()]
        assert texts == list(data)
    finally:
        mpl.pyplot.close("all")


def test_pictures_of_a_fit_without_parameters():
    found = fit("BetaBernoulli", [1, 0, 1, 1], method="exact", seed=0)
    assert list(pictures({"exact": found})) == ["traces.png"]
    with pytest.raises(zoo.FitError, match="no method ran"):
        forest({})
