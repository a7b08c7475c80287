"""Running a hand-written Pyro guide as a pure function of its parameters and of what its sites are given."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import constraints

from guides.steps import drawn, noise_behind
from zoo.data.data import Data
from zoo.errors import MethodError, ZooError
from zoo.program.program import Program
from zoo.replay.bijections import lowest_count
from zoo.replay.evaluate import Values, is_deterministic, is_plate, model_context
from zoo.replay.sites import base_distribution, support_of
from zoo.replay.swapped import called_with

WIDE = 6.0  # standard deviations of the noise up to which draws are looked at, to see whether they leave the support
LOOKS = 8  # such draws
WEIGHT = "$$$"  # what Pyro puts between the names of a network and of its weight

Chooser = Callable[[str, Any], Tensor]


class Run(Messenger):
    """One run of a guide: gives parameters and sites their values and keeps what was seen.

    Parameters
    ----------
    parameters
        Values by name; what is not there begins as it is declared.
    choose
        Value of a site, from its name and distribution.
    row
        Name of the data plate.
    """

    def __init__(self, parameters: Values, choose: Chooser, row: str) -> None:
        super().__init__()
        self.parameters, self.choose, self.row = parameters, choose, row
        self.distributions: dict[str, Any] = {}
        self.values: Values = {}
        self.frames: dict[str, int] = {}  # site in the data plate -> the plate's negative dimension
        self.declared: dict[str, tuple[Tensor, Any, int | None]] = {}  # value, constraint, which dimension counts rows

    def _frame(self, msg: Any) -> Any:
        return next((f for f in msg["cond_indep_stack"] if f.name == self.row), None)

    def _pyro_sample(self, msg: Any) -> None:
        if is_plate(msg) or is_deterministic(msg):
            return
        name, fn = msg["name"], msg["fn"]
        if msg["is_observed"]:
            raise MethodError(f"site {name!r} of the guide has obs=...; a guide has latents only, so leave it out")
        msg["value"], msg["done"] = self.choose(name, fn), True
        self.distributions[name], self.values[name] = fn, msg["value"]
        if (frame := self._frame(msg)) is not None:
            self.frames[name] = frame.dim

    def _pyro_param(self, msg: Any) -> None:
        if msg["name"] in self.parameters:
            msg["value"], msg["done"] = self.parameters[msg["name"]], True

    def _pyro_post_param(self, msg: Any) -> None:
        value, frame, axis = msg["value"], self._frame(msg), None
        if frame is not None:
            event_dim = msg["kwargs"].get("event_dim")
            if event_dim is None:  # as Pyro has it
                event_dim = getattr(msg["kwargs"].get("constraint"), "event_dim", 0)
            axis = value.ndim + frame.dim - event_dim
            axis = axis if axis >= 0 and value.shape[axis] == frame.size else None
        self.declared[msg["name"]] = value, msg["kwargs"].get("constraint"), axis


class Network(nn.Module):
    """A guide that is a module, called so that a PyroModule leaves its weights to `called_with`, not to Pyro."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, **inputs: Tensor) -> Any:
        """Run the guide."""
        return self.inner.forward(**inputs)


@dataclass(frozen=True)
class TracedSite:
    """A site of a guide as it was seen.

    Attributes
    ----------
    noise, axis
        Shape of its noise, and which dimension of that counts rows.
    point
        Whether it is a Delta.
    scored
        Whether draws have no gradient.
    ends
        Whether they are integers up to a largest one.
    """

    noise: tuple[int, ...]
    axis: int | None
    point: bool
    scored: bool
    ends: bool

    def shape(self, rows: int) -> tuple[int, ...]:
        """Shape of the noise for so many rows."""
        return tuple(rows if i == self.axis else size for i, size in enumerate(self.noise))


