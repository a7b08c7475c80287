"""Linear-Gaussian chains integrated out of programs: against statsmodels, dense Normals and finite differences."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

import zoo
from tests.cases.state_space import NILE, autoregression, local_level, seasonal, smoother, tracking
from zoo.elimination.kalman import LinearGaussian, filter_rows
from zoo.elimination.kalman_gradient import log_evidence
from zoo.errors import ModelError
from zoo.program.integrated import _blocks
from zoo.program.prepare import prepare
from zoo.program.smoothing import chain_moments, draw_chains
from zoo.replay.random import reseed

F64 = torch.float64


def gappy(x, seed=0):
    """Some cells, and some whole rows at the end, missing."""
    x = np.array(x, float)
    x[np.random.default_rng(seed).random(x.shape) < 0.1] = np.nan
    x[-3:] = np.nan
    return x


def wave(rows, *more):
    return np.random.default_rng(rows).normal(size=(rows, *more)).cumsum(0) * 0.3


CASES = {
    "local level": (
        local_level(),
        NILE,
        {"level": 1469.1, "noise": 15099.0},
        ((np.zeros(1), 1e7 * np.eye(1)), np.eye(1), 1469.1 * np.eye(1), np.eye(1), 15099.0 * np.eye(1)),
    ),
    "autoregression": (
        autoregression(),
        wave(80),
        {"a": [0.6, -0.3], "scale": 0.8},
        (
            (np.zeros(2), 4 * np.eye(2)),
            np.array([[0.6, -0.3], [1, 0]]),
            np.diag([0.64, 0.0]),
            np.array([[1.0, 0.0]]),
            0.01 * np.eye(1),
        ),
    ),
    "seasonal": (
        seasonal(),
        wave(60),
        {"sd": [0.4, 0.3, 0.6]},
        (
            (np.zeros(4), 10 * np.eye(4)),
            np.array([[1.0, 0, 0, 0], [0, -1, -1, -1], [0, 1, 0, 0], [0, 0, 1, 0]]),
            np.diag([0.16, 0.09, 0, 0]),
            np.array([[1.0, 1.0, 0, 0]]),
            0.36 * np.eye(1),
        ),
    ),
}


@pytest.mark.parametrize("missing", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("case", CASES)
def test_declared_chains_are_those_of_statsmodels(case, missing):
    model, x, values, system = CASES[case]
    x = gappy(x) if missing else x
    program = prepare(model, x, device="cpu", dtype=F64)
    values = {n: torch.tensor(v, dtype=F64) for n, v in values.items()}
    expected = smoother(x[:, None], *system)
    terms = program.log_joint(values)
    np.testing.assert_allclose(terms.rows, expected.llf_obs, rtol=0, atol=1e-10)
    mean, cov = chain_moments(program, values)
    scale = np.abs(expected.smoothed_state).max()
    np.testing.assert_allclose(mean["h"].T, expected.smoothed_state, rtol=0, atol=1e-10 * scale)
    np.testing.assert_allclose(cov["h"].permute(1, 2, 0), expected.smoothed_state_cov, rtol=1e-9, atol=1e-10)


def dense(program, values, rows):
    """Mean and covariance of all states, stacked, by the definition."""
    chain = program.replay(values, densities=False).distributions["h"]
    f, u, q = (t.numpy() for t in chain.steps)
    d = f.shape[-1]
    mean, factor = np.zeros((rows, d)), np.zeros((rows * d, rows * d))
    noise = np.zeros((rows * d, rows * d))
    for t in range(rows):
        here = slice(t * d, (t + 1) * d)
        before = slice((t - 1) * d, t * d)
        mean[t] = u[t] + (f[t] @ mean[t - 1] if t else 0)
        factor[here] = f[t] @ factor[before] if t else 0
        factor[here, here] = np.eye(d)
        noise[here, here] = q[t]
    return mean.ravel(), factor @ noise @ factor.T


def test_irregular_times_and_missing_cells_against_one_dense_normal():
    rows = 12
    time = np.sort(np.random.default_rng(1).uniform(0, 20, rows))
    x = gappy(wave(rows, 2), 3)
    program = prepare(tracking(), {"position": x, "time": time}, device="cpu", dtype=F64)
    values = {"push": torch.tensor(0.6, dtype=F64), "error": torch.tensor(0.4, dtype=F64)}
    mean, cov = dense(program, values, rows)
    design = np.kron(np.eye(rows), np.eye(2, 4))
    seen = ~np.isnan(x).ravel()
    design, x = design[seen], x.ravel()[seen]
    total = design @ cov @ design.T + 0.16 * np.eye(len(x))
    expected = stats.multivariate_normal(design @ mean, total).logpdf(x)
    assert float(program.log_joint(values).total()) == pytest.approx(expected, abs=1e-9)
    gain = cov @ design.T @ np.linalg.inv(total)
    smoothed = (mean + gain @ (x - design @ mean)).reshape(rows, 4)
    found, spread = chain_moments(program, values)
    np.testing.assert_allclose(found["h"], smoothed, atol=1e-9)
    left = (cov - gain @ design @ cov).reshape(rows, 4, rows, 4)
    np.testing.assert_allclose(spread["h"], left[np.arange(rows), :, np.arange(rows)], atol=1e-9)


def test_blocks_stand_along_the_diagonal():
    parts = [torch.rand(3, rows, columns) for rows, columns in ((1, 2), (2, 1), (2, 3))]
    found = _blocks(parts)
    for k in range(3):
        assert torch.equal(found[k], torch.block_diag(*(p[k] for p in parts)))


def test_sequences_below_each_other_are_apart():
    @zoo.model(x=zoo.Real("row"), start=zoo.Binary("row"))
    def sequences(x, start):
        a = pyro.param("a", torch.tensor(0.5))
        one = torch.eye(1)
        with pyro.plate("row", len(x)):
            h = pyro.sample("h", zoo.LinearGaussianChain(torch.ones(1), 2 * one, a * one, one, start=start))
            pyro.sample("x", dist.Normal(h[..., 0], 1.0), obs=x)

    values, x = {"a": torch.tensor(0.7, dtype=F64)}, wave(9)

    def rows(x, start):
        return prepare(sequences(), {"x": x, "start": start}, device="cpu", dtype=F64).log_joint(values).rows

    together = rows(x, [0, 0, 0, 0, 1, 1, 0, 0, 0])
    apart = [rows(x[at], [0] * len(x[at])) for at in (slice(4), slice(4, 5), slice(5, 9))]
    torch.testing.assert_close(together, torch.cat(apart), rtol=0, atol=1e-12)


@pytest.mark.slow
def test_two_chains_are_one_with_both_states():
    @zoo.model(x=zoo.Real("month"))
    def apart(x):
        sd = pyro.param("sd", torch.tensor([0.5, 0.2, 0.3]))
        move = torch.tensor([[-1.0, -1, -1], [1, 0, 0], [0, 1, 0]])
        one, noise = torch.eye(1), torch.diag(torch.cat([sd[1:2] ** 2, torch.zeros(2)]))
        with pyro.plate("month", len(x)):
            h = pyro.sample("h", zoo.LinearGaussianChain(torch.zeros(1), 10 * one, one, sd[0] ** 2 * one))
            g = pyro.sample("g", zoo.LinearGaussianChain(torch.zeros(3), 10 * torch.eye(3), move, noise))
            pyro.sample("x", dist.Normal(h[..., 0] + g[..., 0], sd[2]), obs=x)

    x, values = gappy(wave(30)), {"sd": torch.tensor([0.4, 0.3, 0.6], dtype=F64)}
    one, two = (prepare(m, x, device="cpu", dtype=F64) for m in (seasonal(), apart()))
    torch.testing.assert_close(one.log_joint(values).rows, two.log_joint(values).rows, rtol=0, atol=1e-11)
    mean, _ = chain_moments(one, values)
    other, _ = chain_moments(two, values)
    torch.testing.assert_close(mean["h"], torch.cat([other["h"], other["g"]], -1), rtol=0, atol=1e-11)


def random_chain(rows=11, d=3, p=2, seed=0):
    """A chain with everything different in every row, sequences, missing cells and a singular noise."""
    reseed(seed)

    def definite(size):
        a = torch.randn(rows, size, size, dtype=F64)
        return a @ a.mT

    noise = definite(d)
    noise[:, 2] = noise[:, :, 2] = 0
    first, missing = torch.zeros(rows, dtype=torch.bool), torch.rand(rows, p) < 0.2
    first[[0, 4, 5]] = missing[2] = True
    f, h = 0.5 * torch.randn(rows, d, d, dtype=F64), torch.randn(rows, p, d, dtype=F64)
    u, v = torch.randn(rows, d, dtype=F64), torch.randn(rows, p, dtype=F64)
    return LinearGaussian(f, u, noise, h, v, definite(p) + torch.eye(p), missing, first)


@pytest.mark.parametrize("weight", ["one", "by sequence", "by row"])
def test_gradients_are_those_of_finite_differences(weight):
    chain = random_chain()
    *given, missing, first = chain.tensors
    weights = {
        "one": torch.ones(11),
        "by sequence": torch.tensor([1.0, 2, 3])[first.cumsum(0) - 1],
        "by row": torch.rand(11),
    }
    w, way = weights[weight].to(F64), [torch.randn_like(t) for t in given]
    way[2], way[5] = (0.5 * (t + t.mT) for t in (way[2], way[5]))

    def total(step):
        moved = (t + step * d for t, d in zip(given, way, strict=True))
        return (w * log_evidence(LinearGaussian(*moved, missing, first)).sum(-1)).sum()

    zero = torch.zeros((), dtype=F64, requires_grad=True)
    (slope,) = torch.autograd.grad(total(zero), zero, create_graph=True)
    (bend,) = torch.autograd.grad(slope, zero)
    with torch.no_grad():
        up, there, down = (total(torch.tensor(s, dtype=F64)) for s in (1e-4, 0.0, -1e-4))
    assert float(slope.detach()) == pytest.approx(float(up - down) / 2e-4, rel=1e-5)
    assert float(bend) == pytest.approx(float(up - 2 * there + down) / 1e-8, rel=1e-3)


def test_chains_with_different_numbers_are_vectorized():
    chain = random_chain()
    scales = torch.tensor([0.5, 1.0, 1.5], dtype=F64)

    def total(s):
        return log_evidence(LinearGaussian(s * chain.transition, *chain.tensors[1:])).sum()

    expected = [torch.func.grad(total)(s) for s in scales]
    torch.testing.assert_close(torch.vmap(torch.func.grad(total))(scales), torch.stack(expected))


def test_what_is_nearly_unknown_at_first_loses_no_digits():
    """A level known to 1e5 and seen to 1e-2, against a dense Normal in twice the precision by hand: two rows."""
    big, q, r, x = 1e10, 1.0, 1e-4, np.array([3.0, 4.5])
    one = torch.ones(2, 1, 1, dtype=F64)
    first = torch.tensor([True, False])
    noise = torch.tensor([big, q], dtype=F64)[:, None, None]
    chain = LinearGaussian(
        one,
        torch.zeros(2, 1),
        noise,
        one,
        torch.tensor(x)[:, None],
        r * one,
        torch.zeros(2, 1, dtype=torch.bool),
        first,
    )
    found = filter_rows(chain)
    variance = big * r / (big + r)
    assert float(found.cov[0]) == pytest.approx(variance, rel=1e-12)
    predicted = x[0] * big / (big + r)
    expected = stats.norm(predicted, np.sqrt(variance + q + r)).logpdf(x[1])
    assert float(found.log_prob[1]) == pytest.approx(expected, abs=1e-12)


def test_draws_of_the_states_have_the_smoothed_moments():
    """Means, variances and lag-one covariances of 4000 draws, each within 5 standard errors."""
    program = prepare(seasonal(), gappy(wave(24)), device="cpu", dtype=F64)
    values = {"sd": torch.tensor([0.4, 0.3, 0.6], dtype=F64)}
    reseed(0)
    count = 4000
    h = draw_chains(program, {}, values, count)["h"]
    mean, cov = (m["h"] for m in chain_moments(program, values))
    sd = cov.diagonal(dim1=-2, dim2=-1).sqrt()
    z = (h.mean(0) - mean) / (sd / count**0.5)
    assert float(z.abs().max()) < 5
    ratio = (h.var(0) / sd.square() - 1) / (2 / count) ** 0.5
    assert float(ratio.abs().max()) < 5
    move, _, noise = program.replay(values, densities=False).distributions["h"].steps
    steps = h[:, 1:] - (move[1:] @ h[:, :-1, :, None])[..., 0]
    assert float(steps[..., 2:].abs().max()) < 1e-9  # components without noise of their own follow exactly
    assert float(noise[1:, 2:, 2:].abs().max()) == 0


# -- what is refused --------------------------------------------------------------------------------------------------


def chain(d=1):
    return zoo.LinearGaussianChain(torch.zeros(d), torch.eye(d), torch.eye(d), torch.eye(d))


def poisson(x, h):
    pyro.sample("x", dist.Poisson(h[..., 0].exp()), obs=x)


def bent(x, h):
    pyro.sample("x", dist.Normal(h[..., 0].abs(), 1.0), obs=x)


def volatile(x, h):
    pyro.sample("x", dist.Normal(0.0, (0.5 * h[..., 0]).exp()), obs=x)


def lagged(x, h):
    pyro.sample("x", dist.Normal(h[..., 0] + h[..., 0].roll(1, -1), 1.0), obs=x)


def masked(x, h):
    pyro.sample("x", dist.Normal(h[..., 0], 1.0).mask(x > 0), obs=x)


def between(x, h):
    y = pyro.sample("y", dist.Normal(h[..., 0], 1.0))
    pyro.sample("x", dist.Normal(y, 1.0), obs=x)


def switching(x, h):
    z = pyro.sample("z", dist.Bernoulli(0.3))
    pyro.sample("x", dist.Normal(h[..., 0], 1.0 + 9.0 * z), obs=x)


def unseen(x, h):
    pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)


@pytest.mark.parametrize(
    ("story", "reason"),
    [
        (poisson, "site 'x' is a Poisson that depends on the states 'h'. Only a Normal"),
        (bent, "its location is no affine function of the states 'h'"),
        (volatile, "its argument scale depends on the states 'h'"),
        (lagged, "depends in a row on the states 'h' of other rows; put what it needs of"),
        (masked, "give cells that are not there as NaN|MaskedDistribution|Only a Normal"),
        (between, "site 'y' is a latent that depends on the states 'h', and is not observed"),
        (switching, "on the discrete 'z'.*a mixture of as many Normals as there are paths"),
        (unseen, "nothing observed depends on its states"),
    ],
)
def test_what_is_not_linear_gaussian_is_refused_by_name(story, reason):
    @zoo.model(x=zoo.Real("row"))
    def declared(x):
        with pyro.plate("row", len(x)):
            story(x, pyro.sample("h", chain()))

    with pytest.raises(ModelError, match=reason):
        prepare(declared(), [0.3, 1.2, 2.0, 1.0], device="cpu")


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ModelError, match=r"initial_cov needs shape \(2, 2\), not \(3, 3\)"):
        zoo.LinearGaussianChain(torch.zeros(2), torch.eye(3), torch.eye(2), torch.eye(2))
    with pytest.raises(ModelError, match=r"transition needs shape \(2, 2\) or \(4, 2, 2\), not \(3, 2, 2\)"):
        zoo.LinearGaussianChain(torch.zeros(2), torch.eye(2), torch.zeros(3, 2, 2), torch.eye(2)).expand((4,))
    with pytest.raises(ModelError, match="start says of each row"):
        zoo.LinearGaussianChain(torch.zeros(1), *[torch.eye(1)] * 3, start=torch.ones(3)).expand((4,))


@pytest.mark.parametrize(
    ("noise", "reason"),
    [
        (torch.tensor([[1.0, 0.5], [0.0, 1.0]]), "its noise_cov is not symmetric at the starting values"),
        (torch.tensor([[1.0, 2.0], [2.0, 1.0]]), "its noise_cov has a negative variance in some direction"),
    ],
)
def test_covariances_that_are_none_are_named(noise, reason):
    @zoo.model(x=zoo.Real("row"))
    def declared(x):
        scale = pyro.param("scale", torch.tensor(1.0))
        with pyro.plate("row", len(x)):
            h = pyro.sample("h", zoo.LinearGaussianChain(torch.zeros(2), torch.eye(2), torch.eye(2), noise))
            pyro.sample("x", dist.Normal(scale * h[..., 0], 1.0), obs=x)

    with pytest.raises(ModelError, match=reason):
        prepare(declared(), [0.3, 1.2, 2.0, 1.0], device="cpu").initial()
