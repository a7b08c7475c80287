"""Formulas that `python -m tests.mutation` changed without a test that noticed, against direct computation."""

import pyro.distributions as dist
import torch

from inference.conjugate.student import MultivariateStudent
from zoo.program.marginals import averaged_terms
from zoo.program.sufficient import _eliminated, _over_groups

torch.manual_seed(0)
DOUBLE = {"dtype": torch.float64}


def _positive(size, *batch):
    root = torch.randn(*batch, size, size + 2, **DOUBLE)
    return root @ root.mT


def _close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_elimination_of_first_entries_is_a_schur_complement():
    table = _positive(5)
    left, half = _eliminated(table, 2)
    first, across = table[:2, :2], table[2:, :2]
    _close(left, table[2:, 2:] - across @ torch.linalg.solve(first, across.mT))
    _close(half, 0.5 * torch.logdet(first))


def test_elimination_of_entries_of_groups_is_a_sum_of_solves():
    entries, products = torch.randn(3, 4, **DOUBLE), _positive(4, 5)
    rows = [torch.stack([g @ b for g in products], -1) for b in entries]
    taken, half = _over_groups(entries, rows)
    inside = torch.eye(3, **DOUBLE) + entries @ products @ entries.mT
    beside = entries @ products
    _close(taken, (beside.mT @ torch.linalg.solve(inside, beside)).sum(0))
    _close(half, 0.5 * torch.logdet(inside).sum())


def test_averaged_terms_are_lower_by_a_divergence():
    log_probs = {"z": torch.randn(3, 4, **DOUBLE), "x": torch.randn(3, 4, **DOUBLE), "mu": torch.randn(2, **DOUBLE)}
    joint = log_probs["z"] + log_probs["x"]
    share = torch.randn(3, 4, **DOUBLE).log_softmax(0)
    found = averaged_terms(log_probs, {"z", "x"}, 4, share)
    gap = (share.exp() * (share - joint.log_softmax(0))).sum(0)
    _close(found.rows, joint.logsumexp(0) - gap)
    _close(found.rest, log_probs["mu"].sum())


def test_the_bound_of_a_multivariate_t_touches_it():
    """Its slope at the value where it was taken is that of the density."""
    loc, precision, df = torch.randn(3, **DOUBLE), _positive(3), torch.tensor(4.0, **DOUBLE)
    value = torch.randn(3, **DOUBLE).requires_grad_()
    law = dist.MultivariateStudentT(df, loc, torch.linalg.cholesky(precision.inverse()))
    (slope,) = torch.autograd.grad(law.log_prob(value), value)
    moments = {
        "loc": {"mean": loc, "cov": torch.zeros_like(precision), "variance": torch.zeros_like(precision)},
        "df": {"mean": df},
        "precision_matrix": {"mean": precision, "logdet": torch.logdet(precision)},
    }
    at = {"mean": value.detach()}
    first, second = MultivariateStudent().as_prior(law, moments.__getitem__, at, None)
    _close(first + 2 * second @ value.detach(), slope)
