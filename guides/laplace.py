"""Laplace guide."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from guides.curvature import factor, polish, triangular_of_inverse
from guides.full_rank import FullRank
from guides.joint import joint
from guides.start import Start
from guides.variational import LOG_2PI, LocationScale, Variational
from zoo.data.data import Data
from zoo.program.program import Program
from zoo.replay.evaluate import Values


@dataclass(frozen=True, init=False, repr=False)
class Laplace(FullRank):
    """A Normal at the mode, with the curvature there: q(u) = Normal(u*, (-H)^-1) in unconstrained space.

    While it climbs, q is a point u*, with log|dz/du| counted and without entropy: what climbs, and what the trace
    shows, is log p(x, z(u*)) + log|dz/du|, beside other guides the expectation of this under their q. When the climb
    has ended, H is the Hessian in u of the climbed bound on all rows (Tierney and Kadane 1986), over a fixed set of
    draws from the other guides. From then on q is a Normal over globals and locals together, as `FullRank` is, and the
    objective is its ELBO. Where nothing else is drawn, Newton steps first go to the mode of all rows, so that alone it
    is the answer of the method `laplace`. Of several starts, the one with the highest mode is kept.

    Parameters
    ----------
    names
        Sites it covers, where another guide covers the others.

    Examples
    --------
    >>> import zoo
    >>> from guides import Laplace
    >>> from inference import SVI, fit
    >>> result = fit(zoo.BetaBernoulli(), [1, 0, 1, 1, 0, 1], method=SVI(guide=Laplace(), steps=100), seed=0)
    >>> round(float(result.posterior["posterior"]["p"].mean()), 1)  # exactly: (1 + 4) / (2 + 6)
    0.6
    """

    @property
    def still(self) -> bool:
        # It is a point while it climbs
        return True

    def build(self, program: Program, start: Start) -> Variational:
        # Make q, a point at the start
        view = program.view
        once, each = (
            [s.site.name for s in slots for _ in range(s.start, s.stop)] for slots in (view.globals, view.locals)
        )
        return joint(start, lambda point, unit: Curved(point, unit, [*once, *each * len(start.locals)]))


class Curved(LocationScale):
    """u = start + unit * loc, a point; when the climb has ended, u = start + unit * loc + L eps, eps ~ Normal(0, I).

    Parameters
    ----------
    start, unit
        Shape (size,).
    names
        Of the site that each coordinate belongs to.
    """

    factor: Tensor

    def __init__(self, start: Tensor, unit: Tensor, names: Sequence[str]) -> None:
        super().__init__(start, unit)
        self.names = names
        self.register_buffer("factor", start.new_empty(0, 0))  # L; of no size while q is a point

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: object) -> None:
        """Take L in the size that it has."""
        self.factor = state_dict[f"{prefix}factor"].to(self.start, copy=True)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def noise_shape(self, rows: int) -> tuple[int, ...]:
        """One number for each coordinate; none while q is a point."""
        return (len(self.factor),)

    def draw(self, data: Data, rows: Tensor | None, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draw the whole vector; while q is a point, its log q counts as 0."""
        u = self.start + self.unit * self.loc
        if not len(self.factor):
            return u, torch.zeros_like(u).sum()
        return u + self.factor @ noise, -(0.5 * (LOG_2PI + noise.square()) + self.factor.diagonal().log()).sum()

    def finish(self, bound: Callable[[Values], Tensor], *, steady: bool) -> Values:
        """Return the mode, and the factor of the inverse curvature of the bound there."""
        if not self.names:
            return {}
        start, unit, u = (t.detach() for t in (self.start, self.unit, self.start + self.unit * self.loc))
        surface = Along(lambda u: bound({"loc": (u - start) / unit}), self.names, start[:0])
        mode = u.double().cpu()
        mode, root = polish(surface, mode)[:2] if steady else (mode, factor(surface, mode))
        return {"loc": (mode.to(start) - start) / unit, "factor": triangular_of_inverse(root).to(start)}


@dataclass(frozen=True)
class Along:
    """A bound along some coordinates, as a log density: see `guides.curvature.Surface`."""

    log_prob: Callable[[Tensor], Tensor]
    names: Sequence[str]
    like: Tensor

    def name(self, coordinate: int) -> str:
        """Name of the site that a coordinate belongs to."""
        return self.names[coordinate]
