"""Posterior of the continuous latents of each row (factor scores, shares of topics, codes): means and deviations."""

from __future__ import annotations

from itertools import product

import pandas as pd
import torch
from torch import Tensor

from inference.approximations.adapted import proposals
from inference.approximations.conjugate import Conjugate
from inference.approximations.corrected_rows import back
from inference.approximations.rows import pointwise
from inference.conjugate.by_state import ByState
from inference.conjugate.posteriors import Posterior, Single
from inference.diagnostics.coordinates import event_names, labels_of
from inference.posterior.answer import Answer
from inference.posterior.rows import row_chunks
from inference.posterior.streams import Stream
from zoo.errors import FitError
from zoo.program.program import Program
from zoo.replay.evaluate import Values
from zoo.replay.sites import Site


def local_moments(answer: Answer, program: Program, sites: list[Site]) -> pd.DataFrame:
    """Mean and standard deviation of each continuous latent of each row, given the row.

    Fitted rows have the posterior of the fit. New rows are folded in: each has its posterior given the globals, draws
    of which count by how well they explain the row. Under a point estimate so do fitted rows.

    Returns
    -------
    DataFrame
        A row per row of data; columns (entry, "mean" or "sd"). ``attrs["ess"]`` has the least effective number of draws
        behind a row, infinite where moments are exact.

    Raises
    ------
    FitError
        If rows have no posterior of their own.
    """
    fitted = program is answer.program and not answer.is_point
    if not fitted and (program.shared or program.coupled):
        tie = program.coupled or f"they share the discrete latent {program.shared[0].name!r}"
        raise FitError(f"rows have no latents of their own to be told: {tie}; see `posterior` for the fitted rows")
    with answer.running(Stream.ASSIGN):
        if fitted and not isinstance(answer.approximation, Conjugate):
            found = [_fitted(answer, program, sites)]
        else:
            whole = not answer.approximation.covers_new_rows and answer.approximation.kept is None
            chunks = row_chunks(program, whole=whole, draws=answer.draw_count)
            found = [_of_rows(answer, chunk, sites) for chunk in chunks]
    mean, sd = torch.cat([f[0] for f in found]), torch.cat([f[1] for f in found])
    labels = [label for site in sites for label in entry_names(program, site)]
    columns = pd.MultiIndex.from_product([labels, ["mean", "sd"]], names=["latent", None])
    table = torch.stack([mean, sd], -1).flatten(1).cpu().numpy()
    frame = pd.DataFrame(table, index=program.data.coords[program.row], columns=columns)
    frame.attrs["ess"] = min(f[2] for f in found)
    return frame


Moments = tuple[Tensor, Tensor, float]


def _fitted(answer: Answer, program: Program, sites: list[Site]) -> Moments:
    """Moments of the posterior draws, each (rows, entries)."""
    draws = _by_row(program, sites, answer.draws.values, 1)
    return draws.mean(0), draws.std(0), float(len(draws))


def _of_rows(answer: Answer, program: Program, sites: list[Site]) -> Moments:
    """Moments given the rows of a program: exact ones of known families, else of weighted draws."""
    q = answer.approximation
    own = _exact_of_all(answer, program, sites)
    if own is not None:
        return torch.cat([p[0] for p in own], -1), torch.cat([p[1] for p in own], -1), float("inf")
    count = answer.draw_count
    globals_ = answer.globals(count, program)
    local, log_q = proposals(program, q, answer.points, globals_, count)
    log_weights = pointwise(program, answer.points, globals_, (local, log_q))
    share = torch.softmax(log_weights, 0)[..., None]  # (draws, rows, 1)
    draws = _by_row(program, sites, local, 1)
    mean = (share * draws).sum(0)
    sd = (share * (draws - mean).square()).sum(0).sqrt()
    return mean, sd, float(1 / share.square().sum(0).max())


def exact_moments(answer: Answer, program: Program, sites: list[Site]) -> tuple[Values, Values] | None:
    """Means and standard deviations of locals of known families, in the shapes of their sites; None for others."""
    own = _exact_of_all(answer, program, sites)
    if own is None:
        return None
    names = [s.name for s in sites]
    mean, sd = ({n: back(program, n, p[k], 0) for n, p in zip(names, own, strict=True)} for k in (0, 1))
    return mean, sd


def _exact_of_all(answer: Answer, program: Program, sites: list[Site]) -> list[tuple[Tensor, Tensor]] | None:
    """The same of each site, (rows, entries)."""
    q = answer.approximation
    known = q.of_rows(program, answer.points) if isinstance(q, Conjugate) else None
    own = [_exact(program, site, known or []) for site in sites]
    found = [pair for pair in own if pair is not None]
    return found if len(found) == len(own) else None


def _exact(program: Program, site: Site, posteriors: list[Posterior]) -> tuple[Tensor, Tensor] | None:
    """Mean and standard deviation of a local of known family, or of a mixture of such, each (rows, entries)."""
    q = next((q for q in posteriors if site.name in q.names), None)
    each = q.each if isinstance(q, ByState) else q
    if q is None or each is None or each.mixed:
        return None
    mean = each.mean()[site.name]
    variance = each.distribution.variance if isinstance(each, Single) else each.moments(site.name).get("var")
    if variance is None:
        return None
    if isinstance(q, ByState):  # over the states, which stand on the left
        states, share = list(range(q.states)), q.share[(..., *[None] * (mean.ndim - q.share.ndim))]
        second, mean = (share * (variance + mean.square())).sum(states), (share * mean).sum(states)
        variance = (second - mean.square()).clamp_min(0.0)
    values = {site.name: torch.stack([mean, variance.expand_as(mean)])}
    rows = _by_row(program, [site], values, 1)
    return rows[0], rows[1].sqrt()


def _by_row(program: Program, sites: list[Site], values: Values, lead: int) -> Tensor:
    """Lay draws of locals out as (draws, rows, entries)."""
    parts = []
    for site in sites:
        axis = lead + site.batch_dim + site.plate_dims[site.plates.index(program.row)]
        moved = values[site.name].movedim(axis, lead)
        parts.append(moved.reshape(*moved.shape[: lead + 1], -1))
    return torch.cat(parts, -1)


def entry_names(program: Program, site: Site) -> list[str]:
    """Names of a row's entries: z, z[0], theta[a, 1]."""
    names, row = event_names(program, site), site.plates.index(program.row)
    known = labels_of(program, {site.name: names})
    sizes = program.site_shape(site)
    axis = site.batch_dim + site.plate_dims[row]
    own = []
    for i, size in enumerate(sizes):
        if i != axis:
            labels = known.get(names[i]) if i < len(names) else None
            own.append([str(v) for v in (labels if labels is not None and len(labels) == size else range(size))])
    entries = [", ".join(entry) for entry in product(*own)]
    return [f"{site.name}[{entry}]" if entry else site.name for entry in entries]
