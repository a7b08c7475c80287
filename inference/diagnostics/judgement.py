"""What is said of a fitted q, and the outcome that a method makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from inference.approximations.approximation import Approximation
from inference.approximations.completed import completed
from inference.method import Objective, Outcome
from zoo.program.program import Program
from zoo.replay.evaluate import Values


@dataclass(frozen=True)
class Judgement:
    """What draws of a fitted q say of it when they are weighed against the posterior.

    Attributes
    ----------
    approximation
        What is to be handed out: q, or its draws as they are corrected.
    objective
        The ELBO, or the importance-weighted bound of several particles.
    diagnostics
        "khat" and its standard error "khat_error"; "evidence" and "evidence_error"; "mean_shift" and "sd_ratio" of q,
        the largest; "ess", the draws in effect after weighing; of exchangeable states "log_labellings", log K!, which
        is part of the evidence, and "own_labelling", the share of q's draws that are of one labelling; of rows also
        "khat_rows", "khat_rows_above" and "khat_rows_max". Nothing, as all that follows, where nobody has looked.
    warnings
        Where q is far from the posterior.
    verdict
        In words, whether what is handed out can be trusted.
    shifts
        Statistic -> site -> array: "mean_shift" of q from its weighted draws in posterior sds, "sd_ratio", and their
        Monte Carlo errors.
    confirmed
        Whether draws that owe little to q were weighed as well.
    """

    approximation: Approximation
    objective: Objective
    diagnostics: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    verdict: str = ""
    shifts: Mapping[str, Values] = field(default_factory=dict)
    confirmed: bool = False

    def outcome(
        self,
        program: Program,
        *,
        trace: pd.DataFrame,
        steps: int,
        reason: str,
        converged: bool = True,
        points: Values | None = None,
        warnings: Sequence[str] = (),
        diagnostics: Mapping[str, float] | None = None,
    ) -> Outcome:
        """Return what a method hands back: q over all latents of a program, with all that is said of it.

        Parameters
        ----------
        program
            What q was fitted to, perhaps with latents integrated out, which are drawn exactly given the others.
        trace, steps, reason, converged, points
            As `Outcome` has them.
        warnings, diagnostics
            Of the climb, before those of the judgement.
        """
        return Outcome(
            approximation=completed(program, self.approximation),
            points=points or {},
            objective=self.objective,
            trace=trace,
            steps=steps,
            converged=converged,
            reason=reason,
            warnings=[*warnings, *self.warnings],
            diagnostics={**(diagnostics or {}), **self.diagnostics},
            verdict=self.verdict,
            shifts=self.shifts,
        )
