"""Posteriors that are conjugate given a few discrete states that all rows share: mixtures over these states.

Given the states s, let the log joint be

    log p(x, z, s) = k(s) + sum_b <phi_b(z_b), c_b(s)>,

z_b the entries of the latents and phi_b the statistics of a conjugate family (log z and z of a Gamma). Then the latents
are independent given s and data, with posteriors of these families, and p(s | x) is proportional to exp(k(s)) times
their normalizers. k and c are found from values of the log joint, one entry moved at a time, and hold if they give the
log joint where all entries have moved, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from zoo.elimination.eliminate import pack
from zoo.program.program import Program
from zoo.replay.evaluate import Values, many
from zoo.replay.sites import Site

MOST_STATES = 100_000  # of all shared sites together, times the entries of all latents
CHECKS = 4  # values of all entries at which the formula has to hold
SPREAD = 0.7  # how far entries are moved: a factor of two, a standard deviation
ACCURACY = 1e-8  # of the log joint, relative to its size


class Family(NamedTuple):
    """A conjugate family of scalars: statistics, moves of a value, normalizer and posterior of natural parameters."""

    statistics: Callable[[Tensor], tuple[Tensor, Tensor]]
    moved: Callable[[Tensor, Tensor], Tensor]
    normalizer: Callable[[Tensor, Tensor], Tensor]
    posterior: Callable[[Tensor, Tensor], dist.Distribution]


def _gamma(log: Tensor, linear: Tensor) -> Tensor:
    return torch.lgamma(log + 1) - (log + 1) * (-linear).log()


def _normal(linear: Tensor, square: Tensor) -> Tensor:
    return -linear.square() / (4 * square) + 0.5 * (-torch.pi / square).log()


def _beta(yes: Tensor, no: Tensor) -> Tensor:
    return torch.lgamma(yes + 1) + torch.lgamma(no + 1) - torch.lgamma(yes + no + 2)


# Of each support the families to try, in this order.
FAMILIES: dict[str, list[Family]] = {
    "positive": [
        Family(
            lambda v: (v.log(), v),
            lambda v, t: v * t.exp(),
            _gamma,
            lambda a, b: dist.Gamma(a + 1, -b),
        ),
        Family(
            lambda v: (-v.log(), 1 / v),
            lambda v, t: v * t.exp(),
            lambda a, b: torch.lgamma(a - 1) - (a - 1) * (-b).log(),
            lambda a, b: dist.InverseGamma(a - 1, -b),
        ),
    ],
    "real": [
        Family(
            lambda v: (v, v.square()),
            lambda v, t: v + t * v.abs().clamp_min(1.0),
            _normal,
            lambda a, b: dist.Normal(-a / (2 * b), (-0.5 / b).sqrt()),
        )
    ],
    "unit interval": [
        Family(
            lambda v: (v.log(), (-v).log1p()),
            lambda v, t: torch.sigmoid(v.logit() + t),
            _beta,
            lambda a, b: dist.Beta(a + 1, b + 1),
        )
    ],
}


@dataclass(frozen=True)
class GivenStates:
    """The posterior given each combination of states, and of these.

    Attributes
    ----------
    log_joint
        log p(x, s), shape (states of each shared site ...).
    families
        Latent -> its family.
    natural
        Latent -> its two natural parameters, shape (states ..., *shape of the site) each.
    """

    log_joint: Tensor
    families: Mapping[str, Family]
    natural: Mapping[str, tuple[Tensor, Tensor]]

    @property
    def evidence(self) -> Tensor:
        """log p(x)."""
        return self.log_joint.flatten().logsumexp(0)

    @property
    def probabilities(self) -> Tensor:
        """p(s | x), shape (states of each shared site ...)."""
        return self.log_joint.flatten().softmax(0).reshape(self.log_joint.shape)

    def draw(self, count: int) -> tuple[Values, tuple[Tensor, ...]]:
        """Draw latents, and the states they come with as positions, `count` times."""
        at = torch.multinomial(self.probabilities.flatten(), count, replacement=True)
        lead = self.log_joint.ndim
        values: Values = {}
        for name, family in self.families.items():
            a, b = (p.flatten(0, lead - 1)[at] for p in self.natural[name])
            values[name] = family.posterior(a, b).sample()
        return values, torch.unravel_index(at, self.log_joint.shape)


def given_states(program: Program) -> GivenStates | None:
    """Find the posterior given each combination of the shared sites' states; None if it has no such form."""
    sites = [s for s in program.shared if not s.plates]
    entries = sum(int(torch.Size(s.shape).numel()) for s in program.latents)
    states = torch.Size(s.cardinality for s in sites)
    if len(sites) < len(program.enumerated) or program.locals or states.numel() * entries > MOST_STATES:
        return None
    if program.parameters or program.networks or not program.latents or program.integrated is not None:
        return None
    options = [FAMILIES.get(_kind(s), []) for s in program.latents]
    if any(not o for o in options):
        return None
    with torch.no_grad():
        base = program.initial()
        families: dict[str, Family] = {}
        for site, choice in zip(program.latents, options, strict=True):
            found = next((f for f in choice if _fits(program, base, site, f)), None)
            if found is None:
                return None
            families[site.name] = found
        return _solved(program, base, families)


def _kind(site: Site) -> str:
    """Which families a latent may have, by its support."""
    support = site.support
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if support is constraints.positive or support is constraints.nonnegative:
        return "positive"
    if support is constraints.unit_interval:
        return "unit interval"
    return "real" if support is constraints.real else ""


