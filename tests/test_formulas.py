"""Formulas that `python -m tests.mutation` changed without a test that noticed, against direct computation."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

import zoo
from inference import CAVI, fit
from inference.conjugate import closed_form
from inference.conjugate.coefficients import Coefficients
from inference.conjugate.exponential_family import Entries
from inference.conjugate.factor_posteriors import PatternNormal
from inference.conjugate.given_states import FAMILIES
from inference.conjugate.incomplete import completed, log_marginal
from inference.conjugate.local_spread import tight_axes
from inference.conjugate.state_coefficients import StateCoefficients
from inference.conjugate.student import MultivariateStudent, Student
from inference.coordinate.acceleration import LONGEST_WAIT, REACH, USELESS, Course
from inference.coordinate.stepwise import blend
from inference.coordinate.swept_path import SweptPath
from zoo.constant_columns import FLOOR
from zoo.data.patterns import MissingCells
from zoo.program.marginals import averaged_terms
from zoo.program.prepare import prepare
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


def _known(moments, count, sums, offset=0.0):
    """Entries of a site whose arguments have these moments."""
    return Entries(SimpleNamespace(argument=lambda site, name: moments[name]), None, None, count, sums, offset)


@pytest.mark.parametrize("groups", [1, 6])
def test_messages_of_a_multivariate_t_are_slopes_of_its_log_density(groups):
    """To locations (m, m m^T) and to (log |P|, P), of one of each for all rows and of one for every row."""
    loc, precision = torch.randn(groups, 3, **DOUBLE), _positive(3, groups)
    df, x, count = torch.tensor(4.0, **DOUBLE), torch.randn(6, 3, **DOUBLE), torch.rand(6, **DOUBLE) + 0.5
    count[2] = 0.0
    leaves = loc.clone().requires_grad_(), precision.clone().requires_grad_()
    away = x - leaves[0]
    square = torch.einsum("ni,nij,nj->n", away, leaves[1].expand(6, 3, 3), away)
    log_p = 0.5 * torch.logdet(leaves[1]) - 0.5 * (df + 3) * torch.log1p(square / df)
    to_loc, to_precision = torch.autograd.grad((count * log_p).sum(), leaves)
    moments = {
        "loc": {"mean": loc, "cov": torch.zeros_like(precision)},
        "df": {"mean": df},
        "precision_matrix": {"mean": precision, "logdet": torch.logdet(precision)},
    }
    entries = _known(moments, count, (count[:, None] * x,))
    first, second = MultivariateStudent().message("loc", entries)
    slopes = first + 2 * (second @ loc[..., None])[..., 0]
    if groups == 1:  # one matrix for all rows
        slopes = first.sum(0, keepdim=True) + 2 * (second @ loc[..., None])[..., 0]
    else:
        moved, _ = MultivariateStudent().message("loc", replace(entries, offset=0.5))
        _close(moved - first, -second.sum(-1))
    _close(slopes, to_loc)
    half, scatter = MultivariateStudent().message("precision_matrix", entries)
    half = half.sum(0, keepdim=True) if groups == 1 else half
    _close(half[:, None, None] * torch.linalg.inv(precision) + scatter, to_precision)


def test_the_bound_of_a_t_touches_it():
    """Slopes of the log density by the value, and by the location, of which the value has one of its own."""
    df, loc, precision = torch.tensor(3.0, **DOUBLE), torch.randn(5, **DOUBLE), torch.rand(5, **DOUBLE) + 0.5
    value, at, count = torch.randn(5, **DOUBLE).requires_grad_(), loc.clone().requires_grad_(), torch.rand(5, **DOUBLE)
    law = dist.StudentT(df, at, precision.rsqrt())
    by_value, by_loc = torch.autograd.grad((count * law.log_prob(value)).sum(), [value, at])
    moments = {"loc": {"mean": loc}, "df": {"mean": df}, "precision": {"mean": precision, "log": precision.log()}}
    x = value.detach()
    first, second = Student().as_prior(law, moments.__getitem__, {"mean": x}, None)
    _close(count * (first + 2 * second * x), by_value)
    moved, same = Student().as_prior(law, moments.__getitem__, {"mean": x}, torch.tensor(0.5, **DOUBLE))
    _close(first - moved, -2 * second * 0.5)
    _close(same, second)
    entries = _known(moments, count, (count * x, torch.zeros(5, **DOUBLE)))
    first, second = Student().message("loc", entries)
    _close(first + 2 * second * loc, by_loc)
    _close(Student().log_density(law, moments.__getitem__, {"mean": x}), law.log_prob(x).detach())


def test_places_without_a_coefficient_have_no_covariance():
    tril = torch.linalg.cholesky(_positive(3, 2))
    tril[1, 2], tril[1, 2, 2] = 0.0, 1.0  # where none stands, in the second of two groups
    found = Coefficients(("a",), ((5,),), (0,), torch.arange(5), torch.zeros(2, 3, **DOUBLE), tril)
    expected = tril @ tril.mT
    expected[1, 2, 2] = 0.0
    _close(found.cov, expected)


@pytest.mark.parametrize(("support", "at"), [(s, i) for s, of in FAMILIES.items() for i in range(len(of))])
def test_families_given_states_are_normalized(support, at):
    """log q(v) = a T_1(v) + b T_2(v) - log Z(a, b)."""
    family = FAMILIES[support][at]
    a, b = torch.tensor([2.5, 4.2], **DOUBLE), torch.tensor([-1.5, -0.6], **DOUBLE)
    b = b.abs() if support == "unit interval" else b
    value = torch.tensor([0.3, 0.8], **DOUBLE)
    first, second = family.statistics(value)
    _close(a * first + b * second - family.normalizer(a, b), family.posterior(a, b).log_prob(value))


def test_a_posterior_by_state_is_a_mixture():
    share, locs, scales = torch.rand(3, 4, **DOUBLE).log_softmax(0).exp(), torch.randn(3, 4, **DOUBLE), torch.rand(3, 4)
    scales = scales.double() + 0.2
    mixture = dist.MixtureSameFamily(dist.Categorical(share.mT), dist.Normal(locs.mT, scales.mT))
    made = StateCoefficients(("a", "b"), ((3,), ()), (0, 0), share, locs, scales)
    _close(made.loc[0], mixture.mean)
    _close((made.tril[0] @ made.tril[0].mT).diagonal(), mixture.variance)
    draws = made.sample(4000)
    flat = torch.cat([draws["a"], draws["b"][:, None]], -1)
    assert ((flat.mean(0) - mixture.mean).abs() < 5 * (mixture.variance / 4000).sqrt()).all()
    found = made.log_prob(draws)
    _close(torch.cat([found["a"], found["b"][:, None]], -1), mixture.log_prob(flat))


@zoo.model(y=zoo.Real("row"), x=zoo.Real("row", "column"))
def spikes(y, x):
    """Coefficients that are near 0 or not."""
    with pyro.plate("column", 2):
        z = pyro.sample("z", dist.Categorical(torch.tensor([0.7, 0.3])))
        beta = pyro.sample("beta", dist.Normal(torch.tensor([0.0, 0.4])[z], torch.tensor([0.1, 2.0])[z]))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(x @ beta, 0.8), obs=y)


def test_spike_and_slab_of_orthogonal_predictors_is_exact():
    """q(z_j) q(beta_j | z_j) is then the posterior, and the bound the evidence: a sum over the states of both."""
    rng = np.random.default_rng(0)
    x = np.linalg.qr(rng.normal(size=(8, 2)))[0] * 2
    y = x @ [1.3, 0.1] + 0.8 * rng.normal(size=8)
    found = fit(spikes(), {"y": y, "x": x}, method=CAVI(), seed=0)
    heights = []
    for states in np.ndindex(2, 2):
        mean = x @ np.array([0.0, 0.4])[list(states)]
        cov = x @ np.diag(np.array([0.1, 2.0])[list(states)] ** 2) @ x.T + 0.64 * np.eye(8)
        normal = dist.MultivariateNormal(torch.tensor(mean), torch.tensor(cov))
        heights.append(float(normal.log_prob(torch.tensor(y))) + math.log(np.prod(np.array([0.7, 0.3])[list(states)])))
    assert found.objective.value == pytest.approx(np.logaddexp.reduce(heights), abs=1e-8)


def test_rows_with_missing_entries_are_completed():
    """By what a Normal says of them, row by row; and their density under an uncertain mean and precision."""
    x, mean, cov = torch.randn(5, 3, **DOUBLE), torch.randn(3, **DOUBLE), _positive(3)
    gone = torch.tensor([[0, 0, 0], [1, 0, 0], [1, 0, 0], [0, 1, 1], [0, 0, 1]]).bool()
    weight, center, cells = torch.rand(1, 5, **DOUBLE), torch.randn(3, **DOUBLE), MissingCells(x, gone)
    spread, logdet = _positive(3), torch.tensor(0.3, **DOUBLE)
    precision = {"mean": torch.linalg.inv(cov), "logdet": logdet}
    first, second, heights = [], [], []
    for row, no in zip(x, gone, strict=True):
        o, m = ~no, no
        full, left = row.clone(), torch.zeros(3, 3, **DOUBLE)
        gain = cov[m][:, o] @ torch.linalg.inv(cov[o][:, o])
        full[m] = mean[m] + gain @ (row - mean)[o]
        left[m[:, None] & m] = (cov[m][:, m] - gain @ cov[o][:, m]).flatten()
        first.append(full - center)
        second.append(torch.outer(first[-1], first[-1]) + left)
        seen = dist.MultivariateNormal(mean[o], cov[o][:, o]).log_prob(row[o])
        beyond = logdet + torch.logdet(cov)
        heights.append(torch.stack([seen + 0.5 * beyond, 0.5 * (precision["mean"] * spread).sum()]))
    each, squares = torch.stack(first), torch.stack(second)
    given = mean[None, None], cov[None, None]
    total = completed(x, cells, weight, *given, center, summed=True)[1]
    _close(total[0].flatten(), (weight[0, :, None] * each).sum(0))
    _close(total[1].reshape(3, 3), (weight[0, :, None, None] * squares).sum(0))
    apart = completed(x, cells, weight, *given, center, summed=False)[1]
    _close(apart[0].reshape(5, 3), weight[0, :, None] * each)
    _close(apart[1].reshape(5, 3, 3), weight[0, :, None, None] * squares)
    log_p, less = torch.stack(heights, 1)
    loc = {"mean": mean[None]}
    _close(log_marginal(x, loc, precision, cov, cells).flatten(), log_p)
    _close(log_marginal(x, {**loc, "cov": spread}, precision, cov, cells).flatten(), log_p - less)
    _close(log_marginal(x, {**loc, "quad": torch.tensor(0.6, **DOUBLE)}, precision, cov, cells).flatten(), log_p - 0.3)


@pytest.mark.parametrize("holes", [False, True])
def test_data_are_centred_and_scaled_by_their_own_moments(holes):
    """Those of the cells that are there, far from zero; axes along which rows are tight are those of scaled columns."""
    rng = np.random.default_rng(4)
    x = rng.normal(size=(40, 3)) * [1.0, 5.0, 0.2]
    x[:, 2] = 0.3 * x[:, 0] - 0.1 * x[:, 1] + 1e-4 * x[:, 2]
    x += 1e3
    x[rng.random(x.shape) < (0.2 if holes else 0.0)] = np.nan
    plan = closed_form(prepare(zoo.GMM(components=2, covariance="diag" if holes else "full"), x, dtype=torch.float64))
    np.testing.assert_allclose(plan.centers["x"].numpy(), np.nanmean(x, 0), rtol=1e-12)
    np.testing.assert_allclose(plan.spreads["x"].numpy(), np.nanvar(x, 0), rtol=1e-9)
    if not holes:
        scaled = torch.tensor((x - x.mean(0)) / x.std(0))
        torch.testing.assert_close(plan.axes["x"], tight_axes(scaled, FLOOR), rtol=1e-6, atol=1e-9)


def test_divergence_of_normals_of_patterns():
    roots = [torch.linalg.cholesky(_positive(2, 2)) for _ in range(2)]
    locs, which = torch.randn(2, 5, 2, **DOUBLE), torch.tensor([0, 1, 1, 0, 1])
    mine, other = (PatternNormal(("t",), r, which, (2,), loc=m) for r, m in zip(roots, locs, strict=True))
    normals = [dist.MultivariateNormal(m, scale_tril=r[which]) for r, m in zip(roots, locs, strict=True)]
    _close(-mine.cross(other)["t"] - mine.entropy()["t"], kl_divergence(*normals))


def test_a_tempered_mixture_is_its_prior_and_its_likelihood():
    """Heights of particles and slopes between prior (0) and posterior (1), against the density of the program."""
    x = torch.randn(30, 2, generator=torch.Generator().manual_seed(1)).numpy()
    program = prepare(zoo.BayesianGMM(components=2), x, dtype=torch.float64)
    path = SweptPath.of(program, 3)
    u = 0.3 * torch.randn(3, path.density.size, generator=torch.Generator().manual_seed(2), **DOUBLE)
    slopes = []
    for temperature in (0.0, 0.5, 1.0):
        _, joint, slope = path._together(u, torch.tensor(temperature, **DOUBLE))
        slopes.append(slope)
        leaf = u.clone().requires_grad_()
        height = torch.stack([path.density.log_prob(v) for v in leaf])
        _close(joint, height.detach())
    _close(slopes[2], torch.autograd.grad(height.sum(), leaf)[0])
    _close(slopes[1], 0.5 * (slopes[0] + slopes[2]))
    assert path.accurate(u, joint)
    assert not path.accurate(u, joint + 1.0)


def test_averages_are_blended():
    count, sums = torch.tensor([2.0, 4.0]), torch.tensor([1.0, -1.0])
    found = blend((count, (sums,)), (count + 1, (3 * sums,)), 0.25)
    _close(found[0], count + 0.25)
    _close(found[1][0], 1.5 * sums)


def test_courses_learn_how_far_to_look():
    course = Course([])
    course.ahead = True
    course.learn(higher=True)
    assert (course.reach, course.failures) == (4 * REACH, 0)
    course.growing = True
    course.reach = 32 * REACH
    course.learn(higher=False)  # too far: not so far, and no other way as long as steps grow
    assert (course.reach, course.failures, course.ahead, course.wait) == (4 * REACH, 1, True, 0)
    waits = []
    for _ in range(9):
        course.learn(higher=False)
        waits.append(course.wait)
    assert waits == [min(2 ** ((n + 1) // 2), LONGEST_WAIT) - 1 for n in range(1, 10)]
    course.gain, course.wait = 1.0, 0
    found = []
    for _ in range(USELESS + 6):
        course.weigh(1.9)
        found.append(course.wait)
    assert found == [0] * USELESS + [min(2**n, LONGEST_WAIT) for n in range(1, 7)]
    course.weigh(2.1)
    assert course.useless == 0
