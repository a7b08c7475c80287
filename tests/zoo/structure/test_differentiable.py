"""A latent or parameter that reaches a density around torch's gradients is refused; one that is rounded is not."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import zoo
from zoo.errors import ModelError
from zoo.program.prepare import prepare

X = [0.3, 1.2, -0.4, 0.8]


def told(mean):
    @zoo.model(x=zoo.Real("row"))
    def story(x):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        width = pyro.param("width", torch.tensor(1.0), constraint=dist.constraints.positive)
        kind = pyro.sample("kind", dist.Bernoulli(0.5))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Normal(mean(mu, width, kind), width), obs=x)

    return story()


def without_gradient(mu):
    with torch.no_grad():
        return 2.0 * mu


@pytest.mark.parametrize(
    ("mean", "what"),
    [
        (lambda mu, width, kind: mu.detach(), "site 'mu'"),
        (lambda mu, width, kind: float(mu) * width, "site 'mu'"),
        (lambda mu, width, kind: without_gradient(mu) + kind, "site 'mu'"),
        (lambda mu, width, kind: torch.tensor(mu.tolist()) + kind, "site 'mu'"),
        (lambda mu, width, kind: mu + math.exp(width.item()), "parameter 'width'"),
    ],
    ids=["detach", "float", "no_grad", "tolist", "parameter"],
)
@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True:UserWarning")
def test_what_no_gradient_passes_is_refused(mean, what):
    with pytest.raises(ModelError, match=f"{what}: argument 'loc' of 'x' moves with it, and no gradient passes"):
        prepare(told(mean), X)


@pytest.mark.parametrize(
    "mean",
    [
        lambda mu, width, kind: mu * width + kind,
        lambda mu, width, kind: mu.round(),
        lambda mu, width, kind: (mu > 0.1).double() + width * kind,
        lambda mu, width, kind: torch.where(mu > 0, mu, mu.detach()),
        lambda mu, width, kind: width * (mu.detach() > 0) * kind,
    ],
    ids=["smooth", "rounded", "compared", "in part", "detached and compared"],
)
def test_what_moves_in_steps_has_its_gradient(mean):
    assert torch.isfinite(prepare(told(mean), X).log_joint(prepare(told(mean), X).initial()).total())
