"""Several starts: all at once where there is a way to, else one after the other; the best end is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from inference.coordinate.ascent import State
from inference.coordinate.convergence import StoppingRule
from inference.coordinate.loop import Ascent, Journal, Way, ascend
from inference.runtime.interruption import asked
from inference.runtime.monitor import Monitor, Told
from inference.runtime.processes import Gone
from zoo.errors import FitError, ModelError

ROUNDS = 3  # of states that are told apart
GAINED = 1e-9  # relative gain that makes an end a higher one
SCREENS = ((10, 3), (30, 1))  # steps that candidates for a start take, and how many of the best go on
SLOW_SCREENS = ((5, 1),)  # where steps are by gradient


@contextmanager
def noting_failures(failures: list[str], restarts: int) -> Iterator[None]:
    """Note what breaks one of several starts down, so that the others are not lost."""
    try:
        yield
    except Gone:
        raise
    except (FitError, ModelError, RuntimeError) as error:
        model = isinstance(error, ModelError) and restarts > 1
        if not (model or isinstance(error, FitError) or "linalg" in str(error)):
            raise
        failures.append(str(error))


@dataclass(frozen=True)
class Restarts:
    """Climbs from several starts, and keeps the best end.

    Parameters
    ----------
    name
        Of the method.
    count
        How many starts.
    start
        Makes the start of a given index.
    way
        The way up from a start.
    rule
        When to stop.
    together
        The way up from all starts in one tensor program, None where there is none.
    apart
        Further starts from where a climb has ended, if it has come to a saddle of symmetry.
    candidates
        Several for the first start, of which the one that has come highest after a few steps is taken; None if `start`
        makes it.
    screens
        Steps that these take, and how many of the best go on, round by round.
    finish
        Takes the best ascent to its limit where its steps were extrapolated.
    journal
        Notes where climbs are, and takes them up again.
    """

    name: str
    count: int
    start: Callable[[int], State]
    way: Callable[[State], Way]
    rule: StoppingRule
    together: Callable[[list[State]], Way | None] | None = None
    apart: Callable[[State], list[State]] | None = None
    candidates: Callable[[], Iterable[Callable[[], State]]] | None = None
    screens: Sequence[tuple[int, int]] = SCREENS
    finish: Callable[[Way, Ascent], None] | None = None
    journal: Journal | None = None

    def climb(self, advice: str, *, progress: Told | bool) -> tuple[Ascent, list[str], list[float]]:
        """Return the highest ascent, what is to be said of it and of the others, and how high each has come.

        Parameters
        ----------
        advice
            What to try where every start breaks down.
        progress
            Show a progress bar.

        Raises
        ------
        FitError
            If every start breaks down.
        """
        ascents, failures = self.climb_all(progress=progress)
        if not ascents:
            raise FitError(f"{self.name} broke down from every start: {failures[0]}. {advice}")
        best = self._off_saddles(max(ascents, key=lambda ascent: ascent.value), progress=progress)
        if self.finish is not None and best.hastened and best.converged and best.state is not None:
            self.finish(self.way(best.state), best)
        notes = [] if best.converged else [best.reason]
        if failures:
            notes.append(f"{len(failures)} of {self.count} starts broke down: {failures[0]}")
        return best, notes, [ascent.value for ascent in ascents]

    def _off_saddles(self, best: Ascent, *, progress: Told | bool) -> Ascent:
        """Climb on from an end where states are alike, as long as that leads higher."""
        for _ in range(ROUNDS if self.apart is not None else 0):
            assert self.apart is not None
            assert best.state is not None
            higher = self._first_higher(best.value, self.apart(best.state), progress=progress)
            if higher is None:
                break
            best = higher
            best.reason += ", from where what had been alike was told apart"
        return best

    def _first_higher(self, value: float, starts: list[State], *, progress: Told | bool) -> Ascent | None:
        """Return the first climb that ends higher than a value."""
        for index in range(len(starts)):
            ascents, _ = self._each(range(index, index + 1), starts.__getitem__, [], progress=progress)
            if ascents and not ascents[0].failure and ascents[0].value > value + GAINED * max(1.0, abs(value)):
                return ascents[0]
        return None

    def climb_all(self, *, progress: Told | bool) -> tuple[list[Ascent], list[str]]:
        """Return the ascents that have come to an end, and what broke the others down."""
        ascents, failures = self._ascents(progress=progress)
        return [a for a in ascents if not a.failure], failures + [a.failure for a in ascents if a.failure]

    def _ascents(self, *, progress: Told | bool) -> tuple[list[Ascent], list[str]]:
        failures: list[str] = []
        if self.count == 1 or self.together is None:
            return self._each(range(self.count), self._begin, failures, progress=progress)
        states: list[State] = []
        for index in range(self.count):
            with noting_failures(failures, self.count):
                states.append(self._begin(index))
        ascents = self._together(states, progress=progress) if states else []
        if ascents is not None:
            return ascents, failures
        return self._each(range(len(states)), states.__getitem__, failures, progress=progress)

    def _ascend(self, way: Way, monitors: Sequence[Monitor], together: Monitor | None = None) -> list[Ascent]:
        return ascend(way, self.rule, monitors, together=together, journal=self.journal)

    def _begin(self, index: int) -> State:
        """Return a start, the first one of the best candidate."""
        few = self.candidates is None or self.rule.max_steps <= sum(steps for steps, _ in self.screens)
        return self.start(index) if index or few else self.screened()

    def screened(self) -> State:
        """Return the candidate from which a few steps lead highest."""
        failures: list[str] = []
        states: list[State] = []
        for candidate in self.candidates() if self.candidates is not None else ():
            with noting_failures(failures, 2):
                states.append(candidate())
        for steps, kept in self.screens:
            if len(states) < 2:
                break
            rule = replace(self.rule, max_steps=steps)
            short = replace(self, count=len(states), start=states.__getitem__, rule=rule, candidates=None)
            ascents, failures = short.climb_all(progress=False)
            order = sorted(range(len(ascents)), key=lambda i: ascents[i].value, reverse=True)
            states = [begun for i in order[:kept] if (begun := ascents[i].begun) is not None]
        return states[0] if states else self.start(0)  # which says what is wrong with a start, if it is no better

    def _together(self, states: list[State], *, progress: Told | bool) -> list[Ascent] | None:
        """Climb from all starts at once; None where that cannot be done."""
        assert self.together is not None
        monitors = [Monitor(self.name, self.rule.max_steps, show=False) for _ in states]
        with Monitor(self.name, self.rule.max_steps, show=progress) as shown:
            try:
                way = self.together(states)
                ascents = None if way is None else self._ascend(way, monitors, together=shown)
                for ascent, state in zip(ascents or (), states, strict=False):
                    ascent.begun = state
                return ascents
            except RuntimeError:  # torch.vmap cannot follow control flow that depends on values
                return None

    def _each(
        self, indices: range, start: Callable[[int], State], failures: list[str], *, progress: Told | bool
    ) -> tuple[list[Ascent], list[str]]:
        """Climb from one start after the other."""
        ascents: list[Ascent] = []
        for index in indices:
            if ascents and asked():
                break
            title = f"{self.name} {index + 1}/{self.count}"
            with (
                Monitor(title, self.rule.max_steps, show=progress) as monitor,
                noting_failures(failures, self.count),
            ):
                begun = start(index)
                ascents += self._ascend(self.way(begun), [monitor])
                ascents[-1].begun = begun
        return ascents, failures
