"""The E-step of a mixture in one sweep: every row site an exponential family whose arguments depend on z only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from operator import add

import torch
from torch import Tensor

from inference.conjugate.e_step import EStep, Statistics
from inference.conjugate.plan import Plan, known_without_running, log_factor
from inference.conjugate.posteriors import Moments, Posterior
from inference.coordinate.features import Features, Linear, Products, Quadratic, Stack, pack, unpack
from inference.coordinate.source import RowSource
from inference.coordinate.sweep import Swept, sweep, total
from zoo.program.program import Program
from zoo.replay.evaluate import Replay, Values
from zoo.replay.sites import Site, base_distribution

PROBE = 2  # rows of the program on which arguments are evaluated
ACCURACY = {torch.float64: 1e-6, torch.float32: 1e-3}  # error of a log density, in nats, beyond which to take more care


@dataclass
class Piece:
    """One statistic T_j of one site, flattened, and how its coefficients and sums are laid out.

    Attributes
    ----------
    site, order
        Which statistic of which site; -1 for whether an entry is observed, where some are missing.
    shape
        Shape of one row's T_j: event dimensions, then its own.
    matrix
        Whether it is an outer product x x^T, of which only x_i x_j with i <= j are kept.
    repeated
        Over how many columns T_j is summed, because they share a coefficient; 1 for none.
    own
        Whether coefficients differ by component; else only the total matters.
    width
        How many numbers are kept.
    """

    site: Site
    order: int
    shape: tuple[int, ...]
    matrix: bool
    repeated: int
    own: bool
    width: int

    def coefficients(self, eta: Tensor) -> Tensor:
        """Coefficients (k or 1, width) from eta of shape (k or 1, *shape), broadcast."""
        if self.matrix:
            return pack(eta.expand(eta.shape[0], *self.shape))
        if self.repeated > 1:
            return eta.reshape(eta.shape[0], 1)
        return eta.expand(eta.shape[0], *self.shape).reshape(eta.shape[0], -1)

    def sums(self, flat: Tensor) -> Tensor:
        """Sums (k or 1, 1, *shape) from (k or 1, width)."""
        if self.matrix:
            return unpack(flat)[:, None]
        if self.repeated > 1:
            spread = (flat / self.repeated).reshape(flat.shape[0], 1, *[1] * len(self.shape))
            return spread.expand(flat.shape[0], 1, *self.shape)
        return flat.reshape(flat.shape[0], 1, *self.shape)


@dataclass
class Part:
    """Some of the rows: their statistics, their weights, sums that do not change, and sum_i w_i h(x_i)."""

    features: Features
    weights: Tensor | None
    totals: list[Tensor | None]
    base: float


class Mixture:
    """Sufficient statistics of all rows of a mixture, and the sweep over them.

    Use `Mixture.of`, which returns None where a program is none of this kind.
    """

    def __init__(self, plan: Plan, rows: RowSource, values: Values) -> None:
        program = rows.program
        self.plan, self.program, self.rows = plan, program, rows
        self.z = program.enumerated[0]
        few = torch.arange(min(PROBE, len(program.data)), device=program.device)
        self.probe = program.rebind(program.data.take(few))
        with torch.no_grad():
            self.once: Replay | None = None
            self.start = self.expected(values)
            if all(known_without_running(plan, s) for s in program.sites.values() if s.args):
                self.once = self.start.replay  # constant arguments are read from it ever after
            z = base_distribution(self.start.replay.distributions[self.z.name])
            own_states: Moments = {"mean": self.start.replay.seen[self.z.name]}
            self.states = plan.likelihoods[self.z.name].statistics(z, own_states, program)
            self.pieces: list[Piece] = []
            self.totals: list[Tensor | None] = []
            self.base = 0.0
            self.kept: Part | None = None
            for program_part in rows.parts():
                part = self._part(program_part, values)
                self.base += part.base
                known = self.totals or [None] * len(part.totals)
                self.totals = [b if a is None or b is None else a + b for a, b in zip(known, part.totals, strict=True)]
                self.kept = part if rows.stream is None else None
            shared = [t for t in self.totals if t is not None]
            base, *shared = rows.add_up([torch.tensor(self.base, dtype=torch.float64), *shared])
            self.base, found = float(base), iter(shared)
            self.totals = [None if t is None else next(found) for t in self.totals]
            ends = list(accumulate(p.width for p in self.pieces if p.own))
            self.counted = [  # where the constants of single entries are, and how many entries share one
                (slice(end - p.width, end), p.repeated)
                for end, p in zip(ends, (p for p in self.pieces if p.own), strict=True)
                if p.order < 0
            ]

    def _part(self, program: Program, values: Values) -> Part:
        """Lay out the rows of a program."""
        replay = program.replay(_rows_of(program, values), densities=False)
        own: list[Features] = []
        totals: list[Tensor | None] = []
        weights, base = program.data.weights, 0.0
        self.pieces = []
        for site in self.sites:
            fn = base_distribution(replay.distributions[site.name])
            value: Moments = {"mean": replay.seen[site.name]}
            base += self._base(site, fn, value, program)
            center = self.plan.centers.get(site.name)
            if center is not None:
                value = {"mean": value["mean"] - center}
            pieces, features = self._site(site, fn, value, self._natural(self.start, site), program)
            self.pieces += pieces
            for piece, feature in zip(pieces, features, strict=True):
                if piece.own and feature is not None:
                    own.append(feature)
                totals.append(None if piece.own or feature is None else total(feature, weights))
        return Part(Stack(own) if len(own) != 1 else own[0], weights, totals, base)

    @property
    def width(self) -> int:
        """How many statistics differ by component."""
        return sum(piece.width for piece in self.pieces if piece.own)

    def sweep(self, natural: Tensor, constant: Tensor, *, hard: bool = False) -> Swept:
        """Sweep over all rows, those of other processes too; see `sweep`."""
        found: Swept | None = None
        parts = [self.kept] if self.kept is not None else (self._part(p, self.start.values) for p in self.rows.parts())
        for part in parts:
            swept = sweep(part.features, natural, constant, weights=part.weights, hard=hard)
            found = swept if found is None else Swept(*map(add, _sums(found), _sums(swept)))
        if found is None:  # a process with no chunk of its own
            r, k, p = natural.shape
            zeros = natural.new_zeros(r, dtype=torch.float64)
            found = Swept(zeros, zeros[:, None].expand(r, k), zeros[:, None, None].expand(r, k, p))
        return Swept(*self.rows.add_up(_sums(found)))

    @property
    def sites(self) -> list[Site]:
        """Observed sites in the data plate."""
        return [s for s in self.program.observed if self.program.row in s.plates]

    @classmethod
    def of(cls, plan: Plan, rows: RowSource, values: Values) -> Mixture | None:
        """Lay out a program's rows, if its log joint at these values is what the sweep gives on some of them."""
        program = rows.program
        if not program.one_state_per_row or program.locals or not program.row:
            return None
        z = program.enumerated[0]
        inside = [s for s in program.sites.values() if program.row in s.plates and s.role != "deterministic"]
        if any(s.name not in plan.likelihoods or s.name not in plan.collapsible for s in inside):
            return None
        if any(s.role == "observed" and program.row not in s.plates for s in program.sites.values()):
            return None
        if any(program.missing(s) is not None and plan.likelihoods[s.name].joint for s in inside):
            return None
        size = len(program.data)
        some = torch.linspace(0, size - 1, min(size, 64), device=program.device).long()
        sample = program.rebind(program.data.take(some))
        if any(cls._differs(plan, sample, s, values) for s in inside if s.role == "observed"):
            return None
        trial = cls(plan, RowSource(sample), values)
        if not trial.width or not z.cardinality > 1:
            return None
        with torch.no_grad():
            terms = sample.log_joint(values)
            known = terms.total(sample.data.weights)
            expected = trial.expected(values)
            natural, constant, shared = trial.natural(expected)
            swept = trial.sweep(natural[None], constant[None])
            found = swept.value[0] + shared + trial.base + trial.rest(expected)
        if not bool((found - known).abs() <= ACCURACY[program.dtype] * (1 + known.abs())):
            return None
        return cls(plan, rows, values)

    @staticmethod
    def _differs(plan: Plan, program: Program, site: Site, values: Values) -> bool:
        """Whether statistics differ by state, or are not one vector per row."""
        likelihood = plan.likelihoods[site.name]
        if likelihood.inner == (2,):
            return site.event_dim > 0
        replay, outer = program.replay(values, densities=False), site.event_dim - likelihood.joint
        fn, value = base_distribution(replay.distributions[site.name]), replay.seen[site.name]
        parts = likelihood.statistics(fn, {"mean": value}, program)
        return any(t.ndim > 1 + outer + i for i, t in zip(likelihood.inner, parts, strict=True))

    def expected(self, values: Values, beliefs: Mapping[str, Posterior] | None = None) -> EStep:
        """What updates see at these values; the model is run only if arguments do not follow from the unknowns."""
        replay = self.probe.replay(values) if self.once is None else self.once
        return EStep(self.plan, self.probe, values, replay, beliefs=beliefs or {})

    def rest(self, expected: EStep, known: Values | None = None) -> Tensor:
        """Sum of the log densities of the sites outside the data plate, some of which are known."""
        total, known = torch.zeros((), dtype=self.program.dtype, device=self.program.device), known or {}
        for site in self.program.sites.values():
            if self.program.row in site.plates or site.role in ("parameter", "deterministic"):
                continue
            if site.name in known:
                value = known[site.name]
            elif self.once is None:
                value = expected.replay.log_probs[site.name]
            elif all(parent.kind == "constant" for parent in site.args.values()):
                value = expected.replay.distributions[site.name].log_prob(expected.values[site.name])
            else:
                value = log_factor(expected, site)
            total = total + value.sum()
        return total

    def natural(self, expected: EStep) -> tuple[Tensor, Tensor, Tensor]:
        """eta (k, p) and c (k) of each component, and the value of what does not differ by component (scalar)."""
        k = self.z.cardinality
        constant = self._states(log_factor(expected, self.z), 0)
        own, shared, at = [], constant.new_zeros(()), 0
        for site in self.sites:
            terms = self._natural(expected, site)
            if self.program.missing(site) is None:
                a = terms.pop(-1)
                outer = site.event_dim - self.plan.likelihoods[site.name].joint
                events = site.shape[len(site.shape) - site.event_dim :][:outer]
                a = a.expand(a.shape[0], *events)
                constant = constant + (a.flatten(1).sum(-1) if outer else a)
            for _ in terms:
                piece, known = self.pieces[at], self.totals[at]
                coefficients = piece.coefficients(terms[piece.order])
                if piece.own:
                    own.append(coefficients.expand(k, piece.width))
                elif known is not None:
                    shared = shared + (coefficients[0] * known.to(coefficients.dtype)).sum()
                at += 1
        natural = torch.cat(own, 1) if own else constant.new_zeros(k, 0)
        return natural, constant.expand(k), shared

    def careful(self, natural: Tensor, constant: Tensor) -> bool:
        """Whether rounding in the expanded squares would show: a component far tighter than its distance."""
        size = constant.abs()
        for at, repeated in self.counted:
            size = size + repeated * natural[..., at].abs().sum(-1)
        size = size.masked_fill(size.isinf(), 0.0).max()
        return bool(size * torch.finfo(constant.dtype).eps > ACCURACY[self.program.dtype])

    def statistics(self, counts: Tensor, sums: Tensor) -> dict[str, Statistics]:
        """Statistics of every site from counts (k,) and sums (k, p): rows are one entry."""
        counts, sums = counts.to(self.program.dtype), sums.to(self.program.dtype)
        k = len(counts)
        count = counts[:, None]
        inner = self.plan.likelihoods[self.z.name].inner
        whole = tuple(count[(..., *[None] * i)] * t for i, t in zip(inner, self.states, strict=True))
        found: dict[str, Statistics] = {self.z.name: (count, whole)}
        start = 0
        parts: dict[str, dict[int, Tensor]] = {s.name: {} for s in self.sites}
        for piece, known in zip(self.pieces, self.totals, strict=True):
            if piece.own:
                flat = sums[:, start : start + piece.width]
                start += piece.width
            else:
                # Components share it, and only its sum over them is ever used: an equal part each.
                flat = counts.new_zeros(piece.width) if known is None else known.to(counts.dtype) / k
                flat = flat.expand(k, piece.width)
            parts[piece.site.name][piece.order] = piece.sums(flat)
        for site in self.sites:
            outer = site.event_dim - self.plan.likelihoods[site.name].joint
            count = parts[site.name].pop(-1, counts.reshape(k, 1, *[1] * outer))
            found[site.name] = count, tuple(parts[site.name][j] for j in sorted(parts[site.name]))
        return found

    # -- layout ------------------------------------------------------------------------------------------------

    def _natural(self, expected: EStep, site: Site) -> dict[int, Tensor]:
        """eta_j (k or 1, event dims, own dims) of one site by order, a (k or 1, event dims) as that of order -1."""
        likelihood = self.plan.likelihoods[site.name]
        fn = base_distribution(expected.replay.distributions[site.name])
        center = self.plan.centers.get(site.name)
        eta, a = likelihood.natural(fn, lambda name, kind: expected.argument(site, name, kind), center)
        outer = site.event_dim - likelihood.joint
        found = [self._states(e, outer + inner) for inner, e in zip(likelihood.inner, eta, strict=True)]
        return {-1: self._states(a, outer), **dict(enumerate(found))}

    @staticmethod
    def _states(tensor: Tensor, events: int) -> Tensor:
        """Take the first row of (states, rows, events), the number of states 1 where they do not differ."""
        lead = tensor.ndim - events
        return tensor[(None,) * max(0, 2 - lead)][:, 0]

    def _site(
        self, site: Site, fn: object, value: Moments, eta: dict[int, Tensor], program: Program
    ) -> tuple[list[Piece], list[Features | None]]:
        """Statistics of one site: outer products as monomials, the rest flat."""
        likelihood = self.plan.likelihoods[site.name]
        rows, pieces, cells = len(program.data), [], program.missing(site)
        features: list[Features | None] = []
        own = {j: e.shape[0] > 1 for j, e in eta.items()}
        if likelihood.inner == (1, 2):  # x and x x^T
            x = value["mean"]
            d = x.shape[-1]
            pieces.append(Piece(site, 0, (d,), False, 1, own[0], d))
            pieces.append(Piece(site, 1, (d, d), True, 1, own[1], d * (d + 1) // 2))
            return pieces, [Quadratic(x), None] if own[0] and own[1] else [Linear(x), Products(x)]
        if likelihood.inner == (2,):
            v = likelihood.vectors(program)  # type: ignore[attr-defined]
            p = v.shape[-1]
            if cells is not None:
                seen = (~cells.missing).to(v.dtype)[:, None]
                pieces.append(Piece(site, -1, (), False, 1, own[-1], 1))
                features.append(Linear(seen))
                v = seen * v
            pieces.append(Piece(site, 0, (p, p), True, 1, own[0], p * (p + 1) // 2))
            return pieces, [*features, Products(v)]
        statistics = likelihood.statistics(fn, value, program)
        parts = [(j, i, t) for j, (i, t) in enumerate(zip(likelihood.inner, statistics, strict=True))]
        if cells is not None:
            seen = (~cells.missing).to(program.dtype)
            parts = [(-1, 0, seen), *((j, i, seen[(..., *[None] * i)] * t) for j, i, t in parts)]
        for j, inner, t in parts:
            outer = site.event_dim - likelihood.joint
            shape = tuple(t.shape[t.ndim - inner - outer :])
            t = t.expand(rows, *shape)
            single = math.prod(shape) > 1 and all(size == 1 for size in eta[j].shape[1:])
            flat = t.reshape(rows, -1).sum(1, keepdim=True) if single else t.reshape(rows, -1)
            pieces.append(Piece(site, j, shape, False, math.prod(shape) if single else 1, own[j], flat.shape[1]))
            features.append(Linear(flat))
        return pieces, features

    def _base(self, site: Site, fn: object, value: Moments, program: Program) -> float:
        """sum_i w_i h(x_i)."""
        base = self.plan.likelihoods[site.name].base(fn, value)
        outer = site.event_dim - self.plan.likelihoods[site.name].joint
        events = site.shape[len(site.shape) - site.event_dim :][:outer]
        full = torch.as_tensor(base, dtype=self.program.dtype, device=self.program.device)
        full = full.expand(len(program.data), *events) if full.ndim <= outer else full
        cells = program.missing(site)
        full = full if cells is None else torch.where(cells.missing, 0.0, full)
        rows, weights = full.reshape(len(program.data), -1).sum(1), program.data.weights
        return float((rows if weights is None else rows * weights).sum())


def _sums(swept: Swept) -> list[Tensor]:
    return [swept.value, swept.counts, swept.sums]


def _rows_of(program: Program, values: Values) -> Values:
    """Values without those of other rows."""
    return {n: v for n, v in values.items() if n not in {s.name for s in program.locals}}
