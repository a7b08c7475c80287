"""When coordinate ascent stops: rules on sequences whose limit or noise is known."""

from __future__ import annotations

from inference.coordinate.convergence import PASSES, WithinNoise


def test_passes_are_compared_over_a_window_of_gains():
    """The mean of the last `PASSES` gains, one of them g and the others 0, is g / 5; a tenth of their sd is 0.045 g."""
    rule = WithinNoise(tolerance=1e-6, max_steps=100)
    still = [10.0] * PASSES
    assert not rule.stands(still)  # too few passes to see
    assert not rule.stands([0.0, *still])  # the rise is the first gain of the window
    assert rule.stands([0.0, *still, 10.0])  # and now before it
