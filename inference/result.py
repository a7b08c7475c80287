"""The result of one method on one program."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor

from inference import predictive
from inference.approximation import Trained
from inference.method import Method, Outcome
from inference.posterior import khat, summarize, tree
from inference.random import as_seed, seeded
from inference.rows import event_names, frame_of, labels_of, row_chunks
from inference.threads import threads_for
from zoo.declare.data import Source, bind
from zoo.declare.evaluate import Values, many
from zoo.declare.program import Program
from zoo.declare.structure import Site
from zoo.errors import FitError

if TYPE_CHECKING:
    from zoo.declare.model import Model

DRAWS = 1000
LARGEST = 20_000_000  # numbers that posterior draws may take before there are fewer of them, or locals are left out
FEWEST = 200
INTEGRATION_SAMPLES = 100  # draws of the locals per draw of the globals in the pointwise log likelihood


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
        q: a point, a conjugate posterior or a trained guide.
    points
        Values of parameters and network weights.
    """

    def __init__(self, program: Program, method: Method, outcome: Outcome, seed: int, seconds: float) -> None:
        self.program, self.method = program, method
        self.approximation, self.points = outcome.approximation, outcome.points
        self.objective, self.trace, self.steps = outcome.objective, outcome.trace, outcome.steps
        self.converged, self.reason = outcome.converged, outcome.reason
        self.warnings = [*program.data.notes, *outcome.warnings]
        self.seed, self.seconds = seed, seconds

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
        notes = "".join(f"\n  warning: {w}" for w in self.warnings)
        return (
            f"Fit of {self.model!r} by {type(self.method).__name__.lower()}\n"
            f"  {self.objective.kind} {self.objective.value:.4f}{error}\n"
            f"  {state}: {self.reason} ({self.seconds:.2f} s, seed {self.seed}){notes}"
        )

    # -- draws -------------------------------------------------------------------------------------------------

    @cached_property
    def _draws(self) -> tuple[Values, np.ndarray, np.ndarray]:
        """Posterior draws of the latents with log p(x, z) and log q(z) of each."""
        program = self.program
        size = sum(int(np.prod(program.site_shape(s))) for s in program.latents)
        count = max(FEWEST, min(DRAWS, LARGEST // max(1, size)))
        with seeded(self.seed, program.device), threads_for(program), torch.no_grad():
            values, log_q = self.approximation.draw(program, count)

            def joint(v: Values) -> Tensor:
                return program.log_joint({**self.points, **v}).total(program.data.weights)

            log_p = many(joint, values, count, predictive.chunk_for(program))
        return values, log_p.cpu().numpy(), log_q.cpu().numpy()

    def _globals(self, count: int) -> Values:
        """Draws of the global latents: fresh ones, or the point."""
        names = {s.name for s in self.program.globals}
        if self.approximation.point:
            values, _ = self.approximation.draw(self.program, 1)
            return {n: v.expand(count, *v.shape[1:]) for n, v in values.items() if n in names}
        values, *_ = self._draws
        pick = torch.arange(count) % len(next(iter(values.values())))
        return {n: v[pick.to(v.device)] for n, v in values.items() if n in names}

    @property
    def has_draws(self) -> bool:
        """Whether global latents have posterior draws, so that predictions average over them."""
        return not self.is_point and bool(self.program.globals)

    @cached_property
    def khat(self) -> float:
        """Pareto shape of log p - log q over the draws: below 0.7 q is close to the posterior; NaN if it is exact."""
        if self.is_point or not self.program.latents:
            return float("nan")
        _, log_p, log_q = self._draws
        return khat(log_p - log_q)

    # -- ArviZ -------------------------------------------------------------------------------------------------

    @cached_property
    def posterior(self) -> xr.DataTree:
        """ArviZ groups: posterior, point_estimate, sample_stats, log_likelihood, observed_data, constant_data."""
        program, sites = self.program, self.program.sites
        groups: dict[str, dict[str, np.ndarray]] = {}
        points = {n: v for n, v in self.points.items() if n in sites}
        if self.is_point:
            latent, _ = self.approximation.draw(program, 1)
            latents = {n: v[0] for n, v in latent.items()}
            extra = program.deterministic({**self.points, **latents})
            groups["point_estimate"] = _numpy({**points, **latents, **extra})
        else:
            values, log_p, log_q = self._draws

            def derived(v: Values) -> Values:
                return program.deterministic({**self.points, **v})

            if any(s.role == "deterministic" for s in sites.values()):
                values = {**values, **many(derived, values, len(log_p), predictive.chunk_for(program))}
            groups["posterior"] = {n: v.cpu().numpy()[None] for n, v in values.items()}
            groups["sample_stats"] = {"log_p": log_p[None], "log_q": log_q[None]}
            if points:
                groups["point_estimate"] = _numpy(points)
            if self.has_draws and program.row:
                groups["log_likelihood"] = {self._likelihood_name: self._log_likelihood()[None]}
        observed = {s.field for s in program.observed}
        for group, wanted in (("observed_data", True), ("constant_data", False)):
            fields = {n: v for n, v in program.data.values.items() if (n in observed) is wanted}
            if fields:
                groups[group] = _numpy(fields)
        dims = {n: event_names(program, s) for n, s in sites.items()}
        dims.update(dict(program.data.dims.items()))
        dims[self._likelihood_name + " rows"] = (program.row,)
        coords = labels_of(program, dims)
        if "log_likelihood" in groups:
            groups["log_likelihood"] = dict(groups["log_likelihood"])
        return tree(
            groups,
            dims,
            coords,
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
    def _likelihood_name(self) -> str:
        names = [s.name for s in self.program.observed if self.program.row in s.plates]
        return "+".join(names) if names else "observed"

    def _log_likelihood(self) -> np.ndarray:
        """Pointwise log likelihood of the fitted rows, (draws, rows), local latents summed or integrated out."""
        program = self.program
        values, *_ = self._draws
        names = {s.name for s in program.globals}
        globals_ = {n: v for n, v in values.items() if n in names}
        with seeded(self.seed + 1, program.device), threads_for(program):
            rows = predictive.log_likelihood(program, self.approximation, self.points, globals_, INTEGRATION_SAMPLES)
        return rows.cpu().numpy()

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
        same = all(
            torch.equal(v, fitted.values[n]) for n, v in data.values.items() if v.shape == fitted.values[n].shape
        )
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

        Raises
        ------
        FitError
            If the model has no enumerated site in its data plate.
        """
        sites = [s for s in self.program.enumerated if self.program.row in s.plates]
        if not sites:
            raise FitError(
                f"{type(self.model).__name__} has no discrete latent per row to assign; `posterior` holds what it has"
            )
        program = self._on(new)
        site = sites[0]
        parts = [
            self._assign(part, site, fresh=program is not self.program)
            for part in row_chunks(program, whole=bool(program.locals))
        ]
        values = torch.cat(parts).cpu().numpy()
        columns = pd.RangeIndex(values.shape[1], name=site.name)
        return pd.DataFrame(values, index=program.data.coords[program.row], columns=columns)

    def _assign(self, program: Program, site: Site, *, fresh: bool) -> Tensor:
        """Responsibilities of one chunk of rows, (rows, states)."""
        with seeded(self.seed + 2, program.device), threads_for(program), torch.no_grad():
            count = 1 if self.is_point else DRAWS
            draws = self._globals(count)
            log_q = torch.zeros(1, 1, dtype=program.dtype, device=program.device)
            if program.locals:
                local, log_q = predictive.local_draws(program, self.approximation, self.points, draws, DRAWS)
                draws = {**{n: v.expand(DRAWS, *v.shape[1:]) if len(v) == 1 else v for n, v in draws.items()}, **local}

            def one(values: Values) -> tuple[Tensor, Tensor]:
                full = {**self.points, **values}
                found = program.responsibilities(full, vectorized=bool(draws))
                return found[site.name], program.log_joint(full).rows

            if not draws:
                return one({})[0]
            size = len(next(iter(draws.values())))
            probability, rows = many(one, draws, size, predictive.chunk_for(program))
            weights = torch.softmax(rows - log_q, 0) if fresh or program.locals else torch.full_like(rows, 1 / size)
            averaged: Tensor = (weights[..., None] * probability).sum(0)
            return averaged

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
        if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
            raise FitError(f"samples must be a whole number above 0, not {samples!r}")
        program = self._on(new)
        whole = bool(program.locals) and not getattr(getattr(self.approximation, "q", None), "amortized", False)
        parts = [self._log_prob(part, samples) for part in row_chunks(program, whole=whole)]
        value, error = (torch.cat(p).double().cpu().numpy() for p in zip(*parts, strict=True))
        series = pd.Series(value, index=program.data.coords.get(program.row, pd.RangeIndex(1)), name="log_prob")
        series.attrs.update(mcse=tuple(error.tolist()), mcse_total=float(np.sqrt(np.square(error).sum())))
        return series

    def _log_prob(self, program: Program, samples: int) -> tuple[Tensor, Tensor]:
        """Log density of one chunk of rows and its Monte Carlo error."""
        if not program.row:
            raise FitError("log_prob needs a data plate: the model's data have no rows")
        count = samples if self.has_draws or program.locals else 1
        with seeded(self.seed + 3, program.device), threads_for(program), torch.no_grad():
            draws = self._globals(count)
            local = (
                predictive.local_draws(program, self.approximation, self.points, draws, count)
                if program.locals
                else None
            )
            weights = predictive.pointwise(program, self.points, draws, local)
            return predictive.log_mean_exp(weights.double())

    def generate(self, n: int, seed: int | None = None) -> pd.DataFrame | dict[str, np.ndarray]:
        """Draw `n` new rows from the posterior predictive: each from a posterior draw of its own, or from the point.

        Data the model does not explain (covariates) are drawn with replacement from the fitted rows.

        Returns
        -------
        DataFrame
            With the columns of the fitted data; a dict of arrays where fields are not columns.
        """
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise FitError(f"generate(n): n must be a whole number above 0, not {n!r}")
        program = self.program
        if not program.row:
            raise FitError("generate needs a data plate: the model's data have no rows")
        with (
            seeded(self.seed + 4 if seed is None else as_seed(seed), program.device),
            threads_for(program),
            torch.no_grad(),
        ):
            donor = program.data.take(torch.randint(len(program.data), (n,)))
            source = torch.randint(min(n, DRAWS), (n,)).sort().values if self.has_draws else torch.zeros(n).long()
            draws = self._globals(DRAWS if self.has_draws else 1)
            collected: dict[str, list[Tensor]] = {s.field: [] for s in program.observed if s.field}
            for which in source.unique():
                rows = (source == which).nonzero()[:, 0]
                values = {name: v[int(which)] for name, v in draws.items()}
                part = program.rebind(donor.take(rows))
                seen = part.simulate({**self.points, **values})
                for site in program.observed:
                    if site.field:
                        collected[site.field].append(seen[site.name])
        values = {**donor.values, **{n: torch.cat(v) for n, v in collected.items()}}
        return frame_of(program, values, n)

    def predict(self, new: Source | None = None, draws: int = 200, seed: int | None = None) -> xr.DataTree:
        """Posterior predictive draws for given rows, in the ArviZ group posterior_predictive.

        For the fitted rows (`new=None`) locals have their posterior; for new rows, whose observed fields may be left
        out, locals are drawn from the model given the globals.

        Parameters
        ----------
        new
            Rows with the model's covariates.
        draws
            Number of draws of each row.
        seed
            None for one that follows from the fit's.
        """
        if isinstance(draws, bool) or not isinstance(draws, int) or draws < 1:
            raise FitError(f"predict(draws): draws must be a whole number above 0, not {draws!r}")
        program = self._on(None if new is None else self._complete(new))
        fitted = program is self.program
        with (
            seeded(self.seed + 5 if seed is None else as_seed(seed), program.device),
            threads_for(program),
            torch.no_grad(),
        ):
            values = self._globals(draws)
            if program.locals and fitted:
                drawn, _ = self.approximation.draw(program, draws)
                values = drawn
            parts = [program.simulate({**self.points, **{n: v[i] for n, v in values.items()}}) for i in range(draws)]
        names = [s.name for s in program.observed]
        stacked = {n: torch.stack([p[n] for p in parts]).cpu().numpy()[None] for n in names}
        dims = {s.name: event_names(program, s) for s in program.observed}
        return tree({"posterior_predictive": stacked}, dims, labels_of(program, dims), {"model": repr(self.model)})

    def _complete(self, new: Any) -> Any:
        """Fill in observed fields that the new rows leave out; their values are never looked at."""
        observed = {s.field for s in self.program.observed if s.field}
        if isinstance(new, pd.DataFrame):
            missing = [n for n in observed if n not in new.columns and len(self.model.fields[n].dims) == 1]
            return new.assign(**{n: float(self.program.data.values[n].flatten()[0]) for n in missing})
        if isinstance(new, dict) and new:
            size = len(next(iter(new.values())))
            rows = torch.zeros(size).long()
            filled = {n: self.program.data.values[n][rows] for n in observed if n not in new}
            return {**new, **filled}
        return new

    def sample(self, n: int, seed: int | None = None) -> xr.Dataset:
        """Draw `n` fresh posterior draws of the latents, dims (chain, draw, ...).

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
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise FitError(f"sample(n): n must be a whole number above 0, not {n!r}")
        program = self.program
        with (
            seeded(self.seed + 6 if seed is None else as_seed(seed), program.device),
            threads_for(program),
            torch.no_grad(),
        ):
            values, _ = self.approximation.draw(program, n)
        dims = {s.name: event_names(program, s) for s in program.latents}
        arrays = {name: v.cpu().numpy()[None] for name, v in values.items()}
        return tree({"posterior": arrays}, dims, labels_of(program, dims), {})["posterior"].to_dataset()

    # -- storage -----------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> Path:
        """Write the fit to a folder: safetensors, JSON, CSV and NetCDF, no pickle. Return the folder."""
        from inference.store import save

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
        from inference.store import load

        return load(Path(folder), model)

    @property
    def guide(self) -> str:
        """The guide's settings as text, empty if the method has none."""
        return repr(self.approximation.guide) if isinstance(self.approximation, Trained) else ""


def _numpy(values: Values) -> dict[str, np.ndarray]:
    return {n: v.detach().cpu().numpy() for n, v in values.items()}
