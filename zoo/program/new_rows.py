"""New rows, held against the supports of the sites that observe them: outside of these a density means nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from zoo.data.data import Data
from zoo.data.labelled import entry
from zoo.errors import DataError
from zoo.program.program import Program
from zoo.replay.sites import Site


def check_new_rows(program: Program, data: Data) -> None:
    """Raise if values of new rows are outside of a support that is the same for every row.

    Raises
    ------
    DataError
        Naming the first such value, and where it stands.
    """
    for site in program.observed:
        if site.field not in data.values:
            continue
        value = data.values[site.field]
        outside = _outside(site, value, len(program.data))
        if outside is not None and site.field in data.missing:
            outside &= ~data.missing[site.field]
        if outside is None or not bool(outside.any()):
            continue
        at = [int(i) for i in outside.nonzero()[0]]
        coords = {dim: index for dim, index in data.coords.items() if dim != program.row}
        place = entry(data.dims[site.field], coords, at)
        grey = "total_count" in type(program.model).hyperparameters and float(value.max()) > 1
        remedy = f", or fit with total_count={float(value.max()):g}" if grey else ""
        raise DataError(
            f"field {site.field!r}: its site is {site.family}, which gives {_words(_base(site.support))}, and new rows "
            f"hold {float(value[tuple(at)]):g} at {place} ({int(outside.sum())} such entries); give rows like "
            f"those fitted{remedy}"
        )


def _base(support: Any) -> Any:
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support


def _outside(site: Site, value: Tensor, fitted: int) -> Tensor | None:
    """Which entries are outside of the support; None where it may depend on the row, or is of whole vectors."""
    support = _base(site.support)
    if support.is_discrete and isinstance(support, constraints.integer_interval) and site.family != "Categorical":
        bounds = [_shared(b, fitted) for b in (support.lower_bound, support.upper_bound)]
        counts = [a for n, a in site.args.items() if n == "total_count"]
        if any(b is None for b in bounds) or any(str(a) != "constant" for a in counts):
            return None
        support = constraints.integer_interval(*bounds)
    elif support.event_dim or any(isinstance(v, Tensor) for v in vars(support).values()):
        return None
    found: Tensor = ~support.check(value)
    return found if found.shape == value.shape else None


def _shared(bound: Any, rows: int) -> Any:
    """A bound that is the same for all rows, without their dimension; None if it is not."""
    if not isinstance(bound, Tensor) or bound.ndim == 0:
        return bound
    return bound[0] if len(bound) == rows and bool((bound == bound[:1]).all()) else None


def _words(support: Any) -> str:
    if isinstance(support, type(constraints.boolean)):
        return "0 or 1"
    if isinstance(support, constraints.integer_interval):
        high = torch.as_tensor(support.upper_bound).max()
        return f"whole numbers up to {float(high):g}"
    return f"{support}"
