"""Known families: what q is after Exact, EM with conjugate latents and coordinate ascent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from inference.approximations.approximation import Approximation
from inference.conjugate import EStep, closed_form
from inference.conjugate.by_state import settled
from inference.conjugate.posteriors import Posterior, read, remade
from inference.coordinate.ascent import Coordinates, State
from inference.runtime.random import seeded
from inference.runtime.tensor_folder import TensorFolder
from zoo.program.program import Program
from zoo.replay.bijections import bijection
from zoo.replay.evaluate import Values

LOCAL_ROUNDS = 20  # of updates of several blocks of local latents of new rows
LONG, SETTLED = 1000, 1e-7  # most rounds of updates that go from where they are, and the change that ends them


@dataclass
class Conjugate(Approximation):
    """A distribution of a known family for each block of latents, independent between blocks."""

    posteriors: list[Posterior]
    kind = "conjugate"
    _kept: tuple[Program, list[Posterior]] | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Hold each as it would be read from a file: answers are the same bytes before and after."""
        self.posteriors = [remade(q) for q in self.posteriors]

    @property
    def distributions(self) -> dict[str, Any]:
        """Posterior distribution of each latent that is independent of the others."""
        return {q.names[0]: q.given(q.names[0], {}) for q in self.posteriors if len(q.names) == 1 and not q.mixed}

    def draw(self, program: Program, count: int) -> tuple[Values, Tensor]:
        """Draw each block."""
        values: Values = {}
        for q in self.posteriors:
            values.update(q.sample(count))
        log_q = torch.zeros(count, dtype=program.dtype, device=program.device)
        for q in self.posteriors:
            for name, density in q.log_prob(values).items():
                log_q = log_q + program.weigh(name, density, lead=1)
        return {s.name: values[s.name] for s in program.latents}, log_q

    def _state(self, program: Program, points: Values) -> State:
        """Points and posteriors of everything that is not local."""
        kept = [q for q in self.posteriors if not any(program.sites[n].role == "local" for n in q.names)]
        values = {**points, **{n: v for q in kept for n, v in q.mean().items()}}
        return State(values, {n: q for q in kept for n in q.names})

    def propose(self, program: Program, points: Values, count: int) -> tuple[Values, Tensor] | None:
        """Draw locals from their posterior given the rest, updated for these rows."""
        found = self.of_rows(program, points)
        if found is None:
            return None
        values = {n: v for q in found for n, v in q.sample(count).items()}
        return values, row_density(program, found, values, count)

    def of_rows(self, program: Program, points: Values) -> list[Posterior] | None:
        """Return the posteriors of the locals of a program's rows given the rest; None without a closed form."""
        plan = closed_form(program)
        for site in program.observed:
            likelihood = plan.likelihoods.get(site.name)
            if program.missing(site) is None or likelihood is None or likelihood.skips:
                continue
            if likelihood.event_dim:
                return None  # the closed form is that of complete rows
        if self._kept is None or self._kept[0] is not program:
            local = {s.name for s in program.locals}
            found = settled(self._over_locals(program, points))
            self._kept = program, [q for q in found if local.intersection(q.names)]
        return self._kept[1]

    def _over_locals(self, program: Program, points: Values) -> EStep:
        """Update the posteriors of the local latents of a program's rows, given those of everything else."""
        ascent, state = Coordinates(program), self._state(program, points)
        by_state = all(block.by_state for block in ascent.local_blocks)
        with torch.no_grad():
            if program.enumerated:  # their states and the locals in turn, from a draw of the prior
                # By state any values will do, and random numbers are left as they are: what was found is kept.
                with seeded(0, program.device) if by_state else nullcontext():
                    drawn = program.simulate(state.values, observed=False)
                state.values.update({s.name: drawn[s.name] for s in program.locals})
                # Posteriors by state need no turns: the first finds them, the second how probable the states are.
                for _ in range(2 if by_state else LOCAL_ROUNDS):
                    expected = ascent.over_locals(ascent.expect(state)[1])
                    state = State(expected.values, dict(expected.posteriors))
            else:
                for site in program.locals:
                    to = bijection(site.support, site.name)
                    origin = torch.zeros(to.inverse_shape(program.site_shape(site)))
                    state.values[site.name] = to(origin.to(program.device, program.dtype))
                replay = program.replay(state.values, densities=False)
                replay.log_probs = {n: f.log_prob(replay.seen[n]) for n, f in replay.distributions.items()}
                expected = EStep(ascent.plan, program, state.values, replay, posteriors=state.posteriors)
                in_turns = any(block.in_turns for block in ascent.local_blocks)
                most = LONG if in_turns else 1 if len(ascent.local_blocks) == 1 else LOCAL_ROUNDS
                for _ in range(most):
                    before, expected = expected.values, ascent.over_locals(expected)
                    moved = (not torch.allclose(v, before[n], SETTLED, SETTLED) for n, v in expected.values.items())
                    if in_turns and not any(moved):
                        break
            return expected

    def responsibilities(self, program: Program, points: Values) -> dict[str, Tensor] | None:
        """Posterior of the enumerated sites under expected log densities: the q(z) of coordinate ascent."""
        found: Values = {}
        for name, share in ((n, v) for q in self.posteriors for n, v in q.own_states().items()):
            for z in program.sites[name].by_state:
                found[z] = share[..., : program.sites[z].cardinality]
        by_state = all(b.by_state for b in Coordinates(program).local_blocks)
        if (program.locals and not by_state) or not program.assigned:
            return found or None
        plain = program if program.data.weights is None else program.rebind(replace(program.data, weights=None))
        if program.locals:
            expected = self._over_locals(plain, points)
        else:
            _, expected = Coordinates(plain).expect(self._state(program, points))
        return {**found, **{s.name: plain.states_of(expected.marginals, s) for s in plain.assigned}}

    def describe(self) -> dict[str, Any]:
        """Return the family of each block."""
        return {"posteriors": describe_posteriors(self.posteriors)}

    def tensors(self) -> dict[str, Tensor]:
        """Return the parameters of each block, numbered."""
        return tensors_of(self.posteriors)

    @classmethod
    def read(cls, described: Mapping[str, Any], tensors: dict[str, Tensor], program: Program) -> Conjugate:
        """Make each block again."""
        return cls(read_posteriors(described["posteriors"], tensors))


