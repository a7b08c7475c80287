"""Where gradient ascent starts: unconstrained coordinates, and the size of a natural step in each."""

from __future__ import annotations

import torch
from torch import Tensor

from guides.start import Start
from inference.starts.counts import counts_near_mode
from inference.starts.near_mode import at_mode
from inference.starts.values import starting_values
from zoo.program.program import Program
from zoo.replay.evaluate import Values

SPREAD = 2.0  # natural units that further starts are away from the first
PROBES = 16  # random probes of the Hessian's diagonal where there are more coordinates than that
LOOKED_AT = 500  # rows whose curvature is worked out where they go through networks: all rows in one graph fill memory
FEWEST = 100  # of them, through large networks
LONGEST = 2e8  # products that these rows may take in networks, each of the probes


def natural_start(program: Program, values: Values) -> Start:
    """Unconstrained starting point and, from the log joint's curvature there, the size of a natural step.

    The standard deviation of a Normal approximation, coordinate by coordinate, is 1 / sqrt(-d^2 log p / du^2); its
    absolute value also serves where the log joint is not concave. Of a model with networks some rows, spread evenly,
    stand for all.
    """
    view, theta = program.view, program.parameter_view
    # Globals (G,), locals (rows, L) and parameters (P,), all unconstrained.
    u = view.unconstrain_globals(values).to(program.device, program.dtype).detach()
    v = (view.unconstrain_locals(values) if view.locals else u.new_zeros(len(program.data), 0)).detach()
    t = theta.unconstrain_globals(values).to(program.device, program.dtype).detach()
    if not (u.numel() or v.numel() or t.numel()):
        return Start(u, v, t, u, v, t)
    at = _looked_at(program)
    seen = program if at is None else program.rebind(program.data.take(at))
    share = len(seen.data) / len(program.data)
    networks = {n: values[n].detach() for n in program.networks}

    def log_joint(u: Tensor, v: Tensor, t: Tensor) -> Tensor:
        globals_, jacobian = view.constrain_globals(u)
        locals_, row_jacobian = view.constrain_locals(v)
        parameters, _ = theta.constrain_globals(t)
        terms = seen.log_joint({**networks, **parameters, **globals_, **locals_})
        weights = seen.data.weights
        rows = terms.rows + row_jacobian
        return terms.rest + jacobian + (rows if weights is None else weights * rows).sum() / share

    point = [p.clone().requires_grad_() for p in (u, v if at is None else v[at], t)]
    found = _curvature(log_joint(*point), point, view.local_size)
    global_unit, local_unit, parameter_unit = _unit(found[0]), _unit(found[1] * share), _unit(found[2])
    if at is not None:
        local_unit = local_unit.log().mean(0).exp().expand_as(v).clone()
    return Start(u, v, t, global_unit, local_unit, parameter_unit)


def _looked_at(program: Program) -> Tensor | None:
    """Rows that stand for all, None for all of them: rows that depend on each other cannot be taken apart."""
    rows = len(program.data)
    count = max(FEWEST, min(LOOKED_AT, int(LONGEST // max(1, program.structure.products))))
    if not program.networks or program.tied or rows <= count:
        return None
    return torch.linspace(0, rows - 1, count, device=program.device).long()


def _curvature(value: Tensor, point: list[Tensor], local_size: int) -> list[Tensor]:
    """Diagonal of the Hessian of a scalar, in the shapes of the point (globals, locals, parameters).

    Rows are independent given the rest, so one product of the Hessian with a vector that picks the same local of every
    row has that entry of each row's diagonal. Where there are too many coordinates for a product each, the diagonal is
    the mean of s * (H s) over random signs s (Hutchinson 1989; Bekas, Kokiopoulou and Saad 2007).
    """
    gradient = torch.autograd.grad(value, point, create_graph=True, allow_unused=True, materialize_grads=True)
    curvature = [torch.zeros_like(p) for p in point]
    size = point[0].numel() + local_size + point[2].numel()
    if not any(g.requires_grad for g in gradient):  # linear in all of them
        return curvature
    count = min(size, PROBES)
    for probe in range(count):
        signs = _one_hot(point, probe) if size <= PROBES else _random_signs(point)
        inner = torch.stack([(g * s).sum() for g, s in zip(gradient, signs, strict=True)]).sum()
        product = torch.autograd.grad(inner, point, retain_graph=True, allow_unused=True, materialize_grads=True)
        for total, h, s in zip(curvature, product, signs, strict=True):
            total += h.detach() * s if size <= PROBES else h.detach() * s / count
    return curvature


def several_starts(program: Program, count: int) -> list[tuple[Start, Values]]:
    """Starting points for gradient ascent, with values of parameters and network weights.

    The first is where the model proposes; the others are some natural units away from where it proposes another time.
    """
    values = counts_near_mode(program, starting_values(program))
    first = at_mode(program, natural_start(program, values))
    starts = [(first, values)]
    for _ in range(1, count):
        other = counts_near_mode(program, starting_values(program))
        at = (
            program.view.unconstrain_globals(other).to(first.globals),
            program.view.unconstrain_locals(other).to(first.locals) if program.view.locals else first.locals,
            program.parameter_view.unconstrain_globals(other).to(first.parameters),
        )
        units = first.global_unit, first.local_unit, first.parameter_unit
        u, v, t = (x + SPREAD * unit * torch.randn_like(x) for x, unit in zip(at, units, strict=True))
        starts.append((Start(u, v, t, *units, first.factor), other))
    return starts


def _one_hot(point: list[Tensor], which: int) -> list[Tensor]:
    """Pick one coordinate out of (globals, each row's locals, parameters), the same of every row."""
    signs = [torch.zeros_like(p) for p in point]
    for part in signs:
        width = part.shape[-1]
        if 0 <= which < width:
            part[..., which] = 1.0
        which -= width
    return signs


def _random_signs(point: list[Tensor]) -> list[Tensor]:
    return [torch.randint(0, 2, p.shape, device=p.device).to(p.dtype) * 2 - 1 for p in point]


def _unit(curvature: Tensor) -> Tensor:
    """1 / sqrt(|curvature|), the standard deviation of a Normal with it; 1 where there is none to speak of."""
    size = curvature.abs()
    good = size.isfinite() & (size > 1e-12)
    return torch.where(good, size.clamp(1e-12, 1e16).rsqrt(), torch.ones_like(size))
