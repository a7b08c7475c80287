"""Modules with other weights: the results and gradients of `torch.func.functional_call`, and the module as it was."""

import pytest
import torch
from torch import nn

from zoo.replay.swapped import called_with


class Tied(nn.Module):
    """Two layers that share a weight, a buffer that is not saved, and a cell, which keeps lists of weights."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight
        self.register_buffer("shift", torch.ones(3), persistent=False)
        self.norm, self.cell = nn.BatchNorm1d(3), nn.LSTM(3, 3, batch_first=True)

    def forward(self, x, *, scale=1.0):
        return self.cell(self.norm(self.second(torch.tanh(self.first(x))) * scale + self.shift)[:, None])[0]


def test_same_as_functional_call():
    module, x = Tied().eval(), torch.randn(5, 3)
    before = dict((*module.named_parameters(), *module.named_buffers()))
    other = {n: torch.randn_like(p).requires_grad_() for n, p in module.named_parameters()}
    other["shift"] = torch.randn(3, requires_grad=True)
    other["norm.running_var"] = torch.full((3,), 2.0)
    theirs = torch.func.functional_call(module, dict(other), (x,), {"scale": 2.0})
    ours = called_with(module, other, x, scale=2.0)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    leaves = [other[n] for n in ("first.weight", "first.bias", "shift", "cell.weight_hh_l0")]
    for one, two in zip(*(torch.autograd.grad(y.sum(), leaves) for y in (ours, theirs)), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0)
    after = dict((*module.named_parameters(), *module.named_buffers()))
    assert all(after[n] is before[n] for n in before)
    assert module.second.weight is module.first.weight


def test_weights_of_later_and_failures():
    """Modules added after the first call are found; a module that fails has its own weights again."""
    module, x = nn.Sequential(nn.Linear(2, 2)), torch.randn(4, 2)
    called_with(module, {"0.bias": torch.zeros(2)}, x)
    module.append(nn.Linear(2, 1, bias=False))
    ours = called_with(module, {"1.weight": torch.zeros(1, 2)}, x)
    assert not ours.any()
    own = module[0].weight
    with pytest.raises(RuntimeError):
        called_with(module, {"0.weight": torch.zeros(3, 7)}, x)
    assert module[0].weight is own
    with pytest.raises(KeyError, match="absent"):
        called_with(module, {"absent": torch.zeros(2)}, x)
