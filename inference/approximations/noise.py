"""Standard Normal noise behind draws of q."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.program.program import Program


def normal(count: int, shape: tuple[int, ...], program: Program) -> Tensor:
    """Standard Normal noise, `count` times."""
    return torch.randn(count, *shape, dtype=program.dtype, device=program.device)


def quasi_normal(count: int, size: int, program: Program) -> Tensor:
    """Standard Normal vectors, shape (count, size), that fill space evenly: a scrambled Sobol sequence in random order.

    Means and quantiles over them have a fraction of the error of independent draws (Owen 1997).
    """
    if not 0 < size <= torch.quasirandom.SobolEngine.MAXDIM:
        return torch.randn(count, size, dtype=program.dtype, device=program.device)
    engine = torch.quasirandom.SobolEngine(size, scramble=True, seed=int(torch.randint(2**31, ())))
    uniform = engine.draw(count, dtype=torch.float64)[torch.randperm(count)]
    eps: Tensor = torch.special.ndtri(uniform.clamp(1e-10, 1 - 1e-10))
    return eps.to(program.device, program.dtype)
