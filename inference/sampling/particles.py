"""Tempered sequential Monte Carlo: populations of particles carried from the prior to the posterior."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from inference.runtime.interruption import asked
from inference.runtime.monitor import Monitor
from inference.sampling.tempered import Tempered
from inference.sampling.trajectories import Kernel, Labels, Moved, Particles
from zoo.errors import FitError

# Moves at a temperature, and while particles lag behind: 3 there, too, leave log p(x) of wide regressions lower by 0.1.
FEWEST, FEWEST_SLOW = 3, 8
LAG = 4.0  # over the root of the count: shift of the likelihood's ranks by all moves, at which particles lag behind
SMALLER, LARGER = 1 / 3, 1.25  # by which the loss of particles at a temperature shrinks after a lag, and grows back
FINEST = 0.98  # largest share of the particles left in effect
SMALLEST_STEP = 1e-8  # in the temperature, relative to where it is: below it the prior hardly meets the posterior
HALVINGS = 60  # of an interval of temperatures
MOST_TEMPERATURES = 1000


@dataclass
class Run:
    """A finished run.

    Attributes
    ----------
    particles
        Draws of the posterior.
    log_evidence
        Estimate by each population, shape (populations,).
    temperatures
        From 0 to 1.
    acceptance
        Of the moves at each temperature but the first; temperatures that were tried and given up count, too.
    moves
        How many of these there were.
    correlation
        Of the particles with where they stood before the last moves: mean over coordinates.
    ancestors
        How many of the prior draws have descendants, the fewest of a population.
    impossible
        Share of the prior draws at which the density is zero or no number.
    """

    particles: Particles
    log_evidence: Tensor
    temperatures: list[float]
    acceptance: list[float] = field(default_factory=list)
    moves: list[int] = field(default_factory=list)
    correlation: float = 1.0
    ancestors: int = 0
    impossible: float = 0.0


def carry(
    target: Tempered,
    start: Tensor,
    populations: int,
    share: float,
    most: int,
    monitor: Monitor,
    labels: Labels | None = None,
) -> Run:
    """Carry particles from the prior to the posterior (Del Moral, Doucet and Jasra 2006).

    At each temperature b the next is the one at which weights exp((b' - b) (log p_1 - log p_0)) leave `share` of the
    particles in effect; their mean is the factor by which the normalizing constant grows; each population is resampled
    by them, and moved by Hamiltonian trajectories that leave p_b' as it is, in coordinates that the particles' own
    moments make nearly standard Normal, with step sizes that follow the acceptance (Buchholz, Chopin and Jacob 2021).
    Schedule and kernels are shared by all populations; weights and ancestors are not, so that their estimates are
    independent but for that.

    Weighted and resampled particles are distributed as p_b', before and after they move. Where moves shift their
    likelihoods, they were not: p_b changes faster than particles follow, as where a wide prior on coefficients lets
    the scale of the noise fall by orders of magnitude within a small interval of b. Then that temperature is given up,
    and a smaller step tried.

    A run that is to end goes from where it is to the posterior in one step, and nothing is moved there: the weights are
    right, and few particles are left.

    Parameters
    ----------
    target
        The densities.
    start
        Draws of the prior, shape (populations * particles, size).
    populations
        How many populations they are.
    share
        Between 0 and 1.
    most
        Most moves at a temperature.
    monitor
        Notes the log evidence so far after each temperature.
    labels
        Relabellings of exchangeable states.

    Raises
    ------
    FitError
        If the data are impossible at all draws of the prior, or the temperature gets stuck.
    """
    size = len(start) // populations
    bad = ~start.isfinite().all(1)  # where the prior underflows: a precision of exactly 0
    now = Particles(start, *target(torch.where(bad[:, None], torch.zeros_like(start), start), 0.0))
    now.joint[bad] = -math.inf
    run = Run(now, start.new_zeros(populations, dtype=torch.float64), [0.0])
    run.impossible = float((~now.joint.isfinite()).double().mean())
    if run.impossible == 1.0:
        raise FitError(
            "smc: the data have density zero, or none that is a number, at all draws of the prior; narrow the priors, "
            "or use nuts, which begins at starting values"
        )
    eve, kernel, left = torch.arange(len(start), device=start.device), Kernel(target, start.shape[1], labels), share
    while run.temperatures[-1] < 1.0:
        before = run.temperatures[-1]
        after = 1.0 if asked() else next_temperature(now.gain.double(), before, left)
        if after - before < SMALLEST_STEP * before or len(run.temperatures) > MOST_TEMPERATURES:
            raise FitError(
                f"smc: stuck at temperature {before:.2g} on the way from the prior to the posterior; the likelihood "
                "varies too sharply among the particles. Take more particles, or priors nearer to the data"
            )
        logs = ((after - before) * now.gain.double()).reshape(populations, size)
        grown = run.log_evidence + logs.logsumexp(1) - math.log(size)
        if bool(grown.isneginf().any()):
            raise FitError("smc: the data are impossible at all particles of a population; take more particles")
        at = systematic(logs)
        fewest = FEWEST if left == share else FEWEST_SLOW
        if asked():
            moved = Moved(Particles(*(of[at] for of in vars(now).values())), 0.0, 0.0, 0, 1.0)
        else:
            moved = kernel.move(now.u[at], now.tempered(after)[at], after, populations, fewest, most)
        run.acceptance.append(moved.acceptance)
        run.moves.append(moved.count)
        run.correlation = moved.correlation
        if moved.lag > LAG / math.sqrt(len(start)) and left < FINEST:
            left = 1 - SMALLER * (1 - left)
            continue
        now, eve, left = moved.particles, eve[at], max(share, 1 - LARGER * (1 - left))
        run.log_evidence = grown
        run.temperatures.append(after)
        monitor.record(len(run.temperatures) - 1, float(run.log_evidence.logsumexp(0)) - math.log(populations))
    run.particles = now
    run.ancestors = min(len(of.unique()) for of in eve.reshape(populations, size))
    return run


def next_temperature(gain: Tensor, before: float, share: float) -> float:
    """Largest b <= 1 at which weights exp((b - before) gain) leave `share` of the particles: ESS / n >= share.

    ESS = (sum w)^2 / sum w^2 (Jasra et al. 2011), over the particles that the data are possible at. By bisection, in
    the logarithm of the step, because a wide prior needs first steps of 1e-10.
    """
    gain = gain[gain.isfinite()]

    def remaining(step: float) -> float:
        logs = step * gain
        return float((2 * logs.logsumexp(0) - (2 * logs).logsumexp(0)).exp()) / len(gain)

    if remaining(1.0 - before) >= share:
        return 1.0
    low, high = -300.0, math.log(1.0 - before)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if remaining(math.exp(middle)) >= share else (low, middle)
    return before + math.exp(low)


def systematic(logs: Tensor) -> Tensor:
    """Resample each population by its log weights (populations, particles); positions in the flat order (count,).

    Systematic resampling: one uniform number a population; every particle comes as often as expected, to the next
    whole number below or above (Carpenter, Clifford and Fearnhead 1999). Descendants stay together.
    """
    populations, size = logs.shape
    edges = logs.softmax(1).cumsum(1)
    edges = edges / edges[:, -1:]
    grid = torch.arange(size, dtype=logs.dtype, device=logs.device)
    points = (torch.rand(populations, 1, dtype=logs.dtype, device=logs.device) + grid) / size
    at = torch.searchsorted(edges, points).clamp_max(size - 1)
    first = size * torch.arange(populations, device=logs.device)[:, None]
    return (at + first).reshape(-1)
