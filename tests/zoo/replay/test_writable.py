"""Models that write into tensors of their own."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch

import zoo
from zoo.program.prepare import prepare


@zoo.model(x=zoo.Real("row"))
def written(x):
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    mean = torch.zeros(len(x))
    mean[0] = b
    for i in range(1, len(x)):
        mean[i] = 0.5 * mean[i - 1] + b * x[i]
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mean, 1.0), obs=x)


@zoo.model(y=zoo.Category("row", levels=3))
def ordered(y):
    first = pyro.sample("b", dist.Normal(0.0, 1.0))
    cuts = torch.stack([first, first + 1.0], -1)
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.OrderedLogistic(torch.zeros(len(y)), cuts), obs=y)


@pytest.mark.parametrize(("model", "data"), [(written(), [0.3, 1.0, -2.0]), (ordered(), [0, 1, 2, 2])], ids=repr)
def test_all_draws_are_one_call(model, data):
    """One by one, ten thousand draws of an ordinal regression take minutes."""
    program, b = prepare(model, data), torch.linspace(-1, 1, 5, dtype=torch.float64)
    together = torch.vmap(lambda v: program.log_joint({"b": v}).total())(b)
    assert torch.allclose(together, torch.stack([program.log_joint({"b": v}).total() for v in b]))


def test_other_failures_are_not_hidden():
    @zoo.model(x=zoo.Real("row"))
    def branching(x):
        b = pyro.sample("b", dist.Normal(0.0, 1.0))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Normal(b if b > 0 else -b, 1.0), obs=x)

    program = prepare(branching(), [0.3, 1.0])
    with pytest.raises(RuntimeError, match="data-dependent"):
        torch.vmap(lambda v: program.log_joint({"b": v}).total())(torch.ones(3, dtype=torch.float64))
