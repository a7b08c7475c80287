"""Hamiltonian trajectories of all particles at once, which adapt to where the particles are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from inference.runtime.interruption import asked
from inference.sampling.tempered import Tempered
from inference.sampling.whitening import Whitening, whitening

LENGTH = 1.5  # of a trajectory, in standard deviations of the particles: a quarter of a Normal's orbit is pi / 2
MOST_STEPS = 10  # leapfrog steps of a trajectory
ACCEPTANCE = 0.8  # mean acceptance that the step size is adapted to
HASTE = 1.5  # log step size moves by this times what the acceptance is off; its mean over particles has little noise
JITTER = 0.5  # log step sizes of particles differ by so much: necks need small ones, and no one length is periodic
FORGOTTEN = 0.2  # largest correlation with where particles began at which they have moved enough
PROGRESS = 0.02  # by which a further move has to lower the mean correlation
DRIFT = 3.0  # over the root of the count: shift of the likelihood's ranks by one move, at which all are in place
OVERLAP = 0.2  # share of the trajectories that leave one labelling, from which on modes are not apart


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

    def tempered(self, temperature: float) -> Tensor:
        """Log density on the way; -inf where the data are impossible or the density is no number."""
        return self.prior + temperature * self.gain


class Labels(Protocol):
    """Relabellings of exchangeable states, which leave every density on the way as it is."""

    def gathered(self, u: Tensor, height: Tensor) -> Tensor:
        """Vectors (count, size) relabelled to lie near each other, and where: see `own`; the highest is the first."""

    def own(self, u: Tensor) -> Tensor:
        """Which vectors (count, size) lie in the region that holds one relabelling of each, (count,)."""

    def scattered(self, u: Tensor) -> Tensor:
        """Vectors (count, size) with random labels."""


@dataclass(frozen=True)
class Moved:
    """Particles after their moves.

    Attributes
    ----------
    particles
        Where they are.
    lag
        By how much all moves together have shifted their likelihoods' ranks, in standard deviations of these.
    acceptance
        Mean over the moves.
    count
        How many moves.
    correlation
        With where they stood before, mean over coordinates.
    """

    particles: Particles
    lag: float
    acceptance: float
    count: int
    correlation: float


class Kernel:
    """Moves that leave a tempered density as it is, adapted to where the particles are.

    With exchangeable states a posterior is the same under all relabellings, and particles in all of them are spread
    over so many modes that no whitening fits. As long as trajectories rarely lead from one relabelling to another,
    each particle stands for its relabellings: all are relabelled to lie in one region, a trajectory that leaves it is
    rejected, and whitening fits the one mode in it. Where modes overlap, as under the prior, labels are random.

    Parameters
    ----------
    target
        The densities.
    size
        Number of coordinates.
    labels
        Relabellings, where states are exchangeable.
    """

    def __init__(self, target: Tempered, size: int, labels: Labels | None = None) -> None:
        self.target, self.labels, self.log_step = target, labels, math.log(1.0 / size**0.25)

    def at(self, u: Tensor, temperature: float) -> Particles:
        """Particles at vectors (count, size)."""
        return Particles(u, *self.target(u, temperature))

    def move(self, u: Tensor, height: Tensor, temperature: float, populations: int, fewest: int, most: int) -> Moved:
        """Move until particles have forgotten where they stood, or further moves do not help, some times at least.

        Parameters
        ----------
        u
            Where the particles are, shape (count, size).
        height
            Log densities by which one of them is the highest, (count,).
        temperature
            Of the density that moves leave as it is.
        populations
            How many populations they are.
        fewest, most
            How many moves.
        """
        apart = self.labels is not None
        now = self.at(u if self.labels is None else self.labels.gathered(u, height), temperature)
        begin, gain, count = centred(traced(now), populations), now.gain, 0
        accepted, correlation = 0.0, 1.0
        while count < most:
            last, before = correlation, now.gain
            now, acceptance, left = self._trajectory(now, temperature, whitening(now.u), apart)
            accepted, count = accepted + acceptance, count + 1
            if asked():
                break
            if left > OVERLAP and self.labels is not None:
                apart = False
                now = self.at(self.labels.scattered(now.u), temperature)
                begin = centred(traced(now), populations)
                continue
            # Wide coordinates of a population that has collapsed to one point have no correlation; they need moves too.
            here = centred(traced(now), populations)
            scale = (begin.square().mean(0) * here.square().mean(0)).sqrt().clamp_min(1e-300)
            each = (begin * here).mean(0) / scale
            correlation = float(each.mean())
            still = shift(now.gain, before) < DRIFT / math.sqrt(len(gain))
            if count >= fewest and still and (float(each.max()) < FORGOTTEN or last - correlation < PROGRESS):
                break
        return Moved(now, shift(now.gain, gain), accepted / count, count, correlation)

    def _trajectory(
        self, now: Particles, temperature: float, white: Whitening, apart: bool
    ) -> tuple[Particles, float, float]:
        """One trajectory of each particle, accepted or not; the mean acceptance, and the share that left the region.

        Positions z and momenta are those of the coordinates of `white`: (count, size) each.
        """
        steps = max(1, min(MOST_STEPS, math.ceil(LENGTH / math.exp(self.log_step))))
        steps = int(torch.randint((steps + 1) // 2, steps + 1, ()))
        step = (self.log_step + JITTER * (2 * torch.rand_like(now.u[:, :1]) - 1)).exp()
        momentum = torch.randn_like(now.u)
        then, z = now, white.inverse(now.u)
        force = white.pull(z, then.gradient)
        energy = 0.5 * momentum.square().sum(1) - now.tempered(temperature) - white.forward(z)[1]
        for _ in range(steps):
            momentum = momentum + 0.5 * step * force
            z = z + step * momentum
            u, log_scale = white.forward(z)
            then = self.at(u, temperature)
            force = white.pull(z, then.gradient)
            momentum = momentum + 0.5 * step * force
        change = energy - (0.5 * momentum.square().sum(1) - then.tempered(temperature) - log_scale)
        chance = change.clamp_max(0.0).exp().nan_to_num(0.0)
        good = torch.rand_like(chance) < chance
        mean, left = float(chance.mean()), 0.0
        self.log_step = min(1.0, self.log_step + HASTE * (mean - ACCEPTANCE))
        if apart and self.labels is not None:
            own = self.labels.own(then.u)
            left = float((good & ~own).double().mean())
            good = good & own

        def kept(new: Tensor, old: Tensor) -> Tensor:
            return torch.where(good if new.ndim == 1 else good[:, None], new, old)

        pairs = zip(vars(then).values(), vars(now).values(), strict=True)
        return Particles(*(kept(new, old) for new, old in pairs)), mean, left


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
