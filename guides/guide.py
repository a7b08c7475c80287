"""What a guide is: settings that build, from a program, a trainable distribution q over its unconstrained latents."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, get_type_hints

import torch
from torch import Tensor, nn

from zoo import catalogue
from zoo.declare.data import Data
from zoo.declare.model import validate
from zoo.declare.program import Program

LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class Start:
    """Where a guide starts.

    Attributes
    ----------
    globals, locals
        Unconstrained starting point, shapes (G,) and (rows, L).
    parameters
        Unconstrained starting values of the model's parameters (without network weights), one vector.
    global_unit, local_unit, parameter_unit
        Size of a natural step along each coordinate: one over the square root of the log joint's curvature there.
        Guides work in these units, so that one learning rate serves data in any units.
    """

    globals: Tensor
    locals: Tensor
    parameters: Tensor
    global_unit: Tensor
    local_unit: Tensor
    parameter_unit: Tensor


@dataclass(frozen=True)
class Draw:
    """One reparameterized draw u = (globals, locals) with log q, or what stands for its mean.

    Attributes
    ----------
    globals, locals
        Shapes (G,) and (rows, L).
    log_q, log_q_rows
        log q of the globals (a scalar) and of each row's locals (rows,).
    """

    globals: Tensor
    locals: Tensor
    log_q: Tensor
    log_q_rows: Tensor


class Part(nn.Module):
    """A distribution over one block of unconstrained coordinates."""

    amortized = False

    def draw(self, data: Data, rows: Tensor | None, eps: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return a draw and its log q, one per row for a block of locals; `eps` replaces its standard Normal noise."""
        raise NotImplementedError(type(self).__name__)


class Variational(nn.Module):
    """q(globals) prod_i q(locals_i): a draw from each part.

    Parameters
    ----------
    over_globals, over_locals
        The two parts.
    """

    def __init__(self, over_globals: Part, over_locals: Part) -> None:
        super().__init__()
        self.over_globals, self.over_locals = over_globals, over_locals

    covers_rows = True  # whether the locals have a distribution of their own, apart from the globals'

    @property
    def amortized(self) -> bool:
        """Whether locals of rows never seen have a distribution."""
        return self.over_locals.amortized

    @property
    def noise_size(self) -> int:
        """Length of the standard Normal noise behind a draw of the globals."""
        return next((p.numel() for n, p in self.over_globals.named_parameters() if n == "loc"), 0)

    def draw(self, data: Data, rows: Tensor | None = None, eps: Tensor | None = None) -> Draw:
        """Draw globals and the locals of `data`, which are the rows `rows` of the fitted data (None: all).

        `eps`, shape (G,), replaces the standard Normal noise of the globals.
        """
        u, log_q = self.over_globals.draw(data, None, eps)
        v, log_q_rows = self.over_locals.draw(data, rows)
        return Draw(u, v, log_q.sum(), log_q_rows)


class Guide(ABC):
    """Base class of guides. A subclass is a frozen dataclass of settings with `build`; it is made from the program.

    Attributes
    ----------
    point
        Whether q is a point, so that the objective is the log posterior and not an ELBO.
    """

    point = False

    def __post_init__(self) -> None:
        """Check the settings against their annotations."""
        check_settings(self)

    def why_not(self, program: Program) -> str | None:
        """Return None if this guide fits the program, else the reason why not."""
        return None

    @abstractmethod
    def build(self, program: Program, start: Start) -> Variational:
        """Make q, at its starting point."""

    def parts(self, program: Program, start: Start) -> tuple[Part, Part]:
        """Return the parts of q over globals and over locals, for guides that combine others."""
        built = self.build(program, start)
        return built.over_globals, built.over_locals


def as_guide(guide: object) -> object:
    """Return a guide for an instance, a class with its default settings, or a name."""
    if isinstance(guide, str):
        guide = catalogue.find("guide", guide)
    return guide() if isinstance(guide, type) and issubclass(guide, Guide) else guide


def check_settings(instance: Any) -> None:
    """Validate the fields of a dataclass of settings against their annotations.

    Raises
    ------
    ModelError
        Naming the setting.
    """
    hints = get_type_hints(type(instance), include_extras=True)
    for setting in fields(instance):
        value = getattr(instance, setting.name)
        if hints[setting.name] is Guide:
            value = as_guide(value)
        value = validate(type(instance).__name__, setting.name, value, hints[setting.name])
        object.__setattr__(instance, setting.name, value)


class Placed(Part):
    """A part in natural units: u = start + unit * (something of the shape of start).

    Parameters
    ----------
    start, unit
        Shape (G,) for globals or (rows, L) for locals.
    """

    start: Tensor
    unit: Tensor

    def __init__(self, start: Tensor, unit: Tensor) -> None:
        super().__init__()
        self.register_buffer("start", start.clone())
        self.register_buffer("unit", unit.clone())
        self.loc = nn.Parameter(torch.zeros_like(start))


class DiagonalNormal(Placed):
    """u = start + unit * (loc + exp(log_scale) * eps), eps ~ Normal(0, I)."""

    def __init__(self, start: Tensor, unit: Tensor) -> None:
        super().__init__(start, unit)
        self.log_scale = nn.Parameter(torch.zeros_like(start))

    def draw(self, data: Data, rows: Tensor | None, eps: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Draw every coordinate, or those of the rows `rows`."""
        if rows is None:
            return normal(self.start, self.unit, self.loc, self.log_scale, eps)
        return normal(self.start[rows], self.unit[rows], self.loc[rows], self.log_scale[rows], eps)


def normal(
    start: Tensor, unit: Tensor, loc: Tensor, log_scale: Tensor, eps: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Draw from a diagonal Normal in units `unit` around `start`; return the draw and log q summed over columns.

    log q holds the parameters fixed and lets the gradient flow through the draw only. That leaves the ELBO's gradient
    unbiased, and without noise where q is the posterior (Roeder, Wu and Duvenaud 2017, "Sticking the landing").
    """
    at = loc + log_scale.exp() * (torch.randn_like(loc) if eps is None else eps)
    fixed = log_scale.detach()
    square = ((at - loc.detach()) * (-fixed).exp()).square()
    return start + unit * at, -(0.5 * (LOG_2PI + square) + fixed + unit.log()).sum(-1)


class Delta(Placed):
    """A point: u = start + unit * loc; log q counts as 0."""

    def draw(self, data: Data, rows: Tensor | None, eps: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the point."""
        u = self.start + self.unit * self.loc
        if rows is not None:
            u = u[rows]
        return u, torch.zeros_like(u).sum(-1)
