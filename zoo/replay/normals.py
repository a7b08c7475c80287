"""Log densities of many rows under few components, without an array of rows x components x columns in memory.

`torch.distributions` evaluates a Normal with K means on N rows by first making K x N x D differences. Where the
parameters do not vary by row, the same numbers come from products with the stacked inverse Cholesky factors, a block of
rows at a time.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from zoo.data.patterns import MissingCells
from zoo.errors import DataError
from zoo.replay.bernoulli import bernoulli_density, rows_density
from zoo.replay.incomplete_normals import by_row, marginal_log_prob
from zoo.replay.multinomial import counts_density
from zoo.replay.poisson import poisson_density

BLOCK = 1 << 17  # numbers in a block: it and its square fit in a core's cache (1 MB each in float64)
FEW = 1 << 15  # below this many numbers in all, plain evaluation is as fast
DEPENDENT = ("MarkovChain", "MaskedDistribution")  # entries are not one by one, though there are no event dimensions


def log_density(fn: Any, value: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return fn.log_prob(value), by blocks of rows where that is possible and nothing needs a gradient."""
    if not torch.is_grad_enabled() and not args and not kwargs and value.ndim >= 2 and value.shape[0] > 1:
        fast = _blocked(fn, value)
        if fast is not None:
            return fast
    own = None if args or kwargs else _of_numbers(fn, value)
    if isinstance(fn, torch.distributions.Multinomial):
        own = counts_density(value, fn.probs)
    log_prob: Tensor = fn.log_prob(value, *args, **kwargs) if own is None else own
    return log_prob


def _of_numbers(fn: Any, value: Tensor) -> Tensor | None:
    """Densities of counts and of yes and no that are better than torch's; None for other distributions."""
    counts = poisson_density(fn, value)
    return bernoulli_density(fn, value) if counts is None else counts


def observed_density(name: str, fn: Any, value: Tensor, cells: MissingCells) -> Tensor:
    """Log density of what is observed of a site, in the shape of fn.log_prob(value): missing cells are integrated out.

    Raises
    ------
    DataError
        If the entries of an event are neither independent nor jointly Normal, or the site observes a function of the
        field.
    """
    base = fn
    while type(base).__name__ in ("Independent", "ExpandedDistribution"):
        base = base.base_dist
    outer = fn.event_dim - base.event_dim
    if value.shape != cells.value.shape:  # what it is was seen when the model was traced
        raise DataError(
            f"site {name!r} observes a function of a field with missing values (NaN), so they cannot be summed over; "
            "observe the field as it is, or drop or impute these rows"
        )
    if type(base).__name__ == "MultivariateNormal" and value.ndim == 1:  # all rows are one event
        loc, covariance = base.loc[..., None, :], base.covariance_matrix[..., None, :, :]
        alone = MissingCells(value[None], cells.missing[None])
        entries = marginal_log_prob(value[None], loc, covariance, alone)[..., 0]
    elif type(base).__name__ == "MultivariateNormal":
        plates = value.shape[:-1]
        # Components left of the plates; all plates laid out as one dimension of rows, for which patterns are sorted.
        rows = marginal_log_prob(value.reshape(-1, value.shape[-1]), *normal_rows(base, plates), cells)
        entries = rows.reshape(*rows.shape[:-1], *plates)
        entries = entries.expand(torch.broadcast_shapes(entries.shape, base.batch_shape))
    elif base.event_dim or type(base).__name__ in DEPENDENT:
        raise DataError(
            f"site {name!r}: its {type(base).__name__} cannot be summed over missing values (NaN); use distributions "
            "whose entries are independent (to_event, plates) or a MultivariateNormal, or drop or impute these rows"
        )
    else:
        own = _of_numbers(base, value)
        entries = torch.where(cells.missing, 0.0, base.log_prob(value) if own is None else own)
        entries = entries.expand(torch.broadcast_shapes(entries.shape, fn.batch_shape + fn.event_shape))
    return entries.sum(list(range(-outer, 0))) if outer else entries


def normal_rows(base: Any, plates: torch.Size) -> tuple[Tensor, Tensor]:
    """Return mean (..., rows, d) and covariance (..., rows, d, d) of a multivariate Normal; 1 row if all are alike."""
    loc, tril = base.loc, base._unbroadcasted_scale_tril
    loc = by_row(loc if _batched(loc) else _compact(loc, 1), plates, 1)
    tril = by_row(tril if _batched(tril) else _compact(tril, 2), plates, 2)
    return loc, tril @ tril.mT


def _compact(tensor: Tensor, events: int) -> Tensor:
    """Undo the expansion of a parameter over its batch dimensions."""
    for dim in range(tensor.ndim - events):
        if tensor.shape[dim] > 1 and tensor.stride(dim) == 0:
            tensor = tensor.narrow(dim, 0, 1)
    return tensor


