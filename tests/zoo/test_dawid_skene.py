"""The model of Dawid and Skene: the anaesthetists of their paper, and long tables."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pandas as pd
import pytest
from scipy.special import gammaln, logsumexp

import zoo
from inference import fit
from zoo.program.prepare import prepare

# Fitness of 45 patients for anaesthesia, 1 to 4: three ratings by the first of five anaesthetists, one by each other
# (Dawid and Skene 1979, table 1).
RATINGS = re.findall(
    r"\d{7}",
    """
    1111111 3334334 1122122 2223121 2223222 2223322 1222111 3333433 2222223 2322223 4444444 2223343 1111111 2223212
    1211111 1112111 1111111 1111111 2222221 2221322 2222222 2222221 2223222 2212222 1111111 1111111 2322222 1111111
    1111111 1121121 1111111 3333233 1111111 2222222 2223232 4334343 2212232 2323233 3333432 1111111 1111111 1212111
    2322222 1211111 2222222
    """,
)


def ratings():
    """A row for each rating."""
    who = ["one", "one", "one", "two", "three", "four", "five"]
    rows = [(i + 1, who[j], int(r)) for i, row in enumerate(RATINGS) for j, r in enumerate(row)]
    return pd.DataFrame(rows, columns=["item", "annotator", "level"])


def in_the_paper(counts, steps):
    """EM as the paper has it: shares of labels for a start, then equations 2.3, 2.4 and 2.5 in turn."""
    member = counts.sum(1) / counts.sum((1, 2))[:, None]
    for _ in range(steps):
        weights = member.mean(0)
        errors = np.einsum("ik,ijl->kjl", member, counts)
        errors /= errors.sum(-1, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.where(counts[:, None] > 0, counts[:, None] * np.log(errors), 0.0).sum((2, 3)) + np.log(weights)
        member = np.exp(logs - logsumexp(logs, axis=1, keepdims=True))
    coefficients = gammaln(counts.sum(-1) + 1).sum() - gammaln(counts + 1).sum()
    return weights, errors, member, logsumexp(logs, axis=1).sum() + coefficients


@pytest.mark.slow
def test_anaesthetists_have_their_published_error_rates():
    data = ratings()
    found = fit(zoo.DawidSkene(), data, method="em", seed=0, progress=False)
    counts = prepare(zoo.DawidSkene(), data).data.values["counts"].numpy()
    order = [list(prepare(zoo.DawidSkene(), data).data.coords["annotator"]).index(a) for a in ("one", "two")]
    weights, errors, member, height = in_the_paper(counts, 5000)
    # The paper's table 3 (shares 0.40, 0.42, 0.11, 0.07) and table 2 for the first anaesthetist.
    np.testing.assert_allclose(found.points["weights"], [0.40, 0.42, 0.11, 0.07], atol=0.006)
    np.testing.assert_allclose(
        found.points["confusion"][:2, order[0], :3], [[0.89, 0.11, 0], [0.07, 0.88, 0.05]], atol=0.006
    )
    assert found.objective.value == pytest.approx(height, abs=1e-4)
    np.testing.assert_allclose(found.points["weights"], weights, atol=1e-3)
    np.testing.assert_allclose(found.points["confusion"], errors, atol=5e-3)
    np.testing.assert_allclose(found.assign(), member, atol=5e-3)


def test_long_tables_are_counted_in_any_order():
    data = ratings()
    model = zoo.DawidSkene()
    counts = pd.crosstab(data["item"], [data["annotator"], data["level"]], dropna=False)
    levels, annotators = [1, 2, 3, 4], ["five", "four", "one", "three", "two"]
    full = pd.MultiIndex.from_tuples(itertools.product(annotators, levels))
    expected = counts.reindex(columns=full, fill_value=0).to_numpy().reshape(45, 5, 4)
    bound = prepare(model, data).data
    np.testing.assert_array_equal(bound.values["counts"], expected)
    assert {n: list(c) for n, c in bound.coords.items()} == {
        "item": list(range(1, 46)),
        "annotator": annotators,
        "level": levels,
    }
    shuffled = prepare(model, data.sample(frac=1.0, random_state=0)).data
    at = [list(shuffled.coords["item"]).index(i) for i in range(1, 46)]
    np.testing.assert_array_equal(shuffled.values["counts"][at], expected)
    twice = data.assign(counts=2)
    np.testing.assert_array_equal(prepare(model, twice).data.values["counts"], 2 * expected)


def test_new_items_are_weighed_by_few_labels():
    data = ratings()
    found = fit(zoo.DawidSkene(concentration=1.5), data, method="em", seed=0, progress=False)
    new = pd.DataFrame({"item": ["x", "x", "y"], "annotator": ["one", "two", "five"], "level": [1, 2, 3]})
    weights, errors = (found.posterior["point_estimate"][n] for n in ("weights", "confusion"))
    said = errors.sel(annotator="one", level_2=1) * errors.sel(annotator="two", level_2=2) * weights
    assigned = found.assign(new)
    np.testing.assert_allclose(assigned.loc["x"], (said / said.sum()).to_numpy().squeeze(), rtol=1e-9)
    with pytest.raises(zoo.DataError, match="column 'annotator': 'six' is new; the model was fitted to five, four"):
        found.assign(new.assign(annotator="six"))
    with pytest.raises(zoo.DataError, match="column 'level': 1 labels are missing"):
        found.assign(new.assign(level=[1, 2, None]))


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([[[1], [2]]], "at least 2 kinds of labels"),
        ([[[1, 0], [0, 2]], [[0, 0], [0, 0]]], "item 1 has no labels"),
        ([[[1, 0], [0, 0]], [[0, 1], [0, 0]]], "annotator 1 has no labels"),
    ],
)
def test_labels_that_say_nothing_are_refused(counts, message):
    with pytest.raises(zoo.DataError, match=message):
        prepare(zoo.DawidSkene(), {"counts": counts})
