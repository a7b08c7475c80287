"""A campaign of wrong inputs: models x methods x faults, each of which is answered rightly, unclearly or wrongly.

``python -m tests.attack --all`` runs all of it and prints the counts.
"""

from __future__ import annotations

import random
from functools import cache

from tests.attack import data, options, own_models, questions, saved, settings
from tests.attack.attempt import Attempt, Verdict, judge

__all__ = ["ORDER", "Attempt", "Verdict", "campaign", "judge"]

# How many attempts of each kind there are in the whole campaign; of the larger kinds a sample.
SIZES = {"hyperparameters": 1000, "data": 1300, "options": 1000, "questions": 900, "own models": 400, "saved fits": 400}
ORDER = tuple(SIZES)
SEED = 23


@cache
def _attempts() -> tuple[Attempt, ...]:
    """Return the whole campaign, the same one each time."""
    rng = random.Random(SEED)
    chosen = []
    for module, (kind, size) in zip(
        (settings, data, options, questions, own_models, saved), SIZES.items(), strict=True
    ):
        found = list(module.attempts())
        assert {a.kind for a in found} == {kind}
        rng.shuffle(found)
        chosen += found[:size]
    rng.shuffle(chosen)
    return tuple(chosen)


def campaign(count: int | None = None) -> tuple[Attempt, ...]:
    """Return all attempts, or the first of them."""
    return _attempts()[:count]
