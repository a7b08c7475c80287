"""What a discrete latent feeds, as columns in which its states are clusters: what k-means looks at."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import constraints

from inference.starts.clusterwise import clusterwise
from zoo.data.missing import missing_features
from zoo.program.program import Program
from zoo.replay.bijections import lowest_count
from zoo.replay.sites import Site

NEIGHBOURS = 5  # rows along a chain that are averaged


@dataclass(frozen=True)
class Columns:
    """Columns to be clustered.

    Attributes
    ----------
    x
        Shape (rows, columns), finite.
    missing
        True where a cell is missing, in the shape of x; None if none is.
    """

    x: Tensor
    missing: Tensor | None = None


def columns_fed(program: Program, state: Site) -> Columns:
    """Return the fields that a state feeds, side by side, in units in which clusters of one spread are alike.

    Square roots of counts and logarithms of positive numbers have about the same spread wherever they are; categories
    have a column each. Where no such field has an entry for each row, all fields are taken as they are.
    """
    data = program.data
    found, missing = [], []
    for site in sites_fed(program, state):
        for name in _fields(program, site):
            x = _columns(program, site, name)
            gone = data.missing.get(name)
            gone = torch.zeros_like(data.values[name], dtype=torch.bool) if gone is None else gone
            gone = gone.reshape(len(data), -1)
            found.append(x)
            missing.append(gone.repeat_interleave(x.shape[1] // gone.shape[1], 1))
    if not found:
        return Columns(data.features(), missing_features(data))
    gone = torch.cat(missing, -1)
    return Columns(torch.cat(found, -1), gone if bool(gone.any()) else None)


def sites_fed(program: Program, state: Site) -> list[Site]:
    """Observed sites whose distribution depends on a state, through other latents or directly."""
    fed, before = {state.name}, 0
    while len(fed) > before:
        before = len(fed)
        for site in program.sites.values():
            if any(fed.intersection((*p.index, *p.sites)) for p in site.args.values()):
                fed.add(site.name)
    return [s for s in program.observed if s.name in fed and s.family != "Evidence"]


def covariates(program: Program, state: Site) -> list[str]:
    """Fields that what a state feeds depends on, beside the fields that it feeds: numbers, row by row."""
    sites = sites_fed(program, state)
    own = {name for site in sites for name in _fields(program, site)}
    read = dict.fromkeys(n for s in sites for p in s.args.values() for n in p.data)
    inside = program.data.row_fields
    return [n for n in read if n in inside and n not in own and program.data.values[n].is_floating_point()]


def labels_by_lines(program: Program, state: Site, states: int) -> Tensor:
    """Label rows by which of several regressions of the columns fed on the covariates they are about, shape (rows,)."""
    data, y = program.data, columns_fed(program, state).x
    z = torch.cat([data.values[n].reshape(len(data), -1).to(y) for n in covariates(program, state)], -1)
    z, y = ((x - x.mean(0)) / x.std(0, correction=0).clamp_min(torch.finfo(x.dtype).tiny) for x in (z, y))
    return clusterwise(torch.cat([z, torch.ones_like(z[:, :1])], -1), y, states)


def smooth(fed: Columns) -> Columns:
    """Average each column over neighbouring rows: along a chain that stays, noise goes and levels do not."""
    averaged = torch.nn.functional.avg_pool1d(fed.x.mT[None], NEIGHBOURS, 1, NEIGHBOURS // 2, count_include_pad=False)[
        0
    ].mT
    return Columns(averaged, fed.missing)


def _fields(program: Program, site: Site) -> list[str]:
    """Fields, with an entry for each row, that are observed at a site."""
    names = (site.field,) if site.field else site.observes
    return [n for n in names if n in program.data.row_fields]


def _columns(program: Program, site: Site, name: str) -> Tensor:
    """Return the columns of one field."""
    data = program.data
    value = data.values[name]
    if not value.is_floating_point():
        value = torch.nn.functional.one_hot(value, len(data.levels[name])).to(data.dtype)
    x = value.reshape(len(data), -1)
    if lowest_count(site.support) is not None:
        return x.clamp_min(0).sqrt()
    base = site.support.base_constraint if isinstance(site.support, constraints.independent) else site.support
    kinds = type(constraints.positive), type(constraints.nonnegative)
    if isinstance(base, kinds) and base.lower_bound == 0 and bool((x > 0).any()):
        return x.clamp_min(float(x[x > 0].min())).log()
    return x
