"""What a guide is: settings that build, from a program, a trainable distribution q over its unconstrained latents."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any, get_type_hints

import torch
from torch import Tensor, nn

from zoo import catalogue
from zoo.declare.data import Data
from zoo.declare.evaluate import Values
from zoo.declare.model import validate
from zoo.declare.program import Program
from zoo.declare.sites import Site
from zoo.errors import MethodError

if TYPE_CHECKING:
    from guides.composition import Guides

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
    factor
        Cholesky factor of the inverse curvature over all globals, where it is known: (G, G).
    """

    globals: Tensor
    locals: Tensor
    parameters: Tensor
    global_unit: Tensor
    local_unit: Tensor
    parameter_unit: Tensor
    factor: Tensor | None = None


@dataclass(frozen=True)
class Draw:
    """One reparameterized draw u = (globals, locals) with log q, or what stands for its mean.

    Attributes
    ----------
    globals, locals
        Shapes (G,) and (rows, L).
    log_q, log_q_rows
        log q of the globals (a scalar) and of each row's locals (rows,).
    score, score_rows
        The part of log q that is about what is drawn without a gradient (counts), as a function of the parameters
        whose gradient is the score; None where everything is reparameterized.
    """

    globals: Tensor
    locals: Tensor
    log_q: Tensor
    log_q_rows: Tensor
    score: Tensor | None = None
    score_rows: Tensor | None = None


