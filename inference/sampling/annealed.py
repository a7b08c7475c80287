"""Annealed importance sampling of the locals of rows (Neal 2001), all rows and chains as one vector."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from inference.compiled.compile import Lowered, lower
from zoo.program.program import Program
from zoo.program.rows import Batch, on, rows_of
from zoo.replay.evaluate import Values

SCHEDULE = 4.0  # half the width of the sigmoid along which temperatures rise (Wu et al. 2017)
TARGET = 0.65  # of moves accepted (Neal 2011)
FIRST, LEAST, MOST = 0.3, 1e-4, 1.5  # step sizes, in units of the unconstrained coordinates
LEARNERS = 4  # chains of each row from which sizes of steps are learned
QUICKER = 1.1  # by which the sizes of a row grow when all of its chains accept a move


class Tempered:
    """log p(z) + b log p(x | z) of each row's locals, over unconstrained coordinates u (rows, L), with slopes.

    Parameters
    ----------
    program, points
        Rows, and values of all that they share.
    calls
        How often it will be evaluated, for judging whether to compile it.
    """

    def __init__(self, program: Program, points: Values, calls: int) -> None:
        self.program, self.points, self.batch = program, points, rows_of(program.data)
        like = torch.zeros(len(program.data), program.view.local_size, dtype=program.dtype, device=program.device)
        eager = Lowered(self._parts, False)
        self.lowered = (
            eager if program.data.missing else lower(self._parts, (like, points, self.batch), program, "auto", calls)
        )

    def _parts(self, u: Tensor, points: Values, batch: Batch) -> tuple[Tensor, ...]:
        """Log prior density of u and log likelihood of the rows, (rows,) each, then the gradients of both, (rows, L).

        Rows are independent, so the gradients of the sums are those of each.
        """
        seen = on(self.program, batch)

        def of(u: Tensor) -> tuple[Tensor, Tensor]:
            values, jacobian = seen.view.constrain_locals(u)
            by_site = seen.log_probs({**points, **values})
            prior = seen.log_prior(by_site, list(values)).rows
            return prior + jacobian, seen.eliminate(by_site).rows - prior

        (prior, likelihood), pull = torch.func.vjp(of, u)[:2]
        one, zero = torch.ones_like(prior), torch.zeros_like(prior)
        return prior, likelihood, *pull((one, zero)), *pull((zero, one))

    def __call__(self, u: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Both parts, and their gradients."""
        prior, likelihood, first, second = self.lowered(u.contiguous(), self.points, self.batch)
        return prior, likelihood, (first, second)

    def start(self) -> Tensor:
        """Draw from the prior."""
        drawn = self.program.simulate(self.points, observed=False)
        return self.program.view.unconstrain_locals({s.name: drawn[s.name] for s in self.program.locals})


class Steps:
    """Sizes of steps, one for each row and temperature: learned by one run, and what they were for the next."""

    def __init__(self, rows: int, like: Tensor) -> None:
        self.now = torch.full((rows,), FIRST, dtype=like.dtype, device=like.device)
        self.of: list[Tensor] = []

    def learn(self, accepted: Tensor) -> None:
        """Grow where more moves than `TARGET` were accepted, shrink where fewer; `accepted` is by chain and row."""
        share = accepted.to(self.now.dtype).mean(0)
        self.of.append(self.now)
        self.now = (self.now * QUICKER ** ((share - TARGET) / (1 - TARGET))).clamp(LEAST, MOST)


def annealed(program: Program, points: Values, chains: int, temperatures: int, leapfrogs: int) -> tuple[Tensor, float]:
    """Log weights of chains for each row of a program, in float64 (chains, rows), and the share of moves accepted.

    log w = sum_t (b_t - b_{t-1}) log p(x | z_{t-1}), z_0 from the prior and z_t from a Hamiltonian move that leaves
    p(z) p(x | z)^{b_t} as it is, so that E[w] = p(x). Sizes of steps are learned by a run of their own: learned from
    the moves that are counted, they would bias the weights.
    """
    rise = torch.sigmoid(torch.linspace(-SCHEDULE, SCHEDULE, temperatures + 1, dtype=torch.float64))
    betas = ((rise - rise[0]) / (rise[-1] - rise[0])).tolist()
    rows = len(program.data)
    steps: Steps | None = None
    for count in (min(chains, LEARNERS), chains):
        own = program.rebind(program.data.take(torch.arange(rows).repeat(count)))
        steps, log_weights, accepted = _run(
            Tempered(own, points, temperatures * leapfrogs), rows, betas, leapfrogs, steps
        )
    return log_weights, accepted


def _run(
    density: Tempered, rows: int, betas: list[float], leapfrogs: int, known: Steps | None
) -> tuple[Steps, Tensor, float]:
    """One run through the temperatures, with steps that are known or learned on the way."""
    u = density.start()
    steps = Steps(rows, u) if known is None else known
    log_weights = torch.zeros(len(u), dtype=torch.float64, device=u.device)
    shares = []
    prior, likelihood, slopes = density(u)
    for t, (before, beta) in enumerate(pairwise(betas)):
        log_weights += (beta - before) * likelihood.double()
        size = (steps.now if known is None else steps.of[t]).repeat(len(u) // rows)[:, None]
        momentum = torch.randn_like(u)
        energy = prior + beta * likelihood - 0.5 * momentum.square().sum(-1)
        at, there = u, (prior, likelihood, slopes)
        speed = momentum + 0.5 * size * (slopes[0] + beta * slopes[1])
        for k in range(leapfrogs):
            at = at + size * speed
            there = density(at)
            half = 0.5 if k == leapfrogs - 1 else 1.0
            speed = speed + half * size * (there[2][0] + beta * there[2][1])
        gain = there[0] + beta * there[1] - 0.5 * speed.square().sum(-1) - energy
        taken = torch.rand_like(gain).log() < gain  # never where the density is no number
        if known is None:
            steps.learn(taken.reshape(-1, rows))
        shares.append(float(taken.double().mean()))
        prior, likelihood = torch.where(taken, there[0], prior), torch.where(taken, there[1], likelihood)
        new, old = torch.stack([at, *there[2]]), torch.stack([u, *slopes])
        u, *both = torch.where(taken[:, None], new, old)
        slopes = both[0], both[1]
    return steps, log_weights.reshape(-1, rows), sum(shares) / len(shares)
