"""Ranks of true values among posterior draws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from inference.approximations.approximation import Approximation
from inference.diagnostics.arviz import effective_sizes
from inference.method import Outcome
from inference.simulated.quantities import Quantities
from inference.simulated.truths import Truth
from zoo.errors import FitError
from zoo.program.program import Program
from zoo.replay.evaluate import Values

POOL = (
    1000  # draws from q that the ranked ones are taken from: those of a point set are stratified, and some of them not
)
RANKED = (
    100  # draws that a true value is ranked among; the Monte Carlo error of a rank is then below that of 1000 ranks
)
FEWEST = 4  # of chains that hardly move

Ranks = dict[str, np.ndarray]  # quantity -> (rank + noise) / (draws + 1), in its own shape


@dataclass(frozen=True)
class Refit:
    """What became of one simulation.

    Attributes
    ----------
    ranks
        Quantity -> its normalized rank; empty where the refit broke down.
    failure
        What broke it down.
    """

    ranks: Ranks
    failure: str = ""


def ranked(truth: Truth, outcome: Outcome, quantities: Quantities) -> Refit:
    """Rank true values among draws, by the global RNG: (r + u) / (L + 1) with r draws below, ties in random order.

    Uniform on (0, 1), whatever L is, if truth and draws have the same distribution (Talts et al. 2018, theorem 1).

    Raises
    ------
    FitError
        If the method gives a point, or its draws are not numbers.
    """
    program, q = truth.program, outcome.approximation
    if q.point:
        raise FitError("the method gives a point estimate, whose draws would all be the same")
    with torch.no_grad():
        values = thinned(program, q)
        both = {n: torch.cat([truth.values[n][None].to(v), v]) for n, v in values.items()}
        count = len(next(iter(both.values())))
        found = quantities.of(program, outcome.points, both, count)
    return Refit({n: _rank(n, v.double().cpu()) for n, v in found.items()})


def _rank(name: str, values: Tensor) -> np.ndarray:
    """Normalized rank of the first of (1 + L, ...) values among the others."""
    true, draws = values[0], values[1:]
    if bool(values.isnan().any()):
        raise FitError(f"{name!r} is not a number at the true value or at a draw")
    below, equal = (draws < true).sum(0), (draws == true).sum(0)
    # A rank in random order among ties, and noise within it: together uniform on (below, below + equal + 1).
    noise = torch.rand(true.shape, dtype=torch.float64)
    return np.asarray(((below + noise * (equal + 1)) / (len(draws) + 1)).numpy())


def thinned(program: Program, q: Approximation) -> Values:
    """Draws that are as good as independent: of Markov chains every so many, by their effective sample size."""
    if q.kept is None:
        values, _ = q.draw(program, POOL)
        at = torch.randperm(POOL)[:RANKED]
    else:
        values, log_p = q.draw(program, q.kept)
        count = min(RANKED, q.kept)
        if q.chains > 1:
            numbers = torch.cat(
                [log_p.reshape(q.kept, -1), *(values[s.name].reshape(q.kept, -1) for s in program.globals)], 1
            )
            sizes = effective_sizes(numbers.double().cpu().numpy().reshape(q.chains, q.kept // q.chains, -1))
            finite = sizes[np.isfinite(sizes)]  # an entry that chains keep has none
            count = max(FEWEST, min(count, int(finite.min()) if len(finite) else FEWEST))
            at = (torch.arange(count) * q.kept + q.kept // 2) // count
        else:
            at = torch.randperm(q.kept)[:count]
    return {n: v[at.to(v.device)] for n, v in values.items()}
