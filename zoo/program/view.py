"""The flat unconstrained view: all continuous latents of a program as real vectors, and back.

Globals become one vector of length G, locals one vector of length L per row, so a guide is a distribution over R^G
and, row by row, over R^L, whatever the model.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions.transforms import Transform, identity_transform

from zoo.replay.bijections import bijection, log_abs_det
from zoo.replay.evaluate import Values
from zoo.replay.sites import Site


@dataclass(frozen=True)
class Slot:
    """Where one site's unconstrained value stands in its vector."""

    site: Site
    transform: Transform
    shape: tuple[int, ...]
    start: int
    stop: int
    row_axis: int | None


class View:
    """Maps between vectors and values for a list of sites.

    Parameters
    ----------
    sites
        Latent sites or parameters.
    row
        Name of the data plate.
    """

    def __init__(self, sites: Iterable[Site], row: str) -> None:
        self.globals: list[Slot] = []
        self.locals: list[Slot] = []
        for site in sites:
            transform = bijection(site.support, site.name)
            shape = tuple(transform.inverse_shape(torch.Size(site.shape)))
            local = site.role == "local"
            axis = None
            if local:
                frame = site.plates.index(row)
                axis = site.batch_dim + site.plate_dims[frame]
            size = 1
            for i, length in enumerate(shape):
                size *= 1 if i == axis else length
            slots = self.locals if local else self.globals
            start = slots[-1].stop if slots else 0
            slots.append(Slot(site, transform, shape, start, start + size, axis))

    @property
    def global_size(self) -> int:
        """Length G of the global vector."""
        return self.globals[-1].stop if self.globals else 0

    @property
    def local_size(self) -> int:
        """Length L of each row's local vector."""
        return self.locals[-1].stop if self.locals else 0

    def constrain_globals(self, vector: Tensor) -> tuple[Values, Tensor]:
        """Map u in R^G to values; return them with log|dz/du|, a scalar."""
        values: Values = {}
        log_det = vector.new_zeros(())
        for slot in self.globals:
            u = vector[slot.start : slot.stop].reshape(slot.shape)
            value = slot.transform(u)
            log_det = log_det + log_abs_det(slot.transform, u, value, slot.site.batch_dim).sum()
            values[slot.site.name] = value
        return values, log_det

    def constrain_locals(self, matrix: Tensor) -> tuple[Values, Tensor]:
        """Map u in R^(rows x L) to values; return them with log|dz/du| of each row."""
        values: Values = {}
        rows = matrix.shape[0]
        log_det = matrix.new_zeros(()).expand(rows)
        for slot in self.locals:
            axis = slot.row_axis or 0
            rest = tuple(s for i, s in enumerate(slot.shape) if i != axis)
            u = matrix[:, slot.start : slot.stop].reshape(rows, *rest).movedim(0, axis)
            values[slot.site.name] = value = slot.transform(u)
            if slot.transform is not identity_transform:
                jacobian = log_abs_det(slot.transform, u, value, slot.site.batch_dim)
                log_det = log_det + jacobian.movedim(axis, 0).reshape(rows, -1).sum(-1)
        return values, log_det

    def unconstrain_globals(self, values: Values) -> Tensor:
        """Map values to u in R^G."""
        parts = [slot.transform.inv(values[slot.site.name]).reshape(-1) for slot in self.globals]
        return torch.cat(parts) if parts else torch.zeros(0)

    def unconstrain_locals(self, values: Values) -> Tensor:
        """Map values to u in R^(rows x L)."""
        parts = []
        for slot in self.locals:
            u = slot.transform.inv(values[slot.site.name]).movedim(slot.row_axis or 0, 0)
            parts.append(u.reshape(u.shape[0], -1))
        return torch.cat(parts, -1)
