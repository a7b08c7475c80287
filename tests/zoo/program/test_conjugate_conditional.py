"""Normal conditionals with an arrow for a precision, against dense matrices and the density in SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from zoo.program.conjugate_conditional import Conditional, Layout, Normals, Probes

J, M, K = 3, 2, 2  # groups, entries of each, dense entries
RNG = np.random.default_rng(0)
WHOLE = np.zeros((J * M + K, J * M + K))  # with an arrow, positive definite
for j in range(J):
    at = [*range(j * M, (j + 1) * M), *range(J * M, J * M + K)]
    part = RNG.normal(size=(M + K, M + K))
    WHOLE[np.ix_(at, at)] += part @ part.T + 0.5 * np.eye(M + K)
SHIFT = RNG.normal(size=J * M + K)


def arrow(groups: int, dense: int) -> tuple[Normals, np.ndarray, np.ndarray]:
    """Factors of so many groups and dense entries, with the whole precision and shift."""
    at = [*range(groups * M), *range(J * M, J * M + dense)]
    whole, shift = WHOLE[np.ix_(at, at)], SHIFT[at]
    cut = groups * M
    diagonal = [whole[i : i + M, i : i + M] for i in range(0, cut, M)]
    border = whole[:cut, cut:].reshape(groups, M, dense)
    precision = np.array(diagonal).reshape(groups, M, M), border, whole[cut:, cut:]
    shifts = torch.tensor(shift[:cut].reshape(groups, M)), torch.tensor(shift[cut:])
    return Normals.of(tuple(map(torch.tensor, precision)), shifts), whole, shift


@pytest.mark.parametrize(("groups", "dense"), [(J, K), (J, 0), (0, K)])
def test_an_arrow_is_the_dense_normal(groups, dense):
    normals, whole, shift = arrow(groups, dense)
    mean, size = np.linalg.solve(whole, shift), len(shift)
    integral = 0.5 * (shift @ mean + size * np.log(2 * np.pi) - np.linalg.slogdet(whole)[1])
    assert float(normals.log_integral()) == pytest.approx(integral, rel=1e-12)
    # Noise e becomes c with (c - mean)' P (c - mean) = |e|^2, and unit noises become columns of a root of P^-1.
    rows = [torch.cat([part.reshape(-1) for part in normals.at(e[: groups * M].reshape(groups, M), e[groups * M :])])
            for e in torch.cat([torch.zeros(1, size), torch.eye(size)]).double()]  # fmt: skip
    np.testing.assert_allclose(rows[0], mean, rtol=1e-10)
    root = torch.stack(rows[1:]).numpy() - mean
    np.testing.assert_allclose(root.T @ root, np.linalg.inv(whole), rtol=1e-9, atol=1e-12)


def read_off(centre: np.ndarray) -> Conditional:
    """That of f(c) = 0.7 + SHIFT' c - c' WHOLE c / 2, read off its gradients about a reference, by unequal steps."""
    layout = Layout(("c",), (SHIFT.shape,), torch.arange(J * M).reshape(J, M), torch.arange(J * M, J * M + K), {})
    probes = Probes(layout, torch.tensor(centre), torch.linspace(0.5, 2.0, len(SHIFT), dtype=torch.float64))

    def joint(values):
        c = values["c"]
        return 0.7 + c @ torch.tensor(SHIFT) - 0.5 * c @ torch.tensor(WHOLE) @ c

    return Conditional.of(joint, probes, probes.points())


@pytest.mark.parametrize("centre", [np.zeros(len(SHIFT)), RNG.normal(size=len(SHIFT))], ids=["zero", "elsewhere"])
def test_a_conditional_is_read_off_gradients(centre):
    found, covariance = read_off(centre), np.linalg.inv(WHOLE)
    normal = stats.multivariate_normal(covariance @ SHIFT, covariance)
    # f is a constant and the Normal's log density: the constant is the log integral.
    assert float(found.log_marginal()) == pytest.approx(0.7 - normal.logpdf(np.zeros(len(SHIFT))), rel=1e-10)
    c, log_q = found.normal_draw(torch.tensor(RNG.normal(size=len(SHIFT))))
    assert float(log_q) == pytest.approx(normal.logpdf(c.numpy()), rel=1e-10)
    gradient, size = found.gradient(c)
    np.testing.assert_allclose(gradient, SHIFT - WHOLE @ c.numpy(), rtol=1e-9)
    off = abs(c.numpy() - centre)
    np.testing.assert_allclose(size, abs(SHIFT - WHOLE @ centre) + abs(WHOLE) @ off, rtol=1e-9)
    moved = found.probes.moved_to(found)
    np.testing.assert_allclose(moved.centre, normal.mean, rtol=1e-9)
    np.testing.assert_allclose(moved.step, np.diag(WHOLE) ** -0.5, rtol=1e-9)
