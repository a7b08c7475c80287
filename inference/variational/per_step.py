"""How many rows and draws a step of a climb takes."""

from __future__ import annotations

from inference.variational.bound import Bound

NETWORK_BATCH = 128  # default rows per step where the model or guide has networks
FULL_ROWS = 5000  # otherwise all rows are used up to this many, and then BATCH at a time
BATCH = 1000
PARTICLES = 8  # one vectorized evaluation costs little more than one draw, and its gradient has far less noise
COVERING = 512  # draws that tell a q that is to cover the posterior what it does not cover: weights of few are noise
COVERING_CELLS = 100_000  # rows times these draws
COVERING_FEWEST = 64  # of them
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
    usual = covering_draws(rows, networks=bool(bound.weights.size)) if bound.covering else PARTICLES
    # In an affine map each weight is one product of a row; in a convolution it is as many as there are pixels.
    products = max(bound.weights.size, bound.program.structure.products)
    few = 1 if products * rows > LIGHT else usual
    return max(few, 2 if bound.scored else 1 if bound.alpha == 1.0 else FEWEST)


def covering_draws(rows: int, *, networks: bool) -> int:
    """Draws of a step that goes down a divergence from the posterior to q."""
    return COVERING_FEWEST if networks else min(COVERING, max(COVERING_FEWEST, COVERING_CELLS // rows))
