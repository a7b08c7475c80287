"""Information criteria of a point estimate: -2 log p(x | theta) plus a penalty; the smaller, the better."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from inference.method import Method, Objective
from inference.posterior.answer import Answer
from inference.posterior.rows import row_chunks
from zoo.errors import FitError
from zoo.program.program import Program
from zoo.program.view import View
from zoo.replay.evaluate import Values

EXACT = ("log_likelihood", "log_posterior")  # objectives that are no bounds
MATCH = 1e-4  # relative gap between an objective and the log joint at the point, beyond which it climbed another one


@dataclass(frozen=True)
class Likelihood:
    """log p(x | theta) at a point theta, everything else summed out.

    Attributes
    ----------
    value
        In nats; rows count by their weight. Priors of theta are no part of it.
    entropy
        -sum_i w_i sum_z p(z | x_i) log p(z | x_i) of the discrete latents; NaN where there are none. Of a chain, that
        of its whole path.
    """

    value: float
    entropy: float


def free_parameters(answer: Answer) -> int:
    """Count the numbers that the fit has chosen: the dimensions of the supports of all that is at a point.

    A simplex of K probabilities counts K - 1, a covariance matrix or its Cholesky factor d (d + 1) / 2, a correlation
    matrix d (d - 1) / 2, weights of networks one each.

    Raises
    ------
    FitError
        If latents that all rows share have a posterior instead of a point.
    """
    _check_point(answer, "free_parameters counts")
    program = answer.program
    points = [s for s in program.latents if answer.is_point or s.role == "global"]
    view = View([*program.parameters, *points], program.row)
    networks = sum(answer.points[name].numel() for name in program.networks)
    return view.global_size + view.local_size * len(program.data) + networks


def rows_of(program: Program) -> float:
    """Return the number of rows n, each counted by its weight.

    Raises
    ------
    FitError
        If the data have no rows.
    """
    if not program.row:
        raise FitError("BIC and ICL need the number of rows, and the model's data have no data plate; use aic")
    weights = program.data.weights
    return float(len(program.data)) if weights is None else float(weights.sum())


def likelihood(answer: Answer, method: Method, objective: Objective) -> Likelihood:
    """Return log p(x | theta) at the point that was fitted, and the entropy of the discrete latents there.

    Raises
    ------
    FitError
        If there is no point, if it is only known up to a bound, or if the method maximized something else.
    """
    name = type(method).__name__.lower()
    _check_point(answer, "information criteria and standard errors are those of")
    program = answer.program
    if program.data.stream is not None:
        raise FitError("information criteria need all rows in memory, and these were read in chunks; fit the rows")
    if program.locals:
        if answer.is_point or objective.kind not in EXACT:
            what = "are at a point as well" if answer.is_point else f"are averaged over in a bound ({objective.kind})"
            raise FitError(
                f"information criteria and standard errors need the maximum of log p(x | theta), and the latents of "
                f"rows ({', '.join(s.name for s in program.locals)}) {what}; fit with em where it is legal, or compare "
                "models by elpd_loo or held-out density"
            )
        if program.globals or program.enumerated:
            raise FitError(
                "log p(x | theta) is not known where rows have continuous latents beside points with priors or "
                "discrete latents; compare models by held-out density: compare(..., folds=5)"
            )
        return Likelihood(objective.value, math.nan)
    values = {**answer.points, **{n: v[0] for n, v in answer.approximation.draw(program, 1)[0].items()}}
    with torch.no_grad():
        found, prior = _at(program, values)
    joint = found.value + prior
    if abs(joint - objective.value) > MATCH * (1 + abs(joint)) + 3 * objective.error:
        raise FitError(
            f"{name} maximized another function ({objective.value:.4f}) than log p(x, theta) with the discrete latents "
            f"summed out ({joint:.4f} where it ended), so it has neither information criteria nor standard errors; "
            "fit with EM()"
        )
    return found


def _check_point(answer: Answer, what: str) -> None:
    """Refuse a fit whose globals have draws."""
    if answer.has_draws:
        raise FitError(
            f"{what} point estimates, and {', '.join(s.name for s in answer.program.globals)} have posterior draws: "
            "average over them with az.loo(fit.posterior) or az.waic, the column elpd_loo of compare(...), or fit with "
            "em or map"
        )


def _at(program: Program, values: Values) -> tuple[Likelihood, float]:
    """Return the likelihood at values of everything but the discrete latents, and log p(theta)."""
    rows = rest = entropy = prior = 0.0
    observed = {s.name for s in program.observed}
    for chunk in row_chunks(program, whole=bool(program.shared)):
        log_probs = {n: v.detach() for n, v in chunk.log_probs(values).items()}
        weights = chunk.data.weights
        terms, marginals = chunk.marginals(log_probs)
        total = float(terms.total(weights))
        rest = float(terms.rest)
        rows += total - rest
        # H[z | x] = log p(x) - E[log p(x, z)]: exact whatever the latents, several of them or a chain.
        entropy += total - sum(_expected(marginals[n], v) for n, v in log_probs.items())
        if program.globals:
            alone = {n: torch.zeros_like(v) if n in observed else v for n, v in log_probs.items()}
            prior = float(chunk.eliminate(alone).total(weights))
    return Likelihood(rows + rest - prior, max(0.0, entropy) if program.enumerated else math.nan), prior


def _expected(probability: Tensor, log_prob: Tensor) -> float:
    """sum p log f, where 0 times log 0 is 0."""
    return float(torch.where(probability == 0, 0.0, probability * log_prob).sum(dtype=torch.float64))
