"""Climbs of a log density from several points at once, to see which modes there are."""

from __future__ import annotations

import torch
from torch import Tensor

from inference.sampling.factors import evaluated
from zoo.program.flat_density import Density

ENOUGH = 1e-4  # squared slope, in nats, at which a climb has come to its end
RISE = 1e-4  # share of the gain that its slope promises which a step has to bring
LONGEST = 4.0  # standard deviations that a step may go, and more where the start is far out


def climb_together(density: Density, starts: Tensor, centre: Tensor, root: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Climb from all starts at once by BFGS with backtracking (Nocedal and Wright 2006, chapters 3 and 6).

    Parameters
    ----------
    density
        What is climbed.
    starts
        Shape (climbs, size).
    centre, root
        Mean (size,) and Cholesky factor (size, size) of what the posterior looks like so far: steps are taken in
        v = root^-1 (u - centre), where the curvature is about one.
    steps
        Most evaluations of the gradient.

    Returns
    -------
    tuple
        Ends, shape (climbs, size), and log densities there, (climbs,); -inf where there is none.
    """
    size = starts.shape[1]
    v = torch.linalg.solve_triangular(root, (starts - centre).mT, upper=False).mT
    value, slope = _gradients(density, v, centre, root)
    inverse = torch.eye(size, dtype=v.dtype).repeat(len(v), 1, 1)  # (climbs, size, size), of minus the Hessian
    share = torch.ones(len(v), dtype=v.dtype)
    for _ in range(steps):
        direction = torch.einsum("kij,kj->ki", inverse, slope)
        length = direction.norm(dim=1)
        cap = LONGEST + 0.5 * v.norm(dim=1)
        direction = direction * (cap / length.clamp_min(1e-300)).clamp_max(1.0)[:, None]
        gain = (direction * slope).sum(1)
        moving = value.isfinite() & (gain > ENOUGH) & (share > 1e-8)
        if not bool(moving.any()):
            break
        step = share[:, None] * direction
        there, at = _gradients(density, v + step, centre, root)
        good = moving & (there >= value + RISE * share * gain) & at.isfinite().all(1)
        inverse = torch.where(good[:, None, None], _updated(inverse, step, slope - at), inverse)
        v = torch.where(good[:, None], v + step, v)
        value, slope = torch.where(good, there, value), torch.where(good[:, None], at, slope)
        share = torch.where(good, torch.ones_like(share), torch.where(moving, 0.3 * share, share))
    return centre + v @ root.mT, value


def _updated(inverse: Tensor, step: Tensor, change: Tensor) -> Tensor:
    """BFGS update of the inverse of minus the Hessian; as it was where the density is not concave along the step."""
    bend = (step * change).sum(1)
    concave = bend > 1e-10 * step.norm(dim=1) * change.norm(dim=1)
    rho = torch.where(concave, 1 / bend, torch.zeros_like(bend))
    eye = torch.eye(step.shape[1], dtype=step.dtype)
    left = eye - rho[:, None, None] * step[:, :, None] * change[:, None, :]
    return left @ inverse @ left.mT + rho[:, None, None] * step[:, :, None] * step[:, None, :]


def _gradients(density: Density, v: Tensor, centre: Tensor, root: Tensor) -> tuple[Tensor, Tensor]:
    """Log densities (climbs,) and their gradients in v, (climbs, size); -inf and 0 where there is none."""
    program = density.program
    u = (centre + v @ root.mT).to(program.device, program.dtype)
    try:
        value, gradient = evaluated(density.gradient, u)
    except RuntimeError:  # another factorization that breaks down, or control flow that depends on values
        pairs = [_gradient(density, one) for one in u]
        value, gradient = torch.stack([p[0] for p in pairs]), torch.stack([p[1] for p in pairs])
    value, gradient = value.double().cpu(), gradient.double().cpu()
    there = value.isfinite() & gradient.isfinite().all(1)
    value = torch.where(there, value, -torch.inf)
    return value, torch.where(there[:, None], gradient @ root, torch.zeros_like(gradient))


def _gradient(density: Density, u: Tensor) -> tuple[Tensor, Tensor]:
    try:
        return density.gradient(u)
    except RuntimeError as error:
        if "linalg" not in str(error):
            raise
        return u.new_full((), -torch.inf), torch.zeros_like(u)
