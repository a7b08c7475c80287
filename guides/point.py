"""Point guide."""

from __future__ import annotations

from dataclasses import dataclass

from guides.guide import Guide
from guides.start import Start
from guides.variational import Delta, Variational
from zoo.program.program import Program


@dataclass(frozen=True, init=False, repr=False)
class Point(Guide):
    """A single value for every latent: climbing the bound finds the posterior mode.

    q(z) = delta(z - z*). The mode is that of the density in the latents' constrained space, without the Jacobian of the
    unconstrained view. Beside another guide, z* climbs that guide's bound on log p(x, z*).

    Parameters
    ----------
    names
        Sites it covers, where another guide covers the others.

    Examples
    --------
    >>> import zoo
    >>> from guides import Point
    >>> from inference import SVI, fit
    >>> result = fit(zoo.BetaBernoulli(a=2.0, b=2.0), [1, 0, 1, 1, 0, 1], method=SVI(guide=Point(), steps=300), seed=0)
    >>> round(float(result.posterior["point_estimate"]["p"]), 1)  # the mode, (2 + 4 - 1) / (4 + 6 - 2)
    0.6
    """

    sites: tuple[str, ...] = ()
    point = True

    def build(self, program: Program, start: Start) -> Variational:
        # Make q at the start
        return Variational(Delta(start.globals, start.global_unit), Delta(start.locals, start.local_unit))
