"""A fit under other labels: the same fit, with its states called otherwise."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

import zoo
from guides import MeanField
from inference import CAVI, EM, SVI, Fit, Laplace, compare, fit
from inference.approximations.sampled import Sampled
from tests.cases.models import FLIPS, coin
from tests.cases.spread import spread
from tests.inference.diagnostics.test_relabelling import judged_outcome, shuffled
from tests.zoo.program.test_exchangeable import mixture, one_share
from zoo import FitError

GEYSER = zoo.datasets.load("faithful").iloc[::4]
STEP = SVI(guide=MeanField(), steps=150)


@pytest.fixture(scope="module")
def fits() -> dict[str, Fit]:
    return Made()


class Made(dict):
    """Fits by the name of their method, made when they are asked for."""

    def __missing__(self, name: str) -> Fit:
        method = {"em": EM(), "cavi": CAVI(), "svi": STEP}[name]
        self[name] = fit(zoo.BayesianGMM(components=2), GEYSER, method=method, seed=0, progress=False)
        return self[name]


def flipped(made: Fit) -> Fit:
    """The fit with its two states the other way round, by way of a reference point."""
    level = "means"
    values = made.relabelled().posterior
    group = "point_estimate" if made.is_point else "posterior"
    means = values[group][level].to_numpy()
    means = means if made.is_point else means.mean((0, 1))
    return made.relabelled(reference={level: means[::-1]})


@pytest.mark.slow
@spread("name", ["em", "cavi", "svi"], part=2)
def test_everything_is_as_before_under_other_labels(fits, name, tmp_path):
    made = fits[name].relabelled()
    sizes = made.assign().to_numpy().sum(0)
    assert sizes[0] > sizes[1]
    other = flipped(fits[name])
    assert other.objective == made.objective
    np.testing.assert_allclose(other.assign().to_numpy(), made.assign().to_numpy()[:, ::-1], atol=1e-12)
    group = "point_estimate" if made.is_point else "posterior"
    for site in ("weights", "means", "precisions"):
        ours, theirs = (f.posterior[group][site].to_numpy() for f in (made, other))
        axis = {"weights": -1, "means": -2, "precisions": -3}[site]
        np.testing.assert_array_equal(theirs, np.flip(ours, axis))
    if not made.is_point:
        assert np.array_equal(made.draws.log_q, other.draws.log_q)
        np.testing.assert_allclose(made.log_p, other.log_p, rtol=1e-12)
        ours, theirs = (f.sample(5, seed=1)["means"].to_numpy() for f in (made, other))
        np.testing.assert_array_equal(theirs, ours[..., ::-1, :])
    np.testing.assert_allclose(made.log_prob(GEYSER[:9]), other.log_prob(GEYSER[:9]), rtol=1e-9)
    read = Fit.load(other.save(tmp_path / "other"))
    pd.testing.assert_frame_equal(read.assign(), other.assign())
    pd.testing.assert_frame_equal(read.summary(), other.summary())
    assert repr(read) == repr(other)
    pd.testing.assert_frame_equal(read.relabelled().summary(), made.summary())


@pytest.mark.slow
def test_labels_are_taken_from_a_fit_by_another_method(fits):
    reference = flipped(fits["em"])
    wanted = reference.posterior["point_estimate"]["means"].to_numpy()
    for name in ("cavi", "svi"):
        means = fits[name].relabelled(reference=reference).posterior["posterior"]["means"].to_numpy().mean((0, 1))
        np.testing.assert_allclose(means[:, 1], wanted[:, 1], atol=2)
    assert (
        fits["cavi"]
        .relabelled(reference=reference)
        .relabelled(reference)
        .summary()
        .equals(fits["cavi"].relabelled(reference=reference).summary())
    )


def test_labels_are_taken_from_a_point(fits):
    point = {n: v.numpy() for n, v in flipped(fits["em"]).approximation.values.items()}
    by_all = fits["em"].relabelled(reference=point)
    by_some = fits["em"].relabelled(reference={"means": point["means"], "weights": point["weights"]})
    for made in (by_all, by_some):
        np.testing.assert_array_equal(made.posterior["point_estimate"]["means"], point["means"])


@pytest.mark.slow
@pytest.mark.parametrize("method", [EM(), Laplace(), Laplace(corrected=False)], ids=["em", "laplace", "as it was"])
def test_a_share_and_the_rest_of_it_change_places(method, tmp_path):
    y = np.concatenate([np.linspace(-1, 1, 12), np.linspace(7, 9, 4)])
    made = fit(one_share(), {"y": y}, method=method, seed=0, progress=False)
    low, high = (made.relabelled(reference={"v": np.array(v)}) for v in (0.2, 0.8))
    by_level = made.relabelled(reference={"level": np.array([8.0, 0.0])})
    pd.testing.assert_frame_equal(low.summary(), by_level.summary())
    pd.testing.assert_frame_equal(high.summary(), made.relabelled().summary())
    group = "point_estimate" if made.is_point else "posterior"
    values, others = (f.posterior[group] for f in (low, high))
    assert float(values["v"].mean()) < 0.35
    np.testing.assert_allclose(values["v"], 1 - others["v"], atol=1e-12)
    np.testing.assert_array_equal(values["level"], others["level"][..., ::-1])
    np.testing.assert_allclose(values["rest"], 2 * (1 - values["v"]), atol=1e-12)
    np.testing.assert_allclose(values["square"], values["v"] ** 2, atol=1e-12)
    np.testing.assert_allclose(low.assign().to_numpy(), high.assign().to_numpy()[:, ::-1], atol=1e-12)
    np.testing.assert_allclose(low.log_prob({"y": y}), made.log_prob({"y": y}), rtol=1e-9)
    read = Fit.load(low.save(tmp_path / "low"), one_share)
    pd.testing.assert_frame_equal(read.summary(), low.summary())
    with pytest.raises(FitError, match="give one of level, v"):
        made.relabelled(reference={})


@pytest.mark.slow
def test_fits_by_several_methods_have_a_share_of_the_same_component():
    y = np.concatenate([np.linspace(-1, 1, 12), np.linspace(7, 9, 4)])
    reference = fit(one_share(), {"y": y}, method="em", seed=0, progress=False).relabelled(reference={"v": 0.2})
    found = compare(
        one_share(), {"y": y}, methods=["em", "laplace", "map"], reference=reference, seed=0, progress=False
    )
    for each in found.fits.values():
        group = "point_estimate" if each.is_point else "posterior"
        assert float(each.posterior[group]["v"].mean()) < 0.35


@pytest.mark.slow
def test_draws_of_chains_are_relabelled_one_by_one(tmp_path):
    """Also draws of the enumerated site, and what is derived from the globals."""
    program, draws, _ = shuffled(3, 2000, chains=4)
    outcome = judged_outcome(program, draws)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        z = torch.distributions.Categorical(draws["share"]).sample((len(program.data),)).T
    q = Sampled(draws, outcome.approximation.log_p, {"which": z}, outcome.approximation.stats, "none", 4)
    model = mixture(components=3)
    made = fit(model, {"y": program.data.values["y"].tolist()}, method="em", seed=0, progress=False)
    made = Fit(made.program, made.method, judged_outcome(program, draws), 0, 0.0)
    made.outcome.__dict__["approximation"] = q
    made = Fit(made.program, made.method, made.outcome, 0, 0.0)
    again = made.relabelled()
    before, after = made.summary(), again.summary()
    assert before.loc["level[0]", "r_hat"] > 2
    assert after["r_hat"].max() < 1.01
    posterior = again.posterior["posterior"]
    np.testing.assert_allclose(posterior["log_share"], np.log(posterior["share"]))
    level = np.take_along_axis(posterior["level"].to_numpy(), posterior["which"].to_numpy(), -1)
    old = made.posterior["posterior"]
    np.testing.assert_array_equal(level, np.take_along_axis(old["level"].to_numpy(), old["which"].to_numpy(), -1))
    np.testing.assert_array_equal(again.posterior["sample_stats"]["log_p"], made.posterior["sample_stats"]["log_p"])
    np.testing.assert_allclose(again.posterior["log_likelihood"]["y"], made.posterior["log_likelihood"]["y"], rtol=1e-9)


@pytest.mark.slow
def test_warnings_that_number_components_say_that_these_are_old_numbers():
    x = np.concatenate([np.linspace(0, 1, 6), np.linspace(50, 51, 60)])[:, None]
    made = fit(zoo.BayesianGMM(components=5), x, method=CAVI(), seed=0, progress=False)
    again = made.relabelled(
        reference={"weights": np.asarray(made.posterior["posterior"]["weights"]).mean((0, 1))[::-1]}
    )
    assert again.warnings[: len(made.warnings)] == made.warnings
    assert "the warnings above use their old numbers: state " in again.warnings[-1]


@pytest.mark.slow
def test_what_cannot_be_relabelled_says_why(fits):
    tosses = fit(coin(), {"flips": FLIPS}, method="exact", seed=0, progress=False)
    with pytest.raises(FitError, match="coin has no enumerated site"):
        tosses.relabelled()
    apart = fit(mixture(prior="centers"), {"y": [0.1, 0.2, 3.0, 3.1]}, method="em", seed=0, progress=False)
    with pytest.raises(FitError, match="the states of 'which' are not exchangeable, so their labels mean something"):
        apart.relabelled()
    three = fit(zoo.BayesianGMM(components=3), GEYSER, method="em", seed=0, progress=False)
    with pytest.raises(FitError, match="fit of BayesianGMM with exchangeable states"):
        fits["em"].relabelled(reference=three)
    few = fit(zoo.BayesianGMM(components=2), GEYSER[:40], method="em", seed=0, progress=False)
    with pytest.raises(FitError, match="fitted to 40 rows and this fit to 68"):
        fits["em"].relabelled(reference=few)
    with pytest.raises(FitError, match="'mean', which is no latent or parameter; there are weights, precisions, means"):
        fits["em"].relabelled(reference={"mean": [0.0]})
    with pytest.raises(FitError, match=r"'means' has shape \(2,\), where \(2, 2\) is expected"):
        fits["em"].relabelled(reference={"means": [0.0, 1.0]})
