"""Enumerated sites of a program summed out of the log densities of its sites, chains last."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from zoo.elimination.chains import Link, joined, sum_out
from zoo.elimination.eliminate import Factor, contract, pack, rows_and_rest
from zoo.program.terms import Terms
from zoo.replay.evaluate import Values
from zoo.replay.sites import Site


@dataclass(frozen=True)
class Elimination:
    """log sum_z p(x, z; theta) over the states of all enumerated sites, from the log densities of the sites.

    Attributes
    ----------
    sites
        All sites of the program.
    plates
        Plate -> the symbol of its dimension.
    row
        The plate of rows, empty if no site is in it.
    size, weights
        Number of rows, and the weight of each, shape (rows,).
    chains
        The enumerated sites that are chains over the rows.
    firsts
        Chain -> which rows begin a sequence, shape (rows,); noted whenever the model runs.
    """

    sites: Mapping[str, Site]
    plates: Mapping[str, str]
    row: str
    size: int
    weights: Tensor | None
    chains: Mapping[str, Site]
    firsts: Values

    def __call__(self, log_probs: Values, *, hard: bool = False) -> Terms:
        """Sum out; with `hard`, maximize instead."""
        like = next(iter(log_probs.values())).new_zeros(())
        row = self._row_symbol
        left = self._all_but_chains(log_probs, hard=hard)
        links = self._links(log_probs)
        if links and row is not None:
            left = sum_out(left, links, row, hard=hard)
        rest, rows = rows_and_rest(left, row, self.size, like)
        return Terms(rest, rows)

    def chain(self, log_probs: Values) -> tuple[Tensor, Tensor]:
        """Return the log factors of the chain over all chains' states, every other enumerated site summed out.

        log initial and transition probabilities (states + 1, states), and what each row says, (states, rows).
        """
        row = self._row_symbol
        assert row is not None
        _, table, evidence = joined(self._all_but_chains(log_probs), self._links(log_probs), row)
        return table, evidence

    @property
    def _row_symbol(self) -> str | None:
        return self.plates.get(self.row) if self.row else None

    def _links(self, log_probs: Values) -> list[Link]:
        """Chains among the given sites: a prior alone has none."""
        chains = {n: s for n, s in self.chains.items() if n in log_probs}
        return [Link(log_probs[n], s.symbols[s.enum_dim], self.firsts[n]) for n, s in chains.items()]

    def _all_but_chains(self, log_probs: Values, *, hard: bool = False) -> dict[frozenset[str], Factor]:
        """Sum out all enumerated sites but chains; return what is left for each set of plates."""
        factors = []
        for name, log_prob in log_probs.items():
            if name not in self.chains:
                site = self.sites[name]
                inside = frozenset(self.plates[p] for p in site.plates if p in self.plates)
                factors.append(pack(log_prob, site.symbols, inside))
        enumerated = frozenset(
            s.symbols[s.enum_dim]
            for s in self.sites.values()
            if s.role == "enumerated" and s.enum_dim in s.symbols and s.name not in self.chains
        )
        return contract(factors, enumerated, self._row_symbol, self.weights, hard=hard)
