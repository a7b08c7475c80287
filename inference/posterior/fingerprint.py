"""What a model's code says, so that a saved fit is not put through the likelihood of another version of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inference.conjugate.verify import on_all_rows
from zoo.data.data import Data
from zoo.declare.model import Model
from zoo.errors import ModelError
from zoo.program.program import Program
from zoo.replay.evaluate import Values
from zoo.structure.shapes import other_shape

ROWS = 64  # that are looked at
CLOSE = {torch.float64: 1e-6, torch.float32: 1e-4}  # of a sum of log densities: processors round differently
OTHER = "the model is not the one that the fit was saved with"
REMEDY = "load it with the code that it was saved with, or fit again (its draws are in posterior.nc)"


@dataclass(frozen=True)
class Fingerprint:
    """The sites of a model, and the log density of each at some values on a few rows.

    Code that gives the same numbers there is taken for the same, whatever it looks like.

    Attributes
    ----------
    sites
        Role, family and shape of each site, 0 in place of the number of rows.
    densities
        Sum of each site's log densities, those that are not finite left out.
    values
        Made-up values of latents and parameters that they were evaluated at; networks have their fitted weights.
    """

    sites: dict[str, list[Any]]
    densities: dict[str, float]
    values: Values

    @classmethod
    def of(cls, program: Program, points: Values, values: Values | None = None) -> Fingerprint:
        """Take the fingerprint of a program whose networks have these weights, at its own made-up values or others."""
        sample = program
        if program.structure.example_rows is not None:  # else its rows need one another
            few = torch.arange(min(ROWS, len(program.data)), device=program.device)
            sample = program.rebind(program.data.take(few))
        values = on_all_rows(sample, program.structure.example) if values is None else values
        weights = {n: v for n, v in points.items() if n in program.networks}
        with torch.no_grad():
            replay = sample.replay({**{n: v.to(program.device) for n, v in values.items()}, **weights})
        return cls(_sites(program), {n: _sum(v) for n, v in replay.log_probs.items()}, values)

    def check_shapes(self, model: Model, data: Data) -> None:
        """Raise if an unknown has another shape, before runs that take as long and as much memory as it is large.

        Raises
        ------
        ModelError
            Naming the first of them.
        """
        whole = [n for n, (role, *_) in self.sites.items() if role in ("parameter", "global") and n in self.values]
        then = {n: tuple(self.values[n].shape) for n in whole}
        if other := other_shape(model, data, then):
            name, shape = other
            raise ModelError(f"{OTHER}: {name!r} was of shape {then[name]}, and is of shape {shape}; {REMEDY}")

    def check(self, program: Program, points: Values) -> None:
        """Raise if a program is not the one that this was taken of.

        Raises
        ------
        ModelError
            Naming the sites that have changed.
        """
        now = _sites(program)
        if now != self.sites:
            parts = {
                "lacks": [n for n in self.sites if n not in now],
                "has in addition": [n for n in now if n not in self.sites],
                "has with another role, family or shape": [n for n in now if now[n] != self.sites.get(n, now[n])],
            }
            changes = "; ".join(f"it {what} {', '.join(map(repr, names))}" for what, names in parts.items() if names)
            raise ModelError(f"{OTHER}: {changes}; {REMEDY}")
        found = Fingerprint.of(program, points, self.values).densities
        for name, then in self.densities.items():
            if not abs(found[name] - then) <= CLOSE[program.dtype] * (1 + abs(then)):
                raise ModelError(
                    f"{OTHER}: at the same values site {name!r} had the log density {then:.6g} and has "
                    f"{found[name]:.6g}; {REMEDY}"
                )


def _sites(program: Program) -> dict[str, list[Any]]:
    """Role, family and shape of each site, without its rows."""
    found = {}
    for site in program.sites.values():
        shape = list(site.shape)
        axis = site.batch_dim + site.plate_dim(program.row) if program.row in site.plates else -1
        if axis >= 0:
            shape[axis] = 0
        found[site.name] = [site.role, site.family, shape]
    return found


def _sum(log_density: Tensor) -> float:
    return float(torch.where(log_density.isfinite(), log_density, 0.0).double().sum())
