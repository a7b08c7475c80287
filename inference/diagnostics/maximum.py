"""Whether a point estimate is the maximum it is taken for: its curvature, where other starts end, empty components."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions.transforms import identity_transform

from guides.curvature import hessian, jacobians, slope
from inference.diagnostics.verdict import CARE, DISTRUST, TRUST
from zoo.program.program import Program
from zoo.replay.above import Above
from zoo.replay.bijections import bijection
from zoo.replay.evaluate import Values, many

LARGEST = 60  # unknowns up to which the curvature is looked at
CELLS = 2_000_000  # entries of the data, for each of their states, times unknowns
CHUNK = 64  # places that are looked at in one call
SADDLE = 1e-6  # curvature upwards, in that of each unknown by itself, at which a point is no maximum
FLAT = 1e-8  # and downwards, below which it is none that the data determine
SHARP = 1e5  # curvature, in that of most unknowns, to which others are held at most: columns may be next to constant
KNOWN = 1e9  # and beyond which a prior has left nothing to learn
STILL = 1e-100  # change of a value per unit of its coordinate, at which it stands still at the edge of its support
EDGE = 0.01  # of a variance that moves with its coordinate, below which it is at its floor
GAIN = 0.01  # nats that a Newton step may promise at a maximum
FAR = 3.0  # standard errors, by the curvature, at which the objective is looked at once more
FALL = 0.1  # nats by which it has to have fallen there, where a parabola has by 4.5
SAME = 0.01  # nats that ends of climbs to the same maximum may differ by


@dataclass(frozen=True)
class Maximum:
    """What is said of a point.

    Attributes
    ----------
    diagnostics
        "curvature", the smallest of minus the Hessian in units of each unknown's own, and "newton_gain", the nats that
        a Newton step promises; of several starts "agreeing", how many end as high.
    verdict
        In words, whether the point is the maximum.
    """

    diagnostics: dict[str, float]
    verdict: str


class Objective:
    """The log likelihood, or log posterior density, of a program over its parameters and latents as one vector.

    It is that of values in their constrained space, whose maximum a point estimate is.
    """

    def __init__(self, program: Program) -> None:
        self.program, self.views = program, (program.view, program.parameter_view)
        self.like = torch.empty(0, dtype=program.dtype, device=program.device)
        self.sizes = [program.view.global_size, program.parameter_view.global_size]

    def vector(self, values: Values) -> Tensor:
        """Unconstrained vector of values, latents first."""
        return torch.cat([view.unconstrain_globals(values).to(self.like) for view in self.views])

    def log_prob(self, u: Tensor) -> Tensor:
        """Log density at one vector."""
        return self.program.log_joint(self.values(u)).total(self.program.data.weights)

    def values(self, u: Tensor) -> Values:
        """Values at one vector."""
        values: Values = {}
        for view, part in zip(self.views, u.split(self.sizes), strict=True):
            values.update(view.constrain_globals(part)[0])
        return values

    def unit(self, u: Tensor) -> Tensor:
        """1 / sqrt(|d^2 log p / du^2|) of each coordinate: its standard deviation, were it by itself and concave."""
        bend = hessian(self, u).diagonal().abs()
        return torch.where(bend.isfinite() & (bend > 0), bend.clamp_min(1e-30).rsqrt(), 1.0)

    def name(self, coordinate: int) -> str:
        """Name of the site that a coordinate belongs to."""
        slots = [*self.views[0].globals, *self.views[1].globals]
        for slot in slots:
            if coordinate < slot.stop - slot.start:
                return slot.site.name
            coordinate -= slot.stop - slot.start
        raise IndexError(coordinate)


def judge_point(
    program: Program,
    values: Values,
    heights: Sequence[float],
    *,
    converged: bool,
    reason: str,
    floored: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> Maximum:
    """Say whether a point is a maximum, and the highest there is, as far as can be told.

    At a maximum the gradient is zero and the Hessian negative definite; whether it is the highest one only other starts
    can tell, some of which have to come to it as well.

    Parameters
    ----------
    program, values
        The program, and the values of its latents, parameters and network weights.
    heights
        The objective where each start has ended.
    converged, reason
        Whether the climb came to its end, and in words.
    floored
        What is to be said of scales at their floor: the maximum is where the floor is, and no estimate.
    notes
        What is to be said of components that are all but empty.
    """
    diagnostics: dict[str, float] = {}
    if len(heights) > 1:
        diagnostics["agreeing"] = float(sum(h > max(heights) - SAME for h in heights))
    trouble = _local(program, values, diagnostics) if _can_look(program, values) else ""
    seen = "curvature" in diagnostics
    if not converged:
        level, why = DISTRUST, reason
    elif floored:
        level, why = DISTRUST, floored[0]
    elif trouble:
        level, why = (CARE if trouble.startswith("flat") else DISTRUST), trouble
    elif notes:
        level, why = CARE, notes[0]
    elif len(heights) == 1:
        what = "a maximum by its curvature" if seen else "where the climb came to rest"
        level, why = CARE, f"{what}, and one start cannot tell whether there is a higher one; use restarts"
    elif diagnostics["agreeing"] == 1:
        level, why = CARE, f"the highest of {len(heights)} ends was come to once, so there may be higher ones"
    else:
        level = TRUST if seen else CARE
        why = f"{diagnostics['agreeing']:.0f} of {len(heights)} starts end at the same height, none higher"
        why += ", a maximum by its curvature" if seen else "; its curvature was not looked at"
    return Maximum(diagnostics, f"{level}: {why}")


def _can_look(program: Program, values: Values) -> bool:
    """Whether the curvature can be had: not of networks, of too many unknowns or rows, or of what is averaged over."""
    if program.networks or program.locals or program.data.stream is not None:
        return False
    size = program.view.global_size + program.parameter_view.global_size
    states = math.prod(s.cardinality for s in program.enumerated)
    entries = sum(v.numel() for v in program.data.values.values()) * states
    known = all(s.name in values for s in (*program.latents, *program.parameters))
    return known and 0 < size <= LARGEST and entries * size <= CELLS


def _local(program: Program, values: Values, diagnostics: dict[str, float]) -> str:
    """Say what speaks against a maximum at this place; empty if nothing does."""
    surface = Objective(program)
    try:
        u = surface.vector(values)
        height, gradient = slope(surface, u)
        precision = -hessian(surface, u)
    except RuntimeError:  # values at the edge of their support, or a model that cannot be differentiated twice
        return ""
    kept = _inside(surface, u)
    if not len(kept):
        return ""
    if not math.isfinite(height) or not bool(gradient.isfinite().all()):
        at = int((~gradient.isfinite()).nonzero()[0]) if not bool(gradient.isfinite().all()) else 0
        return f"the log density or its gradient is not finite at the end, along {surface.name(at)!r}"
    if not bool(precision.isfinite().all()):
        return ""
    bend = precision.diagonal().abs()
    most = bend[kept].quantile(0.75)
    kept = kept[bend[kept] <= KNOWN * most]
    precision, gradient, bend = precision[kept][:, kept], gradient[kept], bend[kept]
    unit = bend.sqrt().clamp_min(1e-150)
    free = bend > FLAT * float(bend.max().clamp_max(SHARP * most))
    curvature, vectors = torch.linalg.eigh(precision / unit[:, None] / unit)
    diagnostics["curvature"] = float(curvature[0])
    name = surface.name(int(kept[vectors[:, 0].abs().argmax()]))
    if float(curvature[0]) < -SADDLE and bool(free[int(vectors[:, 0].abs().argmax())]):
        return (
            f"a saddle, not a maximum: the density rises to both sides along {name!r} (curvature {curvature[0]:.2g} in "
            "units of each unknown's own); start elsewhere"
        )
    bent = curvature > FLAT
    along = vectors.mT @ (gradient / unit)
    gain = float(0.5 * (along[bent].square() / curvature[bent]).sum())
    diagnostics["newton_gain"] = gain
    if gain > GAIN:
        return f"the objective still rises where the climb came to rest: a Newton step promises {gain:.2g} nats"
    if not bool(bent.all()) or not bool(free.all()):
        at = int((~free).nonzero()[0]) if not bool(free.all()) else int(vectors[:, 0].abs().argmax())
        return f"flat along {surface.name(int(kept[at]))!r}: the data do not determine it there"
    axes = torch.zeros(len(u), len(kept), dtype=u.dtype, device=u.device)
    axes[kept] = (vectors / (unit[:, None] * curvature.sqrt())).to(u)  # data may be in another precision
    return _from_afar(surface, u, height, axes)


def _inside(surface: Objective, u: Tensor) -> Tensor:
    """Coordinates along which values move: not those of probabilities that are 0.

    Such are zeros that a chain was declared with, transitions that it has not, and those that closed-form steps came to
    as the likelihood falls away from them. There is nothing to be determined. Nor is there of variances at the floor of
    columns that do not vary.
    """
    moves, values = torch.zeros_like(u), surface.values(u)
    for name, slope_of in jacobians(surface.values, u).items():
        change = slope_of.abs()
        if isinstance(surface.program.sites[name].support, Above):
            value = values[name]
            if surface.program.sites[name].support.event_dim:
                root = value.diagonal(dim1=-2, dim2=-1).sqrt()
                value = root[..., :, None] * root[..., None, :]
            change = change.masked_fill(change < EDGE * value[..., None], 0.0)
        moves = torch.maximum(moves, change.reshape(-1, len(u)).amax(0))
    return (moves > STILL).nonzero()[:, 0]


def _from_afar(surface: Objective, u: Tensor, height: float, axes: Tensor) -> str:
    """Say along which axis (a column, one standard error long) the objective is no lower far from here.

    A sample that a line separates, or a count of nothing, has its maximum at infinity: wherever a climb ends, the
    curvature is that of a maximum, and the objective rises on for ever.
    """
    moved = torch.cat([u + FAR * axes.mT, u - FAR * axes.mT])
    try:
        with torch.no_grad():
            heights = many(lambda v: surface.log_prob(v["u"]), {"u": moved}, len(moved), CHUNK)
    except RuntimeError:  # outside of what the model can evaluate
        return ""
    fall = height - heights.double().nan_to_num(-math.inf)
    least = int(fall.argmin())
    if float(fall[least]) >= FALL:
        return ""
    name = surface.name(int(axes[:, least % axes.shape[1]].abs().argmax()))
    bounded = bijection(surface.program.sites[name].support, name) is not identity_transform
    if bounded and float(fall[least]) > -FALL:
        return f"flat to one side along {name!r}: the maximum is at the edge of its support, or next to it"
    change = f"is {-fall[least]:.2g} nats higher" if float(fall[least]) < -FALL else "has hardly fallen"
    return (
        f"no maximum that the data determine: {FAR:.0f} standard errors away along {name!r} the objective {change}; "
        "the maximum may be elsewhere, or at infinity (a sample that a line separates, say): use a prior, or restarts"
    )
