"""Rows that go through networks: before a climb few of them do, and what is wrong in any of them is still found."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import zoo
from zoo import Real
from zoo.program.prepare import prepare
from zoo.structure.structure import NETWORK_ROWS

ROWS = 10 * NETWORK_ROWS


class Counting(nn.Linear):
    """Knows how many rows it has seen."""

    seen = 0

    def forward(self, x):
        Counting.seen += x.shape[:-1].numel()
        return super().forward(x)


class Decoded(zoo.Model):
    """Switches that a network decodes from two coordinates."""

    x = Real("row", "feature")

    def setup(self, x):
        self.decoder = Counting(2, x.shape[1])

    def forward(self, x):
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)


def switches():
    return torch.bernoulli(torch.full((ROWS, 3), 0.5), generator=torch.Generator().manual_seed(0))


def test_few_rows_go_through_networks_before_the_first_step():
    Counting.seen = 0
    prepare(Decoded(), switches()).initial()
    assert Counting.seen < 2 * ROWS  # all of them once, some more often


def test_a_value_outside_of_its_support_is_found_in_every_row():
    x = switches()
    x[1, 2] = 0.5  # a row that is not looked at
    program = prepare(Decoded(), x)
    with pytest.raises(zoo.DataError, match="1 observed values are outside the support of its Bernoulli"):
        program.initial()


def test_products_are_counted_in_every_state_of_a_row():
    x, label = switches()[:100], torch.arange(100.0) % 4
    label[50:] = torch.nan
    plain = prepare(zoo.VAE(latent=5, hidden=(16,)), x).structure.products
    summed = prepare(zoo.SemiSupervisedVAE(latent=1, hidden=(16,)), {"x": x, "label": label}).structure.products
    assert summed == 4 * plain
