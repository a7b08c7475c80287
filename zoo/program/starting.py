"""Starting values of a program: checks of what a model proposes, the middle of the prior, and the density there."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from zoo.data.data import Data
from zoo.errors import DataError, ModelError
from zoo.program.terms import Terms
from zoo.replay.bijections import bijection
from zoo.replay.evaluate import Replay, Values
from zoo.replay.gaussian_chain import LinearGaussianChain, defects
from zoo.replay.masked import IMPOSSIBLE
from zoo.replay.sites import Site, base_distribution, check_arguments, check_support

DOUBLINGS = 40  # of latent counts, at most
CLIMB = 100  # steps, at most, of what has a flat prior
BOUNDED = ("Binomial", "BetaBinomial", "Uniform", "Pareto")  # whose arguments say where their values end


def check_proposal(owner: str, proposed: Any, sites: Mapping[str, Site], shape_of: Callable[[Site], Any]) -> Values:
    """Return what a model's `initial` proposes if it is a dict from sites to tensors that can be their values.

    Parameters
    ----------
    owner
        How the method is called in errors.
    proposed
        What it returned.
    sites
        The program's sites.
    shape_of
        Shape that the value of a site must have.

    Raises
    ------
    ModelError
        Naming the site, and what is wrong with its value.
    """
    if not isinstance(proposed, Mapping) or not all(isinstance(v, Tensor) for v in proposed.values()):
        raise ModelError(f"{owner} must return a dict from site or parameter to tensor, not {proposed!r}")
    known = {n: s for n, s in sites.items() if s.latent or s.role == "parameter"}
    for name, value in proposed.items():
        site = known.get(name)
        if site is None:
            names = sorted(known, key=lambda n: known[n].role == "parameter")  # latents first
            raise ModelError(
                f"{owner} proposes {name!r}, which is no latent site or parameter; there are {', '.join(names)}"
            )
        expected = shape_of(site)
        if tuple(value.shape) != expected:
            raise ModelError(f"{owner}: {name!r} must have shape {expected}, not {tuple(value.shape)}")
        if not bool(site.support.check(value).all()):
            raise ModelError(f"{owner}: {name!r} is outside its support {site.support}")
    return dict(proposed)


def _check_labels(name: str, log_evidence: Tensor, site: Site) -> None:
    """Raise if a label that was seen is no state of its site."""
    lost = (log_evidence <= IMPOSSIBLE).all(log_evidence.ndim + site.enum_dim)
    if bool(lost.any()):
        raise DataError(
            f"site {name!r}: {int(lost.sum())} observed values are no state of its {site.family}; correct the data or "
            "give the site more states"
        )


def middle(draws: Tensor, site: Site) -> Tensor:
    """Return the median of prior draws where the support is an interval, their mean where it is a convex set.

    Medians exist for heavy tails (Cauchy), but entry by entry they leave a simplex or the positive definite matrices.
    """
    base = site.support.base_constraint if isinstance(site.support, constraints.independent) else site.support
    if site.event_dim == 0 or base.event_dim == 0 or base is constraints.real_vector:
        return draws.median(0).values
    return draws.mean(0)


def origin(site: Site, shape: Sequence[int]) -> Tensor:
    """Return the value of a site at the origin of its unconstrained space: 0 for a real, 1 for a positive number."""
    transform = bijection(site.support, site.name)
    value: Tensor = transform(torch.zeros(transform.inverse_shape(torch.Size(shape))))
    return value


def climbed(values: Values, sites: Sequence[Site], height: Callable[[Values], Tensor]) -> Values:
    """Return values of `sites` uphill from where they are, the others as they are: where the data, and no prior, say.

    Parameters
    ----------
    values
        Values of everything.
    sites
        Latents with a flat prior, whose middle there is none of; nothing is done for none.
    height
        Log joint density.

    Returns
    -------
    dict
        What the climb came to; where they were if the density there is no number.
    """
    if not sites:
        return {}
    to = {s.name: bijection(s.support, s.name) for s in sites}
    start = {n: t.inv(values[n]).detach() for n, t in to.items()}
    leaves = {n: u.clone().requires_grad_() for n, u in start.items()}
    optimizer = torch.optim.LBFGS(list(leaves.values()), max_iter=CLIMB, line_search_fn="strong_wolfe")
    with torch.no_grad():
        scale = 1.0 / max(1.0, abs(float(height(values))))  # the first step is as long as the gradient

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = -scale * height({**values, **{n: to[n](u) for n, u in leaves.items()}})
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    found = {n: to[n](u.detach()) for n, u in leaves.items()}
    with torch.no_grad():
        before, after = float(height(values)), float(height({**values, **found}))
    return found if after > before else {}


def raised(values: Values, axes: Mapping[str, int | None], joint: Callable[[Values], Terms]) -> Values:
    """Return latent counts raised, row by row, until what is observed of them is possible.

    Parameters
    ----------
    values
        Values of everything.
    axes
        Latents that are counts, and the dimension of the rows in each; None in one of all rows.
    joint
        Log joint density.

    Returns
    -------
    dict
        Counts that make the density a number; empty if it is one, or none do.
    """
    found: Values = {}
    for _ in range(DOUBLINGS if axes else 0):
        terms = joint({**values, **found})
        if bool(terms.total().isfinite()):
            return found
        lost = ~terms.rows.isfinite()
        for name, axis in axes.items():
            value = found.get(name, values[name])
            where = lost.any() if axis is None else lost.reshape([-1 if d == axis else 1 for d in range(value.ndim)])
            found[name] = torch.where(where, 2 * value + 1, value)
    return {}


def check_observed(sites: Sequence[Site], data: Data) -> None:
    """Raise if a value of a field is outside the support of the site that observes it, whatever the latents are.

    Raises
    ------
    DataError
        Naming the site.
    """
    for site in sites:
        moving = any(parent.sites for parent in site.args.values())
        if site.field in data.values and not (moving and site.family in BOUNDED):
            check_support(site.name, site.family, site.support, data.values[site.field], data.missing.get(site.field))


def check_densities(replay: Replay, sites: Mapping[str, Site], eliminate: Callable[[Values], Terms]) -> None:
    """Raise if a site's log density in a run of the model is not a finite number, naming the site.

    Raises
    ------
    ModelError
        If an argument is outside its bounds, or a log density is NaN or infinite.
    DataError
        If an observed value is outside the support of its distribution.
    """
    for name, fn in replay.distributions.items():
        check_arguments(name, fn)
        chain = base_distribution(fn)
        if isinstance(chain, LinearGaussianChain) and (what := defects(chain)):
            raise ModelError(f"site {name!r}: its {what} at the starting values; make it of a factor, L @ L.mT")
    for name, log_prob in replay.log_probs.items():
        site = sites[name]
        if name in replay.labelled:
            _check_labels(name, log_prob, site)
            continue
        moving = any(sites[n].latent for parent in site.args.values() for n in parent.sites if n in sites)
        if site.role == "observed" and name in replay.seen and not (moving and site.family in BOUNDED):
            check_support(name, site.family, replay.distributions[name].support, replay.seen[name])
        if bool(log_prob.isnan().any()):
            raise ModelError(
                f"site {name!r}: log density is NaN at the starting values; look for a division by zero or a log "
                f"of a negative number in its arguments ({', '.join(f'{k}: {v}' for k, v in site.args.items())})"
            )
    total = eliminate(replay.log_probs).total()
    if not bool(total.isfinite()):
        bad = [n for n, v in replay.log_probs.items() if not bool(v.isfinite().all())]
        pole = bool(bad) and bool((replay.log_probs[bad[0]] == math.inf).any())
        what = "at a pole of its density" if pole else "impossible under its distribution"
        where = f"site {bad[0]!r}, whose value is {what} there" if bad else "no single site"
        raise ModelError(
            f"the log density is {float(total)} at the starting values, because of {where}. Give better starting "
            "values with an `initial` method, or correct the model or the data"
        )
