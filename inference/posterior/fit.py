"""The result of one method on one program."""

from __future__ import annotations

import html
import math
import operator
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr
from torch import Tensor

from inference.approximations.pareto import khat
from inference.diagnostics.arviz import listed, summarize
from inference.method import Method, Outcome
from inference.posterior import store
from inference.posterior.answer import Answer
from inference.posterior.assign import assign
from inference.posterior.bootstrap import bootstrap
from inference.posterior.criteria import Likelihood, free_parameters, likelihood, rows_of
from inference.posterior.described import fit_sections, model_sections, reproduction
from inference.posterior.groups import arviz_groups, sample, shift_table
from inference.posterior.impute import impute
from inference.posterior.log_prob import log_prob
from inference.posterior.more_rows import joined, on_new_rows
from inference.posterior.most_probable import most_probable
from inference.posterior.relabelled import with_labels
from inference.posterior.replicates import SIMULATED
from inference.posterior.simulate import generate, predict
from inference.posterior.standard_errors import information, too_large
from inference.posterior.store import Record
from inference.reporting.page import write_page
from inference.runtime.gradients import differentiable
from inference.runtime.random import seeded
from inference.runtime.threads import threads_for
from zoo.data.bind import Source
from zoo.data.data import Data
from zoo.declare.function import ModelLike
from zoo.declare.model import Model
from zoo.errors import FitError
from zoo.program.program import Program


