"""Sites that observe a part of a field, a step or a visit, of which some cells are missing; labels read as numbers."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import special, stats

import zoo
from inference import EM, fit
from zoo.data.slices import Slice
from zoo.errors import DataError, ModelError
from zoo.program.prepare import prepare

RNG = np.random.default_rng(3)


@pytest.mark.parametrize(
    "take",
    [
        lambda y: y[:, 1],
        lambda y: y[2],
        lambda y: y[1, 2],
        lambda y: y[1:-1, ::2],
        lambda y: y[:, 1:2],
        lambda y: y[..., None],
        lambda y: y[:1],
        lambda y: y,
    ],
)
def test_a_slice_is_found_by_where_it_stands(take):
    y = torch.arange(12.0).reshape(4, 3)
    found = Slice.find("y", y, take(y))
    assert found is not None
    assert torch.equal(found(y), take(y))
    assert torch.equal(take(found.put(y, -take(y))), -take(y))
    longer = torch.arange(18.0).reshape(6, 3)
    assert torch.equal(found(longer), take(longer))


@pytest.mark.parametrize("take", [lambda y: y[:, 1] + 0, lambda y: y.mT, lambda y: y[:, [0, 2]], torch.zeros_like])
def test_what_is_made_anew_is_no_slice(take):
    y = torch.arange(12.0).reshape(4, 3)
    assert Slice.find("y", y, take(y)) is None


@zoo.model(y=zoo.Binary("site", "visit"))
def occupancy(y):
    """Whether an animal lives at a site, where it may be overlooked (MacKenzie et al. 2002)."""
    psi = pyro.sample("psi", dist.Beta(1.0, 1.0))
    p = pyro.sample("p", dist.Beta(1.0, 1.0))
    with pyro.plate("site", len(y)):
        here = pyro.sample("here", dist.Bernoulli(psi))
        for visit in range(y.shape[1]):
            pyro.sample(f"seen_{visit}", dist.Bernoulli(here * p), obs=y[:, visit])


VISITS = (RNG.random((30, 1)) < 0.6) * (RNG.random((30, 4)) < 0.5) * 1.0
VISITS[RNG.random((30, 4)) < 0.2] = np.nan


def occupied(psi, p, y=VISITS):
    """Log density of each site, and the probability that it is occupied."""
    seen = np.where(np.isnan(y), 1.0, np.where(y == 1, p, 1 - p)).prod(1)
    never = np.nansum(y, 1) == 0
    total = psi * seen + (1 - psi) * never
    return np.log(total), psi * seen / total


def test_visits_that_were_not_made_are_left_out():
    values = {n: torch.tensor(v, dtype=torch.float64) for n, v in (("psi", 0.7), ("p", 0.4))}
    found = prepare(occupancy(), {"y": VISITS}).log_joint(values).rows
    assert found.numpy() == pytest.approx(occupied(0.7, 0.4)[0], rel=1e-10)


@pytest.mark.slow
def test_new_rows_have_gaps_of_their_own():
    result = fit(occupancy(), {"y": VISITS}, method=EM(), seed=0)
    psi, p = (float(result.summary().value[n]) for n in ("psi", "p"))
    new = np.array([[0, np.nan, 0, 0], [np.nan, 1, 0, np.nan]])
    assert result.log_prob({"y": new}).to_numpy() == pytest.approx(occupied(psi, p, new)[0], rel=1e-9)
    assert result.assign({"y": new}).to_numpy()[:, 1] == pytest.approx(occupied(psi, p, new)[1], rel=1e-9)
    filled = np.asarray(result.impute(seed=0), dtype=float)
    known = ~np.isnan(VISITS)
    assert (filled[known] == VISITS[known]).all()
    assert np.isin(filled, [0.0, 1.0]).all()


@zoo.model(y=zoo.Real("step"), k=zoo.Count("step"))
def steps(y, k):
    """A chain of states in a loop, with two emissions."""
    level = pyro.sample("level", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
    stay, z = torch.tensor([[0.9, 0.1], [0.2, 0.8]]), None
    for t in pyro.markov(range(len(y))):
        z = pyro.sample(f"z_{t}", dist.Categorical(torch.ones(2) / 2 if z is None else stay[z]))
        pyro.sample(f"y_{t}", dist.Normal(level[z], 1.0), obs=y[t])
        pyro.sample(f"k_{t}", dist.Poisson(torch.tensor([1.0, 4.0])[z]), obs=k[t])


def test_missing_steps_of_a_loop_have_the_density_of_the_forward_algorithm():
    y, k = RNG.normal(0, 2, 8), RNG.poisson(2, 8).astype(float)
    y[[2, 3]], k[[3, 6]] = np.nan, np.nan
    level = np.array([-1.0, 2.0])
    found = prepare(steps(), {"y": y, "k": k}).log_joint({"level": torch.tensor(level)})
    forward = np.log([0.5, 0.5])
    for t in range(8):
        if t:
            forward = special.logsumexp(forward[:, None] + np.log([[0.9, 0.1], [0.2, 0.8]]), 0)
        forward = forward + (0 if np.isnan(y[t]) else stats.norm.logpdf(y[t], level, 1))
        forward = forward + (0 if np.isnan(k[t]) else stats.poisson.logpmf(k[t], [1.0, 4.0]))
    expected = special.logsumexp(forward) + stats.norm.logpdf(level, 0, 5).sum()
    assert float(found.total()) == pytest.approx(expected, rel=1e-10)


@zoo.model(y=zoo.Real("step"))
def differences(y):
    s = pyro.sample("s", dist.HalfNormal(2.0))
    with pyro.plate("change", len(y) - 1):
        pyro.sample("d", dist.Normal(0.0, s), obs=y[1:] - y[:-1])


def test_a_difference_of_missing_values_is_not_left_out():
    """Two differences around a gap say something together, so that leaving both out would be wrong."""
    with pytest.raises(DataError, match="observes a function of a field, and not the field itself or a slice of it"):
        prepare(differences(), {"y": [1.0, np.nan, 2.0, 0.5]})


@zoo.model(spam=zoo.Category("mail", levels=2), word=zoo.Binary("mail", "word"))
def as_numbers(spam, word):
    """Classes as a Bernoulli of numbers, read as codes."""
    w = pyro.sample("w", dist.Beta(1.0, 1.0))
    with pyro.plate("class", 2):
        theta = pyro.sample("theta", dist.Beta(1.0, 1.0).expand([word.shape[1]]).to_event(1))
    with pyro.plate("mail", len(spam)):
        c = pyro.sample("spam", dist.Bernoulli(w), obs=spam.to(w.dtype)).long()
        pyro.sample("word", dist.Bernoulli(theta[c]).to_event(1), obs=word)


def test_missing_labels_may_be_read_as_numbers():
    words = np.array([[1, 0], [1, 1], [0, 0], [1, 1]])
    spam = np.array([1.0, np.nan, 0.0, np.nan])
    theta, w = np.array([[0.2, 0.3], [0.6, 0.7]]), 0.4
    program = prepare(as_numbers(), {"spam": spam, "word": words})
    found = program.log_joint({"w": torch.tensor(w, dtype=torch.float64), "theta": torch.tensor(theta)}).total()
    each = np.array([1 - w, w]) * np.where(words[:, None] == 1, theta, 1 - theta).prod(-1)
    known = [each[i, int(c)] if not np.isnan(c) else each[i].sum() for i, c in enumerate(spam)]
    assert float(found) == pytest.approx(np.log(known).sum(), rel=1e-10)


@zoo.model(seen=zoo.Binary("animal", "year"))
def recaptured(seen):
    """Who is alive among those marked (Cormack 1964, Jolly 1965, Seber 1965), from the first capture on."""
    phi = pyro.sample("phi", dist.Beta(1.0, 1.0))
    p = pyro.sample("p", dist.Beta(1.0, 1.0))
    with pyro.plate("animal", len(seen), dim=-1):
        alive, known = torch.ones(len(seen)), torch.zeros(len(seen), dtype=torch.bool)
        for year in pyro.markov(range(seen.shape[1])):
            alive = pyro.sample(f"alive_{year}", dist.Bernoulli(torch.where(known, alive * phi, 1.0)))
            with pyro.poutine.mask(mask=known):
                pyro.sample(f"seen_{year}", dist.Bernoulli(alive * p), obs=seen[:, year])
            known = known | (seen[:, year] > 0)


def test_capture_histories_have_the_density_of_their_recursion():
    seen, phi, p = np.array([[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 1, 1], [1, 0, 0, 0]]), 0.7, 0.4
    values = {n: torch.tensor(v, dtype=torch.float64) for n, v in (("phi", phi), ("p", p))}
    found = prepare(recaptured(), {"seen": seen}).log_joint(values).rows
    for row, total in zip(seen, found.tolist(), strict=True):
        never, expected = 1.0, 0.0  # probability of not being seen after the year
        first, last = row.nonzero()[0][[0, -1]]
        for _ in range(last, 3):
            never = 1 - phi + phi * (1 - p) * never
        for year in range(first + 1, last + 1):
            expected += np.log(phi) + np.log(p if row[year] else 1 - p)
        assert total == pytest.approx(expected + np.log(never), abs=1e-6)


@zoo.model(seen=zoo.Binary("animal", "year"))
def masked_states(seen):
    phi = pyro.sample("phi", dist.Beta(1.0, 1.0))
    with pyro.plate("animal", len(seen), dim=-1):
        with pyro.poutine.mask(mask=seen[:, 0] > 0):
            first = pyro.sample("first", dist.Bernoulli(phi))
        pyro.sample("second", dist.Bernoulli(first * phi), obs=seen[:, 1])


def test_why_states_under_a_mask_are_refused():
    with pytest.raises(ModelError, match=r"'first' is masked .* give that the probability 1: torch.where"):
        prepare(masked_states(), {"seen": [[1, 0], [0, 1]]})
