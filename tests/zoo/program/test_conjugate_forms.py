"""Families told by gradients at two points: against torch's distributions and autograd."""

import pyro.distributions as dist
import pytest
import torch

from zoo.program.conjugate_forms import FORMS

A, B = torch.tensor([1.7, 4.5], dtype=torch.float64), torch.tensor([0.8, 3.2], dtype=torch.float64)
KNOWN = {
    "Gamma": ((A, B), dist.Gamma, lambda d: d.mean),
    "InverseGamma": ((A, B), dist.InverseGamma, lambda d: d.rate / (d.concentration + 1)),
    "Beta": ((A, B), dist.Beta, lambda d: d.mean),
    "Dirichlet": ((torch.stack([A, B, A + B], -1),), dist.Dirichlet, lambda d: d.mean),
}


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.families[0])
def test_a_form_is_its_distribution(form):
    natural, make, middle = KNOWN[form.families[0]]
    law = make(*natural)
    shape = tuple(law.batch_shape + law.event_shape)
    value = form.spread(torch.tensor([[0.35, 0.6, 0.8], [0.2, 0.9, 0.4]], dtype=torch.float64)[:, : shape[-1]])
    value = value[:, 0] if not form.events else value
    assert law.support.check(value).all()
    torch.testing.assert_close(form.log_prob(natural, value), law.log_prob(value))
    torch.testing.assert_close(form.mean(natural), middle(law))
    leaf = value.clone().requires_grad_()
    (slope,) = torch.autograd.grad(form.log_prob(natural, leaf).sum(), leaf)
    torch.testing.assert_close(form.gradient(natural, value), slope)
    along = form.tangent(slope, value)
    if form.events:  # moving one proportion, the others shrinking alike, sums to nothing
        torch.testing.assert_close(along, value * slope - value * (value * slope).sum(-1, keepdim=True))
    at = form.points(form.start(shape, value) if form.events else value)
    assert all(law.support.check(v).all() for v in at)
    found = form.natural(at, tuple(form.gradient(natural, v) for v in at))
    for mine, own in zip(found, natural, strict=True):
        torch.testing.assert_close(mine, own)
    torch.manual_seed(0)
    draws = torch.stack([form.draw(natural) for _ in range(400)])
    assert law.support.check(draws).all()
    if (variance := law.variance).isfinite().all():
        assert ((draws.mean(0) - law.mean).abs() < 5 * (variance / 400).sqrt()).all()
    else:
        assert (((1 / draws).mean(0) - A / B).abs() < 5 * (A / 400).sqrt() / B).all()
