"""The E-step of a mixture in one sweep: every row site an exponential family whose arguments depend on z only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from operator import add

import torch
from torch import Tensor

from inference.conjugate.e_step import EStep
from inference.conjugate.exponential_family import ExponentialFamily, Moments, OuterProduct, Statistics
from inference.conjugate.plan import Plan
from inference.conjugate.posteriors import Posterior
from inference.coordinate.columns import SEEN, EachEntry, Monomials, Statistic, Summed, in_columns, seen_only
from inference.coordinate.features import Features, Stack
from inference.coordinate.source import RowSource
from inference.coordinate.sweep import Swept, sweep, total
from zoo.program.program import Program
from zoo.replay.evaluate import Replay, Values
from zoo.replay.sites import Site, base_distribution

PROBE = 2  # rows of the program on which arguments are evaluated
ACCURACY = {torch.float64: 1e-6, torch.float32: 1e-3}  # error of a log density, in nats, beyond which to take more care


@dataclass
class RowPart:
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
            if all(plan.follows(s) for s in program.sites.values() if s.args):
                self.once = self.start.replay  # constant arguments are read from it ever after
            self.states = self._family(self.z).statistics(self.start.fn(self.z.name), self.start.value(self.z))
            self.layout: list[Statistic] = []
            self.totals: list[Tensor | None] = []
            self.base = 0.0
            self.kept: RowPart | None = None
            for program_part in rows.parts():
                part = self._part(program_part, values)
                self.base += part.base
                known = self.totals or [None] * len(part.totals)
                self.totals = [b if a is None or b is None else a + b for a, b in zip(known, part.totals, strict=True)]
                self.kept = part if rows.stream is None else None
            shared = [t for t in self.totals if t is not None]
            base, *shared = rows.add_up([torch.tensor(self.base, dtype=torch.float64), *shared])
            self.base, summed = float(base), iter(shared)
            self.totals = [None if t is None else next(summed) for t in self.totals]
            varying = [s for s in self.layout if s.varies]
            ends = list(accumulate(s.width for s in varying))
            self.counted = [  # where the constants of single entries are, and how many entries share one
                (slice(end - s.width, end), s.shared_by)
                for end, s in zip(ends, varying, strict=True)
                if s.order == SEEN
            ]

    def _family(self, site: Site) -> ExponentialFamily:
        family = self.plan.likelihoods[site.name]
        assert isinstance(family, ExponentialFamily)
        return family

    def _part(self, program: Program, values: Values) -> RowPart:
        """Lay out the rows of a program."""
        replay = program.replay(_rows_of(program, values), densities=False)
        varying: list[Features] = []
        totals: list[Tensor | None] = []
        weights, base = program.data.weights, 0.0
        self.layout = []
        for site in self.sites:
            fn = base_distribution(replay.distributions[site.name])
            value = self._family(site).observed(program, replay.seen[site.name])
            base += self._base(site, fn, value, program)
            center = self.plan.centers.get(site.name)
            if center is not None:
                value = {**value, "mean": value["mean"] - center}
            statistics = self._site(site, fn, value, program)
            self.layout += statistics
            varying += in_columns([s for s in statistics if s.varies])
            totals += [None if s.varies else total(s.features(), weights) for s in statistics]
        return RowPart(Stack(varying) if len(varying) != 1 else varying[0], weights, totals, base)

    @property
    def width(self) -> int:
        """How many columns differ by component."""
        return sum(s.width for s in self.layout if s.varies)

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
        if any(program.missing(s) is not None and plan.likelihoods[s.name].event_dim for s in inside):
            return None
        size = len(program.data)
        some = torch.linspace(0, size - 1, min(size, 64), device=program.device).long()
        sample = program.rebind(program.data.take(some))
        if any(cls._differs(plan, sample, s, values) for s in inside if s.role == "observed"):
            return None
        with torch.no_grad():
            log_probs = [v for n, v in sample.log_probs(values).items() if sample.sites[n].role == "observed"]
        if all(v.ndim < -z.enum_dim or v.shape[z.enum_dim] == 1 for v in log_probs):  # components are all alike
            return None
        trial = cls(plan, RowSource(sample), values)
        if not trial.width:
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
        family = plan.likelihoods[site.name]
        if not isinstance(family, ExponentialFamily):
            return True
        replay, outer = program.replay(values, densities=False), len(plan.events_outside(site))
        fn, value = base_distribution(replay.distributions[site.name]), family.observed(program, replay.seen[site.name])
        parts = zip(family.dims, family.row_statistics(fn, value), strict=True)
        return any(
            t.vector.ndim != 2 if isinstance(t, OuterProduct) else t.ndim > 1 + outer + dims for dims, t in parts
        )

    def expected(self, values: Values, posteriors: Mapping[str, Posterior] | None = None) -> EStep:
        """What updates see at these values; the model is run only if arguments do not follow from the unknowns."""
        replay = self.probe.replay(values) if self.once is None else self.once
        return EStep(self.plan, self.probe, values, replay, posteriors=posteriors or {})

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
                value = expected.log_density(site)
            total = total + value.sum()
        return total

    def natural(self, expected: EStep) -> tuple[Tensor, Tensor, Tensor]:
        """eta (k, p) and c (k) of each component, and the value of what does not differ by component (scalar)."""
        k = self.z.cardinality
        constant = self._states(expected.log_density(self.z), 0)
        varying, shared, at = [], constant.new_zeros(()), 0
        for site in self.sites:
            terms = self._natural(expected, site)
            if self.program.missing(site) is None:
                # -A is the same in all rows, and goes to c; with missing entries it multiplies how many are seen.
                a, outer = terms.pop(SEEN), self.plan.events_outside(site)
                a = a.expand(a.shape[0], *outer)
                constant = constant + (a.flatten(1).sum(-1) if outer else a)
            for _ in terms:
                statistic, known = self.layout[at], self.totals[at]
                coefficients = statistic.coefficients(terms[statistic.order])
                if statistic.varies:
                    varying.append(coefficients.expand(k, statistic.width))
                elif known is not None:
                    shared = shared + (coefficients[0] * known.to(coefficients.dtype)).sum()
                at += 1
        natural = torch.cat(varying, 1) if varying else constant.new_zeros(k, 0)
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
        dims = self._family(self.z).dims
        whole = tuple(count[(..., *[None] * i)] * t for i, t in zip(dims, self.states, strict=True))
        found: dict[str, Statistics] = {self.z.name: (count, whole)}
        start = 0
        parts: dict[str, dict[int, Tensor]] = {s.name: {} for s in self.sites}
        for statistic, known in zip(self.layout, self.totals, strict=True):
            if statistic.varies:
                flat = sums[:, start : start + statistic.width]
                start += statistic.width
            else:
                # Components share it, and only its sum over them is ever used: an equal part each.
                flat = counts.new_zeros(statistic.width) if known is None else known.to(counts.dtype) / k
                flat = flat.expand(k, statistic.width)
            parts[statistic.site.name][statistic.order] = statistic.sums(flat)
        for site in self.sites:
            own, outer = parts[site.name], len(self.plan.events_outside(site))
            count = own.pop(SEEN, counts.reshape(k, 1, *[1] * outer))
            found[site.name] = count, tuple(own[j] for j in sorted(own))
        return found

    # -- layout ------------------------------------------------------------------------------------------------

    def _natural(self, expected: EStep, site: Site) -> dict[int, Tensor]:
        """eta_j (k or 1, event dims, own dims) of one site by order, -A (k or 1, event dims) as that of `SEEN`."""
        family, outer = self._family(site), len(self.plan.events_outside(site))
        eta, a = family.natural(
            expected.fn(site.name), lambda name: expected.argument(site, name), expected.center(site)
        )
        found = [self._states(e, outer + dims) for dims, e in zip(family.dims, eta, strict=True)]
        return {SEEN: self._states(a, outer), **dict(enumerate(found))}

    @staticmethod
    def _states(tensor: Tensor, events: int) -> Tensor:
        """Take the first row of (states, rows, events), the number of states 1 where they do not differ."""
        lead = tensor.ndim - events
        return tensor[(None,) * max(0, 2 - lead)][:, 0]

    def _site(self, site: Site, fn: object, value: Moments, program: Program) -> list[Statistic]:
        """Statistics of one site, those of all its rows in columns."""
        family, cells, eta = self._family(site), program.missing(site), self._natural(self.start, site)
        parts = [
            (j, dims, t) for j, (dims, t) in enumerate(zip(family.dims, family.row_statistics(fn, value), strict=True))
        ]
        if cells is not None:
            seen = (~cells.missing).to(program.dtype)
            parts = [(SEEN, 0, seen), *((j, dims, seen_only(seen, t, dims)) for j, dims, t in parts)]
        found: list[Statistic] = []
        for j, dims, t in parts:
            varies = eta[j].shape[0] > 1
            if isinstance(t, OuterProduct):
                d = t.vector.shape[-1]
                found.append(Monomials(site, j, (d, d), varies, t.vector))
                continue
            shape = tuple(t.shape[t.ndim - dims - len(self.plan.events_outside(site)) :])
            # Where all entries have one coefficient, their sum is as good as each.
            one = math.prod(shape) > 1 and all(size == 1 for size in eta[j].shape[1:])
            kind = Summed if one else EachEntry
            found.append(kind(site, j, shape, varies, t.expand(len(program.data), *shape)))
        return found

    def _base(self, site: Site, fn: object, value: Moments, program: Program) -> float:
        """sum_i w_i h(x_i)."""
        base, outer = self._family(site).base(fn, value), self.plan.events_outside(site)
        full = torch.as_tensor(base, dtype=self.program.dtype, device=self.program.device)
        full = full.expand(len(program.data), *outer) if full.ndim <= len(outer) else full
        cells = program.missing(site)
        full = full if cells is None else torch.where(cells.missing, 0.0, full)
        rows, weights = full.reshape(len(program.data), -1).sum(1), program.data.weights
        return float((rows if weights is None else rows * weights).sum())


def _sums(swept: Swept) -> list[Tensor]:
    return [swept.value, swept.counts, swept.sums]


def _rows_of(program: Program, values: Values) -> Values:
    """Values without those of other rows."""
    return {n: v for n, v in values.items() if n not in {s.name for s in program.locals}}
