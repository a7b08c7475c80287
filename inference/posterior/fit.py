"""The result of one method on one program."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor

from inference.approximations.rows import chunk_for
from inference.diagnostics.arviz import khat, summarize, tree
from inference.method import Method, Outcome
from inference.posterior import impute, predictive, simulate
from inference.posterior.groups import arviz_groups
from inference.posterior.rows import event_names, labels_of, row_chunks
from inference.runtime.random import as_seed, seeded
from inference.runtime.threads import threads_for
from zoo.data.bind import Source, bind
from zoo.errors import FitError
from zoo.program.program import Program
from zoo.replay.evaluate import Values, many

if TYPE_CHECKING:
    from zoo.declare.model import Model

DRAWS = 1000
LARGEST = 20_000_000  # numbers that posterior draws may take before there are fewer of them
FEWEST = 200


class Fit:
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
    warnings
        What makes this answer less trustworthy, and what was left out; empty if nothing.
    seed, seconds, steps
        The seed of all randomness, the time the fit took, the steps it took.
    approximation
        q: a point, a conjugate posterior, a trained guide or the draws of Markov chains.
    points
        Values of parameters and network weights.
    diagnostics
        Numbers by name that say how far the answer can be trusted: after SVI "khat", "evidence" and "evidence_error"
        (an importance-weighted estimate of log p(x)), of encoders "khat_rows_above" (share of rows), of several starts
        "rhat_restarts".
    verdict
        In words, whether to trust it; empty where the method says nothing of the kind.
    memory
        Expected statistics of all rows so far, where `EM.update` has gone on from another fit.
    """

    def __init__(self, program: Program, method: Method, outcome: Outcome, seed: int, seconds: float) -> None:
        self.program, self.method = program, method
        self.approximation, self.points = outcome.approximation, outcome.points
        self.objective, self.trace, self.steps = outcome.objective, outcome.trace, outcome.steps
        self.converged, self.reason = outcome.converged, outcome.reason
        self.warnings = [*program.data.notes, *outcome.warnings]
        self.seed, self.seconds, self.memory = seed, seconds, outcome.memory
        self.diagnostics, self.verdict = outcome.diagnostics, outcome.verdict

    @property
    def model(self) -> Model:
        """The fit's own copy of the model."""
        return self.program.model

    @property
    def is_point(self) -> bool:
        """Whether the answer is a point estimate, without posterior draws."""
        return self.approximation.point

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

    # -- draws -------------------------------------------------------------------------------------------------

    @contextmanager
    def running(self, offset: int, seed: int | None = None) -> Iterator[None]:
        """Seed what a question draws: by the fit's seed and an offset that tells questions apart, unless given."""
        chosen = self.seed + offset if seed is None else as_seed(seed)
        with seeded(chosen, self.program.device), threads_for(self.program), torch.no_grad():
            yield

    @property
    def draw_count(self) -> int:
        """How many posterior draws the fit keeps: all of Markov chains; else 1000, fewer for many latents or rows."""
        if self.approximation.kept is not None:
            return self.approximation.kept
        size = sum(int(np.prod(self.program.site_shape(s))) for s in self.program.latents)
        return max(FEWEST, min(DRAWS, LARGEST // max(1, size), LARGEST // len(self.program.data)))

    @cached_property
    def draws(self) -> tuple[Values, np.ndarray, np.ndarray]:
        """Posterior draws of the latents with log p(x, z) and log q(z) of each."""
        program, count = self.program, self.draw_count
        with self.running(0):
            values, log_q = self.approximation.draw(program, count)
            if self.approximation.exact:
                return values, log_q.cpu().numpy(), log_q.cpu().numpy()

            def joint(v: Values) -> Tensor:
                return program.log_joint({**self.points, **v}).total(program.data.weights)

            log_p = many(joint, values, count, chunk_for(program))
        return values, log_p.cpu().numpy(), log_q.cpu().numpy()

    def globals(self, count: int) -> Values:
        """Return `count` draws of the global latents: the kept ones if they suffice, or the point repeated."""
        names = {s.name for s in self.program.globals}
        if self.is_point:
            values, _ = self.approximation.draw(self.program, 1)
            return {n: v.expand(count, *v.shape[1:]) for n, v in values.items() if n in names}
        if count <= self.draw_count:
            # Every so many draws, so that each chain has its share; other draws have no order.
            at = torch.arange(count) * self.draw_count // count if self.approximation.exact else slice(count)
            return {n: v[at] for n, v in self.draws[0].items() if n in names}
        with self.running(7):
            values, _ = self.approximation.draw(self.program, count)
        return {n: v for n, v in values.items() if n in names}

    @property
    def has_draws(self) -> bool:
        """Whether global latents have posterior draws, so that predictions average over them."""
        return not self.is_point and bool(self.program.globals)

    @cached_property
    def khat(self) -> float:
        """Pareto shape of log p - log q over the draws: below 0.7 q is close to the posterior; NaN if it is exact."""
        if self.is_point or not self.program.latents:
            return float("nan")
        if self.approximation.exact:  # resampled already, if that was needed
            return self.diagnostics.get("khat", float("nan"))
        _, log_p, log_q = self.draws
        return khat(log_p - log_q)

    # -- ArviZ -------------------------------------------------------------------------------------------------

    @cached_property
    def posterior(self) -> xr.DataTree:
        """ArviZ groups: posterior, point_estimate, sample_stats, log_likelihood, observed_data, constant_data."""
        with self.running(8):
            return arviz_groups(self)

    def summary(self) -> pd.DataFrame:
        """ArviZ's summary of the posterior draws as a DataFrame, or the values of a point estimate."""
        return summarize(self.posterior)

    # -- questions about rows ----------------------------------------------------------------------------------

    def _on(self, new: Source | None) -> Program:
        """Return the program on new rows, or on the fitted ones where `new` is None or holds the very same rows."""
        if new is None:
            return self.program
        fitted = self.program.data
        data = bind(self.model, new, like=fitted).to(self.program.dtype, self.program.device)
        same = data.missing.keys() == fitted.missing.keys() and all(
            torch.equal(v, fitted.values[n]) for n, v in data.values.items() if v.shape == fitted.values[n].shape
        )
        same = same and all(torch.equal(gone, fitted.missing[n]) for n, gone in data.missing.items())
        if same and len(data) == len(fitted):
            return self.program
        return self.program.rebind(data)

    def assign(self, new: Source | None = None) -> pd.DataFrame:
        """Responsibilities p(z_i = k | x_i): one row per row of data, one column per state.

        For a point estimate they are exact at the point. With posterior draws of the globals they are averaged over
        the draws; new rows weigh each draw by how well it explains them.

        Parameters
        ----------
        new
            Rows like those fitted; None for the fitted rows.

        For a discrete latent that all rows share, its posterior, in one row.

        Raises
        ------
        FitError
            If the model has no enumerated site.
        """
        sites = self.program.assigned
        if not sites and any(not s.plates for s in self.program.shared):
            return self._assign_shared(new)
        if not sites:
            raise FitError(
                f"{type(self.model).__name__} has no discrete latent per row to assign; `posterior` holds what it has"
            )
        program = self._on(new)
        site = sites[0]
        chunks = row_chunks(program, whole=bool(program.locals), draws=self.draw_count if self.has_draws else 1)
        values = torch.cat([predictive.assign(self, c, site, fresh=program is not self.program) for c in chunks])
        columns = pd.RangeIndex(values.shape[1], name=site.name)
        return pd.DataFrame(values.cpu().numpy(), index=program.data.coords[program.row], columns=columns)

    def _assign_shared(self, new: Source | None) -> pd.DataFrame:
        """Posterior of a discrete latent that all rows share, averaged over draws of the globals: one row."""
        if new is not None:
            raise FitError(f"{self.program.shared[0].name!r} belongs to the fitted rows together; call assign()")
        site = next(s for s in self.program.shared if not s.plates)
        with self.running(2):
            draws = self.globals(1 if self.is_point else self.draw_count)

            def one(values: Values) -> Tensor:
                full = {**self.points, **values}
                return self.program.shared_marginals(full, vectorized=bool(draws))[site.name]

            count = len(next(iter(draws.values()))) if draws else 1
            found = many(one, draws, count, chunk_for(self.program)).mean(0) if draws else one({})
        return pd.DataFrame(
            found.cpu().numpy(), index=[site.name], columns=pd.RangeIndex(found.shape[1], name=site.name)
        )

    def log_prob(self, new: Source | None = None, samples: int = 1000) -> pd.Series:
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
        samples = _positive("log_prob(samples)", samples)
        program = self._on(new)
        if not program.row:
            raise FitError("log_prob needs a data plate: the model's data have no rows")
        if program.shared:
            raise FitError(
                f"rows have no density of their own: they share the discrete latent {program.shared[0].name!r}"
            )
        count = samples if self.has_draws or program.locals else 1
        whole = bool(program.locals) and not self.approximation.covers_new_rows
        chunks = list(row_chunks(program, whole=whole, draws=count))
        draws = self.globals(count)
        parts = [predictive.log_prob(self, chunk, draws, count, len(chunks)) for chunk in chunks]
        value, error = (torch.cat(p).double().cpu().numpy() for p in zip(*parts, strict=True))
        series = pd.Series(value, index=program.data.coords[program.row], name="log_prob")
        series.attrs.update(mcse=tuple(error.tolist()), mcse_total=float(np.sqrt(np.square(error).sum())))
        return series

    def generate(self, n: int, seed: int | None = None) -> pd.DataFrame | dict[str, np.ndarray]:
        """Draw `n` new rows from the posterior predictive: each from a posterior draw of its own, or from the point.

        Data the model does not explain (covariates) are drawn with replacement from the fitted rows.

        Returns
        -------
        DataFrame
            With the columns of the fitted data; a dict of arrays where fields are not columns.
        """
        n = _positive("generate(n)", n)
        if not self.program.row:
            raise FitError("generate needs a data plate: the model's data have no rows")
        with self.running(4, seed):
            return simulate.generate(self, n)

    def predict(self, new: Source | None = None, draws: int = 200, seed: int | None = None) -> xr.DataTree:
        """Posterior predictive draws for given rows, in the ArviZ group posterior_predictive, for posterior checks.

        For the fitted rows (`new=None`) locals have their posterior, and what was observed comes along; for new rows,
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
        draws = _positive("predict(draws)", draws)
        program = self._on(None if new is None else simulate.complete(self, new))
        with self.running(5, seed):
            return simulate.predict(self, program, draws, known=program is self.program)

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
        program = self._on(new)
        if not program.row:
            raise FitError("impute needs a data plate: the model's data have no rows")
        with self.running(9, seed):
            tables = impute.impute(self, program, draws, mean=mean)
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
        n = _positive("sample(n)", n)
        program = self.program
        with self.running(6, seed):
            values, _ = self.approximation.draw(program, n)
        dims = {s.name: event_names(program, s) for s in program.latents}
        arrays = {name: v.cpu().numpy()[None] for name, v in values.items()}
        return tree({"posterior": arrays}, dims, labels_of(program, dims), {})["posterior"].to_dataset()

    # -- storage -----------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> Path:
        """Write the fit to a folder: safetensors, JSON, CSV and NetCDF, no pickle. Return the folder."""
        from inference.posterior.store import save

        return save(self, Path(folder))

    @staticmethod
    def load(folder: str | Path, model: type[Model] | Model | None = None) -> Fit:
        """Read a fit written by `save`.

        Parameters
        ----------
        folder
            Where it was saved.
        model
            The model's class, where it cannot be imported by the name it was saved under.
        """
        from inference.posterior.store import load

        return load(Path(folder), model)


def _positive(what: str, value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__") or operator.index(value) < 1:
        raise FitError(f"{what} must be a whole number above 0, not {value!r}")
    return operator.index(value)
