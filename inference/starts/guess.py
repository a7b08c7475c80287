"""A first guess of the enumerated sites, and what the other unknowns are if it is right."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from inference.conjugate import EStep, closed_form
from zoo.data.missing import missing_features
from zoo.initial import kmeans
from zoo.program.program import Program
from zoo.replay.evaluate import Values
from zoo.replay.masked import IMPOSSIBLE
from zoo.replay.sites import Site

DOUBT = 0.1  # of the weight of a row, which a guess spreads evenly over all states


def first_marginals(program: Program, proposed: Values, *, random: bool = False) -> Values | None:
    """Guess which state each row is in: by k-means++ on the rows, or at random.

    A symmetric start (every component alike) is a stationary point of EM, so models without an `initial` method
    start from a clustering of their rows. States that are not one per row can be guessed at random only, which is done
    where they are declared alike.

    Parameters
    ----------
    program
        The program.
    proposed
        Values that the model proposes.
    random
        Guess at random.

    Returns
    -------
    dict
        Posterior weight of each entry of each site's log density, in its layout, if the guess is the posterior of the
        enumerated sites; None where there is nothing to guess.
    """
    # The model's proposal may be a clustering, which is not made twice. Where values are from its prior others are
    # drawn: a seed keeps the start that it has had since version 0.1.0.
    values = proposed if program.proposes else program.initial()
    random = random or (len(program.assigned) < len(program.enumerated) and _alike(program, values))
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
        labels = _one_guess(program, site, cells, random=random)
        if site.name in known and site in program.assigned:
            labels = _named(labels, log_factors[known[site.name]].reshape(site.cardinality, -1))
        guess = _soft(labels, site.cardinality).to(factor)  # (states, *cells)
        # In the layout of the factor: states and cells along their own dimensions, 1 along all others.
        shape = [1] * factor.ndim
        for dim, size in zip((site.enum_dim, *home.plate_dims), guess.shape, strict=True):
            shape[factor.ndim + dim] = size
        log_factors[home.name] = factor + guess.log().reshape(shape) / home.entries
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


def _one_guess(program: Program, site: Site, cells: list[int], *, random: bool) -> Tensor:
    """A state for each cell, shape (*cells)."""
    states = site.cardinality
    if random and site in program.assigned:
        return near_random_rows(program.data.features(), states)
    if random:
        return torch.randint(states, cells, device=program.device)
    return kmeans(program.data.features(), states, missing=missing_features(program.data))


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
    """One closed-form update of every block from a guess of the enumerated sites."""
    plan = closed_form(program)
    with torch.no_grad():
        expected = EStep(plan, program, values, program.replay(values), marginals)
        expected.complete(guess=True)
        for block in plan.blocks:
            values = {**values, **block.maximize(expected.at(values))}
    return values
