"""Normalizing flow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from zuko.transforms import MonotonicRQSTransform

from guides.full_rank import FullNormal
from guides.guide import Guide, names_of
from guides.joint import joint, joint_size
from guides.start import Start
from guides.variational import LOG_2PI, Variational
from zoo.data.data import Data
from zoo.program.program import Program
from zoo.replay.swapped import called_with

LARGEST = 200  # coordinates: the networks' last layers grow with their square
BINS = 8
SHAPES = 3 * BINS - 1  # numbers that a spline takes
STRETCH = 5.0  # largest log scale of one layer


@dataclass(frozen=True, init=False, repr=False)
class Flow(Guide):
    """A normalizing flow: Normal noise through invertible layers of networks, then an affine map with full covariance.

    u = m + L T_K(... T_1(eps)), eps ~ Normal(0, I), log q(u) = log Normal(eps) - log|det du/deps|. Each T_k leaves half
    of the coordinates as they are and sends the others through a monotone rational-quadratic spline, a scale and a
    shift that a network of the first half gives (Dinh, Sohl-Dickstein and Bengio 2017, "Density estimation using Real
    NVP"; Durkan et al. 2019, "Neural spline flows"). The layers begin as the identity, so q begins as `MeanField` does,
    and contains `FullRank`. Globals and locals are one vector, as there.

    Parameters
    ----------
    names
        Sites it covers, where another guide covers the others.
    layers
        Number K of layers.
    hidden
        Widths of the networks' hidden layers.

    Examples
    --------
    >>> import zoo
    >>> from guides import Flow
    >>> from inference import SVI, fit
    >>> line = {"x": [[0.0], [1.0], [2.0], [3.0]], "y": [0.1, 0.9, 2.2, 2.9]}
    >>> result = fit(zoo.BayesianRegression(), line, method=SVI(guide=Flow(), steps=50), seed=0)
    >>> dict(result.sample(10, seed=0).sizes)
    {'chain': 1, 'draw': 10, 'feature': 1}
    """

    sites: tuple[str, ...] = ()
    layers: PositiveInt = 4
    hidden: tuple[PositiveInt, ...] = (32,)

    def __init__(
        self,
        *names: str,
        layers: PositiveInt = 4,
        hidden: tuple[PositiveInt, ...] = (32,),
        sites: Sequence[str] = (),
    ) -> None:
        self.set_fields(sites=names_of("Flow", names, sites), layers=layers, hidden=hidden)

    def why_not(self, program: Program) -> str | None:
        # Refuse long vectors
        if (reason := super().why_not(program)) is not None:
            return reason
        size = joint_size(program)
        if size > LARGEST:
            few = [s.name for s in program.globals]
            other = f"Flow({', '.join(map(repr, few))}) & MeanField()" if program.locals and few else "LowRank()"
            return f"Flow over {size} coordinates would train slowly (at most {LARGEST} are allowed); use {other}"
        return None

    def build(self, program: Program, start: Start) -> Variational:
        # Make q, centred at the start with one natural step as its standard deviation
        return joint(start, lambda point, unit: Flowing(point, unit, self.layers, self.hidden))


class Flowing(FullNormal):
    """u = start + unit * (loc + L T(eps)), T a chain of couplings."""

    def __init__(self, start: Tensor, unit: Tensor, layers: int, hidden: tuple[int, ...]) -> None:
        super().__init__(start, unit)
        size = len(start)
        chain = [Coupling(size, k, hidden) for k in range(layers if size > 1 else 1)] if size else []
        self.chain = nn.ModuleList(chain).to(start.device, start.dtype)

    def draw(self, data: Data, rows: Tensor | None, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Push the noise (size,) forward; then pull the draw back with everything held fixed, to evaluate log q at it.

        The way back costs as much as the way forward. It is what leaves log q's gradient to the draw alone: the noise
        that comes out at the end is the noise that went in, but as a function of the draw and not of the parameters.
        """
        z = noise
        for layer in self.chain:
            z = layer(z)
        tril = self.lower.tril(-1) + torch.diag(self.log_scale.exp())
        at = self.loc + tril @ z
        gap = (at - self.loc.detach())[:, None]
        back = torch.linalg.solve_triangular(tril.detach(), gap, upper=False)[:, 0]
        log_det = (self.log_scale.detach() + self.unit.log()).sum()
        for layer in reversed(self.chain):
            held = {n: p.detach() for n, p in layer.named_parameters()}
            back, inner = called_with(layer, held, back, back=True)
            log_det = log_det + inner
        log_q = -0.5 * (LOG_2PI + back.square()).sum() - log_det
        return self.start + self.unit * at, log_q


class Coupling(nn.Module):
    """One layer: with x = (a, b), b' = t(a) + exp(s(a)) spline(b; a), and the coordinates rolled on.

    Parameters
    ----------
    size
        Number of coordinates.
    index
        Which layer of the chain it is; it decides how far coordinates are rolled, so that all meet each other.
    hidden
        Widths of the hidden layers of the network of a. A layer of n inputs divides its weights by n, so that they can
        climb at the rate of all other coordinates (Yang et al. 2022, "Tensor programs V", table 3, for Adam).
    """

    def __init__(self, size: int, index: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.kept = size // 2
        self.roll = self.kept + (index // 2) % max(1, self.kept)
        moved = size - self.kept
        widths = [self.kept, *hidden, moved * (2 + SHAPES)]
        pairs = list(pairwise(widths)) if self.kept else []
        self.weights = nn.ParameterList([_first(a, b, last=i == len(pairs) - 1) for i, (a, b) in enumerate(pairs)])
        self.biases = nn.ParameterList([torch.zeros(b) for _, b in pairs] or [torch.zeros(widths[-1])])

    def forward(self, x: Tensor, back: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Map forward, or back with the log Jacobian of the map forward."""
        size = x.shape[-1]
        if back:
            x = torch.cat([x[size - self.roll :], x[: size - self.roll]])
        a, b = x[: self.kept], x[self.kept :]
        out = self._network(a).reshape(len(b), -1)  # (moved, 2 + SHAPES)
        # A smooth limit, so that the scale is finite whatever the network says.
        shift, log_scale = out[:, 0], STRETCH * torch.tanh(out[:, 1] / STRETCH)
        spline = MonotonicRQSTransform(out[:, 2 : 2 + BINS], out[:, 2 + BINS : 2 + 2 * BINS], out[:, 2 + 2 * BINS :])
        if back:
            b = spline.inv((b - shift) * (-log_scale).exp())
            _, log_slope = spline.call_and_ladj(b)  # a stays, so the Jacobian is triangular: only b's own slopes count
            return torch.cat([a, b]), (log_scale + log_slope).sum()
        moved = torch.cat([a, shift + log_scale.exp() * spline(b)])
        return torch.cat([moved[self.roll :], moved[: self.roll]])

    def _network(self, x: Tensor) -> Tensor:
        """Evaluate the network; its biases alone where there is nothing to feed it."""
        for weight, bias in zip(self.weights, self.biases, strict=False):
            x = torch.addmv(bias, weight, x, alpha=1 / weight.shape[-1])
            x = x if weight is self.weights[-1] else torch.tanh(x)
        return x if self.kept else self.biases[0]


def _first(inputs: int, outputs: int, *, last: bool) -> Tensor:
    """Weights that a layer begins with: zero for the last, so that the flow begins as the identity."""
    return torch.zeros(outputs, inputs) if last else torch.randn(outputs, inputs) * inputs**0.5
