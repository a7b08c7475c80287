"""Where a fit of more rows starts: yesterday's posterior is today's prior."""

from __future__ import annotations

from inference.approximations.conjugate import Conjugate
from inference.method import Fitted
from zoo.errors import MethodError
from zoo.program.program import Program


def given_posteriors(program: Program, fit: Fitted, method: str) -> Program:
    """Return a program of new rows whose priors are the posteriors of a fit to earlier ones.

    Raises
    ------
    MethodError
        If the fit has no conjugate posterior, or a latent belongs to the earlier rows.
    """
    if not isinstance(fit.approximation, Conjugate):
        raise MethodError(
            f"{method}().update continues a fit with a conjugate posterior, made by Exact() or CAVI(); this one was "
            f"made by {type(fit.method).__name__}"
        )
    if program.locals:
        raise MethodError(
            f"site {program.locals[0].name!r} is local: new rows have latents of their own, so the old posterior is no "
            "prior for them"
        )
    mixed = next((q.names[0] for q in fit.approximation.posteriors if q.mixed), None)
    if mixed is not None:
        raise MethodError(
            f"site {mixed!r} has a posterior for each state of a discrete latent, a mixture that is conjugate to "
            "nothing; fit all rows at once"
        )
    priors = {n: q for q in fit.approximation.posteriors for n in q.names}
    conditioned = Program(program.model, program.data, priors, program.structure)
    conditioned.plans = program.plans
    return conditioned
