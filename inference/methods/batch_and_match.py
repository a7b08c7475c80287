"""What `SVI(guide=FullRank(), optimizer="batch-and-match")` runs: closed-form updates, then the verdict of any q."""

from __future__ import annotations

from itertools import chain

import torch

from guides.full_rank import FullRank
from inference.approximations.trained import Trained
from inference.compiled.compile import Compile, Lowered
from inference.diagnostics.importance import handed_out, judge
from inference.diagnostics.judgement import Judgement
from inference.method import Objective, Outcome
from inference.methods.dadvi import MOST_TRIED, elsewhere, first_coordinates
from inference.methods.laplace import normal_guide
from inference.runtime.interruption import listening
from inference.runtime.monitor import Monitor, Told
from inference.sampling.unconstrained import Target, centre_of
from inference.starts.natural import natural_start
from inference.starts.values import starting_values
from inference.variational.batch_and_match import MOST, NEAR, Matched, match
from inference.variational.fixed_draws import FixedDraws
from zoo.program.flat_density import Density
from zoo.program.program import Program

BATCH, LARGEST = 32, 256  # draws for each update: at least, and no more than this for twice as many as coordinates


def batch_size(size: int) -> int:
    """Draws for each update, by the number of coordinates."""
    return max(BATCH, min(2 * size, LARGEST))


def matched(
    program: Program,
    steps: int,
    draws: int | None,
    how: Compile,
    *,
    corrected: bool,
    judged: bool,
    progress: Told | bool,
) -> Outcome:
    """Fit a Normal with full covariance to the posterior by batch and match.

    Parameters
    ----------
    program
        The program, perhaps with latents integrated out.
    steps, draws
        Most updates, at most 250, and draws of each; None: 32, or twice the number of coordinates up to 256.
    how
        Whether to compile the gradients.
    corrected, judged
        Whether draws that are handed out are resampled by their weights, and whether something is said of them.
    """
    density, most = Density(program), min(steps, MOST)
    start = natural_start(program, starting_values(program))
    centre, unit = centre_of(start)
    with listening(), Monitor("svi", most, show=progress) as monitor:
        fixed = FixedDraws(density, draws or batch_size(density.size), how, torch.from_numpy(centre))
        target = Target(Lowered(density.gradient, False), program)
        points = chain([(centre, unit)], (elsewhere(program, target) for _ in range(MOST_TRIED)))
        end = match(fixed, *first_coordinates(fixed, target, points), most)
        for step, bound in enumerate(end.bounds, 1):
            monitor.record(step, bound)
        normal = normal_guide(program, start, end.mean, end.tril).requires_grad_(False).eval()
        q, calls = Trained(FullRank(), normal, program.data), fixed.calls + target.calls
        converged = end.distance < NEAR
        reason = said(end, calls, converged=converged)
        if judged:
            judgement = judge(program, q, {}, converged=converged, corrected=corrected)
        else:
            judgement = Judgement(handed_out(program, q, {}, corrected=corrected), Objective(end.bounds[-1], "elbo"))
        return judgement.outcome(
            program,
            trace=monitor.trace,
            steps=len(end.bounds),
            reason=reason,
            converged=converged,
            warnings=[*([fixed.gradient.note] if fixed.gradient.note else []), *([] if converged else [reason])],
            diagnostics={"gradients": float(calls), "distance": end.distance},
        )


def said(end: Matched, calls: int, *, converged: bool) -> str:
    """How near the updates came to their limit."""
    left = f"averages over {len(end.bounds)} updates of batch-and-match are {end.distance:.1e} sds from their limit"
    return f"{left}; {calls} gradients" if converged else f"{left}, more than {NEAR}; {calls} gradients"
