"""Codes, decoded means and the bound in parts, against linear Gaussian models where all of them are known exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from torch import Tensor, nn

import inference.posterior.answer as answer_module
import zoo
from guides import Encoder
from inference import EM, SVI, Fit, fit
from inference.diagnostics.arviz import read_tree
from tests.cases.linear_vae import LATENT, NOISE, ROWS, Exact, LinearVAE, data, kept, log_evidence, posterior, weights
from zoo import Category, Real
from zoo.errors import DataError, FitError, UnknownNameError


@pytest.fixture(scope="module")
def exact() -> Fit:
    """A fit whose model and guide are the exact ones."""
    frame = pd.DataFrame(data(), index=[f"r{i}" for i in range(ROWS)], columns=list("abcd"))
    return kept(Exact, frame)


@pytest.fixture(scope="module")
def trained() -> Fit:
    """A trained encoder, which is diagonal and so not exact."""
    method = SVI(guide=Encoder(hidden=(8,)), steps=200, compile=False)
    return fit(LinearVAE(), data(), method=method, seed=0, dtype=torch.float64, progress=False)


@pytest.mark.slow
def test_the_model_of_a_fit_has_its_trained_weights(trained: Fit) -> None:
    z = torch.zeros(1, LATENT, dtype=torch.float64)
    expected = trained.points["decoder.bias"]
    assert torch.equal(trained.model.decoder(z)[0], expected)
    assert not torch.equal(trained.program.model.decoder(z)[0], expected)
    assert not trained.model.training


def test_moments_of_codes_are_those_of_q(exact: Fit) -> None:
    new = data(7, seed=3)
    mean, covariance = posterior(new)
    frame = pd.DataFrame(new, index=list("tuvwxyz"), columns=list("abcd"))
    codes = exact.encode(frame)
    assert codes["z"].dims == ("row", "latent")
    assert codes["row"].to_numpy().tolist() == list("tuvwxyz")
    error = np.sqrt(covariance.diagonal() / 2000)  # moments of a Normal that is not diagonal are those of draws
    assert np.all(np.abs(codes["z"] - mean) < 5 * error)
    assert np.all(np.abs(codes["z_sd"] / np.sqrt(covariance.diagonal()) - 1) < 5 / np.sqrt(2 * 2000))
    draws = exact.encode(new, draws=500)["z"]
    assert draws.dims == ("draw", "row", "latent")
    assert np.all(np.abs(draws.mean("draw").to_numpy() - mean) < 5 * np.sqrt(covariance.diagonal() / 500))


@pytest.mark.slow
def test_moments_of_a_normal_encoder_are_exact(trained: Fit) -> None:
    codes, draws = trained.encode(), trained.encode(draws=4000)["z"]
    sd = codes["z_sd"].to_numpy()
    assert np.all(np.abs(draws.mean("draw") - codes["z"]) < 5 * sd / np.sqrt(4000))
    assert np.all(np.abs(draws.std("draw") / sd - 1) < 5 / np.sqrt(2 * 4000))
    xr.testing.assert_identical(codes, trained.encode())


def test_codes_of_a_factor_model_by_em_are_its_posterior() -> None:
    found = fit(zoo.PPCA(factors=2), data(), method=EM(), seed=0, progress=False)
    table = found.assign()
    codes = found.encode()
    name = next(iter(codes.data_vars))
    assert np.allclose(codes[name], table.xs("mean", axis=1, level=1))


def test_decoded_means_are_those_of_the_network(exact: Fit) -> None:
    w, b = weights()
    z = np.random.default_rng(0).normal(size=(5, LATENT))
    found = exact.decode(z)["x"]
    assert found.dims == ("row", "feature")
    assert found["feature"].to_numpy().tolist() == list("abcd")
    assert np.allclose(found, z @ w.T + b)
    mean, _ = posterior(data())
    codes = xr.Dataset({"z": (("row", "latent"), mean)})
    assert np.allclose(exact.decode(codes)["x"], mean @ w.T + b)
    assert exact.decode(exact.encode(draws=3))["x"].dims == ("draw", "row", "feature")
    assert exact.decode(z[0])["x"].dims == ("feature",)
    with pytest.raises(DataError, match="codes have shape"):
        exact.decode(np.zeros((5, 3)))


@pytest.mark.slow
def test_rows_are_reconstructed_from_their_mean_codes(trained: Fit) -> None:
    new = data(3, seed=5)
    again = trained.reconstruct(new)["x"]
    assert np.allclose(again, trained.decode(trained.encode(new))["x"])
    assert again.dims == ("row", "feature")


@pytest.mark.slow
def test_lines_between_codes_and_along_them(trained: Fit) -> None:
    a, b = data(2, seed=5), data(2, seed=6)
    path = trained.interpolate(a, b, steps=5)["x"]
    assert path.dims == ("t", "row", "feature")
    assert np.allclose(path[0], trained.reconstruct(a)["x"])
    assert np.allclose(path[-1], trained.reconstruct(b)["x"])
    codes = trained.encode()
    walk = trained.traverse(1, steps=3, span=2.0)["x"]
    at = codes["z"].mean("row").to_numpy()
    spread = np.sqrt(codes["z"].to_numpy()[:, 1].var() + (codes["z_sd"].to_numpy()[:, 1] ** 2).mean())
    ends = [at + np.array([0.0, k * spread]) for k in (-2, 0, 2)]
    assert np.allclose(walk, trained.decode(np.stack(ends))["x"])
    with pytest.raises(DataError, match="no coordinate"):
        trained.traverse(2)


def test_rates_distortions_and_anomalies_add_up(exact: Fit) -> None:
    x = data()
    mean, covariance = posterior(x)
    kl = 0.5 * (np.trace(covariance) + (mean**2).sum(1) - LATENT - np.linalg.slogdet(covariance)[1])
    table = exact.anomaly(samples=400)
    errors = {n: np.array(e) for n, e in table.attrs["mcse"].items()}
    assert np.allclose(table["log_prob"], log_evidence(x))  # q is the posterior, so that weights are constant
    assert np.all(np.abs(table["kl"] - kl) < 5 * errors["kl"])
    assert np.allclose(table["reconstruction"] - table["kl"], log_evidence(x))
    split = exact.rate_distortion(samples=400)
    assert split.loc["elbo", "nats"] == pytest.approx(-split.loc["rate", "nats"] - split.loc["distortion", "nats"])
    assert split.loc["elbo", "nats"] == pytest.approx(log_evidence(x).mean())
    assert abs(split.loc["rate", "nats"] - kl.mean()) < 5 * split.loc["rate", "mcse"]


def test_units_are_active_where_codes_differ_between_rows(exact: Fit) -> None:
    table = exact.active_units()
    mean, _ = posterior(data())
    assert table.index.tolist() == ["z[0]", "z[1]"]
    assert np.allclose(table["variance"], mean.var(0, ddof=1), rtol=0.2)
    assert table["active"].all()


@pytest.mark.slow
def test_annealing_gives_the_exact_density_whatever_the_guide(trained: Fit) -> None:
    x = data(8, seed=9)
    w, b = (trained.points[f"decoder.{n}"].numpy() for n in ("weight", "bias"))
    covariance = torch.tensor(w @ w.T + NOISE**2 * np.eye(len(b)))
    truth = dist.MultivariateNormal(torch.tensor(b), covariance).log_prob(torch.tensor(x)).numpy()
    found = trained.annealed_log_prob(x, chains=32, temperatures=50, steps=5)
    error = np.array(found.attrs["mcse"])
    assert np.all(np.abs(found - truth) < 5 * error)
    assert error.max() < 0.4
    assert 0.4 < found.attrs["accepted"] < 0.9
    weighted = trained.log_prob(x)
    assert np.all(np.abs(weighted - truth) < 5 * np.array(weighted.attrs["mcse"]))


@pytest.mark.slow
def test_draws_of_very_many_latents_are_kept_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_module, "LARGEST", 1000)
    found = kept(Exact, data())
    assert "posterior" not in found.posterior.children
    assert "draws of z" in found.posterior.attrs["left_out"]
    assert found.summary().empty
    found.save(tmp_path / "without")
    found.save(tmp_path / "with", local=True)
    assert "posterior" not in read_tree(tmp_path / "without" / "posterior.nc").children
    draws = read_tree(tmp_path / "with" / "posterior.nc")["posterior"]["z"]
    assert draws.shape == (1, 200, ROWS, LATENT)
    loaded = Fit.load(tmp_path / "without")
    assert np.array_equal(loaded.encode()["z"], found.encode()["z"])
    assert torch.equal(loaded.model.decoder.weight, found.model.decoder.weight)


def test_what_has_no_codes_says_so() -> None:
    found = fit(zoo.GMM(components=2), "faithful", method=EM(), seed=0, progress=False)
    with pytest.raises(FitError, match="no continuous latent of each row"):
        found.encode()
    unusual = found.anomaly([[3.0, 70.0], [30.0, 7.0]])  # by its density alone
    np.testing.assert_array_equal(unusual["log_prob"], found.log_prob([[3.0, 70.0], [30.0, 7.0]]))
    assert list(unusual) == list(unusual.attrs["mcse"]) == ["log_prob"]


class Conditional(zoo.Model):
    """Rows whose mean depends on a label."""

    x = Real("row", "feature")
    label = Category("row")
    dims = {"z": ("latent",)}  # noqa: RUF012

    def setup(self, x: Tensor, label: Tensor) -> None:
        self.levels = int(label.max()) + 1
        self.decoder = nn.Linear(1 + self.levels, x.shape[1])

    def forward(self, x: Tensor, label: Tensor) -> None:
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            seen = torch.nn.functional.one_hot(label, self.levels).to(z.dtype)
            pyro.sample("x", dist.Normal(self.decoder(torch.cat([z, seen], -1)), 0.1).to_event(1), obs=x)


@pytest.mark.slow
def test_rows_are_generated_and_decoded_under_labels_of_choice() -> None:
    rng = np.random.default_rng(0)
    label = np.array(["a", "b", "c"])[rng.integers(0, 3, 90)]
    x = np.where(label == "c", 5.0, 0.0)[:, None] + 0.1 * rng.normal(size=(90, 2))
    method = SVI(guide=Encoder(hidden=(4,)), steps=150, compile=False)
    found = fit(Conditional(), {"x": x, "label": label}, method=method, seed=0, progress=False)
    made = found.generate(40, seed=1, condition={"label": "c"})
    assert set(made["label"]) == {"c"}
    weight, bias = (found.points[f"decoder.{n}"].numpy() for n in ("weight", "bias"))
    at = bias + weight[:, 3]
    spread = np.sqrt(weight[:, 0] ** 2 + 0.01)
    columns = np.stack([made[c] for c in (0, 1)], -1)
    assert np.all(np.abs(columns.mean(0) - at) < 5 * spread / np.sqrt(40))
    decoded = found.decode(np.zeros((3, 1)), condition={"label": ["a", "b", "c"]})["x"]
    assert np.allclose(decoded, bias + weight[:, 1:].T, atol=1e-5)
    assert found.decode(np.zeros((3, 1)), condition={"label": "b"})["x"].shape == (3, 2)
    with pytest.raises(DataError, match="needs the covariate 'label'"):
        found.decode(np.zeros((3, 1)))
    with pytest.raises(UnknownNameError, match="covariate field"):
        found.generate(3, condition={"lable": "a"})
    with pytest.raises(DataError, match="one for each of 4 rows"):
        found.generate(4, condition={"label": ["a", "b"]})
