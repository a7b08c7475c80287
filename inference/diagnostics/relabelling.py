"""Relabelling: exchangeable states get, in every draw, the labels under which draws agree best.

Minimal Kullback-Leibler divergence of allocations (Stephens 2000, "Dealing with label switching in mixture models",
algorithm 2): with p_ik(theta_t) the probability that cell i is in state k at draw t, permutations nu_t and mean
allocations q_ik are found in turn that lower

    sum_t sum_i sum_k p_ik(nu_t theta_t) log(p_ik(nu_t theta_t) / q_ik).

Given q the permutations are one linear assignment for each draw, given the permutations q is the mean. It ends at a
local minimum, so several starts are tried.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from inference.approximations.rows import chunk_for
from zoo.program.exchangeable import exchangeable
from zoo.program.program import Program
from zoo.program.state_group import StateGroup
from zoo.replay.evaluate import Values, many

LARGEST = 10_000_000  # numbers, one for each draw, row and state, beyond which rows are left out: 80 MB
FEWEST = 100  # rows that are looked at all the same
PIVOTS = 4  # draws from whose allocations the iteration starts, besides the mean of all
FEW = 500  # draws among which the best start is looked for
STEPS = 100
FEW_STATES = 5  # up to which all permutations are gone through


@dataclass(frozen=True)
class Relabelling:
    """New labels of a group's states in each draw.

    Attributes
    ----------
    group
        The states, and what they index.
    permutations
        State j of a draw is the one that was ``permutations[t, j]``, shape (draws, states).
    allocations
        Mean probability of each state, after relabelling, at the cells looked at, shape (states, cells).
    """

    group: StateGroup
    permutations: Tensor
    allocations: Tensor

    @property
    def switched(self) -> float:
        """Share of draws that have other labels than most."""
        return 1.0 - float((self.permutations == self.most).all(1).double().mean())

    @property
    def most(self) -> Tensor:
        """The permutation that most draws have, shape (states,)."""
        orders, counts = self.permutations.unique(dim=0, return_counts=True)
        most: Tensor = orders[counts.argmax()]
        return most

    def aligned(self, reference: Tensor) -> Relabelling:
        """Permute all draws alike, so that the mean allocations are nearest to others, shape (states, cells)."""
        return self.after(assignments(costs(self.allocations[None], reference), self.group)[0])

    def kept(self) -> Relabelling:
        """Permute all draws alike, so that as many as can be keep their labels."""
        return self.after(self.most.argsort())

    def sorted(self) -> Relabelling:
        """Permute all draws alike, so that states stand in falling order of the cells they hold."""
        states = list(self.group.states)
        order = torch.arange(self.group.count)
        order[states] = order[states][self.allocations.sum(1)[states].argsort(descending=True, stable=True)]
        return self.after(order)

    def after(self, order: Tensor) -> Relabelling:
        """Permute the states of all draws once more."""
        order = order.to(self.permutations.device)
        return replace(self, permutations=self.permutations[:, order], allocations=self.allocations[order])


def relabel(
    program: Program,
    points: Values,
    draws: Values,
    *,
    rows: Tensor | None = None,
    pivot: Tensor | None = None,
    together: bool = False,
) -> list[Relabelling]:
    """Relabel the states of draws by minimal divergence of allocations.

    Parameters
    ----------
    program
        The program.
    points
        Values of parameters and network weights.
    draws
        Latents of each draw, stacked along dimension 0; empty for the point that `points` are.
    rows
        Which rows to look at, as `rows_for` has them; None for all.
    pivot
        log p(x, z) of each draw, shape (draws,): one start is where it is largest.
    together
        Leave labels as they are, the same in all draws.

    Returns
    -------
    list
        One for each group of exchangeable states.
    """
    groups, best = exchangeable(program), None if pivot is None else int(pivot.argmax())
    found = []
    for group, allocations in zip(groups, _allocations(program, points, draws, groups, rows), strict=True):
        if together or len(allocations) == 1:
            unchanged = torch.arange(group.count, device=allocations.device).expand(len(allocations), -1)
            found.append(Relabelling(group, unchanged, allocations.mean(0)))
        else:
            permutations = stephens(allocations, group, best)
            found.append(Relabelling(group, permutations, _mean(allocations, permutations)).kept())
    return found


def rows_for(program: Program, draws: int) -> Tensor | None:
    """Evenly spaced rows, as many as fit in memory under so many draws; None for all of them."""
    width = sum(s.cardinality for s in program.enumerated) * draws
    if not program.row or width * len(program.data) <= LARGEST:
        return None
    rows: Tensor = torch.linspace(0, len(program.data) - 1, max(FEWEST, LARGEST // width)).long().unique()
    return rows


def relabelled(values: Mapping[str, Tensor], labels: Sequence[Relabelling]) -> Values:
    """Give the states of draws their new labels in every site that they index."""
    moved = dict(values)
    for each in labels:
        moved = each.group.permute(moved, each.permutations)
    return moved


def stephens(allocations: Tensor, group: StateGroup, pivot: int | None = None) -> Tensor:
    """Permutations of the states of each draw, shape (draws, states), at the lowest divergence of several climbs.

    Parameters
    ----------
    allocations
        Probability of each state at each cell, in each draw, shape (draws, states, cells).
    group
        Which states may be permuted.
    pivot
        A draw to start from.
    """
    count = len(allocations)
    pivots = {*torch.linspace(0, count - 1, PIVOTS).long().tolist(), *([] if pivot is None else [pivot])}
    few = allocations[:: -(-count // FEW)].contiguous()  # which start is best is seen in some of the draws
    ends = [_descend(few, start, group) for start in (allocations.mean(0), *(allocations[t] for t in sorted(pivots)))]
    _, mean, _ = min(ends, key=lambda end: end[2])
    permutations, _, _ = _descend(allocations, mean, group)
    return permutations


def _descend(allocations: Tensor, mean: Tensor, group: StateGroup) -> tuple[Tensor, Tensor, float]:
    """Alternate between permutations and their mean allocations; return both, and the divergence.

    The divergence is without the draws' own entropies, which no permutation changes.
    """
    before, loss = None, float("inf")
    for _ in range(STEPS):
        cost = costs(allocations, mean)  # (draws, new label, old label)
        permutations = assignments(cost, group)
        loss = float(cost.gather(2, permutations[..., None]).sum())
        if before is not None and torch.equal(before, permutations):
            break
        before, mean = permutations, _mean(allocations, permutations)
    return permutations, mean, loss


def costs(allocations: Tensor, reference: Tensor) -> Tensor:
    """-sum_i p_il log q_ij for each draw, new label j and old label l, shape (draws, states, states)."""
    log_q = reference.clamp_min(torch.finfo(reference.dtype).tiny).log()  # (states, cells)
    draws, states, cells = allocations.shape
    return -(allocations.reshape(-1, cells) @ log_q.mT).reshape(draws, states, states).mT


def assignments(cost: Tensor, group: StateGroup) -> Tensor:
    """Permutations of least cost, shape (draws, states): entry j is the old label of state j.

    Parameters
    ----------
    cost
        Of giving label j to what was state l, shape (draws, j, l).
    """
    states = torch.tensor(group.states, device=cost.device)
    return among(cost[:, states[:, None], states], group)


def among(cost: Tensor, group: StateGroup) -> Tensor:
    """`assignments` by costs among the group's own states, (draws, K, K); the first of several that cost least."""
    size = len(group.states)
    if size <= FEW_STATES:
        orders = torch.tensor(list(itertools.permutations(range(size))), device=cost.device)  # (K!, K), as it is first
        chosen = orders[cost[:, torch.arange(size), orders].sum(-1).argmin(1)]
    else:
        from scipy.optimize import linear_sum_assignment  # it takes long to import

        chosen = torch.from_numpy(np.stack([linear_sum_assignment(c)[1] for c in cost.double().cpu().numpy()]))
    states = torch.tensor(group.states, device=cost.device)
    permutations = torch.arange(group.count, device=cost.device).repeat(len(cost), 1)
    permutations[:, states] = states[chosen.to(cost.device)]
    return permutations


