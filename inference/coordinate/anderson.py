"""Anderson acceleration of a map u -> g(u), of several starts at once: what its last steps say of where it leads."""

from __future__ import annotations

import torch
from torch import Tensor

DEPTH = 10  # pairs of a place and where the map leads from it
RIDGE = 1e-18  # added to squared singular values, in units of the largest
DAMPED = 1e3  # factor of the ridge after a place that was no higher
GROWING = 3.0  # times as far ahead where steps grow
ROUNDING = 64  # rounding errors of a coordinate that its changes are above
RESOLVED = 1e-9  # of the largest singular value, below which steps have no direction of their own


class Anderson:
    """The last pairs (u_i, g(u_i)) of each of several starts, and what follows from them if g were affine.

    Of places u_t - sum_i a_i (u_{i+1} - u_i), an affine g moves the one least whose a minimize |f_t - sum_i a_i
    (f_{i+1} - f_i)|, f_i = g(u_i) - u_i (Anderson 1965; Walker and Ni 2011). Extrapolation goes to where g leads from
    there. The least squares have a ridge, as in DAAREM (Henderson and Varadhan 2019): it grows when a place was not
    higher.

    Coordinates count in units of how far they have moved, so that results do not depend on the units of the data.

    Parameters
    ----------
    starts
        How many.
    """

    def __init__(self, starts: int) -> None:
        self.pairs: list[tuple[Tensor, Tensor]] = []  # each of shape (starts, p)
        self.known = [0] * starts  # how many of the last pairs are of one course
        self.ridge = [RIDGE] * starts

    def add(self, u: Tensor, g: Tensor) -> None:
        """Note where the map leads from some places, both (starts, p)."""
        self.pairs = [*self.pairs[1 - DEPTH :], (u, g)]
        self.known = [min(n + 1, DEPTH) for n in self.known]

    def keep(self, rows: list[int]) -> None:
        """Go on with some of the starts."""
        if len(rows) < len(self.known):
            self.pairs = [(u[rows], g[rows]) for u, g in self.pairs]
            self.known, self.ridge = [self.known[r] for r in rows], [self.ridge[r] for r in rows]

    def judge(self, row: int, *, higher: bool) -> None:
        """Damp a start whose extrapolation was no higher, and forget what led to it; trust others more."""
        if higher:
            self.ridge[row] = max(self.ridge[row] / 10, RIDGE)
        else:
            self.ridge[row] = min(self.ridge[row] * DAMPED, 1.0)
            self.known[row] = min(self.known[row], 2)

    def extrapolated(self) -> Tensor:
        """Return the place that g leads to from where it would move least, (starts, p)."""
        moved, led, residual, _ = self._differences()
        left, size, right, length = _svd(led - moved)
        ridge = torch.tensor(self.ridge).to(size)[:, None]
        size = size / (size.square() + ridge * size[:, :1].square().clamp_min(torch.finfo(size.dtype).tiny))
        a = right.mT @ (size * (left.mT @ residual).squeeze(-1))[..., None] / length.mT
        scale = self._scale()
        place: Tensor = self.pairs[-1][1] - scale * (led @ a).squeeze(-1)
        return place

    def ahead(self, reach: list[float]) -> Tensor:
        """Return the place on the parabola through the last two steps that is furthest along, (starts, p).

        u + 2 a r + a^2 v, where r = g(u) - u and v = g(g(u)) - g(u) - r, and a = |r| / |v|, but `reach` at most:
        SQUAREM, third scheme (Varadhan and Roland 2008). It is ahead even where steps grow, off a saddle, and an affine
        map would lead back; there a is larger, and the distance from the saddle becomes (1 + a |v| / |r|)^2 times what
        it was.
        """
        (u, led), (_, end) = self.pairs[-2:]
        first, bend = led - u, end - 2 * led + u
        scale = self._scale()
        bent = (bend / scale).norm(dim=1).clamp_min(torch.finfo(u.dtype).tiny)
        times = torch.where(((first / scale) * (bend / scale)).sum(1) > 0, GROWING, 1.0)
        far = torch.minimum(times * (first / scale).norm(dim=1) / bent, torch.tensor(reach).to(u))
        far = far.clamp_min(1.0)[:, None]
        return u + 2 * far * first + far.square() * bend

    def rates(self) -> list[float]:
        """Return the rate of the slowest mode that has been seen of each start: |f| falls by it in every step.

        The largest Ritz value of g's Jacobian on the span of the steps.
        """
        moved, led, _, seen = self._differences()
        found = []
        for row in range(len(self.known)):
            own = seen[row]
            if not bool(own.any()):
                found.append(0.0)
                continue
            left, size, right, length = _svd(moved[row][:, own])
            large = size > RESOLVED * size[:1]
            back = right.mT[:, large] / size[large]  # (m, r)
            ritz = left[:, large].mT @ (led[row][:, own] / length) @ back
            found.append(float(torch.linalg.eigvals(ritz).real.max()) if bool(ritz.isfinite().all()) else 1.0)
        return found

    def _scale(self) -> Tensor:
        """Unit of each coordinate: how far the map has moved it, root mean square, (starts, p)."""
        course = self._course()  # (m, starts)
        moves = torch.stack([g - u for u, g in self.pairs])
        last = self.pairs[-1][0].abs()
        mean = (course[..., None] * moves.square()).sum(0) / course.sum(0)[:, None]
        return mean.sqrt() + ROUNDING * torch.finfo(last.dtype).eps * last + torch.finfo(last.dtype).tiny

    def _course(self) -> Tensor:
        """1 for the pairs of each start that count, (pairs, starts)."""
        count = len(self.pairs)
        age = torch.arange(count - 1, -1, -1)[:, None]
        return (age < torch.tensor(self.known)).to(self.pairs[-1][0])

    def _differences(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Differences of u and of g between successive pairs, (starts, p, m), and f_t (starts, p, 1); 0 if unknown.

        In units of the coordinates. Last, which differences are known and above rounding, (starts, m).
        """
        scale = self._scale()
        u, g = (torch.stack([pair[side] for pair in self.pairs], -1) for side in (0, 1))  # (starts, p, pairs)
        course = self._course()
        moved, led = u.diff(dim=-1) / scale[..., None], g.diff(dim=-1) / scale[..., None]
        seen = (course[1:] * course[:-1]).mT.bool() & (moved.abs().amax(1) > 0)
        moved, led = (torch.where(seen[:, None], x, 0.0) for x in (moved, led))
        return moved, led, ((g[..., -1] - u[..., -1]) / scale)[..., None], seen


def _svd(columns: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Singular values and vectors of columns (..., p, m) of length 1, and what their length was, (..., 1, m)."""
    length = columns.norm(dim=-2, keepdim=True)
    length = torch.where(length > 0, length, torch.ones_like(length))
    left, size, right = torch.linalg.svd(columns / length, full_matrices=False)
    return left, size, right, length
