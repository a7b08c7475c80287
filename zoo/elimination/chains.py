"""Hidden Markov chains summed out of the factors of a model, or maximized over."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.elimination.eliminate import Factor
from zoo.elimination.forward_backward import best_path, log_evidence
from zoo.errors import ModelError


@dataclass(frozen=True)
class Link:
    """A chain to sum out: its log factor, the symbol of its states, and which rows begin a sequence."""

    table: Tensor
    symbol: str
    first: Tensor


def sum_out(
    left: dict[frozenset[str], Factor], links: Sequence[Link], row: str, *, hard: bool = False
) -> dict[frozenset[str], Factor]:
    """Sum chains out of what is left when all other enumerated sites are; with `hard`, take the most probable path.

    Raises
    ------
    ModelError
        If the chains begin at different rows.
    """
    rest, table, evidence = joined(left, links, row)
    sum_rows = best_path if hard else log_evidence
    rest[frozenset((row,))] = Factor(sum_rows(table, evidence, links[0].first), (row,), frozenset((row,)))
    return rest


def joined(
    left: dict[frozenset[str], Factor], links: Sequence[Link], row: str
) -> tuple[dict[frozenset[str], Factor], Tensor, Tensor]:
    """Several chains as one chain over the combinations of their states: its table and evidence, and what is left.

    Raises
    ------
    ModelError
        If the chains begin at different rows.
    """
    symbols = tuple(link.symbol for link in links)
    first = links[0].first
    if any(not torch.equal(link.first, first) for link in links[1:]):
        raise ModelError("the chains of a model must begin at the same rows; give each MarkovChain the same start")
    target = (*symbols, row)
    sizes = [link.table.shape[-1] for link in links]
    evidence = links[0].table.new_zeros(*sizes, len(first))  # (states of each chain ..., rows)
    rest = {}
    for plates, factor in left.items():
        if row not in plates:
            rest[plates] = factor
            continue
        gone = [i for i, d in enumerate(factor.dims) if d not in target]  # plates inside that of the rows
        tensor = factor.tensor.sum(gone) if gone else factor.tensor
        evidence = evidence + Factor(tensor, tuple(d for d in factor.dims if d in target), plates).aligned(target)
    return rest, _together([link.table.flatten(0, -2) for link in links]), evidence.flatten(0, -2)


def _together(tables: Iterable[Tensor]) -> Tensor:
    """Table of the chain whose states are the combinations of those of several chains."""
    joint, *others = tables
    for table in others:
        initial = joint[0][:, None] + table[0]  # (states so far, states)
        transition = joint[1:][:, None, :, None] + table[1:][:, None]  # (from, from, to, to)
        joint = torch.cat([initial.reshape(1, -1), transition.reshape(initial.numel(), -1)])
    return joint
