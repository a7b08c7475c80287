"""Densities of rows under draws of q, with continuous local latents integrated out by importance sampling."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from inference.approximations.approximation import Approximation
from inference.approximations.folded import folded, mixed_in
from inference.compiled.compile import Lowered, lower
from inference.compiled.trees import leaves
from zoo.errors import ModelError
from zoo.program.program import Program
from zoo.program.rows import Batch, on, rows_of
from zoo.replay.evaluate import Values, many

FEWEST_CALLS = 20  # below which nobody asks whether to compile
FEW_AT_ONCE = 5  # draws in a vectorized evaluation, below which they are evaluated one by one, by torch's fused kernels
CELLS = 4_000_000  # entries of the data that one vectorized evaluation may hold: it should fit in cache
NUMBERS = 20_000_000  # of all draws of some rows' locals that are held at once: 160 MB


def chunk_for(program: Program) -> int:
    """How many evaluations of the program to do in one vectorized call."""
    states = max([1, *(s.cardinality for s in program.enumerated)])
    states = max(states, program.integrated.numbers if program.integrated else 1)
    cells = sum(v.numel() for v in program.data.values.values()) * states
    return max(1, CELLS // max(1, cells))


def local_draws(
    program: Program, approximation: Approximation, points: Values, draws: Values, count: int
) -> tuple[Values, Tensor]:
    """Draw the locals of the program's rows `count` times, and log q per row (count, rows).

    From the guide where it covers these rows; else half of them from the model's prior given each draw of the globals,
    which bounds importance weights, and half from conjugate posteriors given some of these draws, where there are such
    (a defensive mixture: Hesterberg 1995).
    """
    proposed = approximation.propose(program, points, count)
    if proposed is not None:
        return proposed
    drawn = from_prior(program, points, draws, count)
    parts = folded(program, points, draws, count) if count > 1 else []
    if not parts:
        return drawn
    values, log_q = mixed_in(program, parts, drawn[0], count)
    prior = prior_density(program, points, {**draws, **values}, count)
    return values, torch.logaddexp(prior, log_q) - math.log(2)


def prior_density(program: Program, points: Values, draws: Values, count: int) -> Tensor:
    """Log density of locals under the model's prior given the globals, (count, rows)."""
    names = [s.name for s in program.locals]

    def log_prior(v: Values) -> Tensor:
        return program.log_prior(program.log_probs({**points, **v}), names).rows

    with torch.no_grad():
        found: Tensor = many(log_prior, draws, count, chunk_for(program))
    return found


def from_prior(program: Program, points: Values, draws: Values, count: int) -> tuple[Values, Tensor]:
    """Draw the locals from the model's prior given each draw of the globals, and log q per row (count, rows)."""
    names = [s.name for s in program.locals]

    def one(globals_: Values, lead: Tensor | None = None) -> tuple[Values, Tensor]:
        seen = program.simulate({**points, **globals_}, observed=False, lead=lead)
        values = {n: seen[n] for n in names}
        log_probs = program.log_probs({**points, **globals_, **values})
        return values, program.log_prior(log_probs, names).rows

    with torch.no_grad():
        leads = {**draws, "": torch.zeros(count, dtype=program.dtype, device=program.device)}

        def drawn(values: Values) -> tuple[Values, Tensor]:
            return one({n: v for n, v in values.items() if n}, values[""])

        try:
            vectorized = torch.vmap(drawn, randomness="different", chunk_size=chunk_for(program))
            local: tuple[Values, Tensor] = vectorized(leads)
            return local
        except (RuntimeError, ModelError):  # some distributions cannot be drawn from in a vectorized call
            parts = [one({n: v[i] for n, v in draws.items()}) for i in range(count)]
    return {n: torch.stack([p[0][n] for p in parts]) for n in names}, torch.stack([p[1] for p in parts])


def by_row(program: Program, name: str, log_prob: Tensor) -> Tensor:
    """Sum a site's log density to one number per row."""
    site = program.sites[name]
    axis = log_prob.ndim + site.plate_dims[site.plates.index(program.row)]
    return log_prob.movedim(axis, 0).reshape(len(program.data), -1).sum(-1)