def row_density(program: Program, posteriors: Sequence[Posterior], values: Values, count: int) -> Tensor:
    """Log density of draws of the locals of rows, (count, rows)."""
    log_q = torch.zeros(count, len(program.data), dtype=program.dtype, device=program.device)
    for q in posteriors:
        for name, density in q.log_prob(values).items():
            axis = density.ndim + program.sites[name].plate_dims[program.sites[name].plates.index(program.row)]
            log_q += density.movedim(axis, 1).reshape(count, len(program.data), -1).sum(-1)
    return log_q


def describe_posteriors(posteriors: Sequence[Posterior]) -> list[dict[str, Any]]:
    """Return what posteriors are, as JSON."""
    return [{"kind": q.kind, "names": list(q.names), "more": q.describe()} for q in posteriors]


def tensors_of(posteriors: Sequence[Posterior]) -> dict[str, Tensor]:
    """Return the parameters of posteriors, each in a folder with its number."""
    folders = TensorFolder()
    for i, q in enumerate(posteriors):
        folders.add(str(i), q.tensors())
    return folders


def read_posteriors(described: Sequence[Mapping[str, Any]], tensors: Mapping[str, Tensor]) -> list[Posterior]:
    """Make posteriors again from what `describe_posteriors` and `tensors_of` returned."""
    folders = TensorFolder(tensors)
    return [
        read(saved["kind"], tuple(saved["names"]), saved["more"], folders.folder(str(i)))
        for i, saved in enumerate(described)
    ]
