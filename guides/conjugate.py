"""Mean-field guide in the families of the priors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from guides.counts import CountFactor
from guides.factors import (
    BetaFactor,
    DirichletFactor,
    GammaFactor,
    NormalFactor,
    Parameters,
    SiteFactor,
    VectorFactor,
    WishartFactor,
)
from guides.guide import Guide
from guides.scope import split_noise
from guides.start import Start
from guides.variational import Pushforward, Variational
from zoo.data.data import Data
from zoo.program.program import Program
from zoo.program.view import Slot
from zoo.replay.bijections import lowest_count

FAMILIES: dict[str, Callable[..., SiteFactor]] = {
    "Beta": BetaFactor,
    "Chi2": GammaFactor,
    "Dirichlet": DirichletFactor,
    "Exponential": GammaFactor,
    "Gamma": GammaFactor,
    "InverseGamma": partial(GammaFactor, inverse=True),
    "MultivariateNormal": VectorFactor,
    "Uniform": BetaFactor,
    "Wishart": WishartFactor,
}


@dataclass(frozen=True, init=False, repr=False)
class Conjugate(Guide):
    """An independent factor for every latent, in the family of its prior.

    q(z) = prod_s q_s(z_s): Beta for Beta and Uniform priors, Gamma for Gamma, Exponential and Chi2, InverseGamma,
    Dirichlet, Wishart, a Normal with full covariance for each vector of a MultivariateNormal, rounded squares of
    Normals for counts that cannot be enumerated, and independent Normals in unconstrained space for all others. With a
    conjugate prior and one latent this holds the exact posterior; with
    several it is the family of coordinate ascent (`CAVI`) where each has a prior of its own, but climbed by gradient,
    so that the rest of the model may be anything.

    Draws are quantiles at standard Normal noise, with gradients by implicit reparameterization (Figurnov, Mohamed and
    Mnih 2018); a Dirichlet is made of Gammas and a Wishart by Bartlett's decomposition.

    Parameters
    ----------
    names
        Sites it covers, where another guide covers the others.

    Examples
    --------
    >>> import zoo
    >>> from guides import Conjugate
    >>> from inference import SVI, fit
    >>> result = fit(zoo.BetaBernoulli(), [1, 0, 1, 1, 0, 1], method=SVI(guide=Conjugate(), steps=100), seed=0)
    >>> round(result.objective.value)  # the posterior is a Beta: the bound is the log evidence, log 4! 2! / 7! = -4.654
    -5
    """

    sites: tuple[str, ...] = ()
    counts = True

    def build(self, program: Program, start: Start) -> Variational:
        # Make q, centred near the start with spreads of about one natural step
        return product(program, start, FAMILIES)


def product(program: Program, start: Start, families: Mapping[str, Callable[..., SiteFactor]]) -> Variational:
    """Make q of one factor for each site; `families` has them by the family of the prior, others are Normal."""
    view = program.view
    return Variational(
        Product(view.globals, start.globals, start.global_unit, families),
        Product(view.locals, start.locals, start.local_unit, families),
    )


class Product(Pushforward):
    """q(u) = prod_s q_s(u_s) over the sites of the globals (G,), or of each row's locals (rows, L)."""

    def __init__(
        self,
        slots: Sequence[Slot],
        start: Tensor,
        unit: Tensor,
        families: Mapping[str, Callable[..., SiteFactor]],
    ) -> None:
        super().__init__()
        self.families = families
        self.by_row = start.ndim == 2
        self.spans = [(slot.start, slot.stop) for slot in slots]
        self.factors = nn.ModuleList([self._factor(slot, start, unit) for slot in slots])
        self.scored = not all(factor.reparameterized for factor in self._factors)

    def _factor(self, slot: Slot, start: Tensor, unit: Tensor) -> SiteFactor:
        shape = tuple(size for i, size in enumerate(slot.shape) if i != slot.row_axis)
        shape = (len(start), *shape) if self.by_row else shape
        begin, steps = (t[..., slot.start : slot.stop].reshape(shape) for t in (start, unit))
        lowest = lowest_count(slot.site.support)
        if lowest is not None:
            return CountFactor(begin, steps, lowest)
        return self.families.get(slot.site.family, NormalFactor)(begin, steps)

    @property
    def _factors(self) -> list[SiteFactor]:
        return [factor for factor in self.factors if isinstance(factor, SiteFactor)]

    def _shapes(self, rows: int) -> list[tuple[int, ...]]:
        shapes = [factor.noise_shape for factor in self._factors]
        return [(rows, *shape[1:]) for shape in shapes] if self.by_row else shapes

    def noise_shape(self, rows: int) -> tuple[int, ...]:
        """One vector that holds the noise of each factor."""
        return (sum(torch.Size(shape).numel() for shape in self._shapes(rows)),)

    def draw(self, data: Data, rows: Tensor | None, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draw from each factor."""
        lead = (len(data),) if self.by_row else ()
        values, total = [noise.new_zeros(*lead, 0)], noise.new_zeros(lead)
        for factor, one in zip(self._factors, split_noise(noise, self._shapes(len(data))), strict=True):
            live = _live(factor, rows)
            u = factor.draw(live, one)
            log_q = factor.log_prob({n: p.detach() for n, p in live.items()}, u)
            values.append(u.reshape(*lead, -1))
            total = total + log_q.reshape(*lead, -1).sum(-1)
        return torch.cat(values, -1), total

    def score(self, data: Data, rows: Tensor | None, value: Tensor) -> Tensor:
        """Log q of the counts in a draw."""
        lead = (len(data),) if self.by_row else ()
        total = value.new_zeros(lead)
        for factor, (start, stop) in zip(self._factors, self.spans, strict=True):
            if not factor.reparameterized:
                live = _live(factor, rows)
                log_q = factor.log_prob(
                    live, value[..., start:stop].reshape((*lead, *live["start"].shape[len(lead) :]))
                )
                total = total + log_q.reshape(*lead, -1).sum(-1)
        return total


def _live(factor: SiteFactor, rows: Tensor | None) -> Parameters:
    """Parameters and buffers, those of the rows `rows`."""
    named = (*factor.named_parameters(), *factor.named_buffers())
    return {n: p if rows is None else p[rows] for n, p in named}
