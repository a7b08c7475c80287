"""Exact inference by conjugacy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from inference.approximation import Conjugate
from inference.families import closed_form
from inference.families.family import Expected
from inference.method import Method, Monitor, Objective, Outcome, unsupported
from zoo.declare.data import Source, bind
from zoo.declare.evaluate import Values
from zoo.declare.program import Program
from zoo.errors import FitError, MethodError

if TYPE_CHECKING:
    from inference.result import Fit


@dataclass(frozen=True)
class Exact(Method):
    """The posterior in closed form, by conjugacy, with the log evidence.

    log p(x) = log p(x, z) - log p(z | x), the same at every z (Chib 1995, equation 5). Legal where the structure of the
    model shows that every latent has the conjugate prior of its likelihood.
    """

    def why_not(self, program: Program) -> str | None:
        """Refuse models with parameters, enumerated sites, or a latent whose prior is not conjugate."""
        if (reason := unsupported(program)) is not None:
            return reason
        if not program.latents:
            return "there is no latent to have a posterior"
        if program.enumerated:
            return f"the posterior over {program.enumerated[0].name!r} and the other latents is a mixture"
        unknown = [s.name for s in program.parameters] + sorted(program.networks)
        if unknown:
            return f"{unknown[0]!r} is a parameter without prior"
        try:
            self._posterior(program)
        except MethodError as error:
            return str(error)
        return None

    def _posterior(self, program: Program) -> tuple[dict[str, Any], Values]:
        """Return the posterior of every latent, and its mean."""
        blocks, rest = closed_form(program)
        if rest:
            site = program.sites[rest[0]]
            what = ", ".join(f"{k}={f}" for k, f in site.args.items() if f.kind != "constant") or "constant arguments"
            raise MethodError(
                f"no conjugate family is recognised for {rest[0]!r} ~ {site.family} ({what}) and what it feeds"
            )
        values = program.initial()
        with torch.no_grad():
            _, marginals = program.expectations(values)
            expected = Expected(program, values, program.replay(values), marginals)
            found: dict[str, Any] = {}
            for block in blocks:
                posterior = block.posterior(expected)
                if posterior is None:
                    raise MethodError(
                        f"the joint posterior of {' and '.join(block.unknowns)} is none of the closed forms of exact"
                    )
                found.update(posterior)
        children = [
            s.name
            for s in program.observed
            if sum(n in f.sites for n in found for f in s.args.values())
            and len({n for f in s.args.values() for n in f.sites}) > 1
        ]
        if children:
            raise MethodError(f"site {children[0]!r} depends on several latents, which are dependent given the data")
        return found, {n: d.mean for n, d in found.items()}

    def run(self, program: Program, *, progress: bool = False) -> Outcome:
        """Update every latent once and evaluate the evidence."""
        with Monitor("exact", 1, show=progress) as monitor, torch.no_grad():
            found, values = self._posterior(program)
            evidence = [self._evidence(program, found, v) for v in (values, {n: d.sample() for n, d in found.items()})]
            if abs(evidence[0] - evidence[1]) > 1e-4 * (1 + abs(evidence[0])):
                raise FitError(
                    "the posterior found by conjugacy does not match the model's log density; please report "
                    "the model, and use svi"
                )
            monitor.record(1, evidence[0])
        return Outcome(
            Conjugate(found), {}, Objective(evidence[0], "log_evidence"), monitor.trace, 1, True, "closed form"
        )

    @staticmethod
    def _evidence(program: Program, found: dict[str, Any], values: Values) -> float:
        """log p(x, z) - log p(z | x)."""
        joint = program.log_joint(values).total(program.data.weights)
        return float(joint - sum(program.weigh(n, d.log_prob(values[n])) for n, d in found.items()))

    def update(self, fit: Fit, new_data: Source) -> Fit:
        """Condition a fit on more data: yesterday's posterior is today's prior.

        Parameters
        ----------
        fit
            A fit by `Exact`.
        new_data
            Rows that are independent of the earlier ones given the latents.

        Returns
        -------
        Fit
            Its objective is log p(new data | earlier data).

        Raises
        ------
        MethodError
            If the fit is not one of `Exact`, or a latent belongs to the earlier rows.
        """
        from inference.result import Fit

        if not isinstance(fit.approximation, Conjugate):
            raise MethodError(
                f"Exact().update continues a fit made by Exact(); this one was made by {type(fit.method).__name__}"
            )
        if fit.program.locals:
            raise MethodError(
                f"site {fit.program.locals[0].name!r} is local: new rows have latents of their own, so "
                "the old posterior is no prior for them"
            )
        before = fit.program
        data = bind(before.model, new_data, like=before.data).to(before.dtype, before.device)
        program = Program(before.model, replace(data, weights=None), fit.approximation.distributions)
        self.check(program)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(fit.seed)
            outcome = self.run(program)
        total = pd.concat([fit.trace, outcome.trace.assign(step=len(fit.trace) + 1)], ignore_index=True)
        return Fit(program, self, replace(outcome, trace=total), fit.seed, 0.0)
