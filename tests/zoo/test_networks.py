"""Networks: shapes, which inputs an output sees, and equality with what they are made of."""

from __future__ import annotations

import math

import pytest
import torch
from torch.func import jacrev

from zoo.networks import (
    MLP,
    CausalAttention,
    ConvDecoder,
    ConvEncoder,
    MaskedConv2d,
    MaskedConvolutions,
    MaskedMLP,
    Recurrent,
    ResidualBlock,
)

CAUSAL = {  # network, the shape of an entry, and the numbers of one place on the left of those that came before it
    "perceptron": (lambda: MaskedMLP(6, (50, 40), 2), (6,)),
    "no layers": (lambda: MaskedMLP(5, (), 1), (5,)),
    "convolutions": (lambda: MaskedConvolutions(1, 2, 8, 2), (1, 3, 4)),
    "gru": (lambda: Recurrent(1, 2, 5), (6, 1)),
    "lstm": (lambda: Recurrent(1, 2, 5, 2, "lstm"), (6, 1)),
    "attention": (lambda: CausalAttention(1, 2, 8, 2), (6, 1)),
}


@pytest.mark.parametrize("name", CAUSAL)
def test_outputs_see_what_came_before_them_and_nothing_else(name):
    """All of it, but for the blind spot of masked convolutions."""
    torch.manual_seed(0)
    make, shape = CAUSAL[name]
    places, network = math.prod(shape), make()
    for weights in network.parameters():  # also those that start at 0
        torch.nn.init.normal_(weights)
    slope = jacrev(network)(torch.randn(shape))
    if name == "convolutions":
        slope = slope.movedim(0, 2)  # channels of the result last
    moves = slope.reshape(places, -1, places).abs().sum(1)
    assert bool((moves.triu() == 0).all())
    if name != "convolutions":
        assert bool((moves + torch.ones_like(moves).triu() > 0).all())


def test_few_hidden_units_are_spread_over_all_inputs():
    first, _, last = MaskedMLP(100, (20,)).layers
    paths = last.mask @ first.mask
    assert int((paths[99] > 0).sum()) > 90


@pytest.mark.parametrize("name", CAUSAL)
def test_states_and_draws_may_stand_on_the_left_of_rows(name):
    torch.manual_seed(0)
    make, shape = CAUSAL[name]
    network, x = make().double(), torch.randn(2, 3, *shape, dtype=torch.float64)
    together = network(x)
    for i in range(2):
        torch.testing.assert_close(together[i], network(x[i]), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 9, 7), (2, 1, 1)])
@pytest.mark.parametrize("blocks", [0, 2])
def test_images_of_any_size_are_encoded_and_decoded(shape, blocks):
    torch.manual_seed(0)
    x = torch.rand(2, 4, *shape)
    code = ConvEncoder(shape, 5, blocks=blocks)(x)
    image = ConvDecoder(5, shape, blocks=blocks)(code)
    assert code.shape == (2, 4, 5)
    assert image.shape == x.shape
    assert bool(image.isfinite().all())


def test_decoders_start_at_a_mean_image():
    torch.manual_seed(0)
    mean, z = torch.randn(1, 6, 5), torch.zeros(3, 2)
    decoder, flat = ConvDecoder(2, (1, 6, 5)), MLP(2, (3,), 30)
    before, flat_before = decoder(z), flat(z)
    decoder.start_at(mean)
    flat.start_at(mean)
    torch.testing.assert_close(decoder(z) - before, mean.expand(3, 1, 6, 5))
    bias = flat.get_parameter("layers.2.bias")
    torch.testing.assert_close(bias, mean.flatten())
    assert flat_before.shape == (3, 30)


def test_a_residual_block_starts_as_the_identity():
    x = torch.randn(2, 16, 4, 4)
    torch.testing.assert_close(ResidualBlock(16)(x), x)


def test_a_masked_convolution_is_one_with_zeros_in_its_kernel():
    torch.manual_seed(0)
    layer, x = MaskedConv2d(2, 3, 5, centre=True), torch.randn(2, 2, 6, 6)
    kernel = layer.weight.detach().clone()
    kernel[:, :, 2, 3:] = 0
    kernel[:, :, 3:] = 0
    torch.testing.assert_close(layer(x), torch.nn.functional.conv2d(x, kernel, layer.bias, padding=2))


def test_masked_convolutions_keep_the_channels_of_a_pixel_side_by_side_and_give_the_same(monkeypatch):
    torch.manual_seed(0)
    network, x = MaskedConvolutions(1, 2, 8, 2), torch.randn(3, 1, 6, 5)
    laid_out: list[bool] = []
    for part in network.modules():
        if isinstance(part, torch.nn.Conv2d):
            part.register_forward_hook(lambda _, given, out: laid_out.append(out.stride(1) == 1))
    found = [network(x), *torch.autograd.grad(network(x).square().sum(), [*network.parameters()])]
    assert laid_out
    assert all(laid_out)
    monkeypatch.setattr("zoo.networks.convolutions.channels_last", lambda images: images)
    plain = [network(x), *torch.autograd.grad(network(x).square().sum(), [*network.parameters()])]
    assert not laid_out[-1]
    for a, b in zip(found, plain, strict=True):
        torch.testing.assert_close(a, b)
