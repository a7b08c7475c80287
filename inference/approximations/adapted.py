"""Locals of new rows with missing cells: what an encoder proposes, moved to where the posterior is.

An encoder that was trained on whole rows says little of a row of which half is hidden, and importance weights of its
draws then hang on very few of them, with an error that does not show it. Population Monte Carlo (Cappé, Guillin, Marin
and Robert 2004), with weights tempered while few draws carry them (Koblents and Míguez 2015), finds a Normal for each
such row; a tenth of the draws stay with the prior, which bounds the weights.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from torch import Tensor

from inference.approximations.approximation import Approximation
from inference.approximations.rows import chunk_for, from_prior, local_draws, pointwise, prior_density
from zoo.program.program import Program
from zoo.replay.evaluate import Values, many

ROUNDS = 12  # at most; most rows need three or four
FEWEST = 50  # draws, below which there is nothing to find moments from
SHARE = 0.1  # of the draws, from the prior; and the share of effective draws at which weights count in full
HALVINGS = 20  # of the interval in which the power of tempered weights is


def proposals(
    program: Program, approximation: Approximation, points: Values, draws: Values, count: int
) -> tuple[Values, Tensor]:
    """Draw locals of new rows to be weighed, `count` times, and log q per row (count, rows).

    They are those of `local_draws`, but for rows with missing cells, where the guide covers new rows.
    """
    local = local_draws(program, approximation, points, draws, count)
    counts = any(s.site.countable for s in program.view.locals)  # which no Normal proposes
    if counts or not approximation.covers_new_rows or count < FEWEST:
        return local
    rows = incomplete(program)
    if not len(rows):
        return local
    part = program.rebind(program.data.take(rows))
    axes = {s.site.name: (s.row_axis or 0) + 1 for s in program.view.locals}
    some = {n: v.index_select(axes[n], rows) for n, v in local[0].items()}, local[1][:, rows]
    if bool((_effective(pointwise(part, points, draws, some).double()) >= SHARE * count).all()):
        return local  # among them exact posteriors
    moved, log_q = _adapted(part, points, draws, count, some)
    values = {n: v.clone().index_copy_(axes[n], rows, moved[n].to(v)) for n, v in local[0].items()}
    return values, local[1].clone().index_copy_(1, rows, log_q.to(local[1]))


def incomplete(program: Program, but: Collection[str] = ()) -> Tensor:
    """Numbers of the rows with missing cells, `but` for those of some fields."""
    data = program.data
    gaps = torch.zeros(len(data), dtype=torch.bool, device=program.device)
    for missing in (m for n, m in data.missing.items() if n in data.row_fields and n not in but):
        gaps |= missing.reshape(len(data), -1).any(1)
    return gaps.nonzero()[:, 0]


def _adapted(
    program: Program, points: Values, draws: Values, count: int, first: tuple[Values, Tensor]
) -> tuple[Values, Tensor]:
    """Draws from a Normal of each row, among some of the prior, and log of their joint density."""
    view, size = program.view, chunk_for(program)

    def flat(values: Values) -> Tensor:
        u: Tensor = many(view.unconstrain_locals, values, count, size)  # (count, rows, L)
        return torch.where(u.isfinite(), u, 0.0).double()  # a draw that rounding has put on the edge of its support

    def drawn(mean: Tensor, root: Tensor) -> tuple[Tensor, Values, Tensor]:
        """Draws in unconstrained and own coordinates, and log q."""
        prior = flat(from_prior(program, points, draws, count)[0])
        u = mean + (root @ torch.randn_like(prior)[..., None])[..., 0]
        u = torch.where(torch.rand(count, 1, 1, device=u.device) < SHARE, prior, u)
        white = torch.linalg.solve_triangular(root, (u - mean)[..., None], upper=False)[..., 0]
        log_normal = -0.5 * white.square().sum(-1) - root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        log_normal = log_normal - 0.5 * u.shape[-1] * math.log(2 * math.pi)
        values, jacobian = many(lambda v: view.constrain_locals(v["u"]), {"u": u.to(program.dtype)}, count, size)
        log_prior = prior_density(program, points, {**draws, **values}, count).double()
        mixed = torch.logaddexp(math.log1p(-SHARE) + log_normal - jacobian, math.log(SHARE) + log_prior)
        return u, values, mixed

    def weights(values: Values, log_q: Tensor) -> Tensor:
        return pointwise(program, points, draws, (values, log_q.to(program.dtype))).double()

    with torch.no_grad():
        start = from_prior(program, points, draws, count)
        u = torch.cat([flat(first[0]), flat(start[0])])
        log_w = torch.cat([weights(*first), weights(*start)])
        for _ in range(ROUNDS):
            mean, root, power = _moments(u, log_w)
            if bool((power == 1.0).all()):
                break
            u, values, log_q = drawn(mean, root)
            log_w = weights(values, log_q)
        _, values, log_q = drawn(mean, root)  # afresh: what the moments were taken from would weigh itself
    return values, log_q


def _effective(log_w: Tensor) -> Tensor:
    """Effective number of draws behind weights (draws, rows)."""
    return (2 * log_w.logsumexp(0) - (2 * log_w).logsumexp(0)).exp().nan_to_num(0.0)


def _moments(u: Tensor, log_w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (rows, L), root of the covariance (rows, L, L) and the power of the weights at which enough draws count."""
    count, _, size = u.shape
    log_w = torch.where(log_w.isfinite(), log_w, -1e300 if bool(log_w.isfinite().any()) else 0.0)
    enough = SHARE * count
    low, high = torch.zeros_like(log_w[0]), torch.ones_like(log_w[0])
    full = _effective(log_w) >= enough
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        fits = _effective(middle * log_w) >= enough
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    power = torch.where(full, 1.0, low)
    share = torch.softmax(power * log_w, 0)[..., None]  # (draws, rows, 1)
    mean = (share * u).sum(0)
    away = share.sqrt() * (u - mean)
    cov = torch.einsum("snk,snl->nkl", away, away)
    variances = cov.diagonal(dim1=-2, dim2=-1)
    kept = enough / (enough + size)  # of correlations, which few draws overstate
    cov = kept * cov + torch.diag_embed((1 - kept) * variances + 1e-6 * variances.mean(-1, keepdim=True) + 1e-12)
    return mean, torch.linalg.cholesky(cov), power