def _by_states(program: Program, values: Values) -> Tensor:
    """log p(x, z, s) for all states s of the shared sites, (states of each ...)."""
    sites = [s for s in program.shared if not s.plates]
    symbols = tuple(s.symbols[s.enum_dim] for s in sites)
    row, weights = program.structure.plates.get(program.row), program.data.weights
    total = torch.zeros([s.cardinality for s in sites], dtype=program.dtype, device=program.device)
    for name, log_prob in program.log_probs(values).items():
        site = program.sites[name]
        factor = pack(log_prob, site.symbols, frozenset())
        tensor = factor.tensor
        if weights is not None and program.row in site.plates:
            shape = [-1 if d == row else 1 for d in factor.dims]
            tensor = tensor * (weights.reshape(shape) if row in factor.dims else weights.sum())
        elif program.row in site.plates and row not in factor.dims:
            tensor = tensor * len(program.data)
        others = [i for i, d in enumerate(factor.dims) if d not in symbols]
        tensor = tensor.sum(others) if others else tensor
        kept = [d for d in factor.dims if d in symbols]
        order = [kept.index(d) for d in symbols if d in kept]
        tensor = tensor.permute(order)[tuple(slice(None) if d in kept else None for d in symbols)]
        total = total + tensor
    return total


def _at(program: Program, base: Values, moves: list[Values]) -> Tensor:
    """The log joint by state at several values, (values, states ...)."""
    stacked = {n: torch.stack([m.get(n, v) for m in moves]) for n, v in base.items()}
    found: Tensor = many(lambda v: _by_states(program, v), stacked, len(moves), 64)
    return found


def _moves(value: Tensor, family: Family) -> list[Tensor]:
    """Each entry of a value moved up, and moved down, one at a time."""
    made = []
    for i in range(value.numel()):
        for t in (SPREAD, -SPREAD):
            at = torch.zeros(value.numel(), dtype=value.dtype, device=value.device)
            at[i] = t
            made.append(torch.where(at.reshape(value.shape) == 0, value, family.moved(value, at.reshape(value.shape))))
    return made


def _coefficients(program: Program, base: Values, site: Site, family: Family) -> tuple[Tensor, Tensor]:
    """Natural parameters of a latent's entries from differences of the log joint, (states ..., *shape) each."""
    value = base[site.name]
    moved = _moves(value, family)
    heights = _at(program, base, [{}, *({site.name: m} for m in moved)])
    states = heights.shape[1:]
    rise = (heights[1:] - heights[:1]).nan_to_num(0.0).reshape(value.numel(), 2, -1)  # (entries, up and down, states)
    before = torch.stack(family.statistics(value), -1).reshape(value.numel(), 1, 2)
    after = torch.stack([torch.stack(family.statistics(m), -1) for m in moved]).reshape(value.numel(), 2, -1, 2)
    entry = torch.arange(value.numel())
    found = torch.linalg.solve(after[entry, :, entry] - before, rise)  # (entries, statistics, states)
    a, b = found.permute(1, 2, 0).reshape(2, *states, *value.shape)
    return a, b


def _fits(program: Program, base: Values, site: Site, family: Family) -> bool:
    """Whether the log joint is linear in the statistics of a latent, its entries moved together."""
    a, b = _coefficients(program, base, site, family)
    value, lead = base[site.name], a.ndim - base[site.name].ndim
    t = torch.linspace(-1.3, 1.7, max(value.numel(), 2), dtype=value.dtype, device=value.device)[: value.numel()]
    moved = family.moved(value, t.reshape(value.shape))
    before, after = _at(program, base, [{}, {site.name: moved}])
    gains = [s2 - s1 for s1, s2 in zip(family.statistics(value), family.statistics(moved), strict=True)]
    gain = _over_entries(a * gains[0] + b * gains[1], lead)
    return _same(before + gain, after)


def _over_entries(terms: Tensor, lead: int) -> Tensor:
    """Sum over all dimensions but those of the states, the first ones."""
    return terms.reshape(*terms.shape[:lead], -1).sum(-1)


def _same(mine: Tensor, own: Tensor) -> bool:
    return bool(((mine - own).abs() <= ACCURACY * (1 + own.abs())).logical_or(mine == own).all())


def _solved(program: Program, base: Values, families: Mapping[str, Family]) -> GivenStates | None:
    """All latents together: the formula at values where all have moved, and the normalizers."""
    natural = {s.name: _coefficients(program, base, s, families[s.name]) for s in program.latents}
    height = _at(program, base, [{}])[0]
    lead = height.ndim

    def explained(values: Values) -> Tensor:
        total = torch.zeros_like(height)
        for name, family in families.items():
            first, second = family.statistics(values[name])
            a, b = natural[name]
            total = total + _over_entries(a * first + b * second, lead)
        return total

    constant = height - explained(base)
    for step in range(CHECKS):
        t = torch.tensor(1.5 * SPREAD * (-1) ** step / (1 + step), dtype=program.dtype, device=program.device)
        moved = {n: f.moved(base[n], t * (1 + 0.3 * i)) for i, (n, f) in enumerate(families.items())}
        if not _same(constant + explained(moved), _at(program, base, [moved])[0]):
            return None
    total = constant
    for name, family in families.items():
        z = _over_entries(family.normalizer(*natural[name]), lead)
        total = total + torch.where(height.isneginf(), 0.0, z)
    return GivenStates(total, families, natural) if bool((total.isfinite() | height.isneginf()).all()) else None
