"""Draws and particles in one labelling of exchangeable states, or in random ones."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from inference.diagnostics.labelling import Labelling, labelling_of
from inference.sampling.factors import NoFactorIsNaN
from zoo.program.exchangeable import exchangeable
from zoo.program.flat_density import Density
from zoo.program.program import Program
from zoo.replay.evaluate import Values, many

PASSES = 3  # of relabelling: to the best draw, then to the centre of what was relabelled


def one_labelling(program: Program, values: Values, height: Tensor) -> tuple[Values, Labelling | None]:
    """Draws relabelled around the highest of them, and the region that they then lie in; as they are without symmetry.

    Parameters
    ----------
    program
        The program.
    values
        Of all latents, draws stacked along dimension 0.
    height
        Log density of each draw, (draws,).
    """
    labelling = labelling_of(program, values)
    if labelling is None:
        return values, None
    best = int(height.argmax())
    labelling = replace(labelling, centres={n: values[n][best].double() for n in labelling.centres})
    for _ in range(PASSES):
        values = labelling.moved(values)
        labelling = labelling_of(program, values) or labelling
    return labelling.moved(values), labelling


def shuffled(program: Program, values: Values, states: Values) -> tuple[Values, Values]:
    """Give exchangeable states random labels in every draw, which leaves the posterior as it is.

    A draw and its relabellings are equally probable, so this is a move between all of these modes at once
    (Frühwirth-Schnatter 2001), and what remains of the draws' chance with labels is gone.
    """
    count = len(next(iter(values.values())))
    for group in exchangeable(program):
        members = torch.tensor(group.states)
        permutation = torch.arange(group.count).repeat(count, 1)
        permutation[:, members] = members[torch.rand(count, len(members)).argsort(1)]
        moved = group.permute({**values, **states}, permutation)
        values, states = {n: moved[n] for n in values}, {n: moved[n] for n in states}
    return values, states


class ParticleLabels:
    """Relabellings of unconstrained vectors, for particles to move in one labelling (`sampling.trajectories.Labels`).

    Use `ParticleLabels.of`, which returns None where no states are exchangeable.

    Parameters
    ----------
    density
        Of the vectors.
    labelling
        A region that holds one relabelling of each.
    """

    def __init__(self, density: Density, labelling: Labelling) -> None:
        self.density, self.labelling = density, labelling

    @classmethod
    def of(cls, density: Density, u: Tensor) -> ParticleLabels | None:
        """Find exchangeable states; `u` are some vectors (count, size)."""
        labelling = labelling_of(density.program, density.constrain_all(u))
        return None if labelling is None else cls(density, labelling)

    def gathered(self, u: Tensor, height: Tensor) -> Tensor:
        """Vectors (count, size) relabelled to lie around the highest of them, which is the region of `own` then."""
        values = self.density.constrain_all(u)
        moved, labelling = one_labelling(self.density.program, values, height)
        self.labelling = labelling or self.labelling
        return self._vectors(u, values, moved)

    def own(self, u: Tensor) -> Tensor:
        """Which vectors (count, size) lie in the region, (count,)."""
        return self.labelling.own(self.density.constrain_all(u)).to(u.device)

    def scattered(self, u: Tensor) -> Tensor:
        """Vectors (count, size) with random labels."""
        values = self.density.constrain_all(u)
        return self._vectors(u, values, shuffled(self.density.program, values, {})[0])

    def _vectors(self, u: Tensor, values: Values, moved: Values) -> Tensor:
        """Vectors of relabelled values; those that kept their labels, or have no vector by rounding, as they were."""
        changed = torch.stack([(moved[n] != v).reshape(len(u), -1).any(1) for n, v in values.items()]).any(0)
        with NoFactorIsNaN():
            vectors: Tensor = many(self.density.unconstrain, moved, len(u), len(u))
        return torch.where((changed & vectors.isfinite().all(1))[:, None], vectors, u)
