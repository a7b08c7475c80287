"""The sweep over the rows of a mixture, against log densities from torch.distributions and sums by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import distributions as td

from inference.families import sweep as kernel
from inference.families.sweep import Linear, Norm, Quadratic, Squares, Stack, accumulate, logits, pack, sweep, unpack

N, D, K, R = 301, 3, 4, 2
AT = torch.float64


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def probabilities(*shape):
    return torch.rand(*shape, dtype=AT) * 0.9 + 0.05


def log_weights():
    return torch.randn(R, K, dtype=AT).log_softmax(-1)


def multivariate_normal():
    x, loc = torch.randn(N, D, dtype=AT), torch.randn(R, K, D, dtype=AT)
    root = torch.randn(R, K, D, D, dtype=AT)
    covariance = root @ root.mT + torch.eye(D, dtype=AT)
    precision, weight = torch.linalg.inv(covariance), log_weights()
    pull = (precision @ loc[..., None])[..., 0]
    natural = torch.cat([pull, pack(-0.5 * precision)], -1)
    constant = weight - 0.5 * ((loc * pull).sum(-1) + torch.logdet(covariance) + D * math.log(2 * math.pi))
    law = td.MultivariateNormal(loc[:, :, None], covariance[:, :, None])
    return Quadratic(x), natural, constant, None, law.log_prob(x) + weight[..., None]


def normal():
    x, loc, scale, weight = torch.randn(N, D, dtype=AT), torch.randn(R, K, D), 0.5 + torch.rand(R, K, D), log_weights()
    loc, scale = loc.to(AT), scale.to(AT)
    natural = torch.cat([loc / scale**2, -0.5 / scale**2], -1)
    constant = weight - (0.5 * (loc / scale) ** 2 + scale.log() + 0.5 * math.log(2 * math.pi)).sum(-1)
    found = td.Normal(loc[:, :, None], scale[:, :, None]).log_prob(x).sum(-1) + weight[..., None]
    return Squares(x), natural, constant, None, found


def spherical():
    x, loc, scale, weight = torch.randn(N, D, dtype=AT), torch.randn(R, K, D), 0.5 + torch.rand(R, K, 1), log_weights()
    loc, scale = loc.to(AT), scale.to(AT)
    natural = torch.cat([loc / scale**2, -0.5 / scale**2], -1)
    constant = weight - (0.5 * (loc / scale) ** 2 + scale.log() + 0.5 * math.log(2 * math.pi)).sum(-1)
    found = td.Normal(loc[:, :, None], scale[:, :, None]).log_prob(x).sum(-1) + weight[..., None]
    return Norm(x), natural, constant, None, found


def bernoulli():
    x, p, weight = (torch.rand(N, D) < 0.4).to(AT), probabilities(R, K, D), log_weights()
    found = td.Bernoulli(p[:, :, None]).log_prob(x).sum(-1) + weight[..., None]
    return Linear(x), torch.logit(p), weight + torch.log1p(-p).sum(-1), None, found


def poisson():
    x, rate, weight = torch.poisson(torch.full((N, D), 3.0, dtype=AT)), 5 * probabilities(R, K, D), log_weights()
    found = td.Poisson(rate[:, :, None]).log_prob(x).sum(-1) + weight[..., None]
    return Linear(x), rate.log(), weight - rate.sum(-1), -torch.lgamma(x + 1).sum(-1), found


def categorical_beside_normal():
    seen, table = torch.randint(5, (N,)), torch.randn(R, K, 5, dtype=AT).log_softmax(-1)
    features, natural, constant, _, found = normal()
    indicators = Linear(torch.nn.functional.one_hot(seen, 5).to(AT))
    found = found + td.Categorical(logits=table[:, :, None]).log_prob(seen)
    return Stack([features, indicators]), torch.cat([natural, table], -1), constant, None, found


MIXTURES = [multivariate_normal, normal, spherical, bernoulli, poisson, categorical_beside_normal]


def close(found, expected, **kwargs):
    torch.testing.assert_close(found, expected, **{"rtol": 1e-11, "atol": 1e-11, **kwargs})


@pytest.mark.parametrize("mixture", MIXTURES)
@pytest.mark.parametrize("weighted", [False, True])
def test_sweep_agrees_with_brute_force(mixture, weighted):
    features, natural, constant, offsets, joint = mixture()
    w = torch.rand(N, dtype=AT) if weighted else torch.ones(N, dtype=AT)
    found = sweep(
        features,
        natural,
        constant,
        weights=w if weighted else None,
        offsets=offsets,
        return_rows=True,
        posterior=True,
    )
    share = joint.softmax(1)
    close(logits(features, natural, constant, offsets=offsets), joint)
    close(found.rows, joint.logsumexp(1))
    close(found.posterior, share)
    close(found.value, joint.logsumexp(1) @ w)
    close(found.counts, share @ w)
    close(found.sums, (share * w) @ features.block(0, N).mT)
    counts, sums = accumulate(features, share, weights=w if weighted else None)
    close(counts, found.counts)
    close(sums, found.sums)


def test_block_size_does_not_matter(monkeypatch):
    features, natural, constant, offsets, _ = multivariate_normal()
    whole = sweep(features, natural, constant, offsets=offsets)
    monkeypatch.setattr(kernel, "block_size", lambda n, height, device: 17)
    parts = sweep(features, natural, constant, offsets=offsets)
    close(parts.value, whole.value)
    close(parts.counts, whole.counts)
    close(parts.sums, whole.sums)


def test_pack_and_unpack():
    root = torch.randn(2, D, D, dtype=AT)
    matrix, x = root + root.mT, torch.randn(N, D, dtype=AT)
    monomials = Quadratic(x).block(0, N)[D:]
    close(pack(matrix) @ monomials, torch.einsum("ni,kij,nj->kn", x, matrix, x))
    close(unpack(monomials.mT), x[:, :, None] * x[:, None, :])