@dataclass
class TracedGuide:
    """A guide's function bound to a program, traced once.

    Attributes
    ----------
    arguments
        Data fields it takes.
    row, dtype, device
        The data plate's name, precision and place.
    sites
        By name, in its own order.
    parameters, constraints
        Starting values and supports of its ``pyro.param``.
    rows
        Those in the data plate -> which dimension counts rows.
    frames
        Sites in the data plate -> the plate's negative dimension.
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple[str, ...]
    row: str
    dtype: torch.dtype
    device: torch.device
    sites: dict[str, TracedSite] = field(default_factory=dict)
    parameters: Values = field(default_factory=dict)
    constraints: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    frames: dict[str, int] = field(default_factory=dict)

    def run(self, data: Data, parameters: Values, choose: Chooser, weights: Values | None = None) -> Run:
        """Run the guide; `weights` stand in for those of its networks."""
        run, inputs = Run(parameters, choose, self.row), {n: data.values[n] for n in self.arguments}
        with model_context(self.dtype, self.device), run:
            if weights and isinstance(self.function, nn.Module):
                called_with(self.function, weights, **inputs)
            else:
                self.function(**inputs)
        return run


def trace(function: Callable[..., Any], program: Program, *, whole: bool = True) -> TracedGuide:
    """Run a guide on a program's data and look at its sites and parameters.

    Parameters
    ----------
    whole
        Whether its sites have to be the program's latents.

    Raises
    ------
    MethodError
        If it fails, or has a site that is none of the program's.
    """
    name = function.__name__
    place = program.row, program.dtype, program.device
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            traced = TracedGuide(name, _made(function, program), _arguments(function, program), *place)
            run = traced.run(program.data, {}, lambda site, fn: drawn(fn, torch.randn(noise_behind(fn)[0])))
        except ZooError:
            raise
        except Exception as error:  # whatever a user's function raises
            raise MethodError(f"the guide {name} fails on the data: {type(error).__name__}: {error}") from error
        if whole:
            _check_names(name, run, program)
            _check_values(name, run, program)
    for parameter, (value, constraint, axis) in run.declared.items():
        network, of_network, _ = parameter.partition(WEIGHT)
        if of_network:
            raise MethodError(
                f"the guide {name} registers the network {network!r} by pyro.module; write the guide as a class, a "
                "PyroModule that makes its networks in __init__, without pyro.module, and give Custom that class"
            )
        traced.parameters[parameter], traced.constraints[parameter] = value.detach().clone(), constraint
        if axis is not None:
            traced.rows[parameter] = axis
    for site, fn in run.distributions.items():
        axis = len(fn.batch_shape) + run.frames[site] if site in run.frames else None
        point = isinstance(base_distribution(fn), dist.Delta)
        shape, scored = noise_behind(fn)
        ends = bool(fn.support.is_discrete) and lowest_count(fn.support) is None
        traced.sites[site] = TracedSite(shape, None if shape == (0,) else axis, point, scored, ends)
    traced.frames = run.frames
    return traced


def _made(function: Any, program: Program) -> Callable[..., Any]:
    if not _is_module(function):
        made: Callable[..., Any] = function
        return made
    with model_context(program.dtype, program.device):
        module: nn.Module = function()
    return Network(module.to(program.device, program.dtype))


def _is_module(function: Any) -> bool:
    return isinstance(function, type) and issubclass(function, nn.Module)


def _arguments(function: Any, program: Program) -> tuple[str, ...]:
    """Data fields that a guide asks for."""
    module = _is_module(function)
    parameters = list(inspect.signature(function.forward if module else function).parameters.values())
    parameters = parameters[1:] if module else parameters
    known = tuple(program.data.values)
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return known
    for p in parameters:
        if p.name not in known and p.default is p.empty and p.kind is not p.VAR_POSITIONAL:
            raise MethodError(
                f"the guide {function.__name__} asks for {p.name!r}, which is no data field; there are "
                f"{', '.join(known)}"
            )
    return tuple(p.name for p in parameters if p.name in known)


def _check_names(guide: str, run: Run, program: Program) -> None:
    """Raise if the sites are not the program's latents, naming the site and the remedy."""
    latents = [s.name for s in program.latents]
    for missing in (n for n in latents if n not in run.values):
        raise MethodError(
            f"the guide {guide} has no site {missing!r}; add pyro.sample({missing!r}, ...), or leave it to another "
            f"guide with Custom({guide}) & MeanField()"
        )
    for extra in (n for n in run.values if n not in latents):
        site = program.sites.get(extra)
        gone = {"enumerated": "is summed out exactly", "integrated": "is integrated out exactly"}
        role = gone.get(site.role, "") if site is not None else ""
        role = role or f"is no latent that it is to cover ({', '.join(latents)})"
        raise MethodError(f"the guide {guide} has a site {extra!r}, which {role}; take it out")


def _check_values(guide: str, run: Run, program: Program) -> None:
    """Raise if a site has another shape, plate or support than the model's, naming it and the remedy."""
    for site in program.latents:
        name, fn, value = site.name, run.distributions[site.name], run.values[site.name]
        if tuple(value.shape) != (expected := program.site_shape(site)):
            raise MethodError(
                f"the guide {guide}: site {name!r} has shape {tuple(value.shape)}, the model's has {expected}; declare "
                "it in the same plates, with the same event dimensions"
            )
        if site.role == "local" and name not in run.frames:
            raise MethodError(
                f"the guide {guide}: site {name!r} is outside the data plate; declare it in "
                f"pyro.plate({program.row!r}, ...), as the model does"
            )
        family, (shape, _) = type(base_distribution(fn)).__name__, noise_behind(fn)
        if site.countable and family == "Delta":
            raise MethodError(
                f"the guide {guide}: site {name!r} is a Delta, which cannot climb from one count to the next; use a "
                "distribution, such as Poisson or Categorical"
            )
        if fn.support.is_discrete and not site.countable:
            raise MethodError(
                f"the guide {guide}: site {name!r} is drawn from {family}, which is discrete, and the model's is "
                "continuous; use a distribution with a density, such as Normal, Gamma or Beta"
            )
        draws = [drawn(fn, WIDE * (2 * torch.rand(shape).to(value) - 1)) for _ in range(LOOKS)]
        free = _everywhere(support_of(fn)) and not _everywhere(site.support) and family != "Delta"
        free = free and not site.countable  # of a transformed count torch does not know that it is one
        if free or not all(bool(site.support.check(draw).all()) for draw in (value, *draws)):
            raise MethodError(
                f"the guide {guide}: draws of site {name!r}, from {family}, leave its support in the model, "
                f"{site.support}; use a distribution on that support"
            )


def _everywhere(support: Any) -> bool:
    base = support.base_constraint if isinstance(support, constraints.independent) else support
    return base in (constraints.real, constraints.real_vector)
