"""Posterior marginals of enumerated sites: the gradient of the log normalizer with respect to the log factors.

With log Z = log sum_z exp sum_f log f(z_f), the derivative of log Z with respect to the entry log f(a) is
p(z_f = a | data): one pass backward through the elimination gives the marginals of all factors (Darwiche 2003).
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import Tensor

from zoo.program.terms import Terms, sum_of
from zoo.replay.evaluate import Values
from zoo.replay.sites import Site


def gradient_marginals(
    eliminate: Callable[[Values], Terms], log_probs: Values, weights: Tensor | None
) -> tuple[Terms, Values]:
    """Return what `eliminate` gives for these log densities, and the gradient of its total with respect to each.

    Parameters
    ----------
    eliminate
        Sums enumerated sites out, or maximizes over them; then the gradient is 1 at the states that attain the maximum.
    log_probs
        Site -> its log density, enumeration dimensions left and plates right.
    weights
        Weight of each row, shape (rows,).
    """
    with torch.enable_grad():
        leaves = {n: v.detach().requires_grad_() for n, v in log_probs.items()}
        terms = eliminate(leaves)
        gradients = torch.autograd.grad(terms.total(weights), list(leaves.values()))
    return Terms(terms.rest.detach(), terms.rows.detach()), dict(zip(leaves, gradients, strict=True))


def functional_marginals(
    eliminate: Callable[[Values], Terms], log_probs: Values, weights: Tensor | None
) -> tuple[Terms, Values]:
    """`gradient_marginals` inside `torch.vmap`, where tensors can be no leaves of a graph; slower to start."""

    def objective(factors: Values) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        terms = eliminate(factors)
        return terms.total(weights), (terms.rest, terms.rows)

    marginals, parts = torch.func.grad(objective, has_aux=True)(log_probs)
    return Terms(*parts), marginals


def mixture_marginals(
    log_probs: Values, inside: Collection[str], rows: int, weights: Tensor | None
) -> tuple[Terms, Values]:
    """`gradient_marginals` for one enumerated site per row: p(z_i = k | x_i) is a softmax, the same for every factor.

    No elimination and no backward pass: one log-sum-exp over the states of each row.

    Parameters
    ----------
    log_probs
        Site -> its log density, shape (..., K or 1, rows) for sites inside the plate of rows.
    inside
        Sites inside the plate of rows.
    rows, weights
        Number of rows N, and the weight of each, shape (N,).
    """
    by_state = [n for n in inside if log_probs[n].ndim > 1 and log_probs[n].shape[-2] > 1]
    joint = sum_of(log_probs[n] for n in by_state)  # log p(x_i, z_i = k | globals), (..., K, N)
    normalizer = joint.logsumexp(-2)  # (..., N)
    posterior = (joint - normalizer[..., None, :]).exp_()  # in place: the largest tensor of an E-step
    if weights is not None:
        posterior *= weights
    marginals: Values = {}
    for name, value in log_probs.items():
        if name in by_state:
            marginals[name] = posterior.expand(value.shape)
        elif name in inside and weights is not None:
            marginals[name] = weights.expand(value.shape)
        else:
            marginals[name] = torch.ones_like(value)  # its log density is added as it is
    plain = [log_probs[n].reshape(-1, rows).sum(0) for n in inside if n not in by_state]
    rest = [log_probs[n].sum() for n in log_probs if n not in inside]
    total = sum_of([normalizer.reshape(rows), *plain])
    return Terms(sum_of(rest) if rest else normalizer.new_zeros(()), total), marginals


def averaged_terms(log_probs: Values, inside: Collection[str], rows: int, log_share: Tensor) -> Terms:
    """sum_k s_ik (log f_i(k) - log s_ik) in place of log sum_k f_i(k), for one enumerated site per row.

    It is lower by the divergence from s_i to the posterior of the state.

    Parameters
    ----------
    log_probs, inside, rows
        As of `mixture_marginals`.
    log_share
        log s, shape (K, N).
    """
    share, total, rest = log_share.exp(), -(log_share.exp() * log_share).sum(0), log_share.new_zeros(())
    for name, value in log_probs.items():
        if name not in inside:
            rest = rest + value.sum()
        elif value.ndim > 1 and value.shape[-2] > 1:
            total = total + (share * value).sum(-2)
        else:
            total = total + value.reshape(rows)
    return Terms(rest, total)


def one_state_per_row(sites: Collection[Site], row: str) -> bool:
    """Whether the only enumerated site is one per row, which needs no elimination but a log-sum-exp.

    Its states must be on dimension -2 and the rows on -1, and no site may have plates inside that of the rows.
    """
    enumerated = [s for s in sites if s.role == "enumerated"]
    if len(enumerated) != 1:
        return False
    site = enumerated[0]
    if site.cardinality < 2 or (site.enum_dim, site.plate_dims) != (-2, (-1,)):
        return False
    return all(s.plates == (row,) for s in sites if (row and s.name == site.name) or row in s.plates)