def _blocked(fn: Any, value: Tensor) -> Tensor | None:
    """Evaluate Normals or Bernoullis whose parameters vary by component and not by row; None for anything else."""
    batch = fn.batch_shape
    if batch.numel() * value[0].numel() < FEW or len(batch) < 1 or batch[-1] != value.shape[0] or _batched(value):
        return None
    if type(fn).__name__ == "Independent" and type(fn.base_dist).__name__ == "Bernoulli":
        return None if any(map(_batched, vars(fn.base_dist).values())) else rows_density(fn, value)
    if value.ndim > 2:
        return None
    if type(fn).__name__ == "MultivariateNormal":
        return _blocked_full(fn, value)
    if type(fn).__name__ == "Independent" and type(fn.base_dist).__name__ == "Normal" and fn.event_dim == 1:
        return _blocked_diagonal(fn, value)
    return None


def _blocked_full(fn: Any, value: Tensor) -> Tensor | None:
    """Evaluate a multivariate Normal of batch shape (..., n) on rows (n, d); None if a parameter varies by row."""
    batch = fn.batch_shape
    loc, tril = _without_rows(fn.loc, 1), fn._unbroadcasted_scale_tril
    if loc is None or _batched(loc) or (tril.ndim > 2 and tril.shape[-3] != 1):
        return None
    components = batch[:-1].numel()
    loc = loc.expand(*batch[:-1], 1, -1).reshape(components, -1)
    tril = tril if tril.ndim > 2 else tril[None]
    tril = tril.expand(*batch[:-1], 1, -1, -1).reshape(components, *tril.shape[-2:])
    # One triangular solve for each component instead of one for each row: then rows are whitened by a matrix product.
    eye = torch.eye(tril.shape[-1], dtype=tril.dtype, device=tril.device)
    whiten = torch.linalg.solve_triangular(tril, eye.expand_as(tril), upper=False)
    log_det = tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return _full(value, loc, whiten, log_det).reshape(batch)


def _blocked_diagonal(fn: Any, value: Tensor) -> Tensor | None:
    """Evaluate independent Normals of batch shape (..., n) on rows (n, d); None if a parameter varies by row."""
    batch, width = fn.batch_shape, value.shape[1]
    loc, scale = _without_rows(fn.base_dist.loc, 1), _without_rows(fn.base_dist.scale, 1)
    if loc is None or scale is None or _batched(loc) or _batched(scale):
        return None
    loc, scale = (p.expand(*batch[:-1], 1, width).reshape(-1, width) for p in (loc, scale))
    return _diagonal(value, loc, scale).reshape(batch)


def _batched(tensor: Any) -> bool:
    """Whether this is a tensor inside `torch.vmap`, whose strides say nothing."""
    return isinstance(tensor, Tensor) and bool(torch._C._functorch.is_batchedtensor(tensor))


def _without_rows(tensor: Tensor, event_dim: int) -> Tensor | None:
    """Undo the expansion of a parameter over rows; None if it really varies by row."""
    axis = tensor.ndim - event_dim - 1
    if axis < 0:
        return tensor
    if tensor.shape[axis] == 1 or tensor.stride(axis) == 0:
        return tensor.narrow(axis, 0, 1)
    return None


def _blocks(rows: int, width: int) -> range:
    """Starts of blocks of rows with `width` numbers each; the range's step is the rows in a block."""
    return range(0, rows, max(64, BLOCK // width))


def _full(x: Tensor, loc: Tensor, whiten: Tensor, log_det: Tensor) -> Tensor:
    """-1/2 |W_k (x - m_k)|^2 - log|L_k| - d/2 log 2 pi, shape (k, n), with W_k the inverse Cholesky factor.

    Parameters
    ----------
    x
        Rows, shape (n, d).
    loc, whiten, log_det
        m_k, W_k and log|L_k|, shapes (k, d), (k, d, d) and (k,).
    """
    k, d = loc.shape
    # W_k (x - m_k) = W_k (x - c) - W_k (m_k - c): all components in one product with the stacked W. The center c keeps
    # both terms small, and their difference accurate, where the data are far from zero.
    center = loc.mean(0)
    shift = (whiten @ (loc - center)[:, :, None]).reshape(-1)  # (k d,)
    stacked = whiten.reshape(k * d, d).T.contiguous()  # (d, k d)
    constant = -log_det - 0.5 * d * math.log(2 * math.pi)
    out = x.new_empty(k, len(x))
    blocks = _blocks(len(x), k * d)
    for start in blocks:
        part = x[start : start + blocks.step]
        y = torch.addmm(-shift, part - center, stacked)  # (rows of the block, k d)
        square = y.square_().reshape(len(part), k, d).sum(-1)
        torch.add(constant, square, alpha=-0.5, out=square)
        out[:, start : start + blocks.step] = square.T
    return out


def _diagonal(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """sum_j -1/2 ((x_j - m_kj) / s_kj)^2 - log s_kj - 1/2 log 2 pi, shape (k, n)."""
    k, d = loc.shape
    constant = -scale.log().sum(-1) - 0.5 * d * math.log(2 * math.pi)
    out = x.new_empty(k, len(x))
    blocks = _blocks(len(x), k * d)
    for start in blocks:
        part = x[start : start + blocks.step]
        # Not the three matrix products of the square multiplied out: these cancel where a scale is small.
        y = (part - loc[:, None]).div_(scale[:, None]).square_().sum(-1)  # from (k, rows of the block, d)
        out[:, start : start + blocks.step] = torch.add(constant[:, None], y, alpha=-0.5)
    return out
