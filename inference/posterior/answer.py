"""What questions need of a fit: q on a program, and draws that all of them share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from inference.approximations.approximation import Approximation
from inference.approximations.rows import chunk_for
from inference.approximations.simulations import simulations
from inference.posterior.new_rows import rebound
from inference.posterior.streams import Stream
from inference.runtime.random import as_seed, seeded
from inference.runtime.threads import threads_for
from zoo.data.bind import Source
from zoo.data.data import Data
from zoo.program.groups import with_new_groups
from zoo.program.program import Program
from zoo.replay.evaluate import Values, many

DRAWS = 1000  # the Monte Carlo error of a mean is then 3 % of the posterior's standard deviation
FEWEST_DRAWS = 200  # kept however large one draw is: with fewer, Pareto shapes and 90 % intervals say little
QUICK = 1e10  # products in networks for an answer of which fewer draws are enough
LONGEST = 5e10  # products in networks that weighing the kept draws of all rows may take: some seconds
SOME = 64  # rows that show of a program with networks what there is to see, but for values
LARGEST = 20_000_000  # numbers of all kept draws, or draws times rows, beyond which fewer are kept: 160 MB


class Draws(NamedTuple):
    """Posterior draws of the latents.

    Attributes
    ----------
    values
        Site -> draws, shape (draws, ...).
    log_q
        log q(z) of each, shape (draws,).
    log_p
        log p(x, z) of each, shape (draws,), where q knows it; `Answer.log_p` works it out where not.
    """

    values: Values
    log_q: np.ndarray
    log_p: np.ndarray | None


@dataclass(eq=False)
class Answer:
    """q over the latents of a program: what every question about the posterior is put to.

    Attributes
    ----------
    program
        The model on the fitted rows.
    approximation
        q.
    points
        Values of parameters and network weights.
    seed
        What the random numbers of all questions follow from.
    """

    program: Program
    approximation: Approximation
    points: Values
    seed: int

    @property
    def is_point(self) -> bool:
        """Whether the answer is a point estimate, without posterior draws.

        Examples
        --------
        >>> import zoo
        >>> from inference import fit
        >>> result = fit(zoo.GMM(components=2), "faithful", method="em", seed=0)
        >>> result.is_point
        True
        """
        return self.approximation.point

    @property
    def has_draws(self) -> bool:
        """Whether global latents have posterior draws, so that predictions average over them.

        Examples
        --------
        >>> import zoo
        >>> from inference import fit
        >>> result = fit(zoo.BetaBernoulli(), [1, 0, 1, 1, 0, 1], method="exact", seed=0)
        >>> result.has_draws
        True
        """
        return not self.is_point and bool(self.program.globals)

    @cached_property
    def fixed(self) -> Values | None:
        """Values of the global latents where q has all of them at a point and locals spread, else None.

        Examples
        --------
        >>> import zoo
        >>> from inference import fit
        >>> result = fit(zoo.BetaBernoulli(), [1, 0, 1, 1, 0, 1], method="exact", seed=0)
        >>> result.fixed is None  # its only latent has draws
        True
        """
        if self.is_point:
            return None
        with self.running(Stream.KEPT_DRAWS):
            return self.approximation.fixed(self.program)

    @contextmanager
    def running(self, stream: Stream, seed: int | None = None) -> Iterator[None]:
        """Draw from a question's stream of random numbers, unless another seed is given; without gradients.

        Examples
        --------
        >>> import zoo
        >>> from inference import fit
        >>> result = fit(zoo.BetaBernoulli(), [1, 0, 1, 1, 0, 1], method="exact", seed=0)
        >>> import torch
        >>> from inference.posterior.new_rows import rebound
        from inference.posterior.streams import Stream
        >>> with result.running(Stream.SAMPLE):
        ...     first = torch.rand(1)
        >>> with result.running(Stream.SAMPLE):
        ...     print(bool(torch.rand(1) == first))
        True
        """
        chosen = self.seed + stream if seed is None else as_seed(seed)
        with seeded(chosen, self.program.device), threads_for(self.program), torch.no_grad():
            yield

    @property
    def draw_count(self) -> int:
        """How many posterior draws are kept: all of Markov chains; else 1000, fewer for many latents or rows.

        Examples
        --------
        >>> import zoo
        >>> from inference import fit
        >>> result = fit(zoo.BetaBernoulli(), [1, 0, 1, 1, 0, 1], method="exact", seed=0)
        >>> result.draw_count
        1000
        """
        if self.approximation.kept is not None:
            return self.approximation.kept
        size = sum(int(np.prod(self.program.site_shape(s))) for s in self.program.latents)
        size += len(self.program.data) * sum(self.program.integrated.sizes) if self.program.integrated else 0
        return max(FEWEST_DRAWS, min(DRAWS, LARGEST // max(1, size), LARGEST // len(self.program.data)))

    def quick_count(self, program: Program) -> int:
        """The same, but fewer where networks would take long for as many of each row of a program.

        Examples
        --------
        >>> import zoo
        >>> from inference import fit
        >>> result = fit(zoo.BetaBernoulli(), [1, 0, 1, 1, 0, 1], method="exact", seed=0)
        >>> result.quick_count(result.program)
        1000
        """
        quick = int(QUICK // max(1, program.structure.products * len(program.data)))
        return min(self.draw_count, max(FEWEST_DRAWS, quick))

    @cached_property
    def many_locals(self) -> bool:
        """Whether draws of all locals would be too many numbers to keep or too long to weigh, and can be made again.

        Examples
        --------
        >>> import zoo
        >>> from inference import fit
        >>> result = fit(zoo.BetaBernoulli(), [1, 0, 1, 1, 0, 1], method="exact", seed=0)
        >>> result.many_locals
        False
        """
        if self.is_point or self.approximation.kept is not None:
            return False
        size = sum(int(np.prod(self.program.site_shape(s))) for s in self.program.locals)
        work = self.program.structure.products * len(self.program.data) * self.draw_count if size else 0
        return size * FEWEST_DRAWS > LARGEST or work > LONGEST

    @property
    def apart(self) -> bool:
        """Whether locals are all that has draws, so that those of some rows need none of the others.

        Examples
        --------
        >>> import zoo
        >>> from inference import fit
        >>> result = fit(zoo.FactorAnalysis(factors=1), "faithful", method="em", seed=0)
        >>> result.apart
        True
        """
        return not self.is_point and (not self.program.globals or self.fixed is not None)

    def one(self) -> Values:
        """Return values of all latents, parameters and weights: the point, or a draw.

        Examples
        --------
        >>> import zoo
        >>> from inference import fit
        >>> result = fit(zoo.GMM(components=2), "faithful", method="em", seed=0)
        >>> sorted(result.one())
        ['covariances', 'means', 'weights']
        """
        if self.is_point:
            return {**self.points, **{n: v[0] for n, v in self.approximation.draw(self.program, 1)[0].items()}}
        if self.many_locals and self.apart:
            with self.running(Stream.KEPT_DRAWS):
                proposed = self.approximation.propose(self.program, self.points, 1)
            if proposed is not None:
                return {**self.points, **(self.fixed or {}), **{n: v[0] for n, v in proposed[0].items()}}
        return {**self.points, **{n: v[0] for n, v in self.draws.values.items()}}

    def some(self) -> tuple[Program, Values]:
        """Return a program to look at and values of everything in it: of a few rows, where all go through networks.

        Examples
        --------
        >>> import zoo
        >>> from inference import fit
        >>> result = fit(zoo.GMM(components=2), "faithful", method="em", seed=0)
        >>> program, values = result.some()
        >>> len(program.data), sorted(values)  # all rows: none goes through a network
        (272, ['covariances', 'means', 'weights'])
        """
        program = self.program
        if not (program.networks and program.row) or program.tied or len(program.data) <= SOME:
            return program, self.one()
        rows = torch.linspace(0, len(program.data) - 1, SOME).long()
        if self.many_locals and self.apart:
            few = program.rebind(program.data.take(rows))
            with self.running(Stream.KEPT_DRAWS):
                proposed = self.approximation.propose(few, self.points, 1)
            if proposed is not None:
                return few, {**self.points, **(self.fixed or {}), **{n: v[0] for n, v in proposed[0].items()}}
        return program.some(rows.to(program.device), self.one())

    def by_chain(self, draws: np.ndarray) -> np.ndarray:
        """Lay out draws (draws, ...) as (chains, draws, ...).

        Examples
        --------
        >>> import zoo
        >>> from inference import fit
        >>> result = fit(zoo.BetaBernoulli(), [1, 0, 1, 1, 0, 1], method="exact", seed=0)
        >>> result.by_chain(result.draws.values["p"].numpy()).shape
        (1, 1000)
        """
        return draws.reshape(self.approximation.chains, -1, *draws.shape[1:])

    @cached_property
    def draws(self) -> Draws:
        """The kept posterior draws of the latents.

        Examples
        --------
        >>> import zoo
        >>> from inference import fit
        >>> result = fit(zoo.BetaBernoulli(), [1, 0, 1, 1, 0, 1], method="exact", seed=0)
        >>> result.draws.log_q.shape
        (1000,)
        """
        program, count = self.program, self.draw_count
        with self.running(Stream.KEPT_DRAWS):
            known = self.approximation.weighed(program, count)
            if known is not None:
                return Draws(known[0], known[2].cpu().numpy(), known[1].cpu().numpy())
            values, log_q = self.approximation.draw(program, count)
        known_q = log_q.cpu().numpy()
        return Draws(values, known_q, known_q if self.approximation.exact else None)

    @cached_property
    def log_p(self) -> np.ndarray:
        """log p(x, z) of each kept draw, shape (draws,): a pass over all rows for each, so only made if asked for.

        Examples
        --------
        >>> import zoo
        >>> from inference import fit
        >>> result = fit(zoo.BetaBernoulli(), [1, 0, 1, 1, 0, 1], method="exact", seed=0)
        >>> result.log_p.shape
        (1000,)
        """
        draws, program = self.draws, self.program
        if draws.log_p is not None:
            return draws.log_p

        def joint(v: Values) -> Tensor:
            return program.log_joint({**self.points, **v}).total(program.data.weights)

        with self.running(Stream.KEPT_DRAWS):
            found: np.ndarray = many(joint, draws.values, len(draws.log_q), chunk_for(program)).cpu().numpy()
        return found

    def globals(self, count: int, program: Program | None = None) -> Values:
        """Return `count` draws of the global latents: the kept ones if they suffice, or the point repeated.

        Of groups that only the rows of another `program` have, latents are drawn from their prior, given the others.

        Examples
        --------
        >>> import zoo
        >>> from inference import fit
        >>> result = fit(zoo.BetaBernoulli(), [1, 0, 1, 1, 0, 1], method="exact", seed=0)
        >>> result.globals(3)["p"].shape
        torch.Size([3])
        """
        known = self._globals(count)
        grown = [] if program is None else [s for s in program.globals if self._grown(program).intersection(s.plates)]
        if program is None or not grown:
            return known
        rest = {n: v for n, v in known.items() if n not in {s.name for s in grown}}
        with self.running(Stream.NEW_GROUPS):
            drawn = simulations(program, self.points, rest, count, [s.name for s in grown])
        sizes = self.program.sizes, program.sizes
        return {**known, **{s.name: with_new_groups(s, sizes, known[s.name], drawn[s.name]) for s in grown}}

    def _grown(self, program: Program) -> set[str]:
        """Plates of groups that are longer than they were for the fitted rows."""
        return {n for n, size in program.sizes.items() if size != self.program.sizes.get(n)}

    def has_new_groups(self, program: Program) -> bool:
        """Whether rows have groups that the fitted rows have not, so that something has to be drawn for these.

        Examples
        --------
        >>> import zoo
        >>> from inference import fit
        >>> result = fit(zoo.BetaBernoulli(), [1, 0, 1, 1, 0, 1], method="exact", seed=0)
        >>> result.has_new_groups(result.on([1, 0]))
        False
        """
        return bool(self._grown(program))

    def _globals(self, count: int) -> Values:
        names = {s.name for s in self.program.globals}
        if not names:
            return {}
        if self.is_point:
            values, _ = self.approximation.draw(self.program, 1)
            return {n: v.expand(count, *v.shape[1:]) for n, v in values.items() if n in names}
        if self.fixed is not None:
            return {n: v.expand(count, *v.shape) for n, v in self.fixed.items()}
        if count <= self.draw_count:
            # Every so many draws, so that each chain has its share; other draws have no order.
            at = torch.arange(count) * self.draw_count // count if self.approximation.exact else slice(count)
            return {n: v[at] for n, v in self.draws.values.items() if n in names}
        with self.running(Stream.MORE_DRAWS):
            values, _ = self.approximation.draw(self.program, count)
        return {n: v for n, v in values.items() if n in names}

    def on(self, new: Source | Data | None, *, block: bool = False) -> Program:
        """Return the program on new rows; on the fitted ones for None or the same; with `block` locals may be tied.

        Examples
        --------
        >>> import zoo
        >>> from inference import fit
        >>> result = fit(zoo.BetaBernoulli(), [1, 0, 1, 1, 0, 1], method="exact", seed=0)
        >>> len(result.on([1, 0]).data)
        2
        """
        return self.program if new is None else rebound(self.program, self.points, new, block=block)
