"""All starts of EM in one tensor program: one sweep over the rows serves them all."""

from __future__ import annotations

import torch
from torch import Tensor

from inference.coordinate.acceleration import Acceleration
from inference.coordinate.ascent import Coordinates, State
from inference.coordinate.loop import Ascent
from inference.coordinate.mixture import Mixture
from inference.coordinate.steps import Steps
from inference.coordinate.sweep import Swept
from zoo.replay.evaluate import Values


class Inaccurate(RuntimeError):
    """A sweep over the rows would show its rounding."""


class Together(Steps):
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
    acceleration
        What extrapolates their steps; None for plain EM.
    """

    stacked = True

    def __init__(
        self, mixture: Mixture, ascent: Coordinates, states: list[State], acceleration: Acceleration | None = None
    ) -> None:
        super().__init__()
        self.mixture, self.ascent, self.acceleration = mixture, ascent, acceleration
        # Each of shape (starts, *shape of the unknown).
        self.state = State({n: torch.stack([s.values[n] for s in states]) for n in states[0].values}, {})
        self.places: Values = {}  # where the rows were last swept
        self.swept: Swept | None = None

    @classmethod
    def of(cls, ascent: Coordinates, states: list[State], acceleration: Acceleration | None = None) -> Together | None:
        """Lay out the rows of a mixture."""
        ascent.prepare(states[0])
        return None if ascent.mixture is None else cls(ascent.mixture, ascent, states, acceleration)

    def evaluate(self, state: State) -> list[float]:
        """Evaluate L of each start: one matrix product of all rows with the coefficients of all components of all.

        Raises
        ------
        Inaccurate
            Where rounding would show.
        """
        with torch.no_grad():
            self.places = state.values
            natural, constant, rest = torch.vmap(self._natural)(self.places)  # (starts, k, p), (starts, k), (starts,)
            if self.mixture.careful(natural, constant):
                raise Inaccurate
            self.swept = self.mixture.sweep(natural, constant, hard=self.ascent.hard)
            values: list[float] = (self.swept.value + rest + self.mixture.base).tolist()
        return values

    def update(self) -> State:
        """Maximize from the statistics of the last sweep."""
        assert self.swept is not None
        with torch.no_grad():
            return State(torch.vmap(self._maximized)(self.places, self.swept.counts, self.swept.sums), {})

    def keep(self, rows: list[int]) -> None:
        """Leave the others out."""
        assert self.swept is not None
        if len(rows) < len(self.swept.counts):
            self.places = {n: v[rows] for n, v in self.places.items()}
            self.state = State(self.places, {})
            self.swept = Swept(self.swept.value[rows], self.swept.counts[rows], self.swept.sums[rows])

    def end(self, row: int, ascent: Ascent) -> None:
        """Note the values of one start."""
        ascent.state = State({n: v[row].clone() for n, v in self.state.values.items()}, {})

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
