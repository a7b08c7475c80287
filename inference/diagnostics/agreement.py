"""Whether chains, or several starts, agree with one another, and how much draws are worth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from inference.approximations.approximation import Approximation
from inference.approximations.rows import chunk_for
from inference.diagnostics.arviz import effective_sizes, mcse_of_mean, split_rhat
from inference.diagnostics.coordinates import entry_name
from inference.diagnostics.judgement import Judgement
from inference.diagnostics.verdict import CARE, TRUST
from zoo.program.program import Program
from zoo.replay.evaluate import Values, many

FEWEST_DRAWS = 8  # of a chain from which anything can be said of it
START_DRAWS = 200  # from q of each start: its R-hat has to be told from 1.01 only roughly
RHAT_GOOD = 1.01  # largest R-hat at which chains agree (Vehtari et al. 2021)


@dataclass(frozen=True)
class ChainCheck:
    """Whether chains agree and how much their draws are worth.

    Attributes
    ----------
    rhat, worst_rhat
        Largest rank-normalized split R-hat (Vehtari et al. 2021), and the entry it belongs to.
    ess, worst_ess
        Smallest effective sample size, of the bulk or the tails, and the entry it belongs to.
    """

    rhat: float
    worst_rhat: str
    ess: float
    worst_ess: str

    @property
    def praise(self) -> str:
        """Say that all is well."""
        return f"R-hat at most {self.rhat:.3f}, effective sample sizes at least {self.ess:.0f}"


def check_chains(
    draws: Mapping[str, np.ndarray], named: Callable[[str, Sequence[int]], str] = entry_name
) -> ChainCheck:
    """R-hat and effective sample sizes over all entries of draws (chains, draws, ...); what never changes is left out.

    A chain on its own is checked in halves. `named` names an entry of a site by its place.
    """

    def label(name: str, array: np.ndarray, entry: int) -> str:
        return named(name, [int(i) for i in np.unravel_index(entry, array.shape[2:])] if array.ndim > 2 else [])

    rhat, ess = (float("nan"), ""), (float("nan"), "")
    for name, array in draws.items():
        flat = array.reshape(*array.shape[:2], -1)  # (chains, draws, entries)
        moves = np.flatnonzero(np.ptp(flat, axis=(0, 1)) > 0)
        if flat.shape[1] < FEWEST_DRAWS or not len(moves):
            continue
        flat = flat[..., moves]
        rhats = np.nan_to_num(split_rhat(_halves(flat)), nan=np.inf)  # NaN: an entry that one chain keeps
        sizes = np.nan_to_num(effective_sizes(flat), nan=0.0)
        top, low = int(np.argmax(rhats)), int(np.argmin(sizes))
        rhat = rhat if rhat[0] >= rhats[top] else (float(rhats[top]), label(name, array, moves[top]))
        ess = ess if ess[0] <= sizes[low] else (float(sizes[low]), label(name, array, moves[low]))
    return ChainCheck(*rhat, *ess)


def rhat_of_starts(program: Program, ends: Sequence[tuple[Approximation, Values]]) -> float:
    """R-hat of the log joint over draws from the ends of several starts, which no relabelling changes.

    Parameters
    ----------
    program
        The program.
    ends
        q, and the values of parameters and network weights, where each start has ended.
    """
    log_joints = []
    for q, points in ends:
        draws, _ = q.draw(program, START_DRAWS)

        def joint(values: Values, points: Values = points) -> Tensor:
            return program.log_joint({**points, **values}).total(program.data.weights)

        log_joints.append(many(joint, draws, START_DRAWS, chunk_for(program)).double().cpu().numpy())
    return float(split_rhat(np.stack(log_joints)))


def mean_error(draws: np.ndarray) -> float:
    """Monte Carlo standard error of the mean of draws (chains, draws)."""
    if draws.shape[1] < FEWEST_DRAWS:
        return float(draws.std() / np.sqrt(draws.size))
    return mcse_of_mean(draws)


def _halves(draws: np.ndarray) -> np.ndarray:
    """A single chain as two."""
    if len(draws) > 1:
        return draws
    half = draws.shape[1] // 2
    return draws[0, : 2 * half].reshape(2, half, *draws.shape[2:])


def with_agreement(program: Program, judgement: Judgement, ends: Sequence[tuple[Approximation, Values]]) -> Judgement:
    """Add R-hat of the log joint over draws from the ends of several starts, which no relabelling changes.

    Where starts contradict each other, the best is trusted only if a wider look at the posterior bears it out.

    Parameters
    ----------
    program
        The program.
    judgement
        Of the best end.
    ends
        q, and the values of parameters and network weights, where each start has ended.
    """
    value = rhat_of_starts(program, ends)
    note = f"the {len(ends)} starts end in different places (R-hat of the log joint {value:.2f}); the best is kept"
    apart, words = value > RHAT_GOOD, judgement.verdict
    if apart and words.startswith(TRUST) and not judgement.confirmed:
        words = f"{CARE}: {note}, and no wider look could tell whether it is right; else {words}"
    return replace(
        judgement,
        diagnostics={**judgement.diagnostics, "rhat_restarts": value},
        warnings=[*judgement.warnings, *([note] if apart else [])],
        verdict=words,
    )
