"""Incremental EM (Neal and Hinton 1998): rows that come later, beside the expected statistics of the rows before."""

from __future__ import annotations

from inference.conjugate import EStep, closed_form
from inference.conjugate.exponential_family import Statistics
from inference.coordinate.ascent import Coordinates, State, added
from inference.coordinate.memory import Memory
from inference.coordinate.steps import OneStart
from zoo.program.program import Program
from zoo.replay.evaluate import Values


def remembered(program: Program, values: Values, *, hard: bool = False) -> Memory:
    """Return the expected statistics of all rows of a program at these values."""
    plan = closed_form(program)
    _, expected = Coordinates(program, hard=hard).expect(State(values, {}))
    return Memory({s.name: expected.statistics(s) for s in plan.summed(program)}, plan.frame())


class MoreRows(OneStart):
    """EM on new rows, whose statistics are averaged anew in each step; those of the earlier rows stay as they were.

    What climbs is the log likelihood of the new rows plus E[log p] of the earlier ones; the trace shows the former.

    Parameters
    ----------
    program
        Bound to the new rows.
    values
        Where to start.
    memory
        Statistics of the earlier rows.
    hard
        Give each row to its most probable state.
    """

    def __init__(self, program: Program, values: Values, memory: Memory, *, hard: bool = False) -> None:
        super().__init__(Coordinates(program, hard=hard), State(values, {}), self._maximized)
        self.plan = closed_form(program)
        self.plan.set_frame(memory.frame)
        self.sites, self.earlier, self.new = self.plan.summed(program), memory.sums, 0.0
        self.ascent.prepare(self.state)

    def evaluate(self, state: State) -> list[float]:
        """Evaluate both terms."""
        value, self.expected = self.ascent.expect(state)
        self.new = float(value)
        earlier = sum(self.expected.log_density_of_sums(s, self.earlier[s.name]) for s in self.sites)
        return [float(value + earlier)]

    def shown(self, row: int, value: float) -> float:
        """Return the objective of the new rows."""
        return self.new

    def memory(self, expected: EStep) -> Memory:
        """Return the statistics of the earlier and the new rows together."""
        return Memory(self._sums(expected), self.plan.frame())

    def _sums(self, expected: EStep) -> dict[str, Statistics]:
        return {s.name: added(self.earlier[s.name], expected.statistics(s)) for s in self.sites}

    def _maximized(self, expected: EStep) -> State:
        """Maximize over the statistics of all rows."""
        expected.sums = self._sums(expected)
        return State(self.ascent.maximize(expected), {})
