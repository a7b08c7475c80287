"""Families for the locals of a row, whose numbers a network gives: Normals, and what couplings make of them.

Letters for shapes: n rows, L locals of each, F features that the network gives of a row.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from guides.rows_in import RowsIn
from guides.start import Start
from guides.variational import LOG_2PI, Pushforward
from zoo.data.data import Data
from zoo.networks import MLP
from zoo.replay.swapped import called_with

Family = Literal["diagonal", "full", "flow"]
LOG_SCALE_LIMIT = 8.0  # natural steps, as a power of e: beyond it a draw of an untrained network would overflow
COUPLINGS = 4
STRETCH = 2.0  # largest log scale of one coupling
WIDTH = 64  # of a coupling's network


class Conditional(nn.Module):
    """A distribution over R^L whose numbers follow from features: standard Normal noise (n, L), pushed there and back.

    Parameters
    ----------
    features
        F.
    size
        L.
    """

    def __init__(self, features: int, size: int) -> None:
        super().__init__()
        self.size = size

    def numbers(self, features: Tensor) -> Tensor:
        """What a row's distribution is made of, (n, numbers), given its features (n, F)."""
        raise NotImplementedError(type(self).__name__)

    def forward(self, numbers: Tensor, value: Tensor, back: bool = False) -> tuple[Tensor, Tensor]:
        """Return what noise becomes, or `back` the noise behind a value; and log|det| of the map from noise, (n,)."""
        raise NotImplementedError(type(self).__name__)

    def held(self, numbers: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Go back from a value with all else held fixed."""
        found: tuple[Tensor, Tensor] = self(numbers.detach(), value, back=True)
        return found


class Diagonal(Conditional):
    """loc + exp(log_scale) * eps."""

    def __init__(self, features: int, size: int) -> None:
        super().__init__(features, size)
        self.last = nn.Linear(features, 2 * size)

    def numbers(self, features: Tensor) -> Tensor:
        """Locations and log scales, (n, 2 L)."""
        found: Tensor = self.last(features)
        return found

    def forward(self, numbers: Tensor, value: Tensor, back: bool = False) -> tuple[Tensor, Tensor]:
        """Scale and shift, or back."""
        loc, log_scale = numbers.chunk(2, -1)
        log_scale = _limited(log_scale)
        moved = (value - loc) * (-log_scale).exp() if back else loc + log_scale.exp() * value
        return moved, log_scale.sum(-1)


class Full(Conditional):
    """loc + T eps, T lower triangular with a positive diagonal."""

    def __init__(self, features: int, size: int) -> None:
        super().__init__(features, size)
        self.last = nn.Linear(features, 2 * size + size * (size - 1) // 2)
        nn.init.zeros_(self.last.weight[2 * size :].detach())  # so that q begins as `Diagonal` does
        nn.init.zeros_(self.last.bias[2 * size :].detach())

    def numbers(self, features: Tensor) -> Tensor:
        """Locations, log scales and what is below the diagonal, (n, 2 L + L (L - 1) / 2)."""
        found: Tensor = self.last(features)
        return found

    def forward(self, numbers: Tensor, value: Tensor, back: bool = False) -> tuple[Tensor, Tensor]:
        """Multiply and shift, or back."""
        size = self.size
        loc, log_scale, below = numbers.split([size, size, numbers.shape[-1] - 2 * size], -1)
        log_scale = _limited(log_scale)
        rows, columns = torch.tril_indices(size, size, -1, device=below.device)
        strict = below.new_zeros(*below.shape[:-1], size * size).index_copy(-1, rows * size + columns, below)
        root = strict.unflatten(-1, (size, size)) + torch.diag_embed(log_scale.exp())  # (n, L, L)
        if back:
            gap = (value - loc).unsqueeze(-1)
            return torch.linalg.solve_triangular(root, gap, upper=False).squeeze(-1), log_scale.sum(-1)
        return loc + (root @ value.unsqueeze(-1)).squeeze(-1), log_scale.sum(-1)


class Coupled(Conditional):
    """A diagonal Normal through affine couplings: half of the coordinates scale and shift the other half, in turn."""

    def __init__(self, features: int, size: int) -> None:
        super().__init__(features, size)
        self.first, self.kept = Diagonal(features, size), size // 2
        self.networks = nn.ModuleList()
        for k in range(COUPLINGS if size > 1 else 0):
            kept = self.kept if k % 2 == 0 else size - self.kept
            network = MLP(features + kept, (WIDTH,), 2 * (size - kept))
            nn.init.zeros_(network.get_parameter("layers.2.weight"))  # so that q begins as `Diagonal` does
            network.start_at(torch.zeros(2 * (size - kept)))
            self.networks.append(network)

    def numbers(self, features: Tensor) -> Tensor:
        """Locations and log scales of the Normal, and the features, (n, 2 L + F)."""
        return torch.cat([self.first.numbers(features), features], -1)

    def forward(self, numbers: Tensor, value: Tensor, back: bool = False) -> tuple[Tensor, Tensor]:
        """Go through the couplings, or back."""
        normal, features = numbers.split([2 * self.size, numbers.shape[-1] - 2 * self.size], -1)
        total = normal.new_zeros(())
        steps = list(enumerate(self.networks))
        if not back:
            value, total = self.first(normal, value)
        for k, network in reversed(steps) if back else steps:
            cut = self.kept if k % 2 == 0 else self.size - self.kept
            order = 1 if k % 2 == 0 else -1  # which half stays
            a, b = (value[..., :cut], value[..., cut:]) if order == 1 else (value[..., -cut:], value[..., :-cut])
            shift, log_scale = network(torch.cat([features, a], -1)).chunk(2, -1)
            log_scale = STRETCH * torch.tanh(log_scale / STRETCH)
            b = (b - shift) * (-log_scale).exp() if back else shift + log_scale.exp() * b
            value = torch.cat([a, b][::order], -1)
            total = total + log_scale.sum(-1)
        if back:
            value, inner = self.first(normal, value, back=True)
            total = total + inner
        return value, total

    def held(self, numbers: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Go back from a value with all else held fixed, the couplings' networks too."""
        weights = {n: p.detach() for n, p in self.named_parameters()}
        found: tuple[Tensor, Tensor] = called_with(self, weights, numbers.detach(), value, back=True)
        return found


FAMILIES: dict[Family, type[Conditional]] = {"diagonal": Diagonal, "full": Full, "flow": Coupled}


class Amortized(Pushforward):
    """q of each row's locals: a family whose numbers a network of the row gives, in natural units about the start.

    Parameters
    ----------
    rows
        The network.
    start
        Where locals start; the mean over the rows counts, and of the units the geometric one.
    family
        The family given the features of a row.
    """

    amortized = True
    start: Tensor
    unit: Tensor

    def __init__(self, rows: RowsIn, start: Start, family: type[Conditional]) -> None:
        super().__init__()
        self.register_buffer("start", start.locals.mean(0))
        self.register_buffer("unit", start.local_unit.log().mean(0).exp())
        self.rows = rows
        self.family = family(rows.outputs, int(start.locals.shape[1])).to(start.locals.device, start.locals.dtype)

    def noise_shape(self, rows: int) -> tuple[int, ...]:
        """One number for each coordinate of each row."""
        return rows, len(self.start)

    def draw(self, data: Data, rows: Tensor | None, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draw the locals of every row of `data`; log q is evaluated on the way back, with everything held fixed."""
        numbers = self.family.numbers(self.rows(data))
        at, _ = self.family(numbers, noise)
        return self.start + self.unit * at, self._density(*self.family.held(numbers, at))

    def log_prob(self, data: Data, value: Tensor) -> Tensor:
        """Log density of the locals `value` (n, L) of every row of `data`, with its gradient to the network."""
        numbers = self.family.numbers(self.rows(data))
        return self._density(*self.family(numbers, (value - self.start) / self.unit, back=True))

    def _density(self, noise: Tensor, log_det: Tensor) -> Tensor:
        return -(0.5 * (LOG_2PI + noise.square()) + self.unit.log()).sum(-1) - log_det


def _limited(log_scale: Tensor) -> Tensor:
    return LOG_SCALE_LIMIT * torch.tanh(log_scale / LOG_SCALE_LIMIT)
