"""All starts of EM in one tensor program: one sweep over the rows serves them all."""

from __future__ import annotations

import torch
from torch import Tensor

from inference.coordinate.ascent import Coordinates, State
from inference.coordinate.loop import Ascent, Way
from inference.coordinate.mixture import Mixture
from inference.coordinate.sweep import Swept
from zoo.replay.evaluate import Values


class Inaccurate(RuntimeError):
    """A sweep over the rows would show its rounding."""


class Together(Way):
    """EM from several starts at once: values are stacked along a dimension of starts on the left.

    Use `Together.of`, which returns None where a program is no mixture that can be swept.

    Parameters
    ----------
    mixture
        The rows, laid out.
    ascent
        M-steps.
    states
        The starts.
    """

    def __init__(self, mixture: Mixture, ascent: Coordinates, states: list[State]) -> None:
        self.mixture, self.ascent = mixture, ascent
        # Each of shape (starts, *shape of the unknown).
        self.values: Values = {n: torch.stack([s.values[n] for s in states]) for n in states[0].values}
        self.swept: Swept | None = None

    @classmethod
    def of(cls, ascent: Coordinates, states: list[State]) -> Together | None:
        """Lay out the rows of a mixture."""
        ascent.prepare(states[0])
        return None if ascent.mixture is None else cls(ascent.mixture, ascent, states)

    def objective(self) -> list[float]:
        """Evaluate L of each start: one matrix product of all rows with the coefficients of all components of all.

        Raises
        ------
        Inaccurate
            Where rounding would show.
        """
        with torch.no_grad():
            natural, constant, rest = torch.vmap(self._natural)(self.values)  # (starts, k, p), (starts, k), (starts,)
            if self.mixture.careful(natural, constant):
                raise Inaccurate
            self.swept = self.mixture.sweep(natural, constant, hard=self.ascent.hard)
            values: list[float] = (self.swept.value + rest + self.mixture.base).tolist()
        return values

    def step(self, going: list[int]) -> None:
        """Maximize from the statistics of the last sweep."""
        assert self.swept is not None
        if len(going) < len(self.swept.counts):
            self.values = {n: v[going] for n, v in self.values.items()}
        with torch.no_grad():
            self.values = torch.vmap(self._maximized)(self.values, self.swept.counts[going], self.swept.sums[going])

    def end(self, row: int, ascent: Ascent) -> None:
        """Note the values of one start."""
        ascent.state = State({n: v[row].clone() for n, v in self.values.items()}, {})

    def _natural(self, values: Values) -> tuple[Tensor, Tensor, Tensor]:
        """Coefficients of one start's components, (k, p) and (k,), and what the sweep leaves out of L."""
        expected = self.mixture.expected(values)
        eta, constant, shared = self.mixture.natural(expected)
        return eta, constant, shared + self.mixture.rest(expected)

    def _maximized(self, values: Values, counts: Tensor, sums: Tensor) -> Values:
        """M-step of one start, from counts (k,) and sums (k, p)."""
        expected = self.mixture.expected(values)
        expected.sums = self.mixture.statistics(counts, sums)
        return self.ascent.maximize(expected)
