"""One row of a comparison: what a fit says of itself, number by number, each with its kind."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from inference.approximations.pareto import KHAT_GOOD, khat_note
from inference.diagnostics.arviz import RowDensities, loo
from inference.posterior.fit import Fit
from zoo.errors import FitError
from zoo.replay.sites import Site

COLUMNS = [
    "objective",
    "kind",
    "log_likelihood",
    "free_parameters",
    "aic",
    "bic",
    "icl",
    "evidence",
    "evidence_kind",
    "evidence_error",
    "elpd_loo",
    "elpd_se",
    "elpd_diff",
    "elpd_diff_se",
    "held_out",
    "held_out_se",
    "held_out_diff",
    "held_out_diff_se",
    "khat",
    "seconds",
    "steps",
    "converged",
    "verdict",
    "note",
]


def row(fitted: Fit, left_out: RowDensities | None, note: str) -> dict[str, Any]:
    """Return the columns that one fit has to say.

    Parameters
    ----------
    fitted
        The fit.
    left_out, note
        As `leave_one_out` returned them.
    """
    notes = [*fitted.warnings, *([note] if note else [])]
    if left_out is not None and left_out.largest > KHAT_GOOD:
        largest = left_out.largest
        notes.append(f"elpd_loo is unreliable: largest Pareto k of a left-out row {largest:.2f} > {KHAT_GOOD}")
    if fitted.khat > KHAT_GOOD and not any(said.startswith("khat") for said in notes):
        notes.append(khat_note(fitted.khat))
    found: dict[str, Any] = {
        "objective": fitted.objective.value,
        "kind": fitted.objective.kind,
        "khat": fitted.khat,
        "seconds": fitted.seconds,
        "steps": fitted.steps,
        "converged": fitted.converged,
        "verdict": fitted.verdict,
        **evidence(fitted),
        **criteria(fitted, notes),
    }
    if left_out is not None:
        found.update(elpd_loo=left_out.elpd, elpd_se=left_out.error)
    return {**found, "note": "; ".join(notes)}


def leave_one_out(fitted: Fit) -> tuple[RowDensities | None, str]:
    """Return the ELPD by PSIS-LOO, or None and the reason why there is none."""
    if fitted.is_point:
        return None, "point estimate: no posterior draws, so no elpd_loo and no khat"
    if fitted.program.coupled:
        return None, f"{fitted.program.coupled}: no elpd_loo"
    if fitted.program.shared:
        return None, f"rows share the discrete latent {fitted.program.shared[0].name!r}: no elpd_loo"
    if not fitted.has_draws:
        return None, "the parameters are point estimates: no elpd_loo"
    if "log_likelihood" not in fitted.posterior.children:
        return None, "too many rows to keep the log likelihood of each under every draw: no elpd_loo"
    return loo(fitted.posterior), ""


def evidence(fitted: Fit) -> dict[str, Any]:
    """Return log p(x), or an estimate or bound of it, with its kind and standard error.

    With parameters or network weights at a point it is log p(x; theta), and the kind says so.
    """
    objective, diagnostics = fitted.objective, fitted.diagnostics
    at = " at a point" if fitted.program.parameters or fitted.program.networks else ""
    if objective.kind == "log_evidence":
        return {"evidence": objective.value, "evidence_kind": f"exact{at}", "evidence_error": objective.error}
    if math.isfinite(diagnostics.get("evidence", math.nan)):
        error = diagnostics.get("evidence_error", math.nan)
        return {"evidence": diagnostics["evidence"], "evidence_kind": f"importance{at}", "evidence_error": error}
    if objective.kind in ("elbo", "iwae"):
        return {"evidence": objective.value, "evidence_kind": f"bound{at}", "evidence_error": objective.error}
    return {"evidence_kind": ""}


def criteria(fitted: Fit, notes: list[str]) -> dict[str, float]:
    """Return log likelihood, free parameters, AIC, BIC and ICL where they mean anything; note what a point lacks."""
    found: dict[str, float] = {}
    for name in ("free_parameters", "log_likelihood", "aic", "bic", "icl"):
        try:
            found[name] = float(getattr(fitted, name))
        except FitError as error:
            if name == "log_likelihood" and fitted.is_point:
                notes.append(f"no information criteria: {error}")
    return found


def yardstick(fitted: Fit) -> str:
    """Say what two fits must have in common for their densities of data to be comparable.

    The fields that the model explains, whether by a density or by probabilities, and the rows with their weight.
    """
    program = fitted.program
    explained = {
        f"{'probabilities' if s.support.is_discrete else 'density'} of {s.field or _made(s)}" for s in program.observed
    }
    weights = program.data.weights
    total = len(program.data) if weights is None else float(weights.sum())
    return f"{', '.join(sorted(explained))}; {total:g} rows"


def _made(site: Site) -> str:
    """Name what a site observes that is no field as it stands: the density of log y is another one than that of y."""
    return f"what {site.name!r} makes from {' and '.join(site.observes)}" if site.observes else site.name


def differences(name: str, found: Mapping[Any, RowDensities], fits: Mapping[Any, Fit]) -> dict[Any, dict[str, float]]:
    """Return, by row of the table, how far each is below the best of those comparable with it, and its error."""
    columns = {}
    for index, densities in found.items():
        by = yardstick(fits[index])
        others = [o for i, o in found.items() if yardstick(fits[i]) == by and len(o.rows) == len(densities.rows)]
        difference, error = densities.below(max(others, key=lambda o: o.elpd))
        columns[index] = {f"{name}_diff": difference, f"{name}_diff_se": error}
    return columns
