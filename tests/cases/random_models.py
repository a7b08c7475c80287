"""Random models: strategies of hypothesis that declare them, and their densities by loops over states and rows.

The loops use distributions of torch and nothing of the library or of Pyro's handlers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from hypothesis import strategies as st
from torch import Tensor

import zoo
from zoo import Binary, Category, Count, Real

Env = Mapping[str, Any]


@dataclass(frozen=True)
class Argument:
    """An argument of a distribution: how it is worked out of what is above it, and what that is."""

    text: str
    value: Callable[[Env], Tensor]

    def __repr__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Site:
    """A site: its name, kind, states (of a discrete latent), distribution and plate ("", "group" or "row")."""

    name: str
    kind: str
    states: int
    family: str
    args: tuple[Argument, ...]
    plate: str
    observed: bool = False

    def law(self, env: Env) -> Any:
        args = [a.value(env) for a in self.args]
        if self.kind == "vector":
            return getattr(dist, self.family)(args[0], args[1][..., None]).to_event(1)
        return getattr(dist, self.family)(*args)

    def __repr__(self) -> str:
        inside = f" in {self.plate}" if self.plate else ""
        return f"{self.name} ~ {self.family}({', '.join(map(str, self.args))}){inside}"


@dataclass(frozen=True)
class Story:
    """Sites in their order, rows, groups, and data."""

    sites: tuple[Site, ...]
    data: dict[str, np.ndarray] = field(compare=False)
    weights: tuple[int, ...] | None = None

    @property
    def rows(self) -> int:
        return len(self.data["g"])

    def model(self) -> zoo.Model:
        kinds = {"real": Real, "vector": Real, "count": Count, "unit": Binary, "state": Category}
        fields = {
            s.name: kinds[s.kind](*(("row", "feature") if s.kind == "vector" else ("row",)))
            for s in self.sites
            if s.observed
        }
        sites, groups = self.sites, GROUPS

        def forward(model: Any, **data: Tensor) -> None:
            env: dict[str, Any] = dict(data)
            plates = {"group": pyro.plate("group", groups), "row": pyro.plate("row", len(data["g"]))}
            for site in sites:

                def draw(site: Site = site) -> None:
                    observed = data[site.name] if site.observed else None
                    env[site.name] = pyro.sample(site.name, site.law(env), obs=observed)

                if site.plate:
                    with plates[site.plate]:
                        draw()
                else:
                    draw()

        body = {"__doc__": "Random.", "__module__": __name__, "forward": forward, "g": Category("row"), **fields}
        made: Any = type(zoo.Model)("Random", (zoo.Model,), body)
        return made()

    # -- by loops ----------------------------------------------------------------------------------------------

    def _joint(self, env: dict[str, Any], site: Site, cell: Mapping[str, Any]) -> float:
        """Log density of one cell of a site; 0 where it is missing."""
        value = torch.as_tensor(cell[site.name]).double()
        law = site.law({**env, **cell})
        if site.kind == "vector":
            law = law.base_dist
        seen = ~value.isnan()
        if seen.all():
            return float(law.log_prob(value).sum())
        if not seen.any():
            return 0.0
        terms = law.log_prob(torch.where(seen, value, torch.ones_like(value)))
        return float(torch.where(seen, terms, torch.zeros_like(terms)).sum())

    def log_joint(self, values: Mapping[str, Tensor]) -> tuple[float, dict[str, np.ndarray]]:
        """Log density at these values of all but discrete latents, which are summed out; and their probabilities."""
        shared = [s for s in self.sites if s.kind == "state" and not s.observed and s.plate == ""]
        own = [s for s in self.sites if s.kind == "state" and not s.observed and s.plate == "row"]
        weights = self.weights or (1,) * self.rows
        totals, posteriors = [], []
        for states in itertools.product(*(range(s.states) for s in shared)):
            env: dict[str, Any] = {**values, **{s.name: torch.tensor(k) for s, k in zip(shared, states, strict=True)}}
            total = 0.0
            for site in self.sites:
                if site.plate == "":
                    total += self._joint(env, site, {site.name: env[site.name]})
                elif site.plate == "group":
                    total += sum(self._joint(env, site, {site.name: env[site.name][i]}) for i in range(GROUPS))
            by_row = []
            for i in range(self.rows):
                row = {s.name: torch.as_tensor(self.data[s.name][i]) for s in self.sites if s.observed}
                row["g"] = torch.tensor(int(self.data["g"][i]))
                row |= {s.name: values[s.name][i] for s in self.sites if s.plate == "row" and s.name in values}
                terms = []
                for local in itertools.product(*(range(s.states) for s in own)):
                    cell = row | {s.name: torch.tensor(k) for s, k in zip(own, local, strict=True)}
                    terms.append(sum(self._joint(env, s, cell) for s in self.sites if s.plate == "row"))
                height = float(torch.tensor(terms, dtype=torch.float64).logsumexp(0))
                total += weights[i] * height
                by_row.append(np.exp(np.array(terms) - height).reshape([s.states for s in own] or [1]))
            totals.append(total)
            posteriors.append(by_row)
        every = torch.tensor(totals, dtype=torch.float64)
        share = (every - every.logsumexp(0)).exp().numpy()
        found = {}
        for axis, s in enumerate(own):
            others = tuple(a for a in range(len(own)) if a != axis)
            rows = [[p[i].sum(others) for p in posteriors] for i in range(self.rows)]
            found[s.name] = np.stack([sum(w * p for w, p in zip(share, row, strict=True)) for row in rows])
        return float(every.logsumexp(0)), found


GROUPS = 2
FEATURES = 2
numbers = st.integers(-20, 20).map(lambda i: i / 8)
positives = st.integers(1, 16).map(lambda i: i / 4)
units = st.integers(1, 15).map(lambda i: i / 16)


def _of(values: list[Any]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _simplex(draw: Any, size: int) -> Tensor:
    parts = _of([draw(positives) for _ in range(size)])
    return parts / parts.sum()


def _argument(draw: Any, kind: str, above: list[Site], plate: str, size: int = 0) -> Argument:
    """Draw an argument: a number, a site, an affine function of one, an entry of a table at a state, or both."""
    # What is observed may be missing, and would be one more latent where another site reads it.
    usable = [s for s in above if not s.observed and s.plate in ("", plate, *(["group"] if plate == "row" else []))]

    def entry(site: Site) -> Callable[[Env], Any]:
        if site.plate == "group" and plate == "row":
            return lambda env: env[site.name][..., env["g"].long()]
        return lambda env: env[site.name]

    def number() -> Argument:
        value = {
            "real": lambda: _of(draw(numbers)),
            "positive": lambda: _of(draw(positives)),
            "unit": lambda: _of(draw(units)),
            "simplex": lambda: _simplex(draw, size),
            "vector": lambda: _of([draw(numbers) for _ in range(FEATURES)]),
        }[kind]()
        return Argument(str(value.tolist()), lambda env: value)

    def site() -> Argument:
        one = draw(st.sampled_from([s for s in usable if s.kind == kind and (kind != "simplex" or s.states == size)]))
        at = entry(one)
        if kind != "real":
            return Argument(one.name, at)
        scale, shift = draw(numbers), draw(numbers)
        return Argument(f"{shift} + {scale} {one.name}", lambda env: shift + scale * at(env))

    def table() -> Argument:
        one = draw(st.sampled_from([s for s in usable if s.kind == "state"]))
        rows = torch.stack([number().value({}) for _ in range(one.states)])
        at = entry(one)
        return Argument(f"{rows.tolist()}[{one.name}]", lambda env: rows[at(env).long()])

    def both() -> Argument:
        one, other = site(), table()
        name = "+" if kind in ("real", "vector") else "*"
        join = torch.add if kind in ("real", "vector") else torch.mul
        return Argument(f"({one} {name} {other})", lambda env: join(one.value(env), other.value(env)))

    chosen = [number]
    has = any(s.kind == kind and (kind != "simplex" or s.states == size) for s in usable)
    states = any(s.kind == "state" for s in usable)
    chosen += [site] * (2 * has) + [table] * (2 * states) + [both] * (has and states and kind in ("real", "positive"))
    return draw(st.sampled_from(chosen))()


PRIORS = {
    "real": (("Normal", "real", "positive"), ("Laplace", "real", "positive"), ("Gumbel", "real", "positive")),
    "positive": (("Gamma", "positive", "positive"), ("LogNormal", "real", "positive"), ("HalfNormal", "positive"),
                 ("InverseGamma", "positive", "positive"), ("Exponential", "positive")),
    "unit": (("Beta", "positive", "positive"),),
    "simplex": (("Dirichlet", "simplex"),),
    "state": (("Categorical", "simplex"), ("Bernoulli", "unit")),
}  # fmt: skip
LIKELIHOODS = {
    "real": (("Normal", "real", "positive"), ("Laplace", "real", "positive"),
             ("StudentT", "positive", "real", "positive"), ("Cauchy", "real", "positive")),
    "vector": (("Normal", "vector", "positive"), ("Laplace", "vector", "positive")),
    "count": (("Poisson", "positive"), ("Geometric", "unit"), ("NegativeBinomial", "positive", "unit")),
    "unit": (("Bernoulli", "unit"),),
    "state": (("Categorical", "simplex"),),
}  # fmt: skip


@st.composite
def stories(draw: Any, *, continuous: bool = True, conjugate: bool = False) -> Story:
    """Draw a model and a few rows for it, with missing cells and weights.

    If `conjugate`, priors of globals are those of exponential families at numbers, and so are likelihoods' scales.
    """
    sites: list[Site] = []
    kinds = ["real", "positive", "unit", "simplex", "state", "state"] if continuous else ["state"]
    which = 1 if conjugate else None

    def add(name: str, plate: str, choices: list[str]) -> None:
        kind = draw(st.sampled_from(choices))
        family, *of = draw(st.sampled_from(PRIORS[kind][: None if kind == "state" else which]))
        states = 2 if family == "Bernoulli" else draw(st.integers(2, 3))
        above = [] if conjugate and kind != "state" else sites
        args = tuple(_argument(draw, k, above, plate, states) for k in of)
        sites.append(Site(name, kind, states if kind in ("state", "simplex") else 0, family, args, plate))

    for i in range(draw(st.integers(0, 3))):
        add(f"a{i}", "", kinds)
    for i in range(draw(st.integers(0, 1)) if continuous else 0):
        add(f"b{i}", "group", ["real", "positive", "unit"])
    for i in range(draw(st.integers(0, 2))):
        add(f"c{i}", "row", ["state", "state", "real"] if continuous else ["state"])
    rows = draw(st.integers(2, 4))
    data: dict[str, Any] = {"g": np.array([0, 1, *(draw(st.integers(0, GROUPS - 1)) for _ in range(rows - 2))])}
    for i in range(draw(st.integers(1, 2))):
        kind = draw(st.sampled_from(list(LIKELIHOODS)))
        family, *of = draw(st.sampled_from(LIKELIHOODS[kind][:which]))
        scale = conjugate and family == "Normal"  # at a number
        args = tuple(_argument(draw, k, [] if scale and i else sites, "row", 3) for i, k in enumerate(of))
        sites.append(Site(f"x{i}", kind, 3, family, args, "row", observed=True))
        data[f"x{i}"] = _observed(draw, kind, rows)
    weights = draw(st.none() | st.tuples(*[st.integers(1, 3)] * rows))
    return Story(tuple(sites), data, weights)


def _observed(draw: Any, kind: str, rows: int) -> np.ndarray:
    if kind in ("real", "vector"):
        width = FEATURES if kind == "vector" else 1
        # The first row is whole, so that no column is empty.
        cells = [[draw(numbers if i == 0 else st.just(math.nan) | numbers) for _ in range(width)] for i in range(rows)]
        return np.array(cells) if kind == "vector" else np.array(cells)[:, 0]
    if kind == "state":  # all levels are there
        return np.array([draw(st.permutations(range(3)))[i % 3] if i > 2 else i for i in range(max(rows, 1))])
    return np.array([draw(st.integers(0, 1 if kind == "unit" else 6)) for _ in range(rows)])