class Fit(Answer):
    """The result of one method on one program; the same shape whatever the method.

    Attributes
    ----------
    model
        The fit's own copy of the model.
    method
        The method with its settings.
    objective
        `objective.value`, `objective.kind` and its Monte Carlo `error`.
    trace
        DataFrame with columns step, seconds, value.
    converged, reason
        Whether the method's own stopping rule was met, and in words.
    seed, seconds, steps
        The seed of all randomness, the time the fit took, the steps it took.
    approximation
        q: a point, a conjugate posterior, a trained guide or the draws of Markov chains.
    points
        Values of parameters and network weights.
    memory
        Expected statistics of all rows so far, where `EM.update` has gone on from another fit.
    """

    def __init__(self, program: Program, method: Method, outcome: Outcome, seed: int, seconds: float) -> None:
        points = {n: v.contiguous() for n, v in outcome.points.items()}  # as they are read from a file
        super().__init__(program, outcome.approximation, points, seed)
        self.method, self.seconds, self._outcome = method, seconds, outcome
        self.objective, self.trace, self.steps = outcome.objective, outcome.trace, outcome.steps
        self.converged, self.reason = outcome.converged, outcome.reason
        self.memory = outcome.memory

    @cached_property
    def outcome(self) -> Outcome:
        """What the method handed back, with all that is said of it: judged now, if that has waited until now."""
        with seeded(self.seed, self.program.device), differentiable(), threads_for(self.program):
            return self._outcome.judged()

    @cached_property
    def warnings(self) -> list[str]:
        """What makes this answer less trustworthy, and what was left out; empty if nothing."""
        return [*self.program.data.notes, *self.outcome.warnings]

    @property
    def diagnostics(self) -> dict[str, float]:
        """Numbers that say how far to trust it: khat and khat_error, evidence, ess, mean_shift, sd_ratio and others."""
        return self.outcome.diagnostics

    @property
    def verdict(self) -> str:
        """Whether to trust what is handed out: "trust", "usable with care" or "do not trust", and why; else empty."""
        return self.outcome.verdict

    @property
    def model(self) -> Model:
        """The fit's own copy of the model."""
        return self.program.model

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
        """Pareto shape of p / q, diagnostics["khat"] +- "khat_error": below 0.7 q is close to p; NaN if it is exact."""
        if self.is_point or not self.program.latents:
            return float("nan")
        if "khat" in self.diagnostics or self.approximation.exact:
            return self.diagnostics.get("khat", float("nan"))
        return khat(self.draws.log_p - self.draws.log_q)

    @cached_property
    def posterior(self) -> xr.DataTree:
        """ArviZ groups, which go straight into its functions: `az.summary`, `az.loo`, `az.plot_ppc_dist`, ...

        posterior (or point_estimate), sample_stats, observed_data, constant_data; and, worked out when they are looked
        at, log_likelihood by observed site, log_prior, posterior_predictive, prior and prior_predictive. Predictions
        stand at the chain and draw of the latents they come from; states that are summed out are drawn anew. Rows
        without an observed value are left out of a site's arrays, and attributes say so (`left_out`).
        """
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
        """
        return shift_table(self, self.outcome.shifts)

    def summary(self) -> pd.DataFrame:
        """ArviZ's summary of the posterior draws as a DataFrame, or the values of a point estimate.

        A point comes with standard errors `se` by observed information, as `standard_errors` gives them; where they
        are left out, ``attrs["note"]`` says why. Numbers are rounded where the frame is printed, not in it.
        """
        if not self.is_point:
            return summarize(self.posterior)
        point = self.posterior["point_estimate"].to_dataset()
        return summarize(xr.DataTree.from_dict({"/point_estimate": point, "/standard_error": self._errors}))

    @cached_property
    def _errors(self) -> xr.Dataset:
        """Standard errors of a point as they are kept with it, or the attribute `note`, why there are none."""
        note = too_large(self.program)
        errors: Mapping[str, Tensor] = {}
        if not note:
            try:
                errors = self._information
            except FitError as error:
                note = str(error)
        point = self.posterior["point_estimate"].to_dataset()
        found = xr.Dataset({n: (point[n].dims, v.numpy()) for n, v in errors.items() if n in point}, point.coords)
        return found.assign_attrs(note=note)

    @cached_property
    def _information(self) -> Mapping[str, Tensor]:
        """Standard errors by observed information, in the shape of each site."""
        return information(self, self.method, self.objective)

    def standard_errors(
        self,
        kind: Literal["information", "bootstrap", "parametric"] = "information",
        draws: int = 200,
        seed: int | None = None,
    ) -> pd.DataFrame:
        """Return standard errors of a point estimate: of parameters, latents at a point and what is derived from them.

        Parameters
        ----------
        kind
            "information": sqrt(diag(J I^-1 J^T)), I the observed information in unconstrained coordinates, by automatic
            differentiation of log p(x, theta) with discrete latents summed out (Louis 1982), J the derivative of the
            constrained values. "bootstrap": the spread of estimates on rows that are weighed at random, by
            Dirichlet(1, ..., 1) (Rubin 1981). "parametric": on data drawn from the model at the estimate (Efron 1979).
        draws
            How many data sets; the standard error itself is known to 1 / sqrt(2 draws).
        seed
            Of the bootstraps; None for one that follows from the fit's.

        Returns
        -------
        DataFrame
            Columns value and se, a row per entry as in `summary`.

        Raises
        ------
        FitError
            If the fit has posterior draws, is no maximum of this density (classification EM), did not come to it, or a
            parameter is not determined by the data; by name.
        """
        if kind not in ("information", "bootstrap", "parametric"):
            raise FitError(f'standard_errors(kind) must be "information", "bootstrap" or "parametric", not {kind!r}')
        if kind == "information":
            errors = self._information
        else:
            errors = bootstrap(
                self, self.method, self.objective, kind, _positive("standard_errors(draws)", draws), seed
            )
        point = self.posterior["point_estimate"].to_dataset()
        kept = point[[n for n in point.data_vars if n in errors]]
        table = listed(kept)
        table["se"] = listed(kept.assign({n: (kept[n].dims, errors[str(n)].numpy()) for n in kept.data_vars}))["value"]
        return table

    @cached_property
    def _likelihood(self) -> Likelihood:
        """log p(x | theta) at the point fitted, and the entropy of the discrete latents there."""
        return likelihood(self, self.method, self.objective)

    @property
    def log_likelihood(self) -> float:
        """log p(x | theta) at the point fitted, in nats: latents of rows summed out, priors of theta left out.

        A `FitError` says what to use where there is no such point, or only a bound.
        """
        return self._likelihood.value

    @cached_property
    def free_parameters(self) -> int:
        """How many numbers the fit has chosen: dimensions of the supports of all that is at a point.

        A simplex of K counts K - 1, a covariance matrix d (d + 1) / 2, weights of networks one each; latents with a
        prior count where they are at a point. A `FitError` where latents that all rows share have draws.
        """
        return free_parameters(self)

    @property
    def aic(self) -> float:
        """AIC = -2 log p(x | theta) + 2 p, p free parameters (Akaike 1974), the smaller the better; else see `bic`."""
        return 2 * self.free_parameters - 2 * self.log_likelihood

    @property
    def bic(self) -> float:
        """BIC = -2 log p(x | theta) + p log n (Schwarz 1978), n the total weight of rows; the smaller, the better.

        Mclust prints it with the opposite sign. With priors, theta is the posterior mode (Fraley and Raftery 2007).

        Raises
        ------
        FitError
            Where it means nothing: latents that all rows share have posterior draws (use elpd_loo), the likelihood is
            known up to a bound only, or the data have no rows. The text says what to use.

        Examples
        --------
        ``fit(zoo.GMM(components=2), "faithful", method="em").bic`` is 2322.19.
        """
        return self.free_parameters * math.log(rows_of(self.program)) - 2 * self.log_likelihood

    @property
    def icl(self) -> float:
        """ICL = BIC + 2 H, H the entropy of the responsibilities (Biernacki et al. 2000); the smaller, the better.

        H = -sum_i w_i sum_k r_ik log r_ik >= 0, so clusters that overlap cost. Mclust prints the opposite sign, and has
        the most probable state of each row in place of the average. Raises as `bic` does, and without discrete latents.
        """
        if not self.program.enumerated:
            raise FitError(f"icl is about clusters, and {type(self.model).__name__} has no discrete latent; use bic")
        return self.bic + 2 * self._likelihood.entropy

    def assign(self, new: Source | None = None, site: str | None = None) -> pd.DataFrame:
        """Posterior probabilities of discrete states, p(z_i = k | x_i): a row per row of data, a column per state.

        For a point estimate they are exact at the point. With posterior draws of the globals they are averaged over
        the draws; new rows weigh each draw by how well it explains them. A state that was observed has probability 1.

        Parameters
        ----------
        new
            Rows like those fitted; None for the fitted rows.
        site
            Which discrete latent; None for all that have one state per row, else (there are none) for all there are.

        Returns
        -------
        DataFrame
            Of one latent: a row for each entry of its plates (of several plates, their combinations), a single one if
            all rows share it; columns are its states. Of several latents columns have two levels, latent and state, so
            that ``assign()["z"]`` is the table of z.
            Of a `LinearGaussianChain` a row per row of data: the exact mean and standard deviation of each state given
            all rows, in columns (state, "mean") and (state, "sd").
            Of continuous latents of rows (scores of factors, shares of topics, codes), where there are no discrete ones
            or by name, their posterior mean and standard deviation, in the same columns; new rows are folded in.
            ``attrs["ess"]`` has the least effective number of draws behind a row, infinite where moments are exact.

        Raises
        ------
        FitError
            If the model has no latent of rows and no enumerated site.
        """
        return assign(self, new, site)

    def most_probable(self, new: Source | None = None, site: str | None = None) -> pd.DataFrame:
        """Most probable configuration of all discrete latents: argmax_z p(z | x), over all of them and rows jointly.

        Along a chain it is the most probable path (Viterbi 1967); in a Bayesian network the most probable explanation.
        It need not consist of the states that are the most probable one by one, which `assign` gives. At a point
        estimate it is that at the point; with posterior draws of other latents, that of the draw at which the joint
        density, at its most probable configuration, is highest.

        Parameters
        ----------
        new
            Rows like those fitted; None for the fitted rows.
        site
            Which discrete latent of the configuration to give; None for all that have one state per row, else (there
            are none) for all there are.

        Returns
        -------
        DataFrame
            A row for each row of data (or entry of the latent's plates), a column for each discrete latent, with
            ``attrs["log_joint"]``, log p(x, z) at the whole configuration.

        Raises
        ------
        FitError
            If the model has no discrete latent.
        """
        return most_probable(self, new, site)

    def log_prob(self, new: Source | Data | None = None, samples: int = 1000) -> pd.Series:
        """log p(x_i | fitted data) of each row: the posterior predictive density, at a point estimate the plug-in one.

        Enumerated latents are summed out exactly. Posterior draws of the globals are averaged over. Continuous local
        latents are integrated out by importance sampling from the guide (from the prior where it does not cover the
        rows).

        Parameters
        ----------
        new
            Rows like those fitted; None for the fitted rows.
        samples
            Draws to average over, where there is anything to draw.

        Returns
        -------
        Series
            In nats, by row. ``attrs["mcse"]`` is the Monte Carlo standard error of each row (zeros where the value is
            exact), ``attrs["mcse_total"]`` that of the sum.
        """
        return log_prob(self, new, _positive("log_prob(samples)", samples))

    def generate(self, n: int, seed: int | None = None) -> pd.DataFrame | dict[str, np.ndarray]:
        """Draw `n` new rows from the posterior predictive: each from a posterior draw of its own, or from the point.

        Data the model does not explain (covariates) are drawn with replacement from the fitted rows.

        Returns
        -------
        DataFrame
            With the columns of the fitted data; a dict of arrays where fields are not columns.
        """
        return generate(self, _positive("generate(n)", n), seed)

    def predict(self, new: Source | None = None, draws: int = 200, seed: int | None = None) -> xr.DataTree:
        """Posterior predictive draws for given rows, in the ArviZ group posterior_predictive, for posterior checks.

        For the fitted rows (`new=None`) locals and the states of chains have their posterior, so that rows of NaN are
        forecast, and what was observed comes along; for new rows,
        whose observed fields may be left out, locals are drawn from the model given the globals.

        Parameters
        ----------
        new
            Rows with the model's covariates.
        draws
            Number of draws of each row.
        seed
            None for one that follows from the fit's.
        """
        return predict(self, new, _positive("predict(draws)", draws), seed)

    def impute(self, new: Source | None = None, draws: int = 1, *, mean: bool = False, seed: int | None = None) -> Any:
        """Complete the rows: each missing cell drawn given the observed cells of its row, or at its conditional mean.

        p(x_mis | x_obs, fitted data): a row's discrete states have their posterior given what is observed of it, and
        what is missing its distribution given those (for a multivariate Normal, the conditional one). With posterior
        draws, each table of fitted rows is made from one draw of the latents, so that several tables are proper
        multiple imputations (Rubin 1987); of new rows each has its own.

        Parameters
        ----------
        new
            Rows like those fitted, with NaN where a value is missing; None for the fitted rows.
        draws
            How many tables.
        mean
            Give E[x_mis | x_obs] instead, in one table; it is too smooth to be taken for data.
        seed
            None for one that follows from the fit's.

        Returns
        -------
        DataFrame
            The rows with their labels and no missing value; a dict of arrays where fields are not columns. A list of
            `draws` of them if `draws` is above 1.
        """
        draws = _positive("impute(draws)", draws)
        if mean and draws > 1:
            raise FitError("impute(mean=True) gives one table; leave out draws")
        tables = impute(self, new, draws, mean=mean, seed=seed)
        return tables if draws > 1 else tables[0]

    def sample(self, n: int, seed: int | None = None) -> xr.Dataset:
        """Draw `n` fresh posterior draws of the latents, dims (chain, draw, ...); of Markov chains, some of theirs.

        Raises
        ------
        FitError
            If the fit is a point estimate.
        """
        if self.is_point:
            raise FitError(
                f"{type(self.method).__name__.lower()} gives a point estimate, which has no posterior draws; "
                "use `posterior['point_estimate']`, or fit with svi"
            )
        return sample(self, _positive("sample(n)", n), seed)

    def relabelled(self, reference: Fit | Mapping[str, Any] | None = None) -> Fit:
        """Return the fit with its exchangeable states under labels that agree: in all draws, and with a reference.

        The posterior of a mixture has as many equal modes as its components have orders. Draws of Markov chains get
        labels one by one, by minimal divergence of allocations (Stephens 2000), and so do draws that importance weights
        have corrected; of any other q all draws get the same, so that it can be drawn from as before. The log joint,
        and all that does not depend on labels, stays as it was.

        Parameters
        ----------
        reference
            A fit to the same rows whose labels to take, as near as the rows that states hold allow; or a point, values
            of latents and parameters by name (some of those that the states index suffice). None: states in falling
            order of the rows they hold.

        Raises
        ------
        FitError
            If no states are exchangeable, the reference does not fit, or the fit has gone on with more rows.

        Examples
        --------
        ``nuts.relabelled().summary()``; ``em.relabelled(reference=nuts)``.
        """
        if self.memory is not None:
            raise FitError(
                "this fit has gone on with more rows, of which it keeps sums by state; fit all rows to relabel"
            )
        approximation, points, shifts, words = with_labels(self, self.outcome.shifts, reference)
        warnings = list(self.outcome.warnings)
        if words and warnings:
            warnings.append(f"states were renamed, and the warnings above use their old numbers: {words}")
        outcome = replace(self.outcome, approximation=approximation, points=points, shifts=shifts, warnings=warnings)
        with threads_for(self.program):
            outcome = self.method.relabelled(self.program, self.outcome, outcome)
        return Fit(self.program, self.method, outcome, self.seed, self.seconds)

    def updated(self, method: Method, new_data: Source, *, progress: bool = False) -> Fit:
        """Go on with more rows by a method; `inference.update(fit, new_data)` says how."""
        began = time.perf_counter()
        with seeded(self.seed, self.program.device), differentiable():
            program = on_new_rows(self.program, new_data)
            with threads_for(program):
                program, outcome = method.continued(program, self, progress=progress)
        outcome = replace(outcome, trace=joined(self.trace, outcome.trace))
        return Fit(program, method, outcome, self.seed, time.perf_counter() - began)

    @property
    def _record(self) -> Record:
        return Record(self.program, self.method, self.outcome, self.seed, self.seconds)

    def report(self, path: str | Path) -> Path:
        """Write an HTML page with pictures: model, data, method, verdict, summary, how to repeat. Return its path."""
        name = type(self.method).__name__.lower()
        call = f"fit({self.model!r}, data, method={self.method!r}, seed={self.seed})"
        own = fit_sections(self, self._record, self.posterior, self.summary(), name)
        pages = [*model_sections(self.program), *own, reproduction(call)]
        return write_page(Path(path), f"{type(self.model).__name__} by {name}", pages)

    def save(self, folder: str | Path) -> Path:
        """Write the fit to a folder: safetensors, JSON, CSV and NetCDF, no pickle. Return the folder.

        What is simulated (predictive and prior groups) is not among the files; a loaded fit simulates the same again.

        A fit or comparison saved there before is replaced as a whole; a folder with anything else is refused.
        """
        record = Record(self.program, self.method, self.outcome, self.seed, self.seconds)
        kept = {n: g.to_dataset() for n, g in self.posterior.children.items() if n not in SIMULATED}
        kept |= {"standard_error": self._errors} if self.is_point else {}
        posterior = xr.DataTree.from_dict({"/": xr.Dataset(attrs=self.posterior.attrs), **kept})
        return store.save(record, repr(self), posterior, Path(folder))

    @staticmethod
    def load(folder: str | Path, model: ModelLike | None = None) -> Fit:
        """Read a fit written by `save`.

        Parameters
        ----------
        folder
            Where it was saved.
        model
            The model's class, where it cannot be imported by the name it was saved under.
        """
        return Fit(*store.load(Path(folder), model))


def as_fit(given: Any, usage: str) -> Fit:
    """Return what is a fit already.

    Parameters
    ----------
    given
        What stands where a fit is expected.
    usage
        How the call is written.

    Raises
    ------
    FitError
        If it is anything else.
    """
    if not isinstance(given, Fit):
        name = given.__name__ if isinstance(given, type) else type(given).__name__
        raise FitError(f"expected a fit, found {name}: {usage}")
    return given


def _positive(what: str, value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__") or operator.index(value) < 1:
        raise FitError(f"{what} must be a whole number above 0, not {value!r}")
    return operator.index(value)
