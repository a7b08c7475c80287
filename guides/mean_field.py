"""Mean-field guide."""

from __future__ import annotations

from dataclasses import dataclass

from guides.conjugate import product
from guides.guide import Guide
from guides.start import Start
from guides.variational import DiagonalNormal, Variational
from zoo.program.program import Program


@dataclass(frozen=True, init=False, repr=False)
class MeanField(Guide):
    """An independent Normal for every coordinate of the continuous latents.

    q(u) = prod_j Normal(u_j | m_j, s_j^2) in unconstrained space. Local latents have parameters of their own for every
    row (Kucukelbir et al. 2017, section 2.3). A latent count that cannot be enumerated, such as a Poisson, is the
    rounded square of a Normal, and climbs by the score function.

    Parameters
    ----------
    names
        Sites it covers, where another guide covers the others.

    Examples
    --------
    >>> import zoo
    >>> from guides import MeanField
    >>> from inference import SVI, fit
    >>> result = fit(zoo.BetaBernoulli(), [1, 0, 1, 1, 0, 1], method=SVI(guide=MeanField(), steps=100), seed=0)
    >>> bool(result.objective.value < -4.6)  # a bound on the log evidence, -4.654
    True
    """

    sites: tuple[str, ...] = ()
    counts = True

    def build(self, program: Program, start: Start) -> Variational:
        # Make q, centred at the start with one natural step as its standard deviation
        if any(site.countable for site in program.latents):
            return product(program, start, {})
        return Variational(
            DiagonalNormal(start.globals, start.global_unit), DiagonalNormal(start.locals, start.local_unit)
        )
