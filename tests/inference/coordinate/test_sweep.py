"""Sweeps over the rows of mixtures, against log densities from torch.distributions and sums by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import distributions as td

from inference.coordinate import features as layout
from inference.coordinate.features import Linear, Products, Quadratic, Stack, pack, unpack
from inference.coordinate.sweep import accumulate, sweep, total
from zoo.replay.random import reseed

N, D, K, R = 1301, 3, 4, 2
AT = torch.float64


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        reseed(0)
        yield


def positive(*shape):
    return torch.rand(*shape, dtype=AT) * 0.9 + 0.05


def weighting():
    return torch.randn(R, K, dtype=AT).log_softmax(-1)


def multivariate_normal(d=D):
    x, loc, root = torch.randn(N, d, dtype=AT), torch.randn(R, K, d, dtype=AT), torch.randn(R, K, d, d, dtype=AT)
    covariance, weight = root @ root.mT + torch.eye(d, dtype=AT), weighting()
    precision = torch.linalg.inv(covariance)
    pull = (precision @ loc[..., None])[..., 0]
    constant = weight - 0.5 * ((loc * pull).sum(-1) + torch.logdet(covariance) + d * math.log(2 * math.pi))
    law = td.MultivariateNormal(loc[:, :, None], covariance[:, :, None])
    natural = torch.cat([pull, pack(-0.5 * precision)], -1)
    return Quadratic(x), natural, constant, law.log_prob(x) + weight[..., None]


def squares(x):
    return Linear(torch.cat([x, x.square()], 1))


def norms(x):
    return Linear(torch.cat([x, x.square().sum(1, keepdim=True)], 1))


def normal(scales=D, features=squares):
    x, loc, scale = torch.randn(N, D, dtype=AT), torch.randn(R, K, D, dtype=AT), positive(R, K, scales)
    weight = weighting()
    natural = torch.cat([loc / scale**2, -0.5 / scale**2], -1)
    constant = weight - (0.5 * (loc / scale) ** 2 + scale.log() + 0.5 * math.log(2 * math.pi)).sum(-1)
    joint = td.Normal(loc[:, :, None], scale[:, :, None]).log_prob(x).sum(-1) + weight[..., None]
    return features(x), natural, constant, joint


def spherical():
    return normal(1, norms)


def bernoulli():
    x, p, weight = (torch.rand(N, D) < 0.4).to(AT), positive(R, K, D), weighting()
    joint = td.Bernoulli(p[:, :, None]).log_prob(x).sum(-1) + weight[..., None]
    return Linear(x), torch.logit(p), weight + torch.log1p(-p).sum(-1), joint


def many_bits():
    x, p, weight = (torch.rand(N, 200) < 0.4).to(AT), positive(R, K, 200), weighting()
    joint = td.Bernoulli(p[:, :, None]).log_prob(x).sum(-1) + weight[..., None]
    return Linear(x), torch.logit(p), weight + torch.log1p(-p).sum(-1), joint


def poisson():
    x, rate, weight = torch.poisson(torch.full((N, D), 3.0, dtype=AT)), 5 * positive(R, K, D), weighting()
    joint = td.Poisson(rate[:, :, None]).log_prob(x).sum(-1) + weight[..., None]
    base = -torch.lgamma(x + 1).sum(-1)  # the same under all components: no part of a sweep
    return Linear(x), rate.log(), weight - rate.sum(-1), joint - base


def category_beside_normal():
    seen, table = torch.randint(5, (N,)), torch.randn(R, K, 5, dtype=AT).log_softmax(-1)
    features, natural, constant, joint = normal()
    indicators = Linear(torch.nn.functional.one_hot(seen, 5).to(AT))
    joint = joint + td.Categorical(logits=table[:, :, None]).log_prob(seen)
    return Stack([features, indicators]), torch.cat([natural, table], -1), constant, joint


MIXTURES = [multivariate_normal, normal, spherical, bernoulli, many_bits, poisson, category_beside_normal]


def close(found, expected, tolerance=1e-11):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def same(found, expected, tolerance=1e-11):
    for part in ("value", "counts", "sums"):
        close(getattr(found, part), getattr(expected, part), tolerance)


@pytest.fixture(params=["whole", "blocks"])
def cut(request, monkeypatch):
    """Run with all rows at once and statistics kept, and with small blocks made anew."""
    if request.param == "blocks":
        monkeypatch.setattr(layout, "WHOLE", 0)
        monkeypatch.setattr(layout, "block_size", lambda n, height, device: 97)


@pytest.mark.usefixtures("cut")
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("mixture", MIXTURES)
def test_sums_agree_with_torch_distributions(mixture, weighted):
    features, natural, constant, joint = mixture()
    weights = torch.rand(N, dtype=AT) if weighted else None
    w = torch.ones(N, dtype=AT) if weights is None else weights
    found = sweep(features, natural, constant, weights=weights)
    share = joint.softmax(1)
    close(found.value, joint.logsumexp(1) @ w)
    close(found.counts, share @ w)
    close(found.sums, (share * w) @ features.block(0, N).mT)
    counts, sums = accumulate(features, share, weights=weights)
    close(counts, found.counts)
    close(sums, found.sums)


@pytest.mark.usefixtures("cut")
@pytest.mark.parametrize("weighted", [False, True])
def test_hard_sweep_gives_each_row_to_its_best_component(weighted):
    features, natural, constant, joint = poisson()
    weights = torch.rand(N, dtype=AT) if weighted else None
    w = torch.ones(N, dtype=AT) if weights is None else weights
    found = sweep(features, natural, constant, hard=True, weights=weights)
    best = torch.nn.functional.one_hot(joint.argmax(1), K).mT.to(AT)
    close(found.value, joint.amax(1) @ w)
    close(found.counts, best @ w)
    close(found.sums, (best * w) @ features.block(0, N).mT)


@pytest.mark.parametrize("hard", [False, True])
def test_integer_weights_repeat_rows(hard):
    times = torch.randint(4, (N,))
    x, (_, natural, constant, _) = torch.randn(N, D, dtype=AT), multivariate_normal()
    repeated = Quadratic(x.repeat_interleave(times, 0))
    found = sweep(Quadratic(x), natural, constant, weights=times.to(AT), hard=hard)
    same(found, sweep(repeated, natural, constant, hard=hard))


@pytest.mark.parametrize("mixture", MIXTURES)
def test_batched_restarts_equal_single_ones(mixture):
    features, natural, constant, _ = mixture()
    together = sweep(features, natural, constant)
    for start in range(R):
        alone = sweep(features, natural[start : start + 1], constant[start : start + 1])
        close(together.value[start], alone.value[0])
        close(together.counts[start], alone.counts[0])
        close(together.sums[start], alone.sums[0])


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_rounding_only_and_repeat_exactly(threads):
    features, natural, constant, joint = normal()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found, again = (sweep(features, natural, constant) for _ in range(2))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found.sums, again.sums)
    assert torch.equal(found.value, again.value)
    close(found.value, joint.logsumexp(1).sum(-1))
    close(found.sums, joint.softmax(1) @ features.block(0, N).mT)


@pytest.mark.parametrize("hard", [False, True])
def test_component_of_weight_zero_gets_nothing(hard):
    features, natural, constant, joint = multivariate_normal()
    constant[:, 1], joint[:, 1] = -math.inf, -math.inf
    found = sweep(features, natural, constant, hard=hard)
    assert (found.counts[:, 1] == 0).all()
    assert (found.sums[:, 1] == 0).all()
    close(found.value, (joint.amax(1) if hard else joint.logsumexp(1)).sum(-1))


@pytest.mark.parametrize("hard", [False, True])
def test_rows_that_no_component_can_have_made(hard):
    seen = torch.tensor([0, 1, 2, 2])
    table = torch.tensor([[[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]], dtype=AT).log()
    features, constant = Linear(torch.nn.functional.one_hot(seen, 3).to(AT)), torch.zeros(1, 2, dtype=AT)
    found = sweep(features, table, constant, hard=hard)
    assert found.value.item() == -math.inf
    assert not found.sums.isnan().any()
    kept = sweep(features, table, constant, weights=torch.tensor([1.0, 1, 0, 0], dtype=AT), hard=hard)
    assert kept.value.item() == pytest.approx(math.log(0.5) + math.log(1.0 if hard else 1.5), abs=1e-15)
    close(kept.counts.sum(), torch.tensor(2.0, dtype=AT))


def test_far_rows_do_not_underflow():
    features = squares(torch.tensor([[1e4], [-1e4]], dtype=AT))
    natural, constant = torch.tensor([[[1.0, -0.5], [-1.0, -0.5]]], dtype=AT), torch.zeros(1, 2, dtype=AT)
    found = sweep(features, natural, constant)
    close(found.value, torch.full((1,), 2 * (-0.5e8 + 1e4), dtype=AT))
    close(found.counts, torch.ones(1, 2, dtype=AT))


def test_single_precision_adds_up_in_double():
    features, natural, constant, _ = normal()
    x = features.block(0, N)[:D].mT.float()
    found = sweep(squares(x), natural.float(), constant.float())
    assert {found.value.dtype, found.counts.dtype, found.sums.dtype} == {torch.float64}
    same(found, sweep(squares(x.double()), natural, constant), 1e-4)


def test_total_of_what_the_components_share():
    features, natural, constant, _ = multivariate_normal()
    weights, x = torch.rand(N, dtype=AT), features.block(0, N)[:D].mT
    natural[..., D:] = natural[:1, :1, D:]  # one covariance for all
    whole = sweep(features, natural, constant, weights=weights)
    own, common = sweep(Linear(x), natural[..., :D], constant, weights=weights), Products(x)
    close(own.value + natural[0, 0, D:] @ total(common, weights), whole.value)
    close(own.counts, whole.counts)
    close(own.sums, whole.sums[..., :D])
    close(total(common, weights), whole.sums[0].sum(0)[D:])
    close(total(common), Products(x).block(0, N).sum(1))


@pytest.mark.parametrize("d", [1, 2, 3, 4, 7, 8])
def test_products_and_symmetric_matrices(d):
    root, x = torch.randn(2, d, d, dtype=AT), torch.randn(N, d, dtype=AT)
    matrix, products = root + root.mT, Products(x).block(0, N)
    assert products.shape == (d * (d + 1) // 2, N)
    close(pack(matrix) @ products, torch.einsum("ni,kij,nj->kn", x, matrix, x))
    close(unpack(products.mT), x[:, :, None] * x[:, None, :])
    close(Quadratic(x).block(0, N), torch.cat([x.mT, products]))


@pytest.mark.parametrize("height", [3, 500, 10**6])
def test_blocks_cover_the_rows_once(height):
    x = torch.arange(100_000, dtype=AT)[:, None]
    parts = list(Linear(x).blocks(height))
    assert [start for start, _, _ in parts] == [0, *(stop for _, stop, _ in parts[:-1])]
    assert torch.equal(torch.cat([t for *_, t in parts], 1), x.mT)


def test_no_rows_add_nothing():
    found = sweep(Linear(torch.zeros(0, D, dtype=AT)), torch.zeros(R, K, D, dtype=AT), torch.zeros(R, K, dtype=AT))
    assert (found.value == 0).all()
    assert (found.counts == 0).all()
    assert found.sums.shape == (R, K, D)


def test_gradients_are_not_followed():
    features, natural, constant, _ = bernoulli()
    found = sweep(features, natural.requires_grad_(), constant)
    assert not found.value.requires_grad
