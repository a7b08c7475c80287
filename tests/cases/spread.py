"""Families of many similar cases: some of them in `make test`, spread over the family, the others in `make slow`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest


def spread(
    names: str | Sequence[str],
    cases: Iterable[Any],
    *,
    part: int,
    of: int = 5,
    ids: Callable[[Any], object] | None = None,
) -> pytest.MarkDecorator:
    """Cases part, part + of, part + 2 of, ... stay in the quick run; the others are marked `slow`.

    Tests of the same cases take different parts: by `of` such tests each case is in some quick one.

    Parameters
    ----------
    names, cases, ids
        As `pytest.mark.parametrize` takes them.
    part
        Position of the first case that stays, 0 to of - 1.
    of
        How many parts there are.

    Examples
    --------
    >>> @spread("n", [2, 3, 5, 7], part=1)
    ... def test_primes(n): ...  # 3 by `make test`, 2, 5 and 7 by `make slow`
    """
    if not 0 <= part < of:
        raise ValueError(f"part {part} of {of}: it counts from 0 to {of - 1}")
    single = isinstance(names, str) and "," not in names
    marked = []
    for i, case in enumerate(cases):
        if not hasattr(case, "marks"):  # not a `pytest.param`
            case = pytest.param(case) if single else pytest.param(*case)
        marks = case.marks if i % of == part else (*case.marks, pytest.mark.slow)
        marked.append(pytest.param(*case.values, marks=marks, id=case.id))
    return pytest.mark.parametrize(names, marked, ids=ids)