class Part(nn.Module):
    """A distribution over one block of unconstrained coordinates: standard Normal noise, pushed forward.

    Attributes
    ----------
    amortized
        Whether rows never seen have a distribution too.
    scored
        Whether some of its draws have no gradient, so that the parameters behind them climb by the score function.
    """

    amortized = False
    scored = False

    def noise_shape(self, rows: int) -> tuple[int, ...]:
        """Shape of the standard Normal noise behind one draw, `rows` rows of locals at a time."""
        raise NotImplementedError(type(self).__name__)

    def draw(self, data: Data, rows: Tensor | None, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return the draw that this noise stands for and its log q, one per row for a block of locals.

        log q holds the parameters fixed and lets the gradient flow through the draw only. That leaves the ELBO's
        gradient unbiased, and without noise where q is the posterior (Roeder, Wu and Duvenaud 2017, "Sticking the
        landing").
        """
        raise NotImplementedError(type(self).__name__)

    def log_prob(self, data: Data, value: Tensor) -> Tensor:
        """Log density of given locals of these rows, one per row; only an amortized part needs it."""
        raise NotImplementedError(type(self).__name__)

    def score(self, data: Data, rows: Tensor | None, value: Tensor) -> Tensor:
        """Log q of what in a draw has no gradient, with the gradient to its parameters; only a scored part needs it."""
        raise NotImplementedError(type(self).__name__)

    def finish(self, bound: Callable[[Values], Tensor], *, steady: bool) -> Values:
        """Return new values of parameters and buffers for when the climb has ended; by default there are none.

        Parameters
        ----------
        bound
            The bound on all rows where the climb has ended, over a fixed set of draws, as a function of other values of
            this part's parameters, by name. It can be differentiated twice.
        steady
            Whether nothing in it is drawn, so that it has no Monte Carlo error.
        """
        return {}


Noise = tuple[Tensor, Tensor]


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
    def scored(self) -> bool:
        """Whether some draws have no gradient."""
        return self.over_globals.scored or self.over_locals.scored

    def noise_shapes(self, rows: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of the noise behind one draw of the globals, and of the locals of `rows` rows."""
        return self.over_globals.noise_shape(rows), self.over_locals.noise_shape(rows)

    def noise(self, data: Data, *sizes: int) -> Noise:
        """Draw the noise behind draws for these rows, `sizes` of them."""
        device = next(iter(data.values.values())).device
        one, other = (
            torch.randn(*sizes, *shape, dtype=data.dtype, device=device) for shape in self.noise_shapes(len(data))
        )
        return one, other

    def draw(self, data: Data, rows: Tensor | None = None, noise: Noise | None = None) -> Draw:
        """Draw globals and the locals of `data`, which are the rows `rows` of the fitted data (None: all)."""
        noise = self.noise(data) if noise is None else noise
        u, log_q = self.over_globals.draw(data, None, noise[0])
        v, log_q_rows = self.over_locals.draw(data, rows, noise[1])
        if not self.scored:
            return Draw(u, v, log_q.sum(), log_q_rows)
        first = self.over_globals.score(data, None, u) if self.over_globals.scored else u.new_zeros(())
        second = self.over_locals.score(data, rows, v) if self.over_locals.scored else torch.zeros_like(log_q_rows)
        return Draw(u, v, log_q.sum(), log_q_rows, first, second)

    def log_prob_rows(self, data: Data, locals_: Tensor) -> Tensor:
        """Log density (rows,) of given locals (rows, L) of these rows, whose gradient goes to the parameters."""
        return self.over_locals.log_prob(data, locals_)

    def forward(self, verb: str, *args: Any) -> Any:
        """Call one of the methods by name, for `torch.func.functional_call`."""
        return getattr(self, verb)(*args)


class Guide(ABC):
    """Base class of guides. A subclass is a frozen dataclass of settings with `build`; it is made from the program.

    Guides compose: ``MeanField() & FullRank("loc", "scale")`` covers two sites by the second and the rest by the first.

    Attributes
    ----------
    point
        Whether q is a point, so that the objective is the log posterior and not an ELBO.
    counts
        Whether it has a family for counts: discrete latents with infinitely many states.
    sites
        Names of the sites it covers; empty for all that no other guide covers.
    """

    point = False
    counts = False
    sites: tuple[str, ...] = ()

    @property
    def still(self) -> bool:
        """Whether q is a point while it climbs, so that all draws are the same."""
        return self.point

    def __post_init__(self) -> None:
        """Check the settings against their annotations."""
        check_settings(self)

    def __and__(self, other: Guide) -> Guides:
        """Combine with a guide for other sites."""
        from guides.composition import Guides

        return Guides((*Guides.of(self), *Guides.of(other))) if isinstance(other, Guide) else NotImplemented

    def why_not(self, program: Program) -> str | None:
        """Return None if this guide fits the program, else the reason why not."""
        left = [s.name for s in program.latents if s.name not in self.sites]
        if not self.sites or (not left and len(self.sites) == len(program.latents)):
            return self.lacks_counts(program.latents)
        from guides.composition import Guides

        return Guides(Guides.of(self)).why_not(program)

    def lacks_counts(self, latents: Sequence[Site]) -> str | None:
        """Return the reason if one of these latents is a count and the guide has no family for it."""
        count = None if self.counts else next((s.name for s in latents if s.countable), None)
        if count is None:
            return None
        return (
            f"{type(self).__name__} has no family for {count!r}, a count with infinitely many states; use MeanField(), "
            f"{self!r} & MeanField({count!r}), or Custom(...)"
        )

    @abstractmethod
    def build(self, program: Program, start: Start) -> Variational:
        """Make q, at its starting point."""

    def claims(self, program: Program) -> tuple[str, ...]:
        """Names of the sites it is for; empty for all that no other guide covers."""
        return self.sites

    def points(self, program: Program) -> tuple[str, ...]:
        """Names of the sites whose q is a point.

        Where these are some of the latents, the bound is one on log p(x, points), the evidence of the others, with the
        density of the points in their own space.
        """
        return tuple(s.name for s in program.latents) if self.point else ()

    def settle(self, **settings: Any) -> None:
        """Take settings and check them; for a guide whose ``__init__`` takes names of sites one by one."""
        for name, value in settings.items():
            object.__setattr__(self, name, value)
        self.__post_init__()

    def __repr__(self) -> str:
        """Show the guide as it would be written, names of sites one by one."""
        found = {f.name: (getattr(self, f.name), f.default) for f in fields(self)}  # type: ignore[arg-type]
        before = list(found)[: list(found).index("sites")] if "sites" in found else []
        shown = [repr(found[n][0]) for n in before if self.sites or found[n][0] != found[n][1]]
        shown += [repr(name) for name in self.sites]
        shown += [f"{n}={v!r}" for n, (v, _) in found.items() if n not in before and n != "sites"]
        return f"{type(self).__name__}({', '.join(shown)})"


def as_guide(guide: object) -> object:
    """Return a guide for an instance, a class with its default settings, or a name.

    Raises
    ------
    MethodError
        For a class or name of a guide with settings that have no default.
    """
    if isinstance(guide, str):
        guide = catalogue.find("guide", guide)
    if not (isinstance(guide, type) and issubclass(guide, Guide)):
        return guide
    needed = [f.name for f in fields(guide) if f.default is MISSING and f.default_factory is MISSING]  # type: ignore[arg-type]
    if needed:
        raise MethodError(f"{guide.__name__} has no defaults; give {guide.__name__}({', '.join(needed)})")
    return guide()


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

    def noise_shape(self, rows: int) -> tuple[int, ...]:
        """One number for each coordinate."""
        return tuple(self.loc.shape) if self.loc.ndim == 1 else (rows, self.loc.shape[1])

    def draw(self, data: Data, rows: Tensor | None, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draw every coordinate, or those of the rows `rows`."""
        if self.loc.ndim == 2 and not self.loc.shape[1]:  # no local latents
            return noise, noise.new_zeros(()).expand(len(noise))
        if rows is None:
            return normal(self.start, self.unit, self.loc, self.log_scale, noise)
        return normal(self.start[rows], self.unit[rows], self.loc[rows], self.log_scale[rows], noise)


def normal(start: Tensor, unit: Tensor, loc: Tensor, log_scale: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Draw from a diagonal Normal in units `unit` around `start`; return the draw and log q summed over columns.

    log q holds the parameters fixed, as in `Part.draw`.
    """
    at = loc + log_scale.exp() * noise
    fixed = log_scale.detach()
    square = ((at - loc.detach()) * (-fixed).exp()).square()
    return start + unit * at, -(0.5 * (LOG_2PI + square) + fixed + unit.log()).sum(-1)


class Delta(Placed):
    """A point: u = start + unit * loc; log q counts as 0."""

    def noise_shape(self, rows: int) -> tuple[int, ...]:
        """No noise."""
        return (0,)

    def draw(self, data: Data, rows: Tensor | None, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return the point."""
        u = self.start + self.unit * self.loc
        if rows is not None:
            u = u[rows]
        return u, torch.zeros_like(u).sum(-1)
