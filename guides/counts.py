"""A factor for counts, discrete latents without an upper end."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from guides.factors import Parameters, SiteFactor
from guides.pathwise import log_ndtr

LARGEST_UNIT = 5.0  # of the square root of a count, at the start
SMALLEST_SPREAD = 0.5  # of a count at the start: q has to see its neighbours
NARROWEST = 0.2  # standard deviation of v relative to the range of v that gives one count


class CountFactor(SiteFactor):
    """u = lowest + floor(max(v, 0)^2), v ~ Normal(m, s^2): every count on its own.

    q(lowest + k) = Phi((sqrt(k + 1) - m) / s) - Phi((sqrt(k) - m) / s), the second term 0 at k = 0. The square root
    makes the spread of a Poisson nearly constant (Anscombe 1948). s may be as small as the posterior asks for, but
    about one draw in a hundred goes to a neighbour: a q all on one count would never see that another is better.
    Draws are steps of the noise, so they have no gradient: log q has one, at the draw, for the score function.

    Parameters
    ----------
    start, unit
        Starting point and size of a natural step, in the shape of u.
    lowest
        The least count.
    """

    reparameterized = False

    def __init__(self, start: Tensor, unit: Tensor, lowest: int) -> None:
        middle = (start - lowest + 0.5).clamp_min(0.25).sqrt()  # of the roots that round down to the start
        # dk = 2 v dv carries a step of the count to one of its root; near zero that step would be without bound.
        super().__init__(middle, (unit.clamp_min(SMALLEST_SPREAD) / (2 * middle)).clamp_max(LARGEST_UNIT))
        self.log_scale = nn.Parameter(torch.zeros_like(start))
        self.lowest = lowest

    def draw(self, p: Parameters, noise: Tensor) -> Tensor:
        """Square and round down."""
        middle, scale = self._moments(p)
        return self.lowest + (middle + scale * noise).detach().clamp_min(0.0).square().floor()

    def log_prob(self, p: Parameters, u: Tensor) -> Tensor:
        """Log probability of each count, in the shape of u."""
        k = u - self.lowest
        middle, scale = self._moments(p)
        low, high = ((edge.sqrt() - middle) / scale for edge in (k, k + 1))  # q(k) = Phi(high) - Phi(low)
        # Far out on the right both are 1 to rounding, and their difference 0; Phi(-low) - Phi(-high) is the same number
        # with all its digits.
        turn = (low + high > 0) & (k > 0)
        low, high = torch.where(turn, -high, low), torch.where(turn, -low, high)
        below, above = (log_ndtr(edge) for edge in (low, high))
        below = torch.where(k > 0, below, -torch.inf)  # whatever is negative counts as zero
        # log(e^a - e^b) = a + log(1 - e^(b - a)). Where both are equal to rounding, the least gap keeps it finite.
        gap = (below - above).clamp_max(-torch.finfo(u.dtype).eps)
        return above + torch.log(-torch.expm1(gap))

    @staticmethod
    def _moments(p: Parameters) -> tuple[Tensor, Tensor]:
        """m and s."""
        middle = p["start"] + p["unit"] * p["loc"]
        width = 0.5 / middle.detach().clamp_min(0.5)  # of the roots that give one count, about
        return middle, p["unit"] * p["log_scale"].exp() + NARROWEST * width
