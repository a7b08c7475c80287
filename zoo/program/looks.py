"""What `zoo.check` looks at in a model, in order: each look says what it found, or raises what is wrong."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from zoo.data.bind import bind
from zoo.data.data import Data
from zoo.data.match import Columns
from zoo.declare.model import Model
from zoo.errors import ModelError, ZooError
from zoo.program.explain import legality
from zoo.program.prepare import as_model, prepare
from zoo.program.program import Program
from zoo.program.starting import BOUNDED
from zoo.replay.bijections import bijection
from zoo.replay.evaluate import Values, is_deterministic, model_context
from zoo.replay.sites import Site, base_distribution, beyond_categories, check_support
from zoo.structure.differentiable import check_torch
from zoo.structure.discover import Discover, run, sample_sites
from zoo.structure.plates import check_chain, check_plates, frames_of
from zoo.structure.probes import log_prob_of

STEP = 1e-5  # of finite differences, in unconstrained coordinates
JITTER = 0.1  # how far from the start gradients are looked at: a start may be a kink, or a saddle
TOLERANCE = 1e-4  # relative to the slope, or to the log density's own rounding


class Faults(Exception):
    """Several errors that one check has found."""

    def __init__(self, errors: Iterable[Exception]) -> None:
        super().__init__()
        self.errors = list(errors)


@dataclass
class Subject:
    """What is looked at, as far as it is there.

    Attributes
    ----------
    given, source, columns
        What the user gave.
    model, data
        The model, set up, and its data.
    trace, messenger
        Of a run without enumeration.
    program
        The program.
    start
        Values near its start.
    """

    given: Any
    source: Any
    columns: Columns | None = None
    model: Model = field(init=False)
    data: Data = field(init=False)
    trace: Any = None
    messenger: Discover | None = None
    program: Program = field(init=False)
    start: Values = field(default_factory=dict)

    @property
    def networks(self) -> Values:
        """Weights of the model's networks."""
        return {n: p.detach() for n, p in self.model.named_parameters() if not n.endswith("_unconstrained")}


def _errors(looks: Iterable[Callable[[], object]]) -> None:
    """Try all, and raise what was raised together."""
    errors: list[Exception] = []
    for look in looks:
        try:
            look()
        except ZooError as error:
            errors.append(error)
    if errors:
        raise Faults(errors)


def _data(subject: Subject) -> str:
    """The data fit the fields, and the model sets itself up on them."""
    subject.model = model = copy.deepcopy(as_model(subject.given))
    data = bind(model, subject.source, columns=subject.columns)
    model.coords, model.missing = data.coords, data.missing
    model.check(**data.values)
    model.setup(**data.values)
    subject.model, subject.data = model.to(torch.float64).eval(), data
    shapes = ", ".join(f"{n} {_shape(v)}" for n, v in data.values.items())
    return "; ".join((shapes, *data.notes))


def _shape(value: Tensor) -> str:
    return str(tuple(value.shape)).replace(",)", ")")


def _forward(subject: Subject) -> str:
    """The story runs at made-up values inside the supports."""
    messenger = Discover({})
    with model_context(torch.float64, torch.device("cpu")), torch.no_grad():
        subject.trace = run(subject.model, subject.data, subject.networks, messenger, None)
    subject.messenger = messenger
    names = [*messenger.params, *(n for n, _ in sample_sites(subject.trace))]
    if not any(node["is_observed"] for _, node in sample_sites(subject.trace)):
        raise ModelError("the model observes nothing: give the data to a site with obs=...")
    return f"it runs, with {', '.join(names)}"


def _plates(subject: Subject) -> str:
    """Plates have the lengths of their data, and sites the shapes of their plates."""
    nodes, data = list(sample_sites(subject.trace)), subject.data
    masks = subject.messenger.masks if subject.messenger else {}
    _errors(partial(check_plates, subject.model, data, name, node) for name, node in nodes)
    _errors(partial(check_chain, data, name, node, masked=name in masks) for name, node in nodes)
    sizes = {frame.name: frame.size for _, node in nodes for frame in frames_of(node)}
    return ", ".join(f"{name} ({size})" for name, size in sizes.items()) or "none"


def _shapes(subject: Subject) -> str:
    """Each site's distribution can take values of the shape that it has."""
    nodes = [(n, node) for n, node in sample_sites(subject.trace) if not is_deterministic(node)]
    _errors(partial(log_prob_of, name, node) for name, node in nodes)
    return ", ".join(f"{name} {_shape(node['value'])}" for name, node in nodes)


def _support(subject: Subject) -> str:
    """What is observed is inside the support of its distribution."""

    def look(name: str, node: Any) -> None:
        family, value = type(base_distribution(node["fn"])).__name__, node["value"]
        if not node["is_observed"] or is_deterministic(node) or family in BOUNDED:
            return
        beyond = beyond_categories(name, node["fn"], value)
        if beyond is not None:
            raise beyond
        check_support(name, family, node["fn"].support, value)

    _errors(partial(look, name, node) for name, node in sample_sites(subject.trace))
    return "every observed value is inside that of its distribution"


def _torch(subject: Subject) -> str:
    """Latents and parameters reach the densities through torch."""
    with model_context(torch.float64, torch.device("cpu")):
        check_torch(subject.model, subject.data, subject.networks, {})
    return "latents and parameters stay in torch"


