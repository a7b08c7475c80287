"""Test quantities: numbers whose ranks among their draws are looked at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from inference.approximations.rows import chunk_for
from zoo.errors import UnknownNameError
from zoo.program.exchangeable import exchangeable
from zoo.program.program import Program
from zoo.program.state_group import StateGroup
from zoo.replay.evaluate import Values, many

Function = Callable[[Values, Values], Any]  # of the latents and the data's fields, by name
DENSITIES = ("log_joint", "log_likelihood")


class Quantities:
    """Every entry of the global latents, the log joint density, the log likelihood, and what the user adds.

    Ranks of latents alone are uniform also for a method that ignores the data; those of densities, which depend on
    both, are not (Modrák et al. 2023). Where states are exchangeable, labels of true values and of draws mean nothing:
    entries are sorted along the states, and each order statistic has a posterior of its own.

    Parameters
    ----------
    program
        What is calibrated.
    chosen
        Functions to add, by name: of the latents and of the data's fields, dicts of tensors, to a number or an array.
        Or the names of those to keep. None: all of them.

    Raises
    ------
    UnknownNameError
        If a name is not there, or already taken.
    """

    def __init__(self, program: Program, chosen: Mapping[str, Function] | Sequence[str] | None = None) -> None:
        self.sites = [s.name for s in program.globals]
        self.densities = list(DENSITIES)
        self.functions: dict[str, Function] = {}
        known = [*self.sites, *DENSITIES]
        if isinstance(chosen, Mapping):
            for name in chosen:
                if name in program.sites or name in DENSITIES:
                    raise UnknownNameError(f"quantities: {name!r} is already the name of a site or density")
            self.functions = dict(chosen)
        elif chosen is not None:
            names = [chosen] if isinstance(chosen, str) else list(chosen)
            for name in names:
                if name not in known:
                    raise UnknownNameError(
                        f"quantities: no {name!r} here; there are {', '.join(known)}. Others are given as functions: "
                        "quantities={'name': lambda latents, data: ...}"
                    )
            self.sites = [n for n in self.sites if n in names]
            self.densities = [n for n in DENSITIES if n in names]
        self.groups = exchangeable(program)

    @property
    def sorted(self) -> list[str]:
        """Sites whose entries are sorted, because they are those of exchangeable states."""
        return [n for n in self.sites if any(n in (*g.axes, *g.reflected) for g in self.groups)]

    @property
    def names(self) -> list[str]:
        """Names of all of them."""
        return [*self.sites, *self.densities, *self.functions]

    def of(self, program: Program, points: Values, values: Values, count: int) -> Values:
        """Return every quantity at `count` values of all latents, stacked along dimension 0: (count, ...) each.

        Parameters
        ----------
        program
            On the data that were refitted.
        points
            Values of its parameters.
        """

        def evaluate(latents: Values) -> tuple[Tensor, ...]:
            results: list[Tensor] = []
            if self.densities:
                both = dict(zip(DENSITIES, log_densities(program, {**points, **latents}), strict=True))
                results += [both[n] for n in self.densities]
            for function in self.functions.values():
                value = function(latents, program.data.values)
                results.append(torch.as_tensor(value, dtype=program.dtype, device=program.device))
            return tuple(results)

        found = {n: unlabelled(self.groups, n, values[n]) for n in self.sites}
        if self.densities or self.functions:
            with torch.no_grad():
                made = many(evaluate, values, count, chunk_for(program))
            found.update(zip([*self.densities, *self.functions], made, strict=True))
        return found


def log_densities(program: Program, values: Values) -> tuple[Tensor, Tensor]:
    """log p(x, z) and log p(x | z), enumerated sites summed out of both; z are the latents that are not enumerated."""
    log_probs = program.log_probs(values)
    joint = program.eliminate(log_probs).total(program.data.weights)
    prior = program.log_prior(log_probs).total(program.data.weights)
    return joint, joint - prior


def unlabelled(groups: Sequence[StateGroup], name: str, value: Tensor) -> Tensor:
    """What is the same whatever the labels of exchangeable states, of values (count, ...) of one site.

    Entries sorted along the states; of a matrix of states by states (a chain's transitions) its sorted diagonal; of the
    probability of one of two states its distance from the middle.
    """
    for group in groups:
        states = torch.tensor(group.states, device=value.device)
        if name in group.reflected:
            value = (value - 0.5 * group.reflected[name]).abs()
        axes = group.axes.get(name, ())
        if len(axes) == 1:
            ordered = value.index_select(axes[0], states).sort(axes[0]).values
            value = value.index_copy(axes[0], states, ordered)
        elif axes:
            value = value.diagonal(dim1=axes[0], dim2=axes[1]).index_select(-1, states).sort(-1).values
    return value
