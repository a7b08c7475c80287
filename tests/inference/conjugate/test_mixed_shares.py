"""The bound on counts of mixed categories, by a sum over all cells."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import gammaln, logsumexp

from inference.conjugate.mixed_shares import MixedShares, _sparse

RNG = np.random.default_rng(0)
ROWS, K, CATEGORIES = 4, 2, 12
SHARES, VECTORS = np.log(RNG.dirichlet(np.ones(K), ROWS)), np.log(RNG.dirichlet(np.ones(CATEGORIES), K))
FEW = np.zeros((ROWS, CATEGORIES))
FEW[[0, 1, 2, 2], [3, 0, 11, 5]] = [4.0, 1.0, 2.0, 3.0]  # a row is empty
MANY = RNG.poisson(2.0, (ROWS, CATEGORIES)).astype(float)


@pytest.mark.parametrize(("counts", "sparse"), [(FEW, True), (MANY, False)], ids=["few cells", "many cells"])
def test_densities_and_counts_are_sums_over_cells(counts, sparse):
    """sum_j x_ij log sum_k exp(E[log s_ik] + E[log B_kj]) + log h (Blei, Ng and Jordan 2003, section 5)."""
    like, x = MixedShares("s", "B"), torch.tensor(counts)
    parts = {"shares": torch.tensor(SHARES), "vectors": torch.tensor(VECTORS)}
    seen = like.observed(object(), x)  # type: ignore[arg-type]
    assert _sparse(parts, seen["row"]) is sparse
    each = SHARES[:, :, None] + VECTORS  # (rows, k, categories)
    mixed = logsumexp(each, 1)
    base = gammaln(counts.sum(-1) + 1) - gammaln(counts + 1).sum(-1)
    found = like.log_density(None, lambda _: parts, seen)
    np.testing.assert_allclose(found, (counts * mixed).sum(-1) + base, rtol=1e-12, atol=1e-12)
    phi = np.exp(each - mixed[:, None]) * counts[:, None]
    step: Any = SimpleNamespace(
        entries=lambda site, unknown: SimpleNamespace(sums=(x,)), value=lambda site: seen
    )  # an E-step as far as it is asked
    like.composed = lambda current: parts  # type: ignore[method-assign]
    np.testing.assert_allclose(like.counts("s", step, None), phi.sum(-1), rtol=1e-10, atol=1e-12)  # type: ignore[arg-type]
    np.testing.assert_allclose(like.counts("B", step, None), phi.sum(0), rtol=1e-10, atol=1e-12)  # type: ignore[arg-type]
