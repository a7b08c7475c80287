"""NUTS at its default settings against the reference draws of nine more posteriors of posteriordb.

Diamonds, lynxes and hares, and the Poisson Gaussian process take minutes of CPU time: `benchmarks/README.md` has them.
"""

from __future__ import annotations

import ast
import inspect
import json

import numpy as np
import pandas as pd
import pytest

from inference import fit
from inference.diagnostics.agreement import mean_error
from tests.cases import posteriordb_more
from tests.cases.posteriordb_more import posterior

NINE = [
    "arma-arma11",
    "earnings-earn_height",
    "earnings-logearn_interaction",
    "gp_pois_regr-gp_regr",
    "kidiq-kidscore_interaction",
    "mesquite-logmesquite_logvash",
    "mesquite-mesquite",
    "nes1980-nes",
    "sblrc-blr",
]


def test_each_is_declared_in_at_most_25_lines():
    tree = ast.parse(inspect.getsource(posteriordb_more))
    models = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.decorator_list]
    assert len(models) == 7  # several posteriors are one regression each
    for node in models:
        assert node.end_lineno - node.decorator_list[0].lineno < 25, node.name


@pytest.mark.slow
@pytest.mark.parametrize("name", NINE)
def test_nuts_agrees_within_four_standard_errors(references, name):
    data = json.loads((references / "posteriordb" / f"{name.partition('-')[0]}.json").read_text(encoding="utf-8"))
    model, given, named = posterior(name, data)
    found = fit(model, given, method="nuts", seed=1, progress=False)
    assert found.converged, found.reason
    values = {n: v.unflatten(0, (4, -1)) for n, v in found.approximation.values.items()}
    draws = {n: v.numpy() for n, v in named(values).items()}
    table = pd.read_csv(references / "posteriordb" / "reference_summary.csv")
    expected = table[table["reference_posterior"] == name]
    assert len(expected) > 2
    for row in expected.itertuples():
        site, _, index = row.parameter.partition("[")
        mine = draws[site][(..., *(int(i) - 1 for i in index[:-1].split(",")))] if index else draws[site]
        assert abs(mine.mean() - row.mean) < 4 * np.hypot(mean_error(mine), row.mcse_mean), row.parameter
        square = (mine - row.mean) ** 2
        error = np.hypot(mean_error(square), row.sd**2 * np.sqrt(2 / row.ess_bulk))
        assert abs(square.mean() - row.sd**2) < 5 * error, row.parameter
