"""Enumerated sites of a program summed out of the log densities of its sites, chains last."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from zoo.elimination.buckets import Buckets
from zoo.elimination.chains import Link, joined, sum_out
from zoo.elimination.eliminate import MOST_CELLS, Factor, TooManyCellsError, contract, pack, rows_and_rest
from zoo.errors import ModelError
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

    def chain(self, log_probs: Values, *, hard: bool = False) -> tuple[Tensor, Tensor]:
        """Return the log factors of the chain over all chains' states, every other enumerated site summed out.

        Or maximized over, with `hard`.

        log initial and transition probabilities (states + 1, states), and what each row says, (states, rows).
        """
        row = self._row_symbol
        assert row is not None
        _, table, evidence = joined(self._all_but_chains(log_probs, hard=hard), self._links(log_probs), row)
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
        with self._named():
            return contract(self._factors(log_probs), self._summed, self._row_symbol, self.weights, hard=hard)

    def buckets(self, log_probs: Values, *, hard: bool = False) -> Buckets:
        """Sum out all enumerated sites but chains, or maximize over them, and keep what can be read backwards."""
        factors = self._factors(log_probs)
        with self._named():
            return Buckets.of(factors, self._summed, self.plate_sizes, self._row_symbol, self.weights, hard=hard)

    def _factors(self, log_probs: Values) -> list[Factor]:
        factors = []
        for name, log_prob in log_probs.items():
            if name not in self.chains:
                site = self.sites[name]
                inside = frozenset(self.plates[p] for p in site.plates if p in self.plates)
                factors.append(pack(log_prob, site.symbols, inside))
        return factors

    @property
    def _summed(self) -> frozenset[str]:
        """Symbols of the enumerated sites that are no chains."""
        return frozenset(
            s.symbols[s.enum_dim]
            for s in self.sites.values()
            if s.role == "enumerated" and s.enum_dim in s.symbols and s.name not in self.chains
        )

    @property
    def plate_sizes(self) -> dict[str, int]:
        """Plate's symbol -> its size."""
        sizes = {
            self.plates[p]: site.shape[site.batch_dim + d]
            for site in self.sites.values()
            for p, d in zip(site.plates, site.plate_dims, strict=True)
            if p in self.plates and site.batch_dim + d >= 0
        }
        row = self._row_symbol
        return sizes if row is None else {**sizes, row: self.size}

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Name the sites of a factor that does not fit in memory."""
        try:
            yield
        except TooManyCellsError as error:
            enumerated = (s for s in self.sites.values() if s.role == "enumerated" and s.enum_dim in s.symbols)
            symbols = {s.symbols[s.enum_dim]: s.name for s in enumerated}
            names = [symbols[d] for d in error.sizes if d in symbols]
            cells = math.prod(error.sizes.values())
            raise ModelError(
                f"summing out the discrete latents makes a factor over {len(names)} of them at once "
                f"({', '.join(map(repr, names[:8]))}{', ...' if len(names) > 8 else ''}), with {cells:,} cells, and "
                f"{MOST_CELLS:,} fit in memory; observe some of them, or let each depend on fewer others"
            ) from error
