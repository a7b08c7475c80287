"""A slice of the campaign in each run; the whole by ``python -m tests.attack --all``."""

from __future__ import annotations

import pytest

from tests.attack import campaign, judge

QUICK, SLOW, SLICES = 12, 312, 12


def answered(attempts):
    """Fail if one is answered wrongly, or more than one in a hundred unclearly."""
    found = [(a, judge(a)) for a in attempts]
    said = [f"{v.what}: {a.kind}: {a.name}: {v.why}" for a, v in found if v.what != "right"]
    assert not any(v.what == "wrong" for _, v in found), "\n".join(said)
    assert len(said) <= max(1, len(found) // 100), "\n".join(said)


def test_a_few():
    answered(campaign(QUICK))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(SLICES))
def test_some(part):
    answered(campaign(SLOW)[QUICK + part :: SLICES])
