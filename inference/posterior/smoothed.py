"""The states of chains that were integrated out, given all rows: exact means and standard deviations by row."""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor

from inference.approximations.rows import chunk_for
from inference.diagnostics.coordinates import event_names, labels_of
from inference.posterior.answer import Answer
from inference.posterior.streams import Stream
from zoo.program.program import Program
from zoo.program.smoothing import chain_moments
from zoo.replay.evaluate import Values, many


def smoothed(answer: Answer, program: Program, *, fresh: bool) -> pd.DataFrame:
    """Mean and standard deviation of each state of each row, averaged over draws of the globals.

    Parameters
    ----------
    answer, program
        The fit, and its model on the rows asked about.
    fresh
        Whether these were not part of the fit: then each draw counts by how well it explains them all.

    Returns
    -------
    DataFrame
        A row per row of data; columns (state, "mean" or "sd").
    """
    assert program.integrated is not None
    names = [s.name for s in program.integrated.chains]

    def one(values: Values) -> tuple[Tensor, Tensor, Tensor]:
        full = {**answer.points, **values}
        means, covs = chain_moments(program, full)
        variances = [covs[n].diagonal(dim1=-2, dim2=-1) for n in names]
        total = program.log_joint(full).rows.sum() if fresh else torch.zeros((), device=program.device)
        return torch.cat([means[n] for n in names], -1), torch.cat(variances, -1), total

    with answer.running(Stream.ASSIGN):
        count = answer.draw_count if answer.has_draws else 1
        means, variances, totals = many(one, answer.globals(count), count, chunk_for(program))
    share = torch.softmax(totals, 0)[:, None, None].to(means)
    mean = (share * means).sum(0)
    sd = ((share * (variances + (means - mean).square())).sum(0)).sqrt()
    columns = pd.MultiIndex.from_product([_state_labels(program), ["mean", "sd"]], names=["state", None])
    table = torch.stack([mean, sd], -1).flatten(1).cpu().numpy()
    return pd.DataFrame(table, index=program.data.coords[program.row], columns=columns)


def _state_labels(program: Program) -> list[str]:
    """Names of the states of all chains: h[0], h[1], or by the labels of their dimension."""
    assert program.integrated is not None
    labels = []
    for site, size in zip(program.integrated.chains, program.integrated.sizes, strict=True):
        dims = event_names(program, site)[len(site.plates) :]
        known = labels_of(program, {site.name: dims}).get(dims[0]) if dims else None
        own = range(size) if known is None or len(known) != size else known
        labels += [f"{site.name}[{label}]" for label in own]
    return labels
