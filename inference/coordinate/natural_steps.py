"""Stochastic coordinate ascent of models with local latents: natural-gradient steps from mini-batches of rows."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from inference.conjugate import EStep, Plan, closed_form
from inference.conjugate.posteriors import Posterior
from inference.coordinate.ascent import Coordinates, State
from inference.coordinate.stepwise import Averages, together, weights_of
from zoo.program.program import Program

SETTLED = 1e-3  # gain in nats a row below which the posteriors of local latents are near enough to the best
MOST_ROUNDS = 50  # of updates of local latents


class NaturalSteps(Averages):
    """Natural-gradient steps: lambda <- (1 - g) lambda + g lambda(batch), g = (step + delay)^-forgetting.

    lambda are the natural parameters of q of each global block. Those of a batch are what an update of all rows would
    give if they were like the batch, whose local latents have settled at their posterior given the globals (Hoffman et
    al. 2013, algorithm 1). Means of the local latents are kept from pass to pass: where the next settling starts.

    Parameters
    ----------
    program
        The fit's program.
    forgetting, delay
        Of the step size.
    """

    def __init__(self, program: Program, *, forgetting: float, delay: float) -> None:
        super().__init__(forgetting=forgetting, delay=delay)
        self.program = program
        self.plan: Plan = closed_form(program)
        self.locals = [b for b in self.plan.blocks if program.sites[b.unknowns[0]].role == "local"]
        self.globals = [b for b in self.plan.blocks if b not in self.locals]
        self.names = frozenset(n for block in self.locals for n in block.unknowns)

    @staticmethod
    def why_not(program: Program) -> str | None:
        """Say why rows cannot be taken in batches, None if they can."""
        plan = closed_form(program)
        if (why := together(program)) is not None:
            return why
        if program.data.stream is not None:
            first = program.locals[0].name
            return f"batch_size needs rows in memory, as {first!r} has one for every row; load the file"
        for block in plan.blocks:
            roles = {program.sites[n].role == "local" for n in block.unknowns}
            if len(roles) > 1:
                return f"batch_size updates local latents apart, and {' and '.join(block.unknowns)} have one update"
            if (why := block.why_not(program)) is not None:
                return f"batch_size takes steps between posteriors, and {why}"
        return None

    def over_all(self, state: State, size: int) -> State:
        """Take a step for each random batch of rows."""
        weights, size = weights_of(self.program.data), min(size, len(self.program.data))
        values, posteriors = dict(state.values), self._global(state.posteriors)
        for at in torch.randperm(len(self.program.data), device=self.program.device).split(size):
            if len(at) < size:  # a few rows left over would count as much as a whole batch; they have later passes
                continue
            batch = self.program.data.batch(at, weights[at] * (weights.sum() / weights[at].sum()))
            part = self.program.rebind(batch)
            ascent = Coordinates(part, plan=self.plan)
            own = {n: v.index_select(self._axis(n), at) if n in self.names else v for n, v in values.items()}
            settled = self._settle(ascent, State(own, posteriors))
            rate, found = self.rate(), ascent.condition(ascent.expect(settled)[1], self.globals)
            for block in self.globals:
                name = block.unknowns[0]
                now = found.posteriors[name]
                now = posteriors[name].blend(now, rate) if name in posteriors else now
                posteriors.update(dict.fromkeys(block.unknowns, now))
                values.update(now.mean())
            for name in self.names:
                values[name] = values[name].index_copy(self._axis(name), at, settled.values[name])
        return State(values, posteriors)

    def at_rows(self, whole: Coordinates, state: State) -> State:
        """Give all rows the posteriors of their local latents."""
        return self._settle(whole, state)

    def update(self, whole: Coordinates, expected: EStep) -> State:
        """Update all blocks once."""
        return whole.condition(expected)

    def _axis(self, name: str) -> int:
        """Dimension of the rows in the values of a local latent."""
        site = self.program.sites[name]
        return site.batch_dim + site.plate_dim(self.program.row)

    def _global(self, posteriors: Mapping[str, Posterior]) -> dict[str, Posterior]:
        """Leave out those of local latents."""
        return {n: p for n, p in posteriors.items() if n not in self.names}

    def _settle(self, ascent: Coordinates, state: State) -> State:
        """Update local latents until the bound of the rows stands."""
        before, enough = -torch.inf, SETTLED * float(weights_of(ascent.program.data).sum())
        for _ in range(MOST_ROUNDS):
            value, expected = ascent.expect(state)
            if float(value) - before < enough:
                break
            if self.names <= state.posteriors.keys():  # at points it is no bound yet, and may be above it
                before = float(value)
            state = ascent.condition(expected, self.locals)
        return state
