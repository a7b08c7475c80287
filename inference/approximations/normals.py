"""A mixture of Normals over unconstrained vectors: what q is after Pathfinder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inference.approximations.approximation import Approximation
from inference.sampling.paths import Normal
from zoo.program.flat_density import CHUNK, Density
from zoo.program.program import Program
from zoo.replay.evaluate import Values, many


@dataclass
class Normals(Approximation):
    """q(u) = sum_k share_k Normal(u | m_k, L_k L_k^T) over unconstrained vectors u.

    Attributes
    ----------
    shares, means, trils
        Shares of the Normals, m_k and L_k, shapes (K,), (K, size) and (K, size, size), in float64 on the CPU.
    """

    shares: Tensor
    means: Tensor
    trils: Tensor
    kind = "normals"

    @classmethod
    def of(cls, normals: list[Normal], shares: Tensor | None = None) -> Normals:
        """Return the mixture of these, an even one if no shares (K,) are given."""
        even = torch.full((len(normals),), 1 / len(normals), dtype=torch.float64)
        means, trils = torch.stack([n.mean for n in normals]), torch.stack([n.tril for n in normals])
        return cls(even if shares is None else shares, means, trils)

    @property
    def members(self) -> list[Normal]:
        """The Normals."""
        return [Normal(mean, tril) for mean, tril in zip(self.means, self.trils, strict=True)]

    def log_parts(self, u: Tensor) -> Tensor:
        """log share_k Normal(u | ...) of each at vectors (count, size), shape (K, count)."""
        return torch.stack([m.log_prob(u) for m in self.members]) + self.shares.log()[:, None]

    def draw(self, program: Program, count: int) -> tuple[Values, Tensor]:
        """Draw as many from each Normal as its share says, in random order."""
        density, members = Density(program), self.members
        # Systematic: the number from each is its share of the count, rounded up or down at random.
        edges = (self.shares.cumsum(0) * count + torch.rand((), dtype=torch.float64)).floor().long()
        edges[-1] = count
        sizes = torch.diff(edges, prepend=torch.zeros(1, dtype=torch.long)).tolist()
        u = torch.cat([m.draw(size) for m, size in zip(members, sizes, strict=True)])[torch.randperm(count)]
        log_q = self.log_parts(u).logsumexp(0)
        u, log_q = u.to(program.device, program.dtype), log_q.to(program.device, program.dtype)
        with torch.no_grad():
            volume = many(lambda v: density.log_volume(v["u"]), {"u": u}, count, CHUNK)
            return density.constrain_all(u), log_q - volume

    def tensors(self) -> dict[str, Tensor]:
        """Return shares, means and Cholesky factors."""
        return {"shares": self.shares, "means": self.means, "trils": self.trils}

    @classmethod
    def read(cls, described: Mapping[str, Any], tensors: dict[str, Tensor], program: Program) -> Normals:
        """Make it again."""
        return cls(tensors["shares"], tensors["means"], tensors["trils"])
