"""How far a fitted q can be trusted: its draws are weighed against the posterior, and corrected where that can be."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TypeGuard

import numpy as np
import torch
from torch import Tensor

from inference.approximations.approximation import Approximation
from inference.approximations.corrected import Corrected
from inference.approximations.pareto import KHAT_GOOD, khat_note, most_shape, shape_error, smoothed
from inference.approximations.rows import chunk_for, log_mean_exp
from inference.approximations.trained import Trained
from inference.diagnostics.coordinates import Names
from inference.diagnostics.judgement import Judgement
from inference.diagnostics.labelling import labelling_of, restricted
from inference.diagnostics.resampling import Pool, kept_for, resampled
from inference.diagnostics.shifts import Moments, Shifts, by_site, moments, place_of, quantiles, scalars, shifts
from inference.diagnostics.survey import Survey, survey
from inference.diagnostics.verdict import CARE, Evidence, is_clear, verdict
from inference.method import Objective
from zoo.errors import FitError
from zoo.program.program import Program
from zoo.replay.evaluate import Values, many

DRAWS = 10_000  # Pareto shapes from fewer are noisy
MORE = 8  # times as many for a wider look that leaves it open whether anything is off
UNJUDGED = 2000  # that are weighed where nothing is said of them
FEWEST_DRAWS = 10  # for a bound with an error, however large the data
FEWEST_FOR_KHAT = 200  # of fewer, the tail that a Pareto distribution is fitted to has less than 40
CELLS = 50_000_000  # entries of the data times draws that are evaluated: some seconds of work
PRODUCTS = 200  # multiply-adds in networks, which take as long as the density of one entry
COLUMNS = 8  # of a linear predictor, which cost as much as one entry of what is observed
SORTED = 500  # scalars whose quantiles are looked at, at most
FINITE = 0.5  # Pareto shape above which weights have no variance, and errors by it are too small
MASS = 0.1  # nats by which a wider look may find more evidence than draws of q, beyond errors


def judge(
    program: Program,
    q: Approximation,
    points: Values,
    *,
    converged: bool,
    particles: int = 1,
    corrected: bool = True,
    holes: bool = False,
    keep: int | None = None,
    draws: int | None = None,
) -> Judgement:
    """Weigh draws of a fitted q against the posterior, and correct them by their weights where these allow it.

    The ELBO is the mean of log p - log q over fresh draws; log p(x) is estimated by the log of the mean of p / q, with
    its standard error; the Pareto shape k-hat of p / q says whether that error, and the weights, can be believed (Yao
    et al. 2018). Where they can, the draws that are handed out are resampled by Pareto-smoothed weights. How far they
    are from the posterior is judged by a second estimate of its means and standard deviations, where there is one.

    Parameters
    ----------
    program
        The program.
    q, points
        The fitted distribution, and the values of parameters and network weights.
    converged
        Whether the fit came to its end, for the verdict.
    particles
        Draws of the importance-weighted bound to report; 1 for the ELBO.
    corrected
        Whether draws are to be corrected.
    holes
        Whether q may have draws where the density of the model is zero.
    keep
        How many corrected draws to hand out; None: 1000, fewer of large models.
    draws
        How many draws to weigh, at most; None: 10,000, fewer of large data.

    Raises
    ------
    FitError
        If the log density is not finite at draws of q.
    """
    pool = drawn(program, q, points, min(draws or DRAWS, draws_for(program)))
    ratio = pool.log_ratio if holes else finite(pool.log_ratio, pool.log_ratio.isfinite())
    labelling = labelling_of(program, pool.values)
    target_ratio = restricted(ratio, pool.values, labelling)
    weights, shape = smoothed(target_ratio.numpy())
    many_draws = len(ratio) >= FEWEST_FOR_KHAT
    shape = shape if many_draws else math.nan
    value, error = (float(v) for v in log_mean_exp(target_ratio))
    fixed = q.guide.points(program) if isinstance(q, Trained) else ()
    bound = _objective(ratio[ratio.isfinite()], particles)
    bound = replace(bound, kind=f"{bound.kind}_at_point") if fixed else bound
    sound = many_draws and not shape > most_shape(len(ratio))
    obstacle = _obstacle(program) if corrected else ""
    given: Approximation = q
    x, shapes = scalars(program, points, pool.values, len(ratio))
    if sound and corrected and not obstacle and not math.isnan(shape):
        given = resampled(program, q, pool, weights, x, kept_for(program) if keep is None else keep)
    off, names = shifts(x, weights), Names(program, {**points, **{n: v[0] for n, v in pool.values.items()}})
    diagnostics = {
        "khat": shape,
        "khat_error": shape_error(shape, len(ratio)),
        "evidence": value,
        "evidence_error": error,
        "mean_shift": float(off.mean[np.abs(off.mean).argmax()]),
        "sd_ratio": float(off.sd[np.abs(np.log(off.sd.clip(1e-300))).argmax()]),
        "ess": float(1 / np.square(weights).sum()),
    }
    if labelling is not None:
        diagnostics["log_labellings"] = labelling.log_modes
        diagnostics["own_labelling"] = float(target_ratio.isfinite().double().mean())
    wide = None

    if many_draws:
        looked = sound and not fixed and not _obstacle(program)
        own = weights if given is not q else np.full(len(x), 1 / len(x))
        cuts = quantiles(x, own) if looked and x.shape[1] <= SORTED else None
        target, plain = moments(x, weights), moments(x, own, cuts)
        plain = _as_given(plain) if given is not q else plain
        if looked:
            wide = survey(
                program,
                points,
                given.values if isinstance(given, Corrected) else pool.values,
                len(ratio),
                labelling,
                cuts=cuts,
                most=draws_for(program, 4 * CELLS, MORE * DRAWS),
                clear=lambda seen: is_clear(plain.off(seen)),
            )
            if _better(wide, shape, error):
                diagnostics |= {"evidence": wide.evidence, "evidence_error": wide.error}
    log_p = f"log p({', '.join(('x', *fixed))}) = {diagnostics['evidence']:.3f} +- {diagnostics['evidence_error']:.2g} "
    log_p += "by importance weighting"
    if labelling is not None:
        log_p += f", {labelling.log_modes:.3f} of it for the {labelling}, of which draws are of one"
    words = f"{CARE}: too few draws ({len(ratio)}) can be weighed against so many rows; {log_p}"
    if many_draws:
        words = verdict(
            Evidence(
                shape=shape,
                count=len(ratio),
                worth=diagnostics["ess"],
                corrected=given is not q,
                away=_away(plain, target, off, wide, corrected=given is not q),
                name=lambda scalar: names.entry(*place_of(scalar, shapes)),
                confirmed=None if wide is None else wide.moments is not None,
                missed=_missed(wide, value, error),
                converged=converged,
                log_p=log_p,
                uncorrected=obstacle,
            )
        )
        if fixed and words.startswith("trust"):
            words = f"{CARE}: {', '.join(fixed)} at a point without spread, and given that {words}"
    return Judgement(
        approximation=given,
        objective=bound,
        diagnostics=diagnostics,
        warnings=[khat_note(shape)] if shape > KHAT_GOOD else [],
        verdict=words,
        shifts={n: {s: torch.from_numpy(v) for s, v in by_site(row, shapes).items()} for n, row in off.table.items()},
        confirmed=wide is not None and wide.moments is not None,
    )


def handed_out(program: Program, q: Approximation, points: Values, *, corrected: bool) -> Approximation:
    """What `judge` hands out, from fewer draws and without judging it: for fits that nobody looks at one by one.

    Raises
    ------
    FitError
        If the log density is not finite at draws of q.
    """
    if not corrected or _obstacle(program):
        return q
    pool = drawn(program, q, points, min(UNJUDGED, draws_for(program)))
    ratio = finite(pool.log_ratio, pool.log_ratio.isfinite())
    weights, shape = smoothed(restricted(ratio, pool.values, labelling_of(program, pool.values)).numpy())
    if len(ratio) < FEWEST_FOR_KHAT or not shape <= most_shape(len(ratio)):  # NaN: q is exact
        return q
    x, _ = scalars(program, points, pool.values, len(ratio))
    return resampled(program, q, pool, weights, x, kept_for(program))


def _as_given(target: Moments) -> Moments:
    """Moments of these very draws, which are handed out: they have no error."""
    names = ("mean_error", "sd_error", "tail_error")
    return replace(target, **{n: 0 * getattr(target, n) for n in names})


def _away(plain: Moments, target: Moments, off: Shifts, wide: Survey | None, *, corrected: bool) -> Shifts:
    """How far what is handed out is from the best estimate of the posterior's moments."""
    if wide is not None and wide.moments is not None:
        return plain.off(wide.moments)
    if not corrected:
        return off
    scale = np.where(target.sd > 0, target.sd, 1.0)
    nothing = np.zeros_like(target.mean)
    return Shifts(nothing, nothing + 1, target.mean_error / scale, target.sd_error / scale)


