"""Inside of the caller's `torch.autocast`, layers of networks are cast, and nothing else is."""

import numpy as np
import pytest
import torch
from torch import nn

import zoo
from guides import Encoder
from inference import SVI, fit
from zoo.replay.surroundings import undisturbed

IMAGES = (zoo.datasets.load("digits").to_numpy().reshape(-1, 8, 8)[:300] >= 8).astype(float)
HALF = torch.autocast("cpu", dtype=torch.bfloat16)


def test_layers_are_cast_and_what_stands_around_them_is_not():
    torch.manual_seed(0)
    x, layer, cell = torch.randn(5, 1, 8), nn.Linear(8, 3), nn.LSTM(8, 2)
    with HALF:
        cast = layer(x)
        with undisturbed():
            found, product, (out, (h, c)) = layer(x), x[:, 0] @ x[:, 0].T, cell(x)
            by_name, (packed, _) = layer(input=x), cell(nn.utils.rnn.pack_sequence([x[0], x[1]]))
            with pytest.raises(RuntimeError, match="shapes"):
                layer(x[..., :2])
            assert not torch.is_autocast_enabled("cpu")
        assert torch.is_autocast_enabled("cpu")
    assert cast.dtype == torch.bfloat16
    torch.testing.assert_close(found, cast.float(), rtol=0, atol=0)
    torch.testing.assert_close(product, x[:, 0] @ x[:, 0].T, rtol=0, atol=0)
    assert {v.dtype for v in (out, h, c, by_name, packed.data)} == {torch.float32}
    torch.testing.assert_close(layer(x), found, rtol=0.02, atol=0.02)
    assert not torch.equal(layer(x), found)


def test_covariances_in_single_precision_are_as_without():
    rows = np.random.default_rng(0).normal(100.0, [1.0, 5.0, 9.0], (200, 3))
    plain = fit(zoo.GMM(components=2), rows, method="em", seed=0, dtype=torch.float32, progress=False)
    with HALF:
        found = fit(zoo.GMM(components=2), rows, method="em", seed=0, dtype=torch.float32, progress=False)
        density = found.log_prob(rows)
    assert found.objective == plain.objective
    np.testing.assert_array_equal(density, plain.log_prob(rows))


@pytest.mark.slow
@pytest.mark.parametrize("compile", [False, "auto", True])
@pytest.mark.parametrize(
    ("model", "guide"),
    [(zoo.VAE(latent=4, decoder="conv"), Encoder(network="conv")), (zoo.PixelCNN(channels=8, blocks=1), None)],
    ids=["VAE", "PixelCNN"],
)
def test_networks_climb_as_far_in_bfloat16(model, guide, compile):
    method = SVI(**({} if guide is None else {"guide": guide}), steps=150, compile=compile)
    plain = fit(model, IMAGES, method=method, seed=0, progress=False)
    with HALF:
        found = fit(model, IMAGES, method=method, seed=0, progress=False)
    assert {p.dtype for p in found.model.parameters()} == {torch.float32}
    assert found.objective != plain.objective
    # The same draws and rows in both: paths part by roundings, by far less than rows differ from one another.
    one, other = (f.log_prob(IMAGES, samples=200).to_numpy() for f in (found, plain))
    assert abs((one - other).mean()) < 3 * other.std() / len(other) ** 0.5
