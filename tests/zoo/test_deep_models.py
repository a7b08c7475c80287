"""Models whose codes have labels, groups or layers: densities against quadrature, and limits that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import zoo
from guides import ClassifyingEncoder, Encoder
from inference import SVI, fit
from zoo import DataError
from zoo.program.prepare import prepare

RNG = np.random.default_rng(3)
KINDS = RNG.integers(0, 3, 40)
ROWS = (RNG.random((40, 6)) < np.where(KINDS[:, None] == np.arange(6) // 2, 0.9, 0.2)).astype(float)
SOME = np.where(RNG.random(40) < 0.4, KINDS, -1)
SIDE = 241  # points along each coordinate of a code, from -8 to 8

CASES = {
    "ConditionalVAE": (zoo.ConditionalVAE(latent=1, hidden=(8,)), {"x": ROWS, "label": KINDS}, ("z",)),
    "SemiSupervisedVAE": (zoo.SemiSupervisedVAE(latent=1, hidden=(8,)), {"x": ROWS, "label": SOME}, ("z",)),
    "MixtureVAE": (zoo.MixtureVAE(components=3, latent=1, hidden=(8,)), {"x": ROWS}, ("z",)),
    "VampPriorVAE": (zoo.VampPriorVAE(components=3, latent=1, hidden=(8,)), {"x": ROWS}, ("z",)),
    "HierarchicalVAE": (zoo.HierarchicalVAE(latents=(1, 1), hidden=(8,)), {"x": ROWS}, ("z1", "z2")),
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "guide"), [*((n, Encoder) for n in CASES), ("SemiSupervisedVAE", ClassifyingEncoder)])
def test_densities_equal_quadrature_over_the_codes(name, guide):
    model, data, codes = CASES[name]
    found = fit(model, data, method=SVI(guide=guide(hidden=(16,)), steps=600), seed=0, dtype=torch.float64)
    line = torch.linspace(-8, 8, SIDE, dtype=torch.float64)
    grid = torch.cartesian_prod(*[line] * len(codes)).reshape(-1, len(codes))
    program = found.program

    def joint(code):
        values = {n: code[i].expand(len(program.data), 1) for i, n in enumerate(codes)}
        return program.log_joint({**found.points, **values}).rows

    with torch.no_grad():
        rows = torch.vmap(joint, chunk_size=2000)(grid)
    exact = (rows.logsumexp(0) + len(codes) * math.log(16 / (SIDE - 1))).numpy()
    density = found.log_prob(samples=4000)
    error = np.asarray(density.attrs["mcse"])
    z = (density.to_numpy() - exact) / np.maximum(error, 1e-6)
    assert np.abs(z).max() < 6
    assert error.max() < 0.2
    elbo, spread = found.objective.value, found.objective.error or 0.0
    assert elbo < exact.sum() + 4 * spread


@pytest.mark.slow
def test_labels_of_rows_without_one_are_found():
    found = fit(*CASES["SemiSupervisedVAE"][:2], method=SVI(guide=Encoder(), steps=1500), seed=0)
    said = found.assign().to_numpy()
    known = SOME >= 0
    np.testing.assert_allclose(said[known, SOME[known]], 1.0, atol=1e-5)  # in float32
    assert (said[~known].argmax(1) == KINDS[~known]).mean() > 0.75  # a third by chance


@pytest.fixture(scope="module")
def labelled():
    """A fit to rows of which some have labels."""
    model, data, _ = CASES["SemiSupervisedVAE"]
    return fit(model, data, method=SVI(guide=Encoder(), steps=30), seed=0, dtype=torch.float64)


def test_rows_are_encoded_decoded_and_drawn_with_the_labels_that_they_have_or_may_have(labelled):
    """E[x | z] of a row without a label is over p(y | x, z), worked out by hand."""
    new = {"x": ROWS[:6], "label": np.array([-1, 0, -1, 2, -1, -1])}
    codes = labelled.encode(new)
    one_hot = torch.eye(3, dtype=torch.float64)[:, None].expand(3, 6, 3)
    z = torch.tensor(codes["z"].to_numpy()).expand(3, 6, 1)
    with torch.no_grad():
        means = labelled.model.decoder(torch.cat([z, one_hot], -1)).sigmoid()  # (labels, rows, columns)
        x = torch.tensor(new["x"])
        joint = torch.distributions.Bernoulli(means).log_prob(x).sum(-1) + labelled.points["shares"].log()[:, None]
    shares = joint.softmax(0)
    for i, known in enumerate(new["label"]):
        shares[:, i] = torch.eye(3)[known] if known >= 0 else shares[:, i]
    np.testing.assert_allclose(labelled.reconstruct(new)["x"], (shares[..., None] * means).sum(0), atol=1e-9)
    np.testing.assert_allclose(labelled.decode(codes, condition={"label": 1})["x"], means[1], atol=1e-9)
    with pytest.raises(DataError, match=r"needs the label 'label' of each row: condition=\{'label': ...\}"):
        labelled.decode(codes)
    drawn = labelled.generate(300, condition={"label": [0, 1, 2] * 100})
    assert np.bincount(drawn["label"].astype(int)).tolist() == [100, 100, 100]
    by_q, _ = labelled.approximation.row_moments(labelled.on(new), labelled.points)
    np.testing.assert_array_equal(codes["z"], by_q["z"])  # the encoder was trained on rows without a label
    ends = {"x": ROWS[6:8], "label": np.array([0, 2])}
    line = labelled.interpolate({"x": ROWS[:2], "label": np.array([0, 2])}, ends, steps=3)["x"]
    np.testing.assert_allclose(line[-1], labelled.reconstruct(ends)["x"], atol=1e-9)
    with pytest.raises(DataError, match=r"'label' is 0 at one end of line 1 and 2 at the other; .*condition="):
        labelled.interpolate({"x": ROWS[:2], "label": np.array([0, 0])}, ends)
    with pytest.raises(DataError, match="row 0 has no 'label'"):
        labelled.interpolate(new, new)
    assert labelled.traverse(0, condition={"label": 1}, steps=3)["x"].shape == (3, ROWS.shape[1])
    with pytest.raises(DataError, match="traverse needs the label 'label'"):
        labelled.traverse(0)
    own = {"x": ROWS[6:7], "label": np.array([2])}
    assert labelled.traverse(0, at=own).equals(labelled.traverse(0, at=own, condition={"label": 2}))
    with pytest.raises(DataError, match=r"'label' has 2 values in the rows of `at`; .*condition="):
        labelled.traverse(0, at=ends)
    wrong = r"condition: expected a dict such as \{'label': 3\}, found int"
    for ask in (
        lambda: labelled.generate(3, condition=3),
        lambda: labelled.decode(codes, condition=3),
        lambda: labelled.interpolate(ends, ends, condition=3),
        lambda: labelled.traverse(0, condition=3),
    ):
        with pytest.raises(DataError, match=wrong):
            ask()
    bare = labelled.assign({"x": ROWS[:6]})  # no label is as good as a missing one
    np.testing.assert_allclose(bare, labelled.assign({"x": ROWS[:6], "label": np.full(6, -1)}))


@pytest.mark.slow
def test_codes_of_rows_without_label_and_pixel_are_their_posterior(labelled):
    x = ROWS[:2].astype(float)
    x[1, :2] = np.nan
    program = labelled.on({"x": x, "label": np.array([-1, -1])})
    grid = torch.linspace(-6, 6, 241, dtype=torch.float64)
    with torch.no_grad():
        joint = torch.stack([program.log_joint({**labelled.points, "z": z.expand(2, 1)}).rows[1] for z in grid])
    share = joint.softmax(0)
    mean = float(share @ grid)
    sd = float((share @ (grid - mean).square()).sqrt())
    codes = labelled.encode({"x": x, "label": np.array([-1, -1])})
    assert abs(float(codes["z"][1, 0]) - mean) < 5 * sd / np.sqrt(400)  # effective, of 2000 draws


@pytest.mark.slow
def test_a_linear_autoencoder_finds_the_principal_subspace():
    x = RNG.normal(size=(200, 2)) @ RNG.normal(size=(2, 5)) + 0.3 * RNG.normal(size=(200, 5))
    x = (x - x.mean(0)) / x.std(0)
    model, guide = zoo.Autoencoder(latent=2, hidden=()), Encoder(hidden=())
    found = fit(model, x, method=SVI(guide=guide), seed=0)
    z = found.assign(x).xs("mean", axis=1, level=1).to_numpy()
    weight, bias = (found.points[f"decoder.layers.0.{n}"].numpy() for n in ("weight", "bias"))
    off = np.square(x - z @ weight.T - bias).mean()  # columns are in units of their own already
    left = np.linalg.eigvalsh(np.cov(x.T, bias=True))[:3].sum() / 5
    assert left < off < 1.01 * left


def test_what_a_model_cannot_be_is_refused():
    with pytest.raises(zoo.ModelError, match="two layers"):
        fit(zoo.HierarchicalVAE(latents=(2,)), ROWS, method="svi", seed=0)
    unknown = {"x": ROWS, "label": np.full(40, np.nan)}
    with pytest.raises(zoo.DataError, match="label"):
        fit(zoo.SemiSupervisedVAE(), unknown, method="svi", seed=0)


def test_a_prior_over_pseudo_inputs_is_a_mixture_of_what_its_network_says_of_them():
    """log p(z) by hand, from the network and the pseudo-inputs; these begin as rows, away from the ends of [0, 1]."""
    images = ROWS.reshape(40, 2, 3)
    program = prepare(zoo.VampPriorVAE(components=4, latent=2, hidden=(3,)), images, dtype=torch.float64, device="cpu")
    values = program.initial()
    inputs = values["inputs"]
    assert tuple(inputs.shape) == (4, 2, 3)
    assert all((np.abs(images - one).max((1, 2)) < 0.06).any() for one in inputs.detach().numpy())
    model = program.model
    z = torch.randn(40, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    units = (inputs.flatten(1) - torch.tensor(ROWS.mean(0))) / ROWS.var(0).mean() ** 0.5
    loc, log_scale = model.prior(units).chunk(2, -1)
    each = torch.distributions.Normal(loc, (5 * torch.tanh(log_scale / 5)).exp()).log_prob(z[:, None]).sum(-1)
    decoded = torch.distributions.Bernoulli(logits=model.decoder(z).reshape(40, 2, 3))
    by_hand = each.logsumexp(1) - math.log(4) + decoded.log_prob(torch.tensor(images)).sum((1, 2))
    torch.testing.assert_close(program.log_joint({**values, "z": z}).rows, by_hand)


def test_encoders_of_images_see_the_label_too():
    images = ROWS.reshape(40, 2, 3)
    found = fit(
        zoo.ConditionalVAE(latent=1, hidden=(4,)),
        {"x": images, "label": KINDS},
        method=SVI(guide=Encoder(network="conv"), steps=5),
        seed=0,
    )
    first = found.assign({"x": images[:5], "label": np.zeros(5, dtype=int)})
    other = found.assign({"x": images[:5], "label": np.ones(5, dtype=int)})
    assert bool((first.to_numpy() != other.to_numpy()).all())
