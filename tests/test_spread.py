"""Spread cases: every case runs, quick or slow; parts of a family make up the whole of it."""

from __future__ import annotations

import pytest

from tests.cases.spread import spread

CASES = [("a", 1), pytest.param("b", 2, id="second"), ("c", 3), pytest.param("d", 4, marks=pytest.mark.cuda), ("e", 5)]


def test_all_cases_run_and_the_parts_of_the_quick_ones_make_up_the_whole():
    quick = []
    for part in range(3):
        _, cases = spread(("letter", "number"), CASES, part=part, of=3).args
        assert [case.values for case in cases] == [("a", 1), ("b", 2), ("c", 3), ("d", 4), ("e", 5)]
        assert [case.id for case in cases] == [None, "second", None, None, None]
        marks = [{mark.name for mark in case.marks} for case in cases]
        assert all(("cuda" in names) == (i == 3) for i, names in enumerate(marks))
        quick += [case.values for case, names in zip(cases, marks, strict=True) if "slow" not in names]
    assert quick == [("a", 1), ("d", 4), ("b", 2), ("e", 5), ("c", 3)]


def test_a_case_of_one_argument_may_be_a_tuple():
    _, cases = spread("shape", [(), (2, 3)], part=0, of=2).args
    assert [(case.values, [mark.name for mark in case.marks]) for case in cases] == [(((),), []), (((2, 3),), ["slow"])]


@pytest.mark.parametrize("part", [-1, 3])
def test_a_part_that_is_none_is_refused(part):
    with pytest.raises(ValueError, match=f"part {part} of 3"):
        spread("n", [1], part=part, of=3)
