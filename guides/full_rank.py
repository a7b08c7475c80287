"""Full-rank guide."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from guides.guide import LOG_2PI, Delta, Draw, Guide, Part, Placed, Start, Variational
from zoo.declare.data import Data
from zoo.declare.program import Program

LARGEST = 1000  # coordinates: beyond this the covariance has half a million entries


@dataclass(frozen=True)
class FullRank(Guide):
    """One Normal with full covariance over all continuous latents.

    q(u) = Normal(u | m, L L^T) in unconstrained space. Globals and locals are one vector, so their dependence is part
    of q (Kucukelbir et al. 2017, section 2.3). As the guide for globals in `Encoder(globals=FullRank())` it covers the
    globals alone.
    """

    def why_not(self, program: Program) -> str | None:
        """Refuse very long vectors."""
        size = program.view.global_size + program.view.local_size * len(program.data)
        if size > LARGEST:
            return (
                f"FullRank over {size} coordinates needs {size * (size + 1) // 2} parameters (at most {LARGEST} "
                "coordinates are allowed); use MeanField()"
            )
        return None

    def build(self, program: Program, start: Start) -> Variational:
        """Make q, centred at the start with one natural step as its standard deviation."""
        if not program.locals:
            return Variational(FullNormal(start.globals, start.global_unit), Delta(start.locals, start.local_unit))
        return Joint(start)

    def parts(self, program: Program, start: Start) -> tuple[Part, Part]:
        """Return a part over the globals alone."""
        return FullNormal(start.globals, start.global_unit), Delta(start.locals, start.local_unit)


class FullNormal(Placed):
    """u = start + unit * (loc + L eps), eps ~ Normal(0, I), L lower triangular with exp(log_scale) on its diagonal."""

    def __init__(self, start: Tensor, unit: Tensor) -> None:
        super().__init__(start, unit)
        self.log_scale = nn.Parameter(torch.zeros_like(start))
        self.lower = nn.Parameter(start.new_zeros(len(start), len(start)))

    def draw(self, data: Data, rows: Tensor | None, eps: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Draw the whole vector; log q holds the parameters fixed, as in `guides.guide.normal`."""
        noise = torch.randn_like(self.loc) if eps is None else eps
        tril = self.lower.tril(-1) + torch.diag(self.log_scale.exp())
        at = self.loc + tril @ noise
        back = torch.linalg.solve_triangular(tril.detach(), (at - self.loc.detach())[:, None], upper=False)[:, 0]
        log_q = -(0.5 * (LOG_2PI + back.square()) + self.log_scale.detach() + self.unit.log()).sum()
        return self.start + self.unit * at, log_q


class Joint(Variational):
    """One full-rank Normal over the globals and every row's locals; log q is not split by row."""

    covers_rows = False

    def __init__(self, start: Start) -> None:
        point = torch.cat([start.globals, start.locals.reshape(-1)])
        unit = torch.cat([start.global_unit, start.local_unit.reshape(-1)])
        super().__init__(FullNormal(point, unit), Delta(start.locals[:0], start.local_unit[:0]))
        self.sizes = start.globals.numel(), start.locals.numel()
        self.width = start.locals.shape[1]

    @property
    def noise_size(self) -> int:
        """Length of the standard Normal noise behind a draw."""
        return sum(self.sizes)

    def draw(self, data: Data, rows: Tensor | None = None, eps: Tensor | None = None) -> Draw:
        """Draw everything; keep the locals of the rows asked for."""
        u, log_q = self.over_globals.draw(data, None, eps)
        globals_, locals_ = u.split(list(self.sizes))
        locals_ = locals_.reshape(-1, self.width)
        if rows is not None:
            locals_ = locals_[rows]
        return Draw(globals_, locals_, log_q, locals_.new_zeros(len(locals_)))