def _better(wide: Survey | None, shape: float, error: float) -> TypeGuard[Survey]:
    """Whether the evidence by a wider proposal is the better one: its weights have a variance, those of q may not."""
    return wide is not None and wide.moments is not None and (wide.error < error or shape > FINITE)


def _missed(wide: Survey | None, evidence: float, error: float) -> str:
    """Say what a wider look has found that draws of q have not; empty if nothing."""
    if wide is None or not wide.evidence - evidence > MASS + 3 * math.hypot(error, wide.error):
        return ""
    share = -math.expm1(evidence - wide.evidence)
    where = "in tails for which it is too narrow" if not wide.modes else f"also at {wide.modes} other mode(s)"
    return (
        f"the approximation misses {share:.0%} of the posterior, {where}: a wider look finds log p(x) = "
        f"{wide.evidence:.3f} +- {wide.error:.2g}. Try restarts, more paths, a richer guide, or nuts"
    )


def _obstacle(program: Program) -> str:
    """Say why draws of all latents together cannot be corrected by weights; empty if they can."""
    if program.locals and program.data.weights is not None:
        return "rows with latents of their own have weights"
    if any(s.countable for s in program.latents):
        return "some latents are counts"
    return ""


def coordinates(program: Program) -> int:
    """How many numbers a draw has."""
    return program.view.global_size + program.view.local_size * len(program.data)


