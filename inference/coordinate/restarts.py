"""All restarts of EM in one tensor program: one sweep over the rows serves them all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from inference.coordinate.ascent import Coordinates, State
from inference.coordinate.convergence import arrived
from inference.coordinate.mixture import Mixture
from inference.runtime.monitor import Monitor
from zoo.errors import FitError, ModelError
from zoo.replay.evaluate import Values

Found = tuple[list[tuple[Values, Monitor, int, bool]], list[str]]


@contextmanager
def noted(failed: list[str], restarts: int) -> Iterator[None]:
    """Note what breaks one of several starts down, so that the others are not lost."""
    try:
        yield
    except (FitError, ModelError, RuntimeError) as error:
        model = isinstance(error, ModelError) and restarts > 1
        if not (model or isinstance(error, FitError) or "linalg" in str(error)):
            raise
        failed.append(str(error))


def climb_together(
    ascent: Coordinates, states: list[State], tolerance: float, max_steps: int, monitor: Monitor
) -> Found | None:
    """Climb from all starts at once; None where the program is no mixture that can be swept, or cannot be vectorized.

    Returns
    -------
    tuple
        For each start that did not break down, in the order of the starts: values, its trace, steps, and whether it
        converged; and what stopped the others.
    """
    if not states:
        return None
    ascent.prepare(states[0])
    mixture = ascent.mixture
    if mixture is None:
        return None
    try:
        return _climb(mixture, ascent, states, tolerance, max_steps, monitor, hard=ascent.hard)
    except RuntimeError:  # torch.vmap cannot follow control flow that depends on values
        return None


def _climb(
    mixture: Mixture,
    ascent: Coordinates,
    states: list[State],
    tolerance: float,
    max_steps: int,
    monitor: Monitor,
    *,
    hard: bool,
) -> Found | None:
    eps = torch.finfo(mixture.program.dtype).eps
    values = {n: torch.stack([s.values[n] for s in states]) for n in states[0].values}
    monitors = [Monitor("em", max_steps, show=False) for _ in states]
    histories: list[list[float]] = [[] for _ in states]
    active = list(range(len(states)))
    done: dict[int, tuple[Values, Monitor, int, bool]] = {}
    failed: list[str] = []

    def natural(at: Values) -> tuple[Tensor, Tensor, Tensor]:
        expected = mixture.expected(at)
        eta, constant, shared = mixture.natural(expected)
        return eta, constant, shared + mixture.rest(expected)

    def maximize(at: Values, counts: Tensor, sums: Tensor) -> Values:
        expected = mixture.expected(at)
        expected.sums = mixture.statistics(counts, sums)
        return ascent.maximize(expected)

    for step in range(max_steps + 1):
        with torch.no_grad():
            eta, constant, rest = torch.vmap(natural)(values)
            if mixture.careful(eta, constant):
                return None
            swept = mixture.sweep(eta, constant, hard=hard)
            objective = (swept.value + rest + mixture.base).tolist()
        keep = []
        for row, (index, value) in enumerate(zip(active, objective, strict=True)):
            if value != value:
                failed.append(f"the objective is not a number after {step} steps")
                continue
            histories[index].append(value)
            monitors[index].record(step, value)
            converged = arrived(histories[index], tolerance, eps)
            if converged or step == max_steps:
                done[index] = {n: v[row].clone() for n, v in values.items()}, monitors[index], step, converged
            else:
                keep.append(row)
        if not keep:
            break
        monitor.record(step, max(objective))
        if len(keep) < len(active):
            active = [active[row] for row in keep]
            values = {n: v[keep] for n, v in values.items()}
        with torch.no_grad():
            values = torch.vmap(maximize)(values, swept.counts[keep], swept.sums[keep])
    return [done[index] for index in sorted(done)], failed
