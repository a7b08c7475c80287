"""Amortized guide: a network from data row to the distribution of the row's local latents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pydantic import PositiveInt
from torch import nn

from guides.amortized import FAMILIES, Amortized, Family
from guides.guide import Guide
from guides.mean_field import MeanField
from guides.rows_in import Built, RowsIn
from guides.scope import in_constrained_space, restrict, restrict_start
from guides.start import Start
from guides.variational import Variational
from zoo.program.program import Program

Network = Built | nn.Module | Callable[[], nn.Module]


@dataclass(frozen=True, repr=False)
class Encoder(Guide):
    """Amortized: a network from each data row to the distribution of its local latents.

    q(locals_i) = Normal(m(x_i), s(x_i)^2) with m and s from the network (Kingma and Welling 2014), or a richer family.
    Globals fall to a second guide; among `Guides`, to whichever covers them.

    Parameters
    ----------
    hidden
        Widths of the hidden layers of ``network="mlp"``.
    globals
        Guide for the global latents, where there are any among its sites.
    network
        From rows to features, of which a last affine map makes the numbers of q. "mlp", of all fields side by side,
        each column in units of its own; "conv" or "resnet", of images; or a network of your own: a module, which is
        copied with the weights it has, or its class or a function that makes it, which a saved fit finds again by where
        it can be imported from. It is called with rows of the data fields that its ``forward`` names, or of the first
        one if it names none, as they are, and gives a tensor with a row for each.
    family
        Of q given the row: "diagonal", independent Normals; "full", a Normal with a covariance; "flow", a diagonal
        Normal through affine couplings that see the row (Dinh, Sohl-Dickstein and Bengio 2017; Rezende and Mohamed
        2015), which, other than autoregressive flows, can be evaluated both ways in one pass.

    Examples
    --------
    ``SVI(guide=Encoder(network="conv"))``; ``Encoder(network=MyNetwork, family="flow")``.

    >>> import zoo
    >>> from guides import Encoder
    >>> from inference import SVI, fit
    >>> digits = (zoo.datasets.load("digits").head(100) >= 8).astype(int)
    >>> guide = Encoder(hidden=(16,))
    >>> result = fit(zoo.VAE(latent=2, hidden=(16,)), digits, method=SVI(guide=guide, steps=50), seed=0)
    >>> result.encode(digits.head(3))["z"].shape
    (3, 2)
    """

    hidden: tuple[PositiveInt, ...] = (128,)
    globals: Guide = field(default_factory=MeanField)
    network: Network = "mlp"
    family: Family = "diagonal"

    def why_not(self, program: Program) -> str | None:
        # Refuse models without local latents
        name = type(self).__name__
        if not program.locals:
            return f"{name} maps data rows to local latents, and there are none; use MeanField() or Point()"
        if isinstance(self.globals, Encoder):
            return f"{name}(globals=...) must be a guide for global latents, such as MeanField()"
        if (reason := self.lacks_counts(program.locals)) is not None:
            return reason
        return self.globals.why_not(self._globals(program)) if program.globals else None

    def named(self, program: Program) -> tuple[str, ...]:
        # Names of the locals, and of what the guide of the globals names
        return (*(s.name for s in program.locals), *self.globals.named(self._globals(program)))

    def build(self, program: Program, start: Start) -> Variational:
        # Make q with an untrained network
        rows = RowsIn(program.data, self.network, self.hidden)
        local = Amortized(rows, start, FAMILIES[self.family])
        return Variational(self._build_globals(program, start).over_globals, local)

    def points(self, program: Program) -> tuple[str, ...]:
        # Names of the globals whose q is a point
        return self.globals.points(self._globals(program)) if program.globals else ()

    def _build_globals(self, program: Program, start: Start) -> Variational:
        seen = self._globals(program)
        q = self.globals.build(seen, restrict_start(program, start, [s.name for s in seen.latents]))
        return in_constrained_space(q, seen.view) if self.globals.point else q

    @staticmethod
    def _globals(program: Program) -> Program:
        return restrict(program, [s.name for s in program.globals])
