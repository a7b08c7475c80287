"""One distribution over globals and every row's locals together, so that their dependence is part of q."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from guides.start import Start
from guides.variational import Delta, Draw, Noise, Pushforward, Variational
from zoo.data.data import Data
from zoo.program.program import Program


def joint_size(program: Program) -> int:
    """Count the coordinates of all latents, those of every row included."""
    view = program.view
    return view.global_size + view.local_size * len(program.data)


def joint(start: Start, make: Callable[[Tensor, Tensor], Pushforward]) -> Variational:
    """Make q from a part over one vector, `make(start, unit)`: the globals alone where there are no locals."""
    if not start.locals.numel():
        return Variational(make(start.globals, start.global_unit), Delta(start.locals, start.local_unit))
    return Joint(start, make)


class Joint(Variational):
    """One distribution over the vector of globals and every row's locals; log q is not split by row."""

    covers_rows = False

    def __init__(self, start: Start, make: Callable[[Tensor, Tensor], Pushforward]) -> None:
        point = torch.cat([start.globals, start.locals.reshape(-1)])
        unit = torch.cat([start.global_unit, start.local_unit.reshape(-1)])
        super().__init__(make(point, unit), Delta(start.locals[:0], start.local_unit[:0]))
        self.sizes = start.globals.numel(), start.locals.numel()
        self.width = start.locals.shape[1]

    def draw(self, data: Data, rows: Tensor | None = None, noise: Noise | None = None) -> Draw:
        """Draw everything; keep the locals of the rows asked for."""
        noise = self.noise(data) if noise is None else noise
        u, log_q = self.over_globals.draw(data, None, noise[0])
        globals_, locals_ = u.split(list(self.sizes))
        locals_ = locals_.reshape(-1, self.width)
        if rows is not None:
            locals_ = locals_[rows]
        return Draw(globals_, locals_, log_q, locals_.new_zeros(len(locals_)))
