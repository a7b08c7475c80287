"""Tempered sequential Monte Carlo: populations of particles carried from the prior to the posterior."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from inference.runtime.monitor import Monitor
from inference.sampling.tempered import Tempered
from inference.sampling.whitening import Whitening, whitening
from zoo.errors import FitError

LENGTH = 1.5  # of a trajectory, in standard deviations of the particles: a quarter of a Normal's orbit is pi / 2
MOST_STEPS = 10  # leapfrog steps of a trajectory
ACCEPTANCE = 0.8  # mean acceptance that the step size is adapted to
HASTE = 1.5  # log step size moves by this times what the acceptance is off; its mean over particles has little noise
JITTER = 0.5  # log step sizes of particles differ by so much: necks need small ones, and no one length is periodic
FORGOTTEN = 0.2  # largest correlation with where particles began at which they have moved enough
PROGRESS = 0.02  # by which a further move has to lower the mean correlation
FEWEST_MOVES, FEWEST_SLOW = 3, 8  # at a temperature, and while particles lag behind
DRIFT, LAG = 3.0, 4.0  # over the root of the count: shifts of the likelihood's ranks, by one move and by all of them
SMALLER, LARGER = 1 / 3, 1.25  # by which the loss of particles at a temperature shrinks after a lag, and grows back
FINEST = 0.98  # largest share of the particles left in effect
SMALLEST_STEP = 1e-8  # in the temperature, relative to where it is: below it the prior hardly meets the posterior
HALVINGS = 60  # of an interval of temperatures
MOST_TEMPERATURES = 1000


@dataclass
class Particles:
    """Where the particles are.

    Attributes
    ----------
    u
        Unconstrained vectors, shape (populations * particles, size), population after population.
    prior, joint, gradient
        log p_0 and log p_1 at each, shape (count,), and the gradient of the tempered density, (count, size).
    """

    u: Tensor
    prior: Tensor
    joint: Tensor
    gradient: Tensor

    @property
    def gain(self) -> Tensor:
        """Log likelihood, (count,)."""
        return self.joint - self.prior

    def take(self, at: Tensor) -> Particles:
        """Return those at the given places."""
        return Particles(self.u[at], self.prior[at], self.joint[at], self.gradient[at])

    def tempered(self, temperature: float) -> Tensor:
        """Log density on the way; -inf where the data are impossible or the density is no number."""
        return self.prior + temperature * self.gain


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


def carry(target: Tempered, start: Tensor, populations: int, share: float, most: int, monitor: Monitor) -> Run:
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
    eve, kernel, left = torch.arange(len(start), device=start.device), Kernel(target, start.shape[1]), share
    while run.temperatures[-1] < 1.0:
        before = run.temperatures[-1]
        after = next_temperature(now.gain.double(), before, left)
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
        here = now.take(at)
        here.gradient = target(here.u, after)[2]
        fewest = FEWEST_MOVES if left == share else FEWEST_SLOW
        here, lag = kernel.move(here, after, populations, (fewest, most), run)
        if lag > LAG / math.sqrt(len(start)) and left < FINEST:
            left = 1 - SMALLER * (1 - left)
            continue
        now, eve, left = here, eve[at], max(share, 1 - LARGER * (1 - left))
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


class Kernel:
    """Hamiltonian trajectories of all particles at once, adapted to where the particles are.

    Parameters
    ----------
    target
        The densities.
    size
        Number of coordinates.
    """

    def __init__(self, target: Tempered, size: int) -> None:
        self.target, self.log_step = target, math.log(1.0 / size**0.25)

    def move(
        self, now: Particles, temperature: float, populations: int, bounds: tuple[int, int], run: Run
    ) -> tuple[Particles, float]:
        """Move until particles have forgotten where they stood, or further moves do not help, some times at least.

        Parameters
        ----------
        now
            The particles.
        temperature
            Of the density that moves leave as it is.
        populations
            How many populations they are.
        bounds
            Fewest and most moves.
        run
            Takes notes.

        Returns
        -------
        tuple
            The particles, and by how much all moves together have shifted their likelihoods.
        """
        begin, gain = centred(traced(now), populations), now.gain
        # Wide coordinates of a population that has collapsed to one point have no correlation; they need moves too.
        scale = begin.square().mean(0)
        accepted, correlation, count = 0.0, 1.0, 0
        while count < bounds[1]:
            last, before = correlation, now.gain
            now, acceptance = self._trajectory(now, temperature, whitening(now.u))
            accepted, count = accepted + acceptance, count + 1
            here = centred(traced(now), populations)
            each = (begin * here).mean(0) / (scale * here.square().mean(0)).sqrt().clamp_min(1e-300)
            correlation = float(each.mean())
            still = shift(now.gain, before) < DRIFT / math.sqrt(len(gain))
            if count >= bounds[0] and still and (float(each.max()) < FORGOTTEN or last - correlation < PROGRESS):
                break
        run.acceptance.append(accepted / count)
        run.moves.append(count)
        run.correlation = correlation
        return now, shift(now.gain, gain)

    def _trajectory(self, now: Particles, temperature: float, white: Whitening) -> tuple[Particles, float]:
        """One trajectory of each particle, accepted or not; and the mean acceptance.

        Positions z and momenta are those of the coordinates of `white`: (count, size) each.
        """
        steps = max(1, min(MOST_STEPS, math.ceil(LENGTH / math.exp(self.log_step))))
        steps = int(torch.randint((steps + 1) // 2, steps + 1, ()))
        step = (self.log_step + JITTER * (2 * torch.rand_like(now.u[:, :1]) - 1)).exp()
        momentum = torch.randn_like(now.u)
        then, z = now, white.inverse(now.u)
        energy = 0.5 * momentum.square().sum(1) - now.tempered(temperature) - white.forward(z)[1]
        for _ in range(steps):
            momentum = momentum + 0.5 * step * white.pull(z, then.gradient)
            z = z + step * momentum
            u, log_scale = white.forward(z)
            then = Particles(u, *self.target(u, temperature))
            momentum = momentum + 0.5 * step * white.pull(z, then.gradient)
        change = energy - (0.5 * momentum.square().sum(1) - then.tempered(temperature) - log_scale)
        chance = change.clamp_max(0.0).exp().nan_to_num(0.0)
        good = torch.rand_like(chance) < chance
        mean = float(chance.mean())
        self.log_step = min(1.0, self.log_step + HASTE * (mean - ACCEPTANCE))

        def kept(new: Tensor, old: Tensor) -> Tensor:
            return torch.where(good if new.ndim == 1 else good[:, None], new, old)

        pairs = zip(vars(then).values(), vars(now).values(), strict=True)
        return Particles(*(kept(new, old) for new, old in pairs)), mean


def traced(now: Particles) -> Tensor:
    """What particles have to forget, (count, size + 1): where they stand, and the ranks of their likelihoods."""
    return torch.cat([now.u, now.gain.argsort().argsort()[:, None].to(now.u)], 1)


def shift(new: Tensor, old: Tensor) -> float:
    """How far the ranks of new numbers (count,) among old ones are from their middle, in standard deviations."""
    edges = old.sort().values
    below = torch.searchsorted(edges, new) + torch.searchsorted(edges, new, right=True)
    return abs(float(below.double().mean()) / (2 * len(old)) - 0.5) * math.sqrt(12)


def centred(u: Tensor, populations: int) -> Tensor:
    """Particles about the mean of their population, shape (count, size)."""
    by_population = u.reshape(populations, -1, u.shape[1])
    return (by_population - by_population.mean(1, keepdim=True)).reshape(u.shape)
