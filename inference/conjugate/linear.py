"""The likelihood of a Normal site whose location is an affine function of global unknowns: a linear predictor."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from inference.conjugate.coefficients import LinearPosterior
from inference.conjugate.exponential_family import Arguments, Current, Entries, Moments, OuterProduct
from inference.conjugate.location_scale import Predictor
from zoo.program.program import Program
from zoo.replay.evaluate import Values
from zoo.replay.sites import Site, base_distribution


@dataclass(frozen=True)
class Coordinates:
    """Coefficients beta = start + rotate gamma, in which the columns of the data are orthogonal and the fit is at 0."""

    rotate: Tensor
    start: Tensor

    @classmethod
    def of(cls, d: Tensor, y: Tensor) -> Coordinates:
        """Of rows of columns (n, P) and values (n,); the coefficients themselves where the columns are dependent."""
        keep = d.isfinite().all(-1) & y.isfinite()
        q, r = torch.linalg.qr(d[keep])
        eye, diagonal = torch.eye(d.shape[-1], dtype=d.dtype, device=d.device), r.diagonal().abs()
        if len(q) < d.shape[-1] or bool((diagonal <= 1e-10 * diagonal.max()).any()):
            return cls(eye, torch.zeros_like(eye[0]))
        rotate = float(keep.sum()) ** 0.5 * torch.linalg.solve_triangular(r, eye, upper=True)
        start = torch.linalg.solve_triangular(r, (q.mT @ y[keep])[:, None], upper=True)[:, 0]
        return cls(rotate.contiguous(), start.contiguous())  # as they are read from a file: products round by layout

    def gamma(self, beta: Tensor) -> Tensor:
        """From beta (..., P)."""
        gap = (beta - self.start)[..., None]
        gamma: Tensor = torch.linalg.solve_triangular(self.rotate, gap, upper=True)[..., 0]
        return gamma

    def beta(self, gamma: Tensor) -> Tensor:
        """From gamma (..., P)."""
        return self.start + gamma @ self.rotate.mT


class LinearLikelihood(Predictor):
    """y_i ~ Normal(c_i + d_i^T beta, 1/t): log p = -t/2 (y - c - d^T beta)^2 + (log t - log 2 pi) / 2.

    T = v v^T with v = (d', y - c - d^T beta_0), where d' are orthogonal combinations of the columns of d over all data
    and beta_0 the least-squares coefficients: sums of squares are then as accurate as a QR decomposition's.
    """

    dims: ClassVar[tuple[int, ...]] = (2,)

    def __init__(self, program: Program, site: Site) -> None:
        self.site, self.parent = site, site.args["loc"]
        self.shapes = [program.sites[n].shape for n in self.parent.sites]
        self.sizes = [math.prod(self._own(shape)) for shape in self.shapes]
        self.known: tuple[Program, Tensor, Tensor, Tensor] | None = None
        d, offset, y = self.rows(program)
        self.coordinates = Coordinates.of(d.reshape(-1, d.shape[-1]), (y - offset).expand(d.shape[:-1]).reshape(-1))

    def _own(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the coefficients of one state."""
        return shape[1:] if self.parent.index else shape

    def rows(self, program: Program) -> tuple[Tensor, Tensor, Tensor]:
        """Columns d_i (..., P), offsets c_i and values y_i of the program's rows: the model run at unit vectors."""
        if self.known is not None and self.known[0] is program:
            return self.known[1:]
        structure = program.structure
        values = {**structure.example, **{n: p.detach() for n, p in program.model.named_parameters()}}
        values = {n: v.to(program.device) for n, v in values.items()}
        values.update({n: torch.zeros_like(values[n]) for n in self.parent.sites})
        for site in program.locals:
            values[site.name] = torch.zeros(program.site_shape(site), dtype=program.dtype, device=program.device)

        def location() -> Tensor:
            fn = base_distribution(program.replay(values, densities=False).distributions[self.site.name])
            loc: Tensor = fn.loc
            keep = max((-d for d in self.site.plate_dims), default=0) + self.site.event_dim
            while loc.ndim > keep:  # the same columns serve every state
                loc = loc[0]
            return loc

        with torch.no_grad():
            offset, columns = location(), []
            for name, size in zip(self.parent.sites, self.sizes, strict=True):
                shape = values[name].shape
                for j in range(size):
                    unit = torch.zeros(self._own(tuple(shape)), dtype=program.dtype, device=program.device)
                    unit.view(-1)[j] = 1.0
                    values[name] = unit.expand(shape).clone()
                    columns.append(location() - offset)
                values[name] = torch.zeros(shape, dtype=program.dtype, device=program.device)
        d = torch.stack(torch.broadcast_tensors(*columns), -1)
        self.known = program, d, offset, program.replay(values, densities=False).seen[self.site.name]
        return self.known[1:]

    def observed(self, program: Program, value: Tensor) -> Moments:
        """The values, and v = (d', y - c - d^T beta_0) of each entry as `vectors`, shape (..., P + 1)."""
        d, offset, y = self.rows(program)
        rest = y - offset - d @ self.coordinates.start
        rotated = d @ self.coordinates.rotate
        return {"mean": value, "vectors": torch.cat([rotated.expand(*rest.shape, -1), rest[..., None]], -1)}

    def statistics(self, fn: Any, value: Moments) -> tuple[Tensor, ...]:
        """v v^T."""
        v = value["vectors"]
        return (v[..., :, None] * v[..., None, :],)

    def row_statistics(self, fn: Any, value: Moments) -> tuple[Tensor | OuterProduct, ...]:
        """v v^T, not multiplied out."""
        return (OuterProduct(value["vectors"]),)

    def natural(self, fn: Any, argument: Arguments, center: Tensor | None = None) -> tuple[tuple[Tensor, ...], Tensor]:
        """-(t u u^T + Q) / 2 with u = (gamma, -1), gamma the rotated coefficients and Q = E[t] cov[gamma]."""
        loc, precision = argument("loc"), argument("precision")
        t, u = precision["mean"], _contrast(loc["mean"])
        matrix = t[..., None, None] * (u[..., :, None] * u[..., None, :])
        spread = loc["quad"] if "quad" in loc else (t[..., None, None] * loc["cov"] if "cov" in loc else None)
        if spread is not None:
            matrix = matrix + torch.nn.functional.pad(spread, (0, 1, 0, 1))
        return (-0.5 * matrix,), 0.5 * precision["log"]

    def location(self, current: Current) -> Moments:
        """c + d^T beta of each entry, at values."""
        d, offset, _ = self.rows(current.program)
        beta = self.flat([current.values[n] for n in self.parent.sites])
        return {"mean": offset + (d * self.by_state(current, beta, 1)).sum(-1)}

    def coefficients(self, current: Current) -> Moments:
        """Moments of the rotated coefficients about the starting ones, laid out by state."""
        names = self.parent.sites
        posterior = current.posteriors.get(names[0])
        found = {"mean": self.coordinates.gamma(self.flat([current.values[n] for n in names]))}
        if isinstance(posterior, LinearPosterior):
            inverse = torch.linalg.inv(self.coordinates.rotate)
            cov = posterior.by_state(posterior.cov)
            found["cov" if posterior.a is None else "quad"] = inverse @ cov @ inverse.mT
        return {n: self.by_state(current, m, 1 if n == "mean" else 2) for n, m in found.items()}

    def flat(self, parts: list[Tensor]) -> Tensor:
        """Put the coefficients of all sites side by side, shape (P,) or (states, P)."""
        lead = 1 if self.parent.index else 0
        return torch.cat([p.reshape(*p.shape[:lead], -1) for p in parts], -1)

    def split(self, beta: Tensor) -> Values:
        """Cut coefficients (..., P) into the values of their sites."""
        lead = 1 if self.parent.index else 0
        pieces = zip(self.parent.sites, beta.split(self.sizes, -1), self.shapes, strict=True)
        return {n: v.reshape((*v.shape[: v.ndim - 1 - lead], *shape)) for n, v, shape in pieces}

    def by_state(self, current: Current, value: Tensor, own: int) -> Tensor:
        """Lay numbers of each state out along the dimension of the enumerated site, before `own` dimensions."""
        if not self.parent.index:
            return value
        placed = value[current.states(self.parent.index[0])]
        at = placed.ndim - own
        return placed.reshape(*placed.shape[:at], *[1] * self.site.event_dim, *placed.shape[at:])

    def deviations(self, entries: Entries) -> Tensor:
        """Weights times E[(y - c - d^T beta)^2], from weighted v v^T."""
        (second,), loc = entries.sums, self.coefficients(entries.current)
        u = _contrast(loc["mean"])
        squares = (second * (u[..., :, None] * u[..., None, :])).sum((-1, -2))
        if "cov" in loc:
            squares = squares + (second[..., :-1, :-1] * loc["cov"]).sum((-1, -2))
        return squares.clamp_min(0.0)


def _contrast(gamma: Tensor) -> Tensor:
    """(gamma, -1), whose product with v is what the predictor misses."""
    return torch.cat([gamma, -torch.ones_like(gamma[..., :1])], -1)
