"""Variances of a linear-Gaussian chain and of what is observed of it: their posterior given the states."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from inference.conjugate.block import Block, Matcher, uses
from inference.conjugate.e_step import EStep
from inference.conjugate.exponential_family import ConjugatePrior, prior_named
from inference.conjugate.posteriors import Posterior, Single
from inference.conjugate.recognition import Recognition
from zoo.elimination.kalman import LinearGaussian
from zoo.elimination.kalman_gradient import density_and_scores
from zoo.program.program import Program
from zoo.replay.bijections import bijection
from zoo.replay.evaluate import Values
from zoo.replay.sites import Site

POWERS = {"InverseGamma": 1, "Gamma": -1}  # of the unknown that is the variance, by its conjugate prior
CLOSE = 1e-8  # relative, of what rounding explains
SHIFTS = (0.5, -0.8)  # of unconstrained values, at which what was seen has to hold


@dataclass(frozen=True)
class Entries:
    """Which variances of each row an unknown is, times a constant: of the states' noise and of the observed cells.

    Attributes
    ----------
    noise, spread
        1 where a variance is of entry k of the unknown, (K, rows, d) and (K, rows, p).
    """

    noise: Tensor
    spread: Tensor

    def sums(self, by_noise: Tensor, by_spread: Tensor) -> Tensor:
        """Sum numbers of each variance, (rows, d) and (rows, p), over those of each entry and each row: (K, rows)."""
        return (self.noise * by_noise).sum(-1) + (self.spread * by_spread).sum(-1)


@dataclass
class States:
    """What an E-step says of the states, worked out once, when the first update asks: at what it was taken at.

    Attributes
    ----------
    blocks
        The updates that see it.
    at
        The values that it was worked out at.
    """

    blocks: list[ChainVariances] = field(default_factory=list)
    at: Values = field(default_factory=dict)
    _kept: tuple[object, LinearGaussian, tuple[Tensor, ...]] | None = None

    def values(self, expected: EStep) -> Values:
        """Values at which the log density is the expected one, but for constants: E[1 / s]^-1 for a variance s."""
        given = {n: v for n, v in expected.replay.values.items() if n in expected.values}
        known = {b.name: q for b in self.blocks if (q := expected.posteriors.get(b.name)) is not None}
        return {**given, **{b.name: b.effective(known[b.name]) for b in self.blocks if b.name in known}}

    def scores(self, expected: EStep) -> tuple[LinearGaussian, tuple[Tensor, ...]]:
        """The chain, and the gradient of its log density by everything it is made of."""
        if self._kept is None or self._kept[0] is not expected.replay:
            program = expected.program
            plain = program if program.data.weights is None else program.rebind(replace(program.data, weights=None))
            self.at = self.values(expected)
            model = plain.linear_gaussian(self.at)
            self._kept = expected.replay, model.prepared(), density_and_scores(model)
        return self._kept[1:]


class ChainMatcher(Matcher):
    """Latents that are variances or precisions, times constants, of a chain or of what is observed of it.

    Given the states each is the variance of so many independent Normals, so that its InverseGamma prior (Gamma, of a
    precision) is conjugate. The states given all expected precisions are a chain again, which is filtered and smoothed
    (Beal 2003, "Variational Algorithms for Approximate Bayesian Inference", chapter 5).
    """

    rank = 0

    def match(self, seen: Recognition, example: EStep, unknown: Iterable[str]) -> list[Block]:
        """Claim each latent that is nothing but such variances."""
        program, states = seen.program, States()
        if program.integrated is None:
            return []
        for name in unknown:
            site, own = program.sites[name], seen.likelihoods.get(name)
            children = {s.name for s, _ in uses(program, name)}
            if own is None or site.role != "global" or not children or not children <= program.integrated.names:
                continue
            if site.family not in POWERS or site.event_dim or any(p.sites for p in site.args.values()):
                continue
            block = ChainVariances(name, prior_named(site.family), POWERS[site.family], states)
            if block.entries(program) is not None:
                states.blocks.append(block)
        return list(states.blocks)


@dataclass(eq=False)
class ChainVariances(Block):
    """The update of one unknown that is variances s = u^power of a chain: S_k = sum E[e^2] / c over its n_k entries.

    The message to (log t, t) of a precision is (n / 2, -S / 2), to (log s, 1 / s) of a variance (-n / 2, -S / 2).
    """

    name: str
    family: ConjugatePrior
    power: int
    states: States
    _known: tuple[Program, Entries | None] | None = None

    def __post_init__(self) -> None:
        """Name what is updated."""
        self.unknowns = (self.name,)

    def effective(self, posterior: Posterior) -> Tensor:
        """Value at which the precision is the expected one: E[t], or 1 / E[1 / s]."""
        moments = posterior.moments(self.name)
        return moments["inverse"].reciprocal() if self.power == 1 else moments["mean"]

    def excess(self, posterior: Posterior) -> Tensor:
        """(log s - E[log s]) / 2 with s the effective variance: what the log density of each entry lacks."""
        effective = self.effective(posterior).log() * self.power
        return 0.5 * (effective - self.power * posterior.moments(self.name)["log"])

    def entries(self, program: Program) -> Entries | None:
        """Return what the unknown is on these rows; None if it is anything else besides."""
        if self._known is None or self._known[0] is not program:
            with torch.no_grad():
                self._known = program, _entries(program, program.sites[self.name], self.power)
        return self._known[1]

    def message(self, expected: EStep) -> tuple[Tensor, Tensor]:
        """To the two statistics of the prior, in the shape of the unknown."""
        model, scores = self.states.scores(expected)
        entries, weights = self.entries(expected.program), expected.program.data.weights
        assert entries is not None
        noise, spread = (m.diagonal(dim1=-2, dim2=-1) for m in (model.noise, model.spread))
        by_noise, by_spread = (s.diagonal(dim1=-2, dim2=-1) for s in (scores[3], scores[6]))
        seen = (~model.missing).to(spread)
        # d log p(x) / ds is the expected derivative (E[e^2] / s - 1) / (2 s) of the entry's density.
        ratio = entries.sums(1 + 2 * noise * by_noise, seen * (1 + 2 * spread * by_spread))  # sums of E[e^2] / (c s)
        count = entries.sums(torch.ones_like(noise), seen)
        if weights is not None:
            ratio, count = ratio * weights, count * weights
        value = self.states.at[self.name]
        variance = value.reshape(-1).double() ** self.power
        shape, half = value.shape, 0.5 * count.sum(-1)
        squares = 0.5 * variance * ratio.sum(-1)
        return (-self.power * half).reshape(shape).to(value), -squares.reshape(shape).to(value)

    def _natural(self, expected: EStep) -> tuple[Tensor, ...]:
        prior = expected.prior(expected.program.sites[self.name])
        return tuple(a + b for a, b in zip(prior, self.message(expected), strict=True))

    def posterior(self, expected: EStep) -> Single:
        """Prior plus message."""
        made = self.family.make(self._natural(expected))
        return Single.like(self.name, made, expected.replay.distributions[self.name])

    def maximize(self, expected: EStep) -> Values:
        """Mode of the posterior."""
        found, current = self.family.mode(self._natural(expected)), expected.values[self.name]
        return {self.name: torch.where(found.isfinite() & (found > 0), found, current)}


def chain_factors(blocks: Iterable[Block], expected: EStep) -> Values:
    """Expected log densities of chains and what is observed of them, integrated over the states.

    log int exp E[log p(x, h)] dh, row by row: the filter's density at the expected precisions, and what the constants
    of its Normals lack.
    """
    own = [b for b in blocks if isinstance(b, ChainVariances)]
    uncertain = [b for b in own if b.name in expected.posteriors]
    program = expected.program
    if not uncertain or program.integrated is None:
        return {}
    log_probs = program.log_probs(uncertain[0].states.values(expected))
    found = {n: log_probs[n] for n in program.integrated.names}
    missing = program.linear_gaussian(uncertain[0].states.values(expected)).missing
    rows = torch.zeros(len(program.data), dtype=program.dtype, device=program.device)
    for block in uncertain:
        entries = block.entries(program)
        assert entries is not None
        counts = entries.sums(torch.ones_like(entries.noise[0]), (~missing).to(entries.spread))
        rows = rows + block.excess(expected.posteriors[block.name]).reshape(-1) @ counts.to(rows)
    first = program.integrated.chains[0].name
    return {**found, first: found[first] + rows}


def _entries(program: Program, site: Site, power: int) -> Entries | None:
    """Find which variances an unknown is, by running the model with it, and with everything else, at other values."""
    gone = program.integrated
    assert gone is not None
    values = {**program.structure.example, **{n: p.detach() for n, p in program.model.named_parameters()}}
    values = {n: v.to(program.device) for n, v in values.items()}
    if program.locals:
        return None
    found: Entries | None = None
    for shift in SHIFTS:
        before = program.linear_gaussian(values).prepared()
        stretch = 1.5 + torch.arange(values[site.name].numel(), dtype=torch.float64, device=program.device) / 7
        moved = values[site.name] * stretch.reshape(values[site.name].shape).to(values[site.name])
        after = program.linear_gaussian({**values, site.name: moved}).prepared()
        same = ((a, b) for a, b in zip(_rest(before), _rest(after), strict=True))
        if not all(torch.equal(a, b) for a, b in same):
            return None
        parts = [_marks(*m, stretch**power) for m in ((before.noise, after.noise), (before.spread, after.spread))]
        if parts[0] is None or parts[1] is None:
            return None
        constants = _constants(before, parts, values[site.name].reshape(-1).double() ** power)
        if found is None:
            found, first = Entries(*(p for p in parts if p is not None)), constants
        elif not _alike(constants, first) or not torch.equal(found.noise, parts[0]):
            return None
        values = {n: _shifted(v, program.sites[n], shift) if n in program.sites else v for n, v in values.items()}
    return found


def _rest(model: LinearGaussian) -> tuple[Tensor, ...]:
    """All of a chain but the two kinds of covariances."""
    return model.transition, model.offset, model.design, model.value


def _shifted(value: Tensor, site: Site, shift: float) -> Tensor:
    if not value.is_floating_point():
        return value
    to = bijection(site.support, site.name)
    moved: Tensor = to(to.inv(value) + shift)
    return moved


def _marks(before: Tensor, after: Tensor, factors: Tensor) -> Tensor | None:
    """Which diagonal entries (rows, d) are multiplied by which factor, (K, rows, d); None if it is anything else."""
    size = before.abs().amax()
    changed = (after - before).abs() > CLOSE * size
    diagonal = torch.eye(before.shape[-1], dtype=torch.bool, device=before.device)
    if bool((changed & ~diagonal).any()):
        return None
    moved = changed.diagonal(dim1=-2, dim2=-1)
    off = before.masked_fill(diagonal, 0.0).abs().amax(-1) > 0  # entries that are tied to others
    if bool((moved & off).any()):
        return None
    a, b = (m.diagonal(dim1=-2, dim2=-1) for m in (before, after))
    ratio = torch.where(moved, b / torch.where(moved, a, 1.0), 0.0)
    marks = (ratio - factors[:, None, None]).abs() <= CLOSE * factors[:, None, None]
    if not torch.equal(marks.any(0), moved) or bool((marks.sum(0) > 1).any()):
        return None
    return marks.to(before)


def _constants(model: LinearGaussian, marks: Iterable[Tensor | None], variances: Tensor) -> list[Tensor]:
    """What multiplies the unknown's variance in each of its entries."""
    found = []
    for matrix, mark in zip((model.noise, model.spread), marks, strict=True):
        assert mark is not None
        own = (mark * variances[:, None, None]).sum(0)
        found.append(torch.where(own > 0, matrix.diagonal(dim1=-2, dim2=-1) / torch.where(own > 0, own, 1.0), 0.0))
    return found


def _alike(a: Iterable[Tensor], b: Iterable[Tensor]) -> bool:
    return all(torch.allclose(x, y, rtol=1e3 * CLOSE, atol=0.0) for x, y in zip(a, b, strict=True))
