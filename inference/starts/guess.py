"""A first guess of the enumerated sites, and what the other unknowns are if it is right."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from inference.conjugate import EStep, closed_form
from inference.starts.fed import columns_fed, covariates, labels_by_lines, smooth
from zoo.initial import kmeans
from zoo.program.program import Program
from zoo.replay.evaluate import Values
from zoo.replay.masked import IMPOSSIBLE
from zoo.replay.sites import Site

SETTLED, SMALL = 20, 1e-3  # updates from a guess at most, and the relative change at which they have settled
ALIKE = 0.05  # relative difference of the rows that two states hold, below which they are alike
RISING = 10  # steps of EM after which guesses are compared
HELD = 1e-3  # rows in effect below which a state holds none
DOUBT = 0.1  # of the weight of a row, which a guess spreads evenly over all states

Guess = Literal["kmeans", "lines", "smooth", "random"]


def guesses(program: Program) -> list[Guess]:
    """How states are guessed where several guesses are tried, the one that is mostly good first."""
    kinds: list[Guess] = ["kmeans"]
    if any(covariates(program, site) for site in program.assigned):
        kinds += ["lines", "lines"]
    if program.chains:
        kinds += ["smooth"]
    return [*kinds, "kmeans", "random", "random"]


def first_marginals(program: Program, proposed: Values, kind: Guess = "kmeans") -> Values | None:
    """Guess which state each row is in: by k-means++ on what the state feeds, or at random.

    A symmetric start (every component alike) is a stationary point of EM, so models without an `initial` method
    start from a clustering of their rows. States that are not one per row can be guessed at random only, which is done
    where they are declared alike.

    Parameters
    ----------
    program
        The program.
    proposed
        Values that the model proposes.
    kind
        "kmeans" on what a state feeds, by "lines" where that depends on covariates, "smooth" along a chain, "random".

    Returns
    -------
    dict
        Posterior weight of each entry of each site's log density, in its layout, if the guess is the posterior of the
        enumerated sites; None where there is nothing to guess.
    """
    # The model's proposal may be a clustering, which is not made twice. Where values are from its prior others are
    # drawn: a seed keeps the start that it has had since version 0.1.0.
    values = proposed if program.proposes else program.initial()
    random = kind == "random" or (len(program.assigned) < len(program.enumerated) and _alike(program, values))
    if not program.enumerated or not (random or len(program.assigned) == len(program.enumerated)):
        return None
    known = {p.index[0]: s.name for s in program.observed if s.family == "Evidence" for p in s.args.values()}
    densities = program.log_probs(values)
    log_factors = {n: v if n in known.values() else torch.zeros_like(v) for n, v in densities.items()}
    for site in program.enumerated:
        home = _home(program, log_factors, site)
        if home is None or site.cardinality == 1:
            continue
        factor = log_factors[home.name]
        cells = [factor.shape[factor.ndim + d] for d in home.plate_dims]
        labels = _one_guess(program, site, cells, "random" if random else kind)
        if site.name in known and site in program.assigned:
            labels = _named(labels, log_factors[known[site.name]].reshape(site.cardinality, -1))
        _write(log_factors, home, site, _soft(labels, site.cardinality))
    _, marginals = program.marginals(log_factors)
    return marginals


@dataclass(frozen=True)
class _Home:
    """The log factor that a guess of an enumerated site is written into.

    Attributes
    ----------
    name
        Of its site.
    plate_dims
        Dimensions, from the right, along which the guess differs.
    entries
        How many entries of the factor share it.
    """

    name: str
    plate_dims: tuple[int, ...]
    entries: int = 1


def _home(program: Program, log_factors: Values, site: Site) -> _Home | None:
    """Return the factor for a guess of a site: its own where states are not one per row; None where there is none."""
    if site not in program.assigned:
        return _Home(site.name, site.plate_dims)
    # A chain's own factor is a table of its moves: what the guess says of rows goes with a site that depends on them.
    name = next((n for n, v in log_factors.items() if _has_states(program, n, v, site)), None)
    if name is None:
        return None
    other = program.sites[name]
    # Several entries of a row (plates of items inside it) share the guess.
    entries = log_factors[name].numel() // (site.cardinality * len(program.data))
    return _Home(name, (other.plate_dims[other.plates.index(program.row)],), entries)


def _write(log_factors: Values, home: _Home, site: Site, guess: Tensor) -> None:
    """Multiply the factor of a site by a guess, shape (states, *cells)."""
    factor = log_factors[home.name]
    # In the layout of the factor: states and cells along their own dimensions, 1 along all others.
    shape = [1] * factor.ndim
    for dim, size in zip((site.enum_dim, *home.plate_dims), guess.shape, strict=True):
        shape[factor.ndim + dim] = size
    log_factors[home.name] = factor + guess.to(factor).log().reshape(shape) / home.entries


def _one_guess(program: Program, site: Site, cells: list[int], kind: Guess, *, states: int | None = None) -> Tensor:
    """A state for each cell, shape (*cells), of all its states or of so many."""
    states = site.cardinality if states is None else states
    if kind == "random" and site not in program.assigned:
        return torch.randint(states, cells, device=program.device)
    if kind == "lines" and covariates(program, site):
        return labels_by_lines(program, site, states)
    fed = columns_fed(program, site)
    if kind == "random":
        return near_random_rows(fed.x, states)
    if kind == "smooth" and site.name in program.chains:
        fed = smooth(fed)
    return kmeans(fed.x, states, missing=fed.missing)


def _soft(labels: Tensor, states: int) -> Tensor:
    """Probabilities of the states of each cell, shape (states, *cells): nearly all on one of them."""
    soft = torch.full((states, *labels.shape), DOUBT / states, dtype=torch.float64, device=labels.device)
    return soft.scatter_(0, labels[None], 1 - DOUBT + DOUBT / states)


def _named(labels: Tensor, log_evidence: Tensor) -> Tensor:
    """Name clusters by the states that were seen in their rows, as many as possible rightly.

    Parameters
    ----------
    labels
        Cluster of each row, shape (rows,).
    log_evidence
        0 for the states that a row may be in, else far below, shape (states, rows).
    """
    possible = log_evidence > IMPOSSIBLE / 2
    seen = possible.sum(0) == 1
    states = len(log_evidence)
    pairs = labels[seen] * states + possible[:, seen].to(torch.uint8).argmax(0)
    counts = pairs.bincount(minlength=states * states).reshape(states, states)
    from scipy.optimize import linear_sum_assignment  # it takes long to import

    _, names = linear_sum_assignment(counts.cpu().numpy(), maximize=True)
    return torch.as_tensor(names, device=labels.device)[labels]


def near_random_rows(x: Tensor, states: int) -> Tensor:
    """Label each row by the nearest of a few rows drawn at random, columns standardized (Forgy 1965).

    Labels drawn for each row make components that are nearly alike, which EM takes for one and the same.

    Parameters
    ----------
    x
        Rows, shape (rows, columns).
    states
        How many rows to draw.

    Returns
    -------
    Tensor
        Labels, shape (rows,).
    """
    gaps = x - x.mean(0)
    scale = gaps.std(0, correction=0)
    gaps = gaps / torch.where(scale > 0, scale, torch.ones_like(scale))
    return torch.cdist(gaps, gaps[torch.randperm(len(x), device=x.device)[:states]]).argmin(1)


def _alike(program: Program, values: Values) -> bool:
    """Whether at these values every state explains the data as every other does."""
    indexed = {(p.sites[0], len(p.index)) for s in program.observed for p in s.args.values() if p.index and p.sites}
    tables = [values[n].flatten(0, count - 1) for n, count in indexed if values[n].ndim >= count]  # (states, ...)
    return bool(tables) and all(bool((t == t[:1]).all()) for t in tables)


def _has_states(program: Program, name: str, factor: Tensor, site: Site) -> bool:
    """Whether a log factor has a dimension of the states of a site, and one of rows."""
    home = program.sites[name]
    if program.row not in home.plates or (program.chains and name == site.name):
        return False
    at, row = factor.ndim + site.enum_dim, factor.ndim + home.plate_dims[home.plates.index(program.row)]
    states = at >= 0 and factor.shape[at] == site.cardinality
    return states and (name == site.name or (row >= 0 and factor.shape[row] == len(program.data)))


def first_update(program: Program, values: Values, marginals: Values) -> Values:
    """Closed-form updates of every block from a guess of the enumerated sites, until they have settled.

    Where unknowns have priors one update is not enough: a location is next to its prior's as long as the scale is what
    the prior has for it.
    """
    plan = closed_form(program)
    with torch.no_grad():
        for _ in range(SETTLED if program.globals else 1):
            before = values
            expected = EStep(plan, program, values, program.replay(values), marginals)
            expected.complete(guess=True)
            for block in plan.blocks:
                values = {**values, **block.maximize(expected.at(values))}
            if all(bool(torch.isclose(values[n], before[n], rtol=SMALL, atol=0.0).all()) for n in before):
                break
    return values


def risen(program: Program, values: Values) -> tuple[float, Values]:
    """Return how high a few steps of EM lead from some values, and where; locals, and what has no closed form, stay.

    Points of locals and of the scale of these would climb to where that scale is zero.
    """
    plan = closed_form(program)
    steps = 0 if program.locals else RISING
    height = -math.inf
    with torch.no_grad():
        for step in range(steps + 1):
            replay = program.replay(values)
            terms, marginals = program.marginals(replay.log_probs)
            now = float(terms.total(program.data.weights))
            if not now >= height:
                break
            height, best = now, values
            if step == steps:
                break
            expected = EStep(plan, program, values, replay, marginals)
            expected.complete()
            for block in plan.blocks:
                values = {**values, **block.maximize(expected.at(values))}
    return height, best if height > -math.inf else values


def split_states(program: Program, values: Values, improve: Callable[[Values, Values], Values]) -> list[Values]:
    """Values at which states that explain the rows alike are told apart; none where there are no such states.

    Two states that are alike stay so in every step of EM and CAVI, whatever could be gained: a saddle, or a mixture
    with fewer components. The rows that they hold are divided between them, by k-means++ and around random rows.

    Parameters
    ----------
    program
        The program.
    values
        Where a climb has ended.
    improve
        What follows the updates that have a closed form: steps of what has none, given marginals.
    """
    with torch.no_grad():
        densities = program.log_probs(values)
        _, marginals = program.marginals(densities)
        found = {site.name: _alike_states(program, marginals, site) for site in program.assigned}
        starts = []
        kinds: tuple[Guess, ...] = ("kmeans", "random")
        for kind in kinds if any(found.values()) else ():
            log_factors = dict(densities)
            for site in program.assigned:
                home = _home(program, log_factors, site)
                for states in found[site.name] if home is not None else ():
                    assert home is not None
                    labels = _one_guess(program, site, [len(program.data)], kind, states=len(states))
                    guess = torch.ones(site.cardinality, len(program.data), dtype=torch.float64, device=program.device)
                    guess[states] = len(states) * _soft(labels, len(states))
                    _write(log_factors, home, site, guess)
            _, marginals = program.marginals(log_factors)
            starts.append((first_update(program, values, marginals), marginals))
    return [improve(start, marginals) for start, marginals in starts]


def alike_states(program: Program, values: Values) -> bool:
    """Whether at these values some states, one for each row, explain every row alike."""
    with torch.no_grad():
        _, marginals = program.marginals(program.log_probs(values))
        return any(_alike_states(program, marginals, site) for site in program.assigned)


def _alike_states(program: Program, marginals: Values, site: Site) -> list[list[int]]:
    """Groups of states of a site, of which each row is in any with the same odds as all others are."""
    shares = program.states_of(marginals, site)  # (rows, states)
    sizes = shares.sum(0)
    shares = shares / sizes.clamp_min(torch.finfo(shares.dtype).tiny)
    groups: list[list[int]] = []
    for k in (sizes > HELD).nonzero().flatten().tolist():
        gap = [float((shares[:, k] - shares[:, g[0]]).abs().max() / shares[:, k].max()) for g in groups]
        at = next((i for i, g in enumerate(gap) if g < ALIKE), None)
        if at is None:
            groups.append([k])
        else:
            groups[at].append(k)
    return [g for g in groups if len(g) > 1]
