"""How many rows and draws a step of a climb takes."""

from __future__ import annotations

from inference.variational.bound import Bound

NETWORK_BATCH = 128  # default rows per step where the model or guide has networks
FULL_ROWS = 5000  # otherwise all rows are used up to this many, and then BATCH at a time
BATCH = 1000
PARTICLES = 8  # one vectorized evaluation costs little more than one draw, and its gradient has far less noise
LIGHT = 300_000  # products in the networks for a step, beyond which each further draw costs as much as the first
FEWEST = 5  # for bounds that are means of powers of weights


def rows_per_step(bound: Bound, asked: int | None) -> int:
    """Rows of a step: those asked for, or by default few with networks and many without; all, if they are tied."""
    rows = len(bound.program.data)
    if bound.program.tied or (bound.alpha != 1.0 and not bound.by_row):
        return rows
    if asked is not None:
        return asked
    return NETWORK_BATCH if bound.weights.size else (rows if rows <= FULL_ROWS else BATCH)


def draws_per_step(bound: Bound, asked: int | None, *, rows: int, still: bool) -> int:
    """Draws of a step on so many rows; one of a q that is `still`, a point while it climbs."""
    if still:
        return 1
    if asked is not None:
        return asked
    few = 1 if bound.weights.size * rows > LIGHT else PARTICLES
    return max(few, 2 if bound.scored else 1 if bound.alpha == 1.0 else FEWEST)
