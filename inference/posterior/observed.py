"""What observed sites saw, and what is simulated of them, as arrays of whole numbers, labels and known rows."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from inference.diagnostics.arviz import Group
from inference.diagnostics.coordinates import decoded, event_names, plain_labels
from zoo.data.missing import with_nan
from zoo.program.program import Program
from zoo.replay.evaluate import Values
from zoo.replay.sites import Site

NAMED = 5  # rows that are named of those left out


class Observed:
    """The observed sites of a program as ArviZ shows them.

    Counts are whole numbers, categories their labels. A row of which a site observes nothing is left out of this site's
    arrays; where sites differ in these rows, its dimension is `<row>_<site>`.

    Parameters
    ----------
    program
        The program.
    values
        Gives latents and parameters, for sites that observe something computed from the data.
    """

    def __init__(self, program: Program, values: Callable[[], Values]) -> None:
        self.program = program
        fields = with_nan(program.data)
        unnamed = [s for s in program.observed if s.field is None]
        seen = program.replay(values(), densities=False).seen if unnamed else {}
        shown = [s for s in program.observed if s.family != "Unit"]  # a pyro.factor observes nothing
        self.values = {s.name: fields[s.field] if s.field else seen[s.name] for s in shown}
        self.known = {s.name: self._known(s) for s in program.observed}
        partial = [k for n, k in self.known.items() if self._by_row(program.sites[n])]
        self._alike = all(
            (a is None and b is None) or (a is not None and b is not None and torch.equal(a, b))
            for a, b in pairwise(partial)
        )

    def _by_row(self, site: Site) -> bool:
        return bool(self.program.row) and site.plates[:1] == (self.program.row,)

    def _known(self, site: Site) -> Tensor | None:
        """Which rows a site observes something of; None for all."""
        cells = self.program.missing(site)
        if cells is None or not self._by_row(site):
            return None
        known = ~cells.missing.reshape(len(cells.missing), -1).all(1)
        return None if bool(known.all()) else known.nonzero()[:, 0].cpu()

    def rows(self, name: str, array: np.ndarray, axis: int) -> np.ndarray:
        """Leave out the rows that a site does not observe; `axis` is that of rows."""
        known = self.known[name]
        return array if known is None else array.take(known.numpy(), axis)

    def row_dim(self, name: str) -> str:
        """Name of the dimension of rows of a site's arrays."""
        own = self.known[name] is not None and not self._alike
        return f"{self.program.row}_{name}" if own else self.program.row

    def dims(self) -> dict[str, tuple[str, ...]]:
        """Names of the dimensions of each site's arrays."""
        found = {}
        for name in self.values:
            site = self.program.sites[name]
            own = event_names(self.program, site)
            own = (self.row_dim(name), *own[1:]) if self._by_row(site) else own
            found[name] = own
        return found

    def coords(self) -> dict[str, np.ndarray]:
        """Labels of the rows that are left where some are left out, and of categories."""
        found: dict[str, np.ndarray] = {}
        for name, known in self.known.items():
            if known is not None:
                index = self.program.data.coords[self.program.row]
                found[self.row_dim(name)] = plain_labels(index[known.numpy()]) if index.is_unique else np.asarray(known)
        return found

    def left_out(self) -> list[str]:
        """Say which rows are left out."""
        said, index = [], self.program.data.coords.get(self.program.row)
        for name, known in self.known.items():
            if known is not None and index is not None:
                gone = index.delete(known.numpy().tolist())
                some = ", ".join(map(str, gone[:NAMED])) + (", ..." if len(gone) > NAMED else "")
                said.append(f"{len(gone)} rows of {name} without an observed value: {some}")
        return said

    def shown(self, name: str, values: np.ndarray, lead: int = 0) -> np.ndarray:
        """Lay out values of a site for ArviZ; `lead` dimensions stand before its own."""
        site = self.program.sites[name]
        if self._by_row(site):
            values = self.rows(name, values, lead)
        if site.field in self.program.data.levels:
            return decoded(self.program.data, site.field, values)
        whole = site.support.is_discrete and not bool(np.isnan(values).any())
        return values.astype(np.int64) if whole else values

    def group(self) -> Group:
        """What was observed."""
        arrays = {n: self.shown(n, v.detach().cpu().numpy()) for n, v in self.values.items()}
        said = self.left_out()
        return Group(arrays, self.dims(), self.coords(), {"left_out": "; ".join(said)} if said else {})
