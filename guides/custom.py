"""A guide written by hand in Pyro's words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Transform, transform_to
from torch.func import jacrev

from guides.guide import Guide
from guides.handwritten import TracedGuide, trace
from guides.scope import split_noise
from guides.start import Start
from guides.steps import drawn, noise_behind
from guides.variational import Draw, Noise, Pushforward, Variational
from zoo.data.data import Data
from zoo.errors import MethodError, ZooError
from zoo.program.program import Program
from zoo.program.view import Slot
from zoo.replay.bijections import log_abs_det
from zoo.replay.evaluate import Values

FEW = 3  # rows on which it is seen whether they are drawn by themselves


@dataclass(frozen=True, repr=False)
class Custom(Guide):
    """A Pyro guide of your own: q(z) as a function with the sites of the model.

    q(z) = prod_s q_s(z_s | z before s), one ``pyro.sample`` for each latent that is not enumerated, under the model's
    own names and in the data plate where the model's is. Its ``pyro.param`` climb in their unconstrained space, so
    begin them near the answer; those declared inside the data plate are local, one for each row. A guide with networks
    is a class, a ``PyroModule`` or ``nn.Module`` made without arguments, whose ``forward`` is the guide. Arguments are
    data fields of the model, as many as are needed. The parameters belong to the fit, not to Pyro's store.

    Draws are functions of standard Normal noise: Normal families directly; Gamma, Beta, Dirichlet, StudentT and Wishart
    through quantiles of Gamma; whatever transforms make of these; Delta; and every other reparameterized family that
    has a quantile function ``icdf``. All others climb by the score function, with the mean of the other draws of a step
    as the baseline: counts (Poisson, NegativeBinomial, Geometric, Categorical) are steps of noise, and what remains is
    drawn by its own ``sample``. A site with a Delta counts as a point: the bound is then one on log p(x, z*), with the
    density of z* in its constrained space.

    Parameters
    ----------
    function
        The guide. A saved fit finds it again by where it can be imported from.

    Examples
    --------
    >>> import pyro
    >>> import pyro.distributions as dist
    >>> import zoo
    >>> import torch
    >>> from torch.distributions import constraints
    >>> from guides import Custom
    >>> from inference import SVI, fit
    >>> def q(x):
    ...     a = pyro.param("a", torch.tensor(1.0), constraint=constraints.positive)
    ...     b = pyro.param("b", torch.tensor(1.0), constraint=constraints.positive)
    ...     pyro.sample("p", dist.Beta(a, b))
    >>> result = fit(zoo.BetaBernoulli(), [1, 0, 1, 1, 0, 1], method=SVI(guide=Custom(q), steps=100), seed=0)
    >>> round(float(result.posterior["posterior"]["p"].mean()), 1)
    0.6
    """

    function: Callable[..., Any]

    def __post_init__(self) -> None:
        """Refuse an object without a name to be found by.

        Raises
        ------
        MethodError
            Naming what it is, and the remedy.
        """
        super().__post_init__()
        if not hasattr(self.function, "__qualname__"):
            kind = type(self.function).__name__
            raise MethodError(
                f"Custom({kind}(...)): expected a function or a class, found an instance, which a saved fit could not "
                f"make again; give the class, Custom({kind}), or a function that calls the instance"
            )

    def why_not(self, program: Program) -> str | None:
        # Refuse a guide whose sites are not the model's latents
        try:
            sites = trace(self.function, program).sites
        except ZooError as error:
            return str(error)
        if all(site.point for site in sites.values()):
            return f"every site of {self.function.__name__} is a Delta; use Point(), or the method map"
        return None

    def build(self, program: Program, start: Start) -> Variational:
        # Make q with the guide's parameters at the values they are declared with
        return HandWritten(trace(self.function, program), program)

    def claims(self, program: Program) -> tuple[str, ...]:
        # Names of the guide's sites
        return tuple(trace(self.function, program, whole=False).sites)

    def caveats(self, program: Program) -> list[str]:
        # Say which counts end in the guide and not in the model
        sites = trace(self.function, program).sites
        ending = [s.name for s in program.latents if s.countable and s.name in sites and sites[s.name].ends]
        return [
            f"the guide {self.function.__name__} draws {name!r} up to a largest count: the evidence and the posterior "
            "are those of the counts up to there"
            for name in ending
        ]

    def points(self, program: Program) -> tuple[str, ...]:
        # Names of the sites that are a Delta
        return tuple(n for n, site in trace(self.function, program).sites.items() if site.point)

    def __repr__(self) -> str:
        """Show the guide with the name of its function."""
        return f"Custom({self.function.__qualname__})"


class HandWritten(Variational):
    """q as a hand-written guide tells it; the locals may depend on the globals."""

    covers_rows = False

    def __init__(self, traced: TracedGuide, program: Program) -> None:
        super().__init__(Pushforward(), Pushforward())
        self.traced = traced
        self.transforms = {n: transform_to(c) for n, c in traced.constraints.items()}
        self.names = list(traced.parameters)
        self.some = program.data.take(torch.arange(min(FEW, len(program.data))))
        self.free = nn.ParameterList(
            [nn.Parameter(self.transforms[n].inv(v).clone()) for n, v in traced.parameters.items()]
        )
        if isinstance(traced.function, nn.Module):
            self.network = traced.function
        self.slots: tuple[Sequence[Slot], Sequence[Slot]] = program.view.globals, program.view.locals
        self.sides = tuple([n for n in traced.sites if n in {s.site.name for s in slots}] for slots in self.slots)

    def noise_shapes(self, rows: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Two vectors that hold the noise of the global and of the local sites."""
        first, second = (
            sum(torch.Size(self.traced.sites[n].shape(rows)).numel() for n in names) for names in self.sides
        )
        return (first,), (second,)

    @cached_property
    def apart(self) -> bool:
        """Whether rows are drawn by themselves: globals are points, and noise of one row moves no other; on some rows.

        Moves are derivatives, so what is drawn without a gradient is taken to move all.
        """
        if self.scored or not self.sides[1] or not all(self.traced.sites[n].point for n in self.sides[0]):
            return False
        shared, own = self.noise_shapes(len(self.some))
        rows = torch.arange(len(self.some), device=self.traced.device)
        noise = torch.linspace(-1.0, 1.0, own[0], dtype=self.traced.dtype, device=self.traced.device)

        def locals_(noise: Tensor) -> Tensor:
            return self.draw(self.some, rows, (noise.new_zeros(shared), noise)).locals

        try:
            slope = jacrev(locals_)(noise)  # (rows, locals of a row, noise)
        except (ZooError, RuntimeError):  # it takes no other number of rows, or cannot be differentiated in one call
            try:
                slope = self._moves(locals_, noise)
            except (ZooError, RuntimeError):
                return False
        return bool(((slope != 0).any(1).sum(0) <= 1).all())

    @staticmethod
    def _moves(locals_: Callable[[Tensor], Tensor], noise: Tensor) -> Tensor:
        """By how much the locals move when one number of the noise does, (rows, locals of a row, noise)."""
        with torch.no_grad():
            still = locals_(noise)
            return torch.stack([locals_(noise + step) - still for step in torch.eye(len(noise)).to(noise)], -1)

    @property
    def for_new_rows(self) -> bool:
        """Whether rows never seen have a distribution: there are no parameters of rows."""
        return not self.traced.rows and self.apart

    def row_noise(self, rows: int) -> tuple[int, ...]:
        """A vector that holds the noise of all local sites."""
        return self.noise_shapes(rows)[1]

    def draw_rows(self, data: Data, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draw the locals of these rows, and log q of each row's."""
        drawn = self.draw(data, None, (noise.new_zeros(self.noise_shapes(len(data))[0]), noise))
        return drawn.locals, drawn.log_q_rows

    def draw(self, data: Data, rows: Tensor | None = None, noise: Noise | None = None) -> Draw:
        """Draw by the live guide; then run it with everything held fixed, to evaluate log q at the draw."""
        noise = self.noise(data) if noise is None else noise
        given: Values = {}
        for names, part in zip(self.sides, noise, strict=True):
            shapes = [self.traced.sites[n].shape(len(data)) for n in names]
            given |= dict(zip(names, split_noise(part, shapes), strict=True))
        parameters = self._values(rows)
        live = self.traced.run(data, parameters, lambda name, fn: self._draw(name, fn, given[name]))
        values = live.values
        weights = {n: p.detach() for n, p in self.network.named_parameters()} if hasattr(self, "network") else None
        held = {n: v.detach() for n, v in parameters.items()}
        fixed = self.traced.run(data, held, lambda name, fn: values[name], weights)
        draw = self._unconstrained(data, values, fixed.distributions)
        self._forget()
        return self._scored(values, live.distributions, draw) if self.scored else draw

    def _forget(self) -> None:
        """Let go of what transforms of the network keep of their last value, which belongs to a vectorized call."""
        for module in self.modules():
            if isinstance(module, Transform):
                for name in [n for n in vars(module) if n.startswith("_cached_")]:
                    setattr(module, name, (None, None) if name == "_cached_x_y" else None)

    @property
    def scored(self) -> bool:
        """Whether some draws have no gradient."""
        return any(site.scored for site in self.traced.sites.values())

    def _draw(self, name: str, fn: Any, noise: Tensor) -> Tensor:
        shape, _ = noise_behind(fn)
        if shape != tuple(noise.shape):
            raise MethodError(
                f"the guide {self.traced.name}: site {name!r} takes noise of shape {shape}, where these rows "
                f"have {tuple(noise.shape)}; size plates by the length of the data, and declare parameters of rows "
                "inside the data plate"
            )
        return drawn(fn, noise)

    def _values(self, rows: Tensor | None) -> Values:
        """Values of the parameters, those of rows at the rows `rows`."""
        values: Values = {}
        for name, free in zip(self.names, self.free, strict=True):
            axis = self.traced.rows.get(name)
            at = free if rows is None or axis is None else free.index_select(axis, rows)
            values[name] = self.transforms[name](at)
        return values

    def _unconstrained(self, data: Data, values: Values, distributions: dict[str, Any]) -> Draw:
        """Map a draw to the flat view, with log q(u) = log q(z) + log|dz/du|."""
        count = len(data)
        like = next(iter(values.values()))
        globals_, locals_ = [like.new_zeros(0)], [like.new_zeros(count, 0)]
        log_q, log_q_rows = like.new_zeros(()), like.new_zeros(count)
        for slot in self.slots[0]:
            z, fn = values[slot.site.name], distributions[slot.site.name]
            u = slot.transform.inv(z)
            jacobian = log_abs_det(slot.transform, u, z, slot.site.batch_dim)
            log_q = log_q + fn.log_prob(z).sum() + jacobian.sum()
            globals_.append(u.reshape(-1))
        for slot in self.slots[1]:
            name, axis = slot.site.name, slot.row_axis or 0
            z, fn = values[name], distributions[name]
            u = slot.transform.inv(z)
            jacobian = log_abs_det(slot.transform, u, z, slot.site.batch_dim).movedim(axis, 0)
            log_q_rows = log_q_rows + (self._by_row(name, fn, z) + jacobian.reshape(count, -1).sum(-1))
            locals_.append(u.movedim(axis, 0).reshape(count, -1))
        return Draw(torch.cat(globals_), torch.cat(locals_, -1), log_q, log_q_rows)

    def _by_row(self, name: str, fn: Any, z: Tensor) -> Tensor:
        """Log density of a site in the data plate, summed to one number for each row."""
        each: Tensor = fn.log_prob(z)
        each = each.movedim(each.ndim + self.traced.frames[name], 0)
        return each.reshape(len(each), -1).sum(-1)

    def _scored(self, values: Values, live: dict[str, Any], draw: Draw) -> Draw:
        """Add log q of what was drawn without a gradient, as a function of the parameters."""
        score, score_rows = torch.zeros_like(draw.log_q), torch.zeros_like(draw.log_q_rows)
        for name, site in self.traced.sites.items():
            if site.scored and name in self.traced.frames:
                score_rows = score_rows + self._by_row(name, live[name], values[name])
            elif site.scored:
                score = score + live[name].log_prob(values[name]).sum()
        return replace(draw, score=score, score_rows=score_rows)
