"""What a method hands back of a program, in numbers and words, before anything is asked of it."""

from __future__ import annotations

import copy
import html
from functools import cached_property
from inspect import isfunction
from typing import Any

import pandas as pd
import torch
import xarray as xr

from inference.approximations.pareto import khat
from inference.method import Method, Outcome
from inference.posterior.answer import Answer
from inference.posterior.groups import arviz_groups, shift_table
from inference.runtime.gradients import differentiable
from inference.runtime.random import seeded
from inference.runtime.threads import threads_for
from zoo.declare.model import Model
from zoo.program.program import Program
from zoo.replay.surroundings import undisturbed


class Result(Answer):
    """q on a program, how a method came to it, and whether to trust it: what every family of questions is put to.

    Parameters
    ----------
    program
        The model on the fitted rows.
    method
        With its settings.
    outcome
        What it handed back.
    seed, seconds
        What all randomness follows from; the time the fit took.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Keep what a caller has switched on, a default device say, out of every question to a fit."""
        super().__init_subclass__(**kwargs)
        for name, member in list(vars(cls).items()):
            if isfunction(member) and not name.startswith("_"):
                setattr(cls, name, undisturbed()(member))

    def __init__(self, program: Program, method: Method, outcome: Outcome, seed: int, seconds: float) -> None:
        points = {n: v.contiguous() for n, v in outcome.points.items()}  # as they are read from a file
        super().__init__(program, outcome.approximation, points, seed)
        self.method, self.seconds, self._outcome = method, seconds, outcome
        self.objective, self.trace, self.steps = outcome.objective, outcome.trace, outcome.steps
        self.converged, self.reason = outcome.converged, outcome.reason
        self.memory = outcome.memory

    @cached_property
    def outcome(self) -> Outcome:
        """What the method handed back, with all that is said of it: judged now, if that has waited until now.

        Examples
        --------
        >>> import zoo
        >>> from inference import fit
        >>> result = fit(zoo.BetaBernoulli(), [1, 0, 1, 1, 0, 1], method="exact", seed=0)
        >>> result.outcome.objective.kind
        'log_evidence'
        """
        with seeded(self.seed, self.program.device), differentiable(), threads_for(self.program):
            return self._outcome.judged()

    @cached_property
    def warnings(self) -> list[str]:
        """What makes this answer less trustworthy, and what was left out; empty if nothing.

        Examples
        --------
        >>> import zoo
        >>> from inference import fit
        >>> result = fit(zoo.BetaBernoulli(), [1, 0, 1, 1, 0, 1], method="exact", seed=0)
        >>> result.warnings
        []
        """
        return [*self.program.data.notes, *self.outcome.warnings]

    @property
    def diagnostics(self) -> dict[str, float]:
        """Numbers that say how far to trust it: khat and khat_error, evidence, ess, mean_shift, sd_ratio and others.

        Examples
        --------
        >>> import zoo
        >>> from inference import fit
        >>> result = fit(zoo.BetaBernoulli(), [1, 0, 1, 1, 0, 1], method="exact", seed=0)
        >>> result.diagnostics  # there is nothing to doubt where it is exact
        {}
        """
        return self.outcome.diagnostics

    @property
    def verdict(self) -> str:
        """Whether to trust what is handed out: "trust", "usable with care" or "do not trust", and why; else empty.

        Examples
        --------
        >>> import zoo
        >>> from inference import fit
        >>> result = fit(zoo.BetaBernoulli(), [1, 0, 1, 1, 0, 1], method="exact", seed=0)
        >>> result.verdict
        ''
        """
        return self.outcome.verdict

    @cached_property
    def model(self) -> Model:
        """The fit's own copy of the model; its networks hold the trained weights, in evaluation mode, at rest.

        Nothing that is asked of the fit reads it: `points` has the weights that count, and other fits of the program
        may have others.

        Examples
        --------
        >>> import zoo
        >>> from inference import fit
        >>> result = fit(zoo.BetaBernoulli(), [1, 0, 1, 1, 0, 1], method="exact", seed=0)
        >>> result.model
        BetaBernoulli(a=1.0, b=1.0)
        """
        if not self.program.networks:
            return self.program.model
        model = copy.deepcopy(self.program.model)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name in self.points:
                    weight.copy_(self.points[name])
        return model.eval().requires_grad_(False)

    def __repr__(self) -> str:
        """Say what was fitted, how, to what objective, and whether it converged."""
        error = f" +- {self.objective.error:.2g}" if self.objective.error else ""
        state = "converged" if self.converged else "NOT converged"
        notes = f"\n  {self.verdict}" if self.verdict else ""
        notes += "".join(f"\n  warning: {w}" for w in self.warnings)
        return (
            f"Fit of {self.model!r} by {type(self.method).__name__.lower()}\n"
            f"  {self.objective.kind} {self.objective.value:.4f}{error}\n"
            f"  {state}: {self.reason} ({self.seconds:.2f} s, seed {self.seed}){notes}"
        )

    def _repr_html_(self) -> str:
        first, *lines = repr(self).splitlines()
        items = "".join(f"<li>{html.escape(line.strip())}</li>" for line in lines)
        return f"<h4>{html.escape(first)}</h4>\n<ul>{items}</ul>"

    @cached_property
    def khat(self) -> float:
        """Pareto shape of p / q, diagnostics["khat"] +- "khat_error": below 0.7 q is close to p; NaN if it is exact.

        Examples
        --------
        >>> import zoo
        >>> from inference import fit
        >>> result = fit(zoo.BetaBernoulli(), [1, 0, 1, 1, 0, 1], method="exact", seed=0)
        >>> result.khat
        nan
        """
        if self.is_point or not self.program.latents:
            return float("nan")
        if "khat" in self.diagnostics or self.approximation.exact:
            return self.diagnostics.get("khat", float("nan"))
        return khat(self.log_p - self.draws.log_q)

    @cached_property
    def posterior(self) -> xr.DataTree:
        """ArviZ groups, which go straight into its functions: `az.summary`, `az.loo`, `az.plot_ppc_dist`, ...

        posterior (or point_estimate), sample_stats, observed_data, constant_data; and, worked out when they are looked
        at, log_likelihood by observed site, log_prior, posterior_predictive, prior and prior_predictive. Predictions
        stand at the chain and draw of the latents they come from; states that are summed out are drawn anew. Rows
        without an observed value are left out of a site's arrays, and so are draws of rows' latents that would be more
        than 20 million numbers; attributes say so (`left_out`).

        Examples
        --------
        >>> import zoo
        >>> from inference import fit
        >>> result = fit(zoo.BetaBernoulli(), [1, 0, 1, 1, 0, 1], method="exact", seed=0)
        >>> result.posterior["posterior"]["p"].shape
        (1, 1000)
        """
        return self._groups()

    def _groups(self, *, whole: bool = False) -> xr.DataTree:
        """The groups, with draws of locals in any case if they are to be `whole`."""
        return arviz_groups(
            self,
            {
                "created_by": "latentzoo",
                "model": repr(self.model),
                "method": repr(self.method),
                "seed": self.seed,
                "objective": self.objective.value,
                "objective_kind": self.objective.kind,
                "converged": int(self.converged),
                "reason": self.reason,
            },
            whole=whole,
        )

    @property
    def shifts(self) -> pd.DataFrame:
        """How far q is from its weighted draws, by scalar: one row per entry of each latent, as `summary` labels them.

        mean_shift
            Mean of q less that of its weighted draws, in posterior standard deviations.
        sd_ratio
            Standard deviation of q over that of its weighted draws.
        mean_error, sd_error, khat
            Monte Carlo standard errors of the two; Pareto shape of the row, where rows are weighed one by one.

        Empty where no draws of q were weighed, or of some rows only. It is about q itself: what is handed out has been
        corrected if `verdict` says so.

        Examples
        --------
        >>> import zoo
        >>> from inference import fit
        >>> result = fit(zoo.BetaBernoulli(), [1, 0, 1, 1, 0, 1], method="exact", seed=0)
        >>> result.shifts.empty
        True
        """
        return shift_table(self, self.outcome.shifts)
