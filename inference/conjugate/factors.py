"""Linear-Gaussian factors: x_i ~ Normal(m + W z_i, 1/t) with a latent z_i for every row."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from inference.conjugate.coefficients import Coefficients
from inference.conjugate.exponential_family import Arguments, Current, Entries, Likelihood, Moments
from inference.conjugate.factor_posteriors import LocalNormal
from inference.conjugate.factor_tables import RowSums, Table
from inference.conjugate.location_scale import Predictor
from zoo.program.conditional import touching
from zoo.program.program import Program
from zoo.replay.evaluate import Replay
from zoo.replay.sites import Site, base_distribution, views

UNITS = 4096  # coefficients that are set to 1 in turn, where values do not show which is which
ENTRIES = 1 << 25  # numbers in the map from coefficients to columns that is kept
CLOSED = ("a parameter", "a Normal latent")  # kinds of coefficients that have a closed form


@dataclass(eq=False)
class LoadingGroup:
    """Sites that are updated together, and how they make the intercept and loadings of each column.

    w_j = sum_p design_gcp gamma_gp for column j, the c-th of group g. Coefficients that feed one column each are
    grouped by column, so that the update of a group is a small system of equations; else all are one group.

    Attributes
    ----------
    names
        The sites.
    where
        Where each of their entries stands among the places of gamma, (G * p,).
    design
        Shape (G, d / G, q + 1, p).
    closed
        Whether their update has a closed form.
    """

    names: tuple[str, ...]
    where: Tensor
    design: Tensor
    closed: bool

    def places(self, entries: Iterable[Tensor], fill: float = 0.0) -> Tensor:
        """Put entries of the sites in their places, (G, p), in double precision."""
        flat = torch.cat([e.flatten() for e in entries]).double()
        groups, _, _, size = self.design.shape
        return flat.new_full((groups * size,), fill).index_copy(0, self.where, flat).reshape(groups, size)

    def columns(self, gamma: Tensor) -> Tensor:
        """Intercept and loadings of each column, (d, q + 1)."""
        return (self.design @ gamma[:, None, :, None])[..., 0].flatten(0, 1)

    def covariances(self, cov: Tensor) -> Tensor:
        """Their covariances, (d, q + 1, q + 1)."""
        return (self.design @ cov[:, None] @ self.design.mT).flatten(0, 1)


class FactorLikelihood(Predictor):
    """x_i ~ Normal(W (1, z_i), 1/t), a vector of columns; log p = sum_j -t_j (x_ij - w_j (1, z_i))^2 / 2 + ...

    W, of shape (d, q + 1), is affine in global sites (loadings, means), the same for all rows. T = x and x^2 about the
    mean of the data (Bishop 2006, section 12.2).
    """

    dims: ClassVar[tuple[int, ...]] = (1, 1)
    event_dim: ClassVar[int] = 1
    centered: ClassVar[bool] = True
    skips: ClassVar[bool] = True
    lead: tuple[int, ...] = ()  # sizes of the dimensions of states

    def __init__(self, program: Program, site: Site, known: Mapping[str, Likelihood]) -> None:
        self.program, self.site = program, site
        sites, names = program.sites, site.args["loc"].sites
        (self.z,) = (n for n in names if sites[n].role == "local")
        self.factors = math.prod(sites[self.z].shape[1:])
        self.globals = tuple(n for n in names if n != self.z)
        with torch.no_grad():
            self._sample = program.rebind(
                program.data.take(torch.zeros(self.factors + 1, dtype=torch.long, device=program.device))
            )
            self.constant = self._columns(torch.zeros(self._total))
            entries = self._entries()
        kinds: dict[str, list[str]] = {}
        for name in self.globals:
            kinds.setdefault(self._kind(name, known), []).append(name)
        self.groups = [self._group(kind, names, entries) for kind, names in kinds.items()]

    @classmethod
    def of(
        cls, program: Program, site: Site, known: Mapping[str, Likelihood], replay: Replay
    ) -> FactorLikelihood | None:
        """Return the likelihood of a Normal site whose location is bilinear in a local and global sites, or None.

        Parameters
        ----------
        known
            Likelihoods of the sites before it, the coefficients among them.
        replay
            The model run at made-up values.
        """
        parent = site.args["loc"]
        local = [program.sites[n] for n in parent.sites if program.sites[n].role == "local"]
        rows = (program.row,), (-1,)
        if parent.data or site.field is None or site.event_dim != 1 or len(local) != 1:
            return None
        if not cls.fits(program, local[0]):
            return None
        if any((s.plates, s.plate_dims) != rows for s in (site, *local)) or _by_row(replay, site):
            return None
        try:
            return cls(program, site, known)
        except _TooLarge:
            return None

    @classmethod
    def fits(cls, program: Program, local: Site) -> bool:
        """Whether it takes the discrete latents that the rows depend on: none."""
        return not touching(program, local)

    # -- what the coefficients do ------------------------------------------------------------------------------

    @property
    def _total(self) -> int:
        return sum(math.prod(self.program.sites[n].shape) for n in self.globals)

    def _kind(self, name: str, known: Mapping[str, Likelihood]) -> str:
        """Sites of one kind share an update: parameters, or latents with a Normal prior; others have none."""
        sites = self.program.sites
        used = {s.name for s in sites.values() if any(name in parent.sites for parent in s.args.values())}
        if used != {self.site.name}:
            return name
        if sites[name].role == "parameter":
            return CLOSED[0]
        return CLOSED[1] if sites[name].family == "Normal" and name in known else name

    def _columns(self, flat: Tensor) -> Tensor:
        """Intercept and loadings of each column, (d, q + 1): the model run at z = 0 and unit vectors."""
        program, sites = self._sample, self.program.sites
        z = torch.eye(self.factors + 1, dtype=program.dtype, device=program.device)[:, 1:]
        values = {**program.structure.example, **{n: p.detach() for n, p in program.model.named_parameters()}}
        values = {n: v.to(program.device) for n, v in values.items()}
        for site in program.locals:
            values[site.name] = torch.zeros(program.site_shape(site), dtype=program.dtype, device=program.device)
        values[self.z] = z.reshape(program.site_shape(sites[self.z]))
        shapes = [sites[n].shape for n in self.globals]
        for name, shape, part in zip(self.globals, shapes, flat.split([math.prod(s) for s in shapes]), strict=True):
            values[name] = part.to(program.device, program.dtype).reshape(shape)
        fn = program.replay(values, densities=False).distributions[self.site.name]
        loc = base_distribution(fn).loc
        while loc.ndim > len(self.lead) + 2:  # a discrete latent with one state, which says nothing
            loc = loc[0]
        loc = loc.expand(*self.lead, self.factors + 1, self.site.shape[-1])
        first = loc[..., :1, :]
        return torch.cat([first, loc[..., 1:, :] - first], -2).mT.double().reshape(-1, self.factors + 1)

    def _entries(self) -> tuple[Tensor, Tensor, Tensor]:
        """Where coefficients matter: indices of W (flat) and of coefficients, and by how much."""
        size = self._total
        first = torch.frac(torch.arange(1, size + 1, dtype=torch.float64) * (5**0.5 - 1) / 2) + 1  # all different
        close = 1e-9 if self._sample.dtype == torch.float64 else 1e-5
        found = [(self._columns(v) - self.constant).flatten() for v in (first, first.flip(0))]
        at = ((found[0].abs() > close) | (found[1].abs() > close)).nonzero()[:, 0]
        if not size or not len(at):
            return at, at, found[0][at]
        order = first.argsort()
        near = torch.searchsorted(first[order].to(at.device), found[0][at]).clamp(0, size)
        near = torch.stack([(near - 1).clamp_min(0), near.clamp_max(size - 1)])
        gaps = (first[order].to(at.device)[near] - found[0][at]).abs()
        which = order.to(at.device)[near.gather(0, gaps.argmin(0)[None])[0]]
        same = [(v.to(at.device)[which] - f[at]).abs() for v, f in zip((first, first.flip(0)), found, strict=True)]
        if bool((torch.cat(same) <= close).all()):
            return at, which, torch.ones_like(found[0][at])
        return self._unit_entries()

    def _unit_entries(self) -> tuple[Tensor, Tensor, Tensor]:
        """`_entries` by setting each coefficient to 1 in turn."""
        if self._total > UNITS:
            raise _TooLarge
        rows, which, values = [], [], []
        for k, unit in enumerate(torch.eye(self._total)):
            moved = (self._columns(unit) - self.constant).flatten()
            at = (moved.abs() > 1e-12 * moved.abs().max()).nonzero()[:, 0]
            rows.append(at)
            which.append(torch.full_like(at, k))
            values.append(moved[at])
        return torch.cat(rows), torch.cat(which), torch.cat(values)

    def _group(self, kind: str, names: list[str], entries: tuple[Tensor, Tensor, Tensor]) -> LoadingGroup:
        """Group the coefficients of some sites."""
        rows, which, values = entries
        d, width = self.constant.shape
        sizes = [math.prod(self.program.sites[n].shape) for n in self.globals]
        starts = dict(zip(self.globals, torch.tensor([0, *sizes]).cumsum(0).tolist(), strict=False))
        own = torch.cat([starts[n] + torch.arange(sizes[self.globals.index(n)]) for n in names]).to(rows.device)
        local = own.new_full((self._total,), -1)
        local[own] = torch.arange(len(own), device=rows.device)
        kept = local[which] >= 0
        rows, which, values = rows[kept], local[which[kept]], values[kept]
        columns = torch.zeros(len(own), d, dtype=torch.bool, device=rows.device)
        columns[which, rows // width] = True
        if bool((columns.sum(1) <= 1).all()):
            group = torch.where(columns.any(1), columns.long().argmax(1), -1)
            counts, slots = [0] * d, []
            for k, g in enumerate(group.tolist()):
                if g < 0:  # one that feeds nothing goes where there is room
                    group[k] = g = counts.index(min(counts))
                slots.append(counts[g])
                counts[g] += 1
            groups, size, slot = d, max(counts), torch.tensor(slots, device=rows.device)
        else:
            groups, size, group = 1, len(own), torch.zeros_like(own)
            slot = torch.arange(len(own), device=rows.device)
        if d * width * size > ENTRIES:
            raise _TooLarge
        design = self.constant.new_zeros(d, width, size)
        design[rows // width, rows % width, slot[which]] = values
        closed = kind in CLOSED
        return LoadingGroup(tuple(names), group * size + slot, design.reshape(groups, d // groups, width, size), closed)

    # -- the likelihood ----------------------------------------------------------------------------------------

    def statistics(self, fn: Any, value: Moments) -> tuple[Tensor, ...]:
        """x and x^2."""
        return value["mean"], value["mean"].square()

    def observed(self, program: Program, value: Tensor) -> Moments:
        """The values; where some are missing, which are `seen`, 1 or 0."""
        cells = program.missing(self.site)
        return {"mean": value} if cells is None else {"mean": value, "seen": (~cells.missing).to(value)}

    def natural(self, fn: Any, argument: Arguments, center: Tensor | None = None) -> tuple[tuple[Tensor, ...], Tensor]:
        """E[t_j] m_ij and -E[t_j] / 2; sum_j (E[log t_j] - E[t_j (W (1, z_i))_j^2]) / 2, m_i = E[W (1, z_i)].

        Of a missing cell they are 0, and it is left out of the sum.
        """
        loc, precision = argument("loc"), argument("precision")
        columns = (1, self.site.shape[-1])
        t, log = precision["mean"].expand(columns), precision["log"].expand(columns)
        if "seen" in loc:
            t, log = loc["seen"] * t, loc["seen"] * log
        return (t * loc["mean"], -0.5 * t), 0.5 * (log.sum(-1) - loc["square"])

    def base(self, fn: Any, value: Moments) -> Tensor | float:
        """-d log(2 pi) / 2, d the number of columns that are observed."""
        columns = value["seen"].sum(-1) if "seen" in value else self.site.shape[-1]
        return -0.5 * math.log(2 * math.pi) * columns

    def location(self, current: Current) -> Moments:
        """W (1, z_i) of each row, at values."""
        w, _ = self.loadings(current)
        z = current.values[self.z]
        return {"mean": w[:, 0].to(z.dtype) + z.reshape(len(z), -1) @ w[:, 1:].mT.to(z.dtype)}

    def coefficients(self, current: Current) -> Moments:
        """E[W (1, z_i)], (n, d), and sum_j E[t_j (W (1, z_i))_j^2], (n,), about the mean of the data."""
        product, _ = self.products(current)
        z, cells = current.value(current.program.sites[self.z]), current.program.missing(self.site)
        one = torch.nn.functional.pad(z["mean"].reshape(len(z["mean"]), -1), (1, 0), value=1.0)
        loc = {"mean": one @ self.about(current)[0].mT.to(one.dtype)}
        if cells is None:
            weight = product.sum(0).to(one.dtype)
            square = ((one @ weight) * one).sum(-1)
        else:  # a matrix for each row
            loc["seen"] = (~cells.missing).to(one)
            weight = (loc["seen"] @ product.flatten(1).to(one.dtype)).unflatten(1, product.shape[1:])
            square = (one[:, None] @ weight @ one[..., None])[:, 0, 0]
        if "cov" in z:
            square = square + (weight[..., 1:, 1:] * z["cov"]).sum((-1, -2))
        return {**loc, "square": square}

    def products(self, current: Current) -> tuple[Tensor, Tensor]:
        """E[t_j w_j w_j^T], (d, q + 1, q + 1), and E[t_j w_j], (d, q + 1), of x about the mean of the data."""
        t, (w, cov) = self.precision(current), self.about(current)
        product = w[:, :, None] * w[:, None, :]
        return t[:, None, None] * (product if cov is None else product + cov), t[:, None] * w

    def loadings(self, current: Current) -> tuple[Tensor, Tensor | None]:
        """Mean of W, (d, q + 1), and covariance of each of its rows, (d, q + 1, q + 1), None if it is known."""
        w, cov = self.constant, None
        for group in self.groups:
            w = w + group.columns(group.places(current.values[n] for n in group.names))
            posterior = current.posteriors.get(group.names[0])
            if isinstance(posterior, Coefficients):
                own = group.covariances(posterior.cov.double())
                cov = own if cov is None else cov + own
        return w, cov

    def about(self, current: Current) -> tuple[Tensor, Tensor | None]:
        """`loadings` of x about the mean of the data."""
        w, cov = self.loadings(current)
        center = current.center(self.site)
        if center is not None:
            w = torch.cat([w[:, :1] - self._centers(center.double())[:, None], w[:, 1:]], 1)
        return w, cov

    def _centers(self, center: Tensor) -> Tensor:
        """Center of each column, (d,)."""
        return center

    def precision(self, current: Current) -> Tensor:
        """E[t_j] of each column, (d,)."""
        t = current.argument(self.site, "precision")["mean"]
        return t.expand(1, self.site.shape[-1])[0].double()

    def sums(self, current: Current) -> tuple[RowSums, Tensor, Tensor]:
        """Sums over the rows with the current posterior (or values) of z; sum w x^2 and sum w of each column, (d,)."""
        posterior = current.posteriors.get(self.z)
        if isinstance(posterior, LocalNormal) and posterior.affine is not None:
            table, sums = posterior.affine.table, posterior.affine.sums
        else:
            table = tabulate(current, [self.site])
            z = current.value(current.program.sites[self.z])
            loc = z["mean"].reshape(len(z["mean"]), -1)
            sums = table.sums(loc, z["cov"] if "cov" in z else loc.new_zeros(self.factors, self.factors))
        span = table.spans[self.site.name]
        second = sums.second if len(sums.second) == 1 else sums.second[span]
        return RowSums(sums.total, second, sums.cross[:, span]), table.squares[span], table.counts[span]

    def normal_equations(self, current: Current) -> tuple[Tensor, Tensor]:
        """The second moments of (1, z) for each column, or for all, (d or 1, q + 1, q + 1), and with x by column."""
        sums, _, _ = self.sums(current)
        return sums.second, sums.cross.mT

    def deviations(self, entries: Entries) -> Tensor:
        """Weights times E[(x - W (1, z))^2], (1, d)."""
        sums, squares, _ = self.sums(entries.current)
        w, cov = self.about(entries.current)
        product = w[:, :, None] * w[:, None, :] + (0.0 if cov is None else cov)
        found = squares - 2 * (w * sums.cross.mT).sum(-1) + (product * sums.second).sum((-1, -2))
        return found.clamp_min(0.0)[None].to(entries.current.program.dtype)

    def count(self, entries: Entries) -> Tensor:
        """Weights of the deviations, (1, d): of a column, those of the rows in which it is observed."""
        return self.sums(entries.current)[2][None].to(entries.count)


def _by_row(replay: Replay, site: Site) -> bool:
    """Whether the scale of a Normal site was seen to vary by row."""
    scale = views(replay.distributions[site.name])["scale"]
    return scale.ndim > 1 and not bool((scale == scale[..., :1, :]).all())


class _TooLarge(Exception):
    """There are too many coefficients to find out what each does."""


def tabulate(current: Current, sites: Iterable[Site]) -> Table:
    """Lay the rows of some sites out side by side, about the means of their columns."""
    data, parts, gone, spans, at = current.program.data, [], [], {}, 0
    for site in sites:
        assert site.field is not None
        center, cells = current.center(site), current.program.missing(site)
        x = data.values[site.field] - (0.0 if center is None else center)
        parts.append(x if cells is None else torch.where(cells.missing, 0.0, x))
        gone.append(torch.zeros_like(x, dtype=torch.bool) if cells is None else cells.missing)
        spans[site.name] = slice(at, at := at + x.shape[-1])
    x, missing = (p[0] if len(p) == 1 else torch.cat(p, 1) for p in (parts, gone))
    return Table(x, data.weights, spans, missing if bool(missing.any()) else None)
