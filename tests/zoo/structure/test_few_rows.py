"""Tracing and saving a model with networks: these see few rows, however many there are, and the rest is as with all."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import zoo
from guides import Encoder
from inference import SVI, Fit, fit
from inference.posterior import answer
from zoo.program.prepare import prepare
from zoo.structure import structure
from zoo.structure.few_rows import FEW, networks_on_few
from zoo.structure.structure import NETWORK_ROWS

ROWS = 2500
SEEN: list[int] = []


class Noting(nn.Module):
    """An affine map that notes how many rows it sees; its batch norm would fail on one."""

    def __init__(self, inputs=2, outputs=6):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs))

    def forward(self, x):
        SEEN.append(x.shape[:-1].numel())
        return self.layers(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)


def encoding():
    return Noting(6, 5)


class Bayesian(nn.Module):
    """A network with a weight that is drawn, and a plate of all rows."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        with pyro.plate("row", ROWS):
            return self.shift + x * pyro.sample("slope", dist.Normal(torch.zeros(ROWS), 1.0))


def rows_of_bits():
    return (torch.rand(ROWS, 6, generator=torch.Generator().manual_seed(0)) > 0.5).float().numpy()


def test_networks_see_few_rows_when_a_model_is_traced(monkeypatch):
    SEEN.clear()
    program = prepare(zoo.VAE(latent=2, decoder=Noting), rows_of_bits())
    assert 0 < max(SEEN) <= NETWORK_ROWS
    monkeypatch.setattr(structure, "spread_rows", lambda *_: None)
    SEEN.clear()
    whole = prepare(zoo.VAE(latent=2, decoder=Noting), rows_of_bits())
    assert max(SEEN) == ROWS
    assert str(program.sites) == str(whole.sites)
    assert program.structure.plates == whole.structure.plates
    assert "forward" not in vars(program.model.get_submodule("decoder"))


def test_what_networks_give_for_other_rows_is_that_of_the_first():
    holder, x = nn.Module(), torch.randn(ROWS, 2)
    holder.lists = nn.ModuleList([Noting(2, 3)])
    holder.summing = nn.Bilinear(2, 2, 1)
    holder.cell = nn.LSTM(2, 3)  # rows stand second, so that it sees all
    with networks_on_few(holder, ROWS):
        found = holder.lists[0](x)
        assert holder.summing(x, x).shape == (ROWS, 1)
        assert holder.cell(x[None])[0].shape == (1, ROWS, 3)
    assert found.shape == (ROWS, 3)
    assert torch.equal(found[FEW : 2 * FEW], found[:FEW])
    assert torch.equal(found[:FEW], holder.lists[0](x[:FEW]))


def test_a_network_that_samples_sees_all_rows():
    holder, x = nn.Module(), torch.randn(ROWS)
    holder.network = Bayesian()
    with networks_on_few(holder, ROWS), pyro.poutine.trace() as traced:
        found = holder.network(x)
    slope = traced.trace.nodes["slope"]["value"]
    torch.testing.assert_close(found, x * slope)


@pytest.mark.slow
def test_saving_takes_few_rows_through_networks(tmp_path, monkeypatch):
    method = SVI(guide=Encoder(network=encoding), steps=20, batch_size=100)
    found = fit(zoo.VAE(latent=2, decoder=Noting), rows_of_bits(), method=method, seed=0)
    monkeypatch.setattr(answer, "LONGEST", 0)  # draws of locals are left out, as those of larger networks are
    SEEN.clear()
    found.save(tmp_path / "fit")
    assert 0 < max(SEEN) <= NETWORK_ROWS
    again = Fit.load(tmp_path / "fit")
    assert max(SEEN) <= NETWORK_ROWS
    assert again.posterior.observed_data["x"].sizes["row"] == ROWS
    assert again.encode(rows_of_bits()[:3]).equals(found.encode(rows_of_bits()[:3]))