def pointwise(
    program: Program, points: Values, draws: Values, locals_: tuple[Values, Tensor] | None, repeats: int = 1
) -> Tensor:
    """log p(x_i | globals_s), shape (draws, rows), with the locals' draws weighted: log p(x_i, l_si | g_s) - log q.

    Without locals the value is exact; with them it is the log of one importance weight per draw. `repeats` says how
    often the same is done with other draws or other rows, for judging whether to compile it.
    """
    count = next(iter(draws.values())).shape[0] if draws else (locals_[1].shape[0] if locals_ else 1)
    stacked = dict(draws)
    if locals_ is not None:
        stacked.update(locals_[0])

    def one(values: Values) -> Tensor:
        return program.log_joint({**points, **values}).rows

    with torch.no_grad():
        if not stacked:
            rows = one({})[None]
        else:
            size = max(1, min(chunk_for(program), count))
            size = 1 if size < FEW_AT_ONCE and locals_ is not None else size
            lowered = _lowered(program, points, _slice(stacked, 0, size), repeats * (count // size))
            if lowered.compiled:
                batch, whole = rows_of(program.data), count - count % size
                densities = [lowered(_slice(stacked, at, size), points, batch) for at in range(0, whole, size)]
                if count > whole:
                    rest = {n: v[whole:] for n, v in stacked.items()}
                    densities.append(many(one, rest, count - whole, size))
                rows = torch.cat(densities)
            elif size == 1:
                rows = torch.stack([one({n: v[i] for n, v in stacked.items()}) for i in range(count)])
            else:
                rows = many(one, stacked, count, size)
        return rows if locals_ is None else rows - locals_[1]


def _slice(values: Values, at: int, size: int) -> Values:
    """Some of the draws, laid out anew."""
    return {n: v[at : at + size].contiguous() for n, v in values.items()}


def _lowered(program: Program, points: Values, example: Values, calls: int) -> Lowered:
    """The density of each row at several values at once, compiled if that pays over so many calls.

    What was decided for so many calls is kept, so that the same question has the same answer to the last bit, whatever
    was asked before.
    """
    single = len(next(iter(example.values()))) == 1

    def together(values: Values, points: Values, batch: Batch) -> Tensor:
        seen = on(program, batch)
        if single:
            return seen.log_joint({**points, **{n: v[0] for n, v in values.items()}}).rows[None]
        return torch.vmap(lambda v: seen.log_joint({**points, **v}).rows)(values)

    eager = Lowered(together, False)
    if program.data.missing or calls < FEWEST_CALLS:
        return eager
    inputs = example, points, rows_of(program.data)
    key = f"pointwise {calls} {[tuple(t.shape) for t in leaves(inputs)]}"
    if key not in program.plans:
        try:
            lowered = lower(together, inputs, program, "auto", calls)
        except RuntimeError:  # control flow that depends on values cannot be vectorized either
            lowered = eager
        program.plans[key] = lowered if lowered.compiled else None
    kept = program.plans[key]
    return kept if isinstance(kept, Lowered) else eager


def log_mean_exp(log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return log mean exp of the first dimension, and its Monte Carlo standard error by the delta method."""
    count = len(log_weights)
    value = log_weights.logsumexp(0) - math.log(count)
    if count == 1:
        return value, torch.zeros_like(value)
    relative = (log_weights - value).exp()
    return value, relative.std(0, correction=1) / math.sqrt(count)


def log_likelihood(
    program: Program, approximation: Approximation, points: Values, globals_: Values, samples: int
) -> Tensor:
    """log p(x_i | globals_s) for each draw of the globals, (draws, rows), locals integrated out by `samples` draws."""
    if not program.locals:
        return pointwise(program, points, globals_, None)
    count = next(iter(globals_.values())).shape[0] if globals_ else 1
    total = None
    for _ in range(samples):
        local = local_draws(program, approximation, points, globals_, count)
        weights = pointwise(program, points, globals_, local, samples)
        total = weights if total is None else torch.logaddexp(total, weights)
    assert total is not None
    return total - math.log(samples)