def _mean(allocations: Tensor, permutations: Tensor) -> Tensor:
    """Mean over the draws of permuted allocations, (states, cells): one matrix product, no permuted copy."""
    draws, states, cells = allocations.shape
    label = torch.nn.functional.one_hot(permutations, states).to(allocations)  # (draws, new label, old label)
    return label.movedim(1, 0).reshape(states, -1) @ allocations.reshape(-1, cells) / draws


def _allocations(
    program: Program, points: Values, draws: Values, groups: Sequence[StateGroup], rows: Tensor | None
) -> list[Tensor]:
    """Probability of each state of each group at its cells, shape (draws, states, cells).

    Cells are the entries of the group's enumerated sites: rows of a mixture or chain, words of documents.
    """
    if not groups:
        return []
    data, outside = replace(program.data, weights=None), None
    if program.chained:  # whose rows are not apart
        outside = rows
    elif rows is not None:
        data = data.take(rows)
        axes = {s.name: 1 + s.batch_dim + s.plate_dim(program.row) for s in program.locals}
        draws = {n: v.index_select(axes[n], rows.to(v.device)) if n in axes else v for n, v in draws.items()}
    seen = program.rebind(data)
    vectorized = bool(draws) and not seen.one_state_per_row

    def one(values: Values) -> tuple[Tensor, ...]:
        _, marginals = seen.expectations({**points, **values}, vectorized=vectorized)
        found = [torch.cat([_cells(seen, marginals, name) for name in g.sites], 1) for g in groups]
        return tuple(f if outside is None else f[:, outside.to(f.device)] for f in found)

    with torch.no_grad():
        if not draws:
            return [f[None] for f in one({})]
        count = len(next(iter(draws.values())))
        return [f.contiguous() for f in many(one, draws, count, chunk_for(seen))]


def _cells(program: Program, marginals: Values, name: str) -> Tensor:
    """Posterior probability of the states of an enumerated site, shape (states, its entries)."""
    site = program.sites[name]
    if program.row and site.plates == (program.row,):
        return program.states_of(marginals, site).mT
    marginal = marginals[name]
    keep = {marginal.ndim + d for d in (*site.plate_dims, site.enum_dim)}
    others = [d for d in range(marginal.ndim) if d not in keep]
    total = marginal.sum(others, keepdim=True) if others else marginal
    return total.movedim(site.enum_dim, 0).reshape(site.cardinality, -1)