def _structure(subject: Subject) -> str:
    """States side by side mean what states drawn mean; every run has the same sites; missing cells are legal."""
    given, data = subject.given, subject.source
    subject.program = program = prepare(given, data, device="cpu", dtype=torch.float64, columns=subject.columns)
    unsupported = [s for s in program.sites.values() if s.role == "unsupported"]
    if unsupported:
        raise ModelError(
            f"site {unsupported[0].name!r} is a discrete latent ({unsupported[0].family}) whose states cannot be "
            "enumerated; use a Bernoulli, Categorical or Binomial of a fixed size, or observe it"
        )
    states = [f"{s.name} ({s.cardinality} states)" for s in program.enumerated]
    counts = [f"{s.name} is a count without upper end, for svi and map" for s in program.latents if s.countable]
    return "; ".join([", ".join(states) or "no discrete latent to sum out", *counts])


def _density(subject: Subject) -> str:
    """There are starting values, and each site's log density is a number there."""
    program = subject.program
    start = program.initial()
    total = float(program.log_joint(start).total())
    subject.start = start
    return f"log density {total:.6g} at the starting values"


def _gradient(subject: Subject) -> str:
    """The gradient of the log density by each unknown is a number, and that of finite differences."""
    program, start = subject.program, subject.start
    unknown = [s for s in (*program.latents, *program.parameters) if not s.countable]
    to = {s.name: bijection(s.support, s.name) for s in unknown}
    at = {n: t.inv(start[n]) for n, t in to.items()}
    at = {n: u + JITTER * torch.randn_like(u) for n, u in at.items()}
    ways = {n: torch.randn_like(u) for n, u in at.items()}

    def height(steps: Values) -> Tensor:
        moved = {n: to[n](u + steps[n] * ways[n]) if n in steps else to[n](u) for n, u in at.items()}
        return program.log_joint({**start, **moved}).total()

    with torch.enable_grad():
        zero = {n: torch.zeros((), dtype=program.dtype, requires_grad=True) for n in at}
        value = height(zero)
        slopes = torch.autograd.grad(value, list(zero.values()), allow_unused=True) if value.requires_grad else ()
    found = dict(zip(zero, slopes or [None] * len(zero), strict=True))
    rounding = TOLERANCE * (1 + abs(float(value.detach()))) / 100

    def look(site: Site) -> None:
        name, slope = site.name, found[site.name]
        step = torch.tensor(STEP, dtype=program.dtype)
        with torch.no_grad():
            expected = float(height({name: step}) - height({name: -step})) / (2 * STEP)
        _compare(site, None if slope is None else float(slope), expected, rounding)

    _errors(partial(look, site) for site in unknown if at[site.name].numel())
    return "that of finite differences"


def _compare(site: Site, slope: float | None, expected: float, rounding: float) -> None:
    what = f"{'parameter' if site.role == 'parameter' else 'site'} {site.name!r}"
    if abs(expected) <= rounding and not slope and site.role == "parameter":
        raise ModelError(f"{what} moves no density: nothing depends on it. Use it in the model, or take it out")
    if not slope and abs(expected) > rounding:
        raise ModelError(
            f"{what}: the log density moves with it, and no gradient passes; .detach(), .item(), torch.tensor(...), "
            "rounding or a comparison is in the way: keep to torch's differentiable functions of it"
        )
    if slope is not None and slope != slope:
        raise ModelError(
            f"{what}: the gradient of the log density is not a number, though the log density is. torch.where takes "
            "gradients of both its branches: put safe numbers into the one that is not taken, "
            "torch.where(ok, torch.where(ok, x, 1.0).log(), 0.0), and clamp what a log or a root is taken of"
        )
    if slope is not None and not abs(slope - expected) <= TOLERANCE * abs(expected) + rounding:
        raise ModelError(
            f"{what}: the gradient of the log density along a random direction is {slope:.6g}, and finite differences "
            f"give {expected:.6g}: a part of it is detached, rounded or random, or has a kink there"
        )


def _rows(subject: Subject) -> str:
    """What ties rows to one another, and whether data can be drawn."""
    program = subject.program
    fed = {f for s in program.sites.values() for parent in s.args.values() for f in parent.data}
    used = fed | {f for s in program.sites.values() for f in s.observes} | {s.field for s in program.observed}
    idle = [f"field {n!r} feeds no site" for n in program.data.values if n not in used]
    tied = program.tied or ("independent given the globals" if program.row else "no plate of rows")
    drawn = f"cannot be drawn: {program.not_drawn}" if program.not_drawn else ""
    return "; ".join(filter(None, (tied, drawn, *idle)))


def _methods(subject: Subject) -> str:
    """Some method is legal."""
    reasons = legality(subject.program)
    legal = [name.lower() for name, why in reasons.items() if why is None]
    if not legal:
        raise ModelError("no method is legal: " + "; ".join(f"{n.lower()}: {why}" for n, why in reasons.items()))
    return ", ".join(legal)


LOOKS: dict[str, Callable[[Subject], str]] = {
    "data": _data,
    "forward": _forward,
    "plates": _plates,
    "support": _support,
    "shapes": _shapes,
    "torch": _torch,
    "structure": _structure,
    "density": _density,
    "gradient": _gradient,
    "rows": _rows,
    "methods": _methods,
}