def draws_for(program: Program, cells: int = CELLS, most: int = DRAWS) -> int:
    """How many draws to evaluate on all rows."""
    entries = sum(v.numel() for v in program.data.values.values())
    entries = max(entries, program.structure.products // PRODUCTS * len(program.data))
    if not program.networks:  # columns enter by a product with a few coefficients
        states = math.prod(s.cardinality for s in program.enumerated)
        states *= program.integrated.numbers if program.integrated else 1
        entries = max(entries // COLUMNS, len(program.data) * states * max(1, len(program.observed)))
    return max(FEWEST_DRAWS, min(most, cells // max(1, entries, coordinates(program))))


def drawn(program: Program, q: Approximation, points: Values, count: int) -> Pool:
    """Draw q `count` times, with the log densities of all draws."""
    draws, log_q = q.draw(program, count)

    def joint(values: Values) -> Tensor:
        return program.log_joint({**points, **values}).total(program.data.weights)

    with torch.no_grad():
        return Pool(draws, many(joint, draws, count, chunk_for(program)), log_q)


def finite(ratio: Tensor, good: Tensor) -> Tensor:
    """Return log ratios as they are, or raise if they are not `good`, shape (draws,), at all draws.

    Raises
    ------
    FitError
        Saying at how many they are not.
    """
    bad = int((~good).sum())
    if bad:
        raise FitError(
            f"the log density is not finite at {bad} of {len(good)} draws from the fitted guide; the model's density "
            "is not a number, or zero, where the posterior has mass. Restrict the supports of its latents"
        )
    return ratio


def _objective(ratio: Tensor, particles: int) -> Objective:
    groups = len(ratio) // particles
    bound = torch.logsumexp(ratio[: groups * particles].reshape(groups, particles), 1) - math.log(particles)
    error = float(bound.std() / math.sqrt(groups)) if groups > 1 else math.inf
    return Objective(float(bound.mean()), "elbo" if particles == 1 else "iwae", error)
