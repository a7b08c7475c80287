"""Checks of a method on a model: its contract, and what must be true of every fit."""

from __future__ import annotations

import copy
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from inference.fitting import fit
from inference.method import Method
from inference.methods.cavi import CAVI
from inference.methods.em import EM
from inference.methods.exact import Exact
from inference.posterior.fit import Fit
from zoo.data.bind import Source
from zoo.declare.model import Model
from zoo.errors import MethodError
from zoo.program.prepare import prepare
from zoo.program.program import Program
from zoo.replay.random import reseed
from zoo.testing.checks import Check, nothing_global_changes, require, require_close, require_mean, run, without
from zoo.testing.small import for_methods, run_on_each

KINDS = ("log_evidence", "log_likelihood", "log_posterior", "elbo", "iwae", "elbo_at_point", "iwae_at_point")
BOUNDS = ("elbo", "iwae")
GENERATED = 300  # rows in either half of a comparison with their density
SAMPLES = 50  # draws behind a density that is only looked at
ROUNDING = {torch.float64: 1e-8, torch.float32: 1e-3}  # of objectives; single precision keeps six digits


def pick(data: Any, rows: Any) -> Any:
    """Return the rows at these positions of an array, a table or a dict of columns."""
    if isinstance(data, Mapping):
        return {n: pick(v, rows) for n, v in data.items()}
    if hasattr(data, "iloc"):
        return data.iloc[list(rows)]
    return [data[int(i)] for i in rows] if isinstance(data, list | tuple) else data[np.asarray(rows)]


class FitChecks:
    """One method on one model and its rows: the fit is made when a check first asks for it."""

    def __init__(
        self,
        method: Method,
        model: Model,
        data: Source,
        *,
        rising: bool | None = None,
        program: Callable[[], Program] | None = None,
    ) -> None:
        self.method, self.model, self.data, self.prepare = method, model, data, program
        self.rising = isinstance(method, EM | CAVI) if rising is None else rising

    def fit(self, data: Source | None = None, **settings: Any) -> Fit:
        """Fit the rows, or others, with the same seed."""
        rows = self.data if data is None else data
        return fit(self.model, rows, method=self.method, seed=0, device="cpu", progress=False, **settings)

    @cached_property
    def program(self) -> Program:
        """The program before it is fitted."""
        if self.prepare is not None:
            return self.prepare()
        with torch.random.fork_rng(devices=[]):
            reseed(0)
            return prepare(self.model, self.data, device="cpu")

    @cached_property
    def refused(self) -> str | None:
        """Why the method is not legal here, if it is not."""
        why = self.method.why_not(self.program)
        return None if why is None else f"not legal: {why}"

    @cached_property
    def fitted(self) -> Fit:
        """The fit that most checks look at."""
        return self.fit()

    @cached_property
    def evidence(self) -> float | None:
        """log p(x), where it has a closed form."""
        if Exact().why_not(self.fitted.program):
            return None
        return fit(self.model, self.data, method=Exact(), seed=0, device="cpu", progress=False).objective.value

    @cached_property
    def draws(self) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Values of draws, with log p(x, z) and log q(z) of each."""
        drawn = self.fitted.draws
        return drawn.values, torch.as_tensor(self.fitted.log_p), torch.as_tensor(drawn.log_q)

    # -- checks ------------------------------------------------------------------------------------------------

    def refusal(self) -> str | None:
        """A pair that is not legal raises `MethodError` with the reason and the methods that would work."""
        why = self.method.why_not(self.program)
        if why is None:
            return None
        require(len(why) > 10, f"the reason is no more than {why!r}")
        try:
            self.fit()
        except MethodError as error:
            require(why.rstrip(".") in str(error), f"the error does not give the reason {why!r}: {error}")
            legal = "Legal here: " in str(error) or "No method is legal" in str(error)
            require(legal, f"the error does not say which methods are legal: {error}")
            return f"not legal: {why}"
        require(False, f"fit() works although why_not says {why!r}")
        return None

    def numbers(self) -> str | None:
        """Objective, trace, points, draws and densities of rows are finite numbers."""
        result = self.fitted
        values = [
            ("the objective", [result.objective.value, result.objective.error]),
            ("the trace", result.trace.value),
        ]
        values += [(f"point of {n!r}", v.detach().numpy()) for n, v in result.points.items()]
        for group in ("posterior", "point_estimate"):
            if group in result.posterior.children:
                values += [(f"{group} of {n!r}", v) for n, v in result.posterior[group].data_vars.items()]
        for what, value in values:
            require(bool(np.isfinite(np.asarray(value, dtype=float)).all()), f"{what} is not finite")
        require(result.objective.error >= 0, f"the objective has a negative error, {result.objective.error}")
        return None

    def trace(self) -> str | None:
        """The trace has steps and seconds that go forward; the objective never falls where the method promises that."""
        table = self.fitted.trace
        require(list(table.columns) == ["step", "seconds", "value"], f"columns of the trace are {list(table.columns)}")
        require(bool((np.diff(table["step"]) > 0).all()), "steps in the trace do not go up")
        require(bool((np.diff(table["seconds"]) >= 0).all()), "seconds in the trace go down")
        values = table["value"].to_numpy()
        if self.rising:
            falls = np.flatnonzero(np.diff(values) < -1e-9 * np.abs(values[1:]))
            require(
                not len(falls),
                "the objective falls" + (f", from {values[falls[0]]} to {values[falls[0] + 1]}" if len(falls) else ""),
            )
        return None

    def convergence(self) -> str | None:
        """It is said whether the method converged, why, and with a warning if not."""
        result = self.fitted
        require(isinstance(result.converged, bool), f"converged is {result.converged!r}, not True or False")
        require(bool(result.reason), "no reason is given for stopping")
        require(result.converged or result.reason in result.warnings, "not converged, and no warning says so")
        return None

    def supports(self) -> str | None:
        """Draws and points are of every latent, inside its support."""
        result = self.fitted
        values, _ = result.approximation.draw(result.program, 20)
        names = {s.name for s in result.program.latents}
        require(set(values) == names, f"draws are of {sorted(values)}, the latents are {sorted(names)}")
        for name, value in {**values, **{n: v for n, v in result.points.items() if n in result.program.sites}}.items():
            support = result.program.sites[name].support
            require(bool(support.check(value).all()), f"{name!r} is outside its support {support}")
        return None

    def objective(self) -> str | None:
        """The objective is what its kind says: see `Objective`."""
        result, kind = self.fitted, self.fitted.objective.kind
        require(kind in KINDS, f"the objective is of kind {kind!r}, none of {', '.join(KINDS)}")
        value, error, weights = result.objective.value, result.objective.error, result.program.data.weights
        rounding = ROUNDING[result.program.dtype]
        if kind in ("log_likelihood", "log_posterior") and result.is_point and not result.program.locals:
            latents = {n: v[0] for n, v in result.approximation.draw(result.program, 1)[0].items()}
            terms = result.program.log_joint({**result.points, **latents})
            require_close(value, terms.total(weights), f"{kind} at the point", rounding)
            require(kind == "log_posterior" or float(terms.rest) == 0, "a log likelihood holds the density of a prior")
        elif kind == "log_posterior" and not result.is_point:
            require_close(value, self.draws[1].mean(), "log_posterior: mean of log p(x, z) over the draws", 0.1)
        elif kind == "log_evidence" and error > 0:
            if self.evidence is not None:
                require(abs(value - self.evidence) < 5 * error, f"{value} +- {error} is not log p(x) = {self.evidence}")
        elif kind == "log_evidence":
            values, log_q = result.approximation.draw(result.program, 100)
            joint = [
                result.program.log_joint({**result.points, **{n: v[i] for n, v in values.items()}}).total(weights)
                for i in range(100)
            ]
            what = "log p(x, z) - log q(z) at draws, which is log p(x) wherever q is the posterior"
            require_close(torch.stack(joint) - log_q, torch.full_like(log_q, value), what, rounding)
        elif kind in BOUNDS:
            return self._bound(value, error)
        return None

    def _bound(self, value: float, error: float) -> str | None:
        """A bound is below the evidence, and an ELBO is the mean of log p - log q over draws."""
        if self.evidence is not None:
            above = value - self.evidence - 5 * error
            require(above < 1e-6, f"the bound {value} (error {error}) is above log p(x) = {self.evidence}")
        if self.fitted.objective.kind == "elbo" and error > 0 and not self.fitted.approximation.exact:
            _, log_p, log_q = self.draws
            weights = log_p - log_q
            own = float(weights.std()) / len(weights) ** 0.5
            away = abs(float(weights.mean()) - value)
            limit = 6 * (own**2 + error**2) ** 0.5 + ROUNDING[self.fitted.program.dtype] * abs(value)
            require(away < limit, f"the ELBO is {value}, log p - log q over draws has mean {float(weights.mean())}")
        return None

    def density(self) -> str | None:
        """log_prob is finite for every row, with an error; those of a point add up to its objective."""
        result = self.fitted
        if not result.program.row or result.program.shared:
            return "rows have no density of their own"
        rows = result.log_prob(samples=SAMPLES)
        require(len(rows) == len(result.program.data), f"log_prob has {len(rows)} rows")
        require(bool(np.isfinite(rows).all()), "log_prob of some rows is not finite")
        errors = np.asarray(rows.attrs["mcse"])
        require(bool(np.isfinite(errors).all()), "errors of log_prob are not finite")
        if result.is_point and not result.program.locals:
            require(not errors.any(), "log_prob at a point is exact, yet has an error")
            latents = {n: v[0] for n, v in result.approximation.draw(result.program, 1)[0].items()}
            terms = result.program.log_joint({**result.points, **latents})
            rounding = ROUNDING[result.program.dtype]
            require_close(rows.to_numpy(), terms.rows.double().numpy(), "log_prob of rows at a point", rounding)
        return None

    def responsibilities(self) -> str | None:
        """assign() gives probabilities, one row per row of data."""
        result = self.fitted
        if not result.program.assigned:
            return "no discrete latent is one per row"
        table = result.assign().to_numpy()
        expected = (len(result.program.data), result.program.assigned[0].cardinality)
        require(table.shape == expected, f"assign() has shape {table.shape}, not {expected}")
        require(bool(((table >= 0) & (table <= 1 + 1e-6)).all()), "assign() has entries below 0 or above 1")
        require_close(table.sum(1), np.ones(len(table)), "sums of the rows of assign()", 1e-6)
        return None

    def order(self) -> str | None:
        """Rows in another order have the same answers, in that order."""
        result, program = self.fitted, self.fitted.program
        if program.locals or program.chained or program.shared or not program.row:
            return "rows are not exchangeable, or have latents of their own"
        order = torch.randperm(len(program.data), generator=torch.Generator().manual_seed(0)).numpy()
        other = pick(self.data, order)
        accuracy = ROUNDING[program.dtype]
        expected = result.log_prob().to_numpy()[order]
        require_close(result.log_prob(other).to_numpy(), expected, "log_prob of rows in another order", accuracy)
        if program.assigned and result.is_point:
            expected = result.assign().to_numpy()[order]
            require_close(result.assign(other).to_numpy(), expected, "assign() of rows in another order", accuracy)
        return None

    def weights(self) -> str | None:
        """Weights of one change nothing; where the answer is exact, a weight of two is the row twice."""
        result, size = self.fitted, len(self.fitted.program.data)
        if not result.program.row:
            return "the data have no rows"
        ones = self.fit(weights=np.ones(size)).objective
        limit = ROUNDING[result.program.dtype] * abs(result.objective.value)
        limit += 5 * (ones.error**2 + result.objective.error**2) ** 0.5
        away = abs(ones.value - result.objective.value)
        require(away <= limit, f"with weights of one the objective is {ones.value}, without {result.objective.value}")
        if result.objective.kind == "log_evidence" and not result.objective.error and not result.program.chained:
            twice = self.fit(pick(self.data, [*range(size)] * 2)).objective.value
            require_close(self.fit(weights=np.full(size, 2.0)).objective.value, twice, "log p(x) with weights of two")
            if size > 1:
                without = self.fit(pick(self.data, range(1, size))).objective.value
                dropped = self.fit(weights=np.arange(size) != 0).objective.value
                require_close(dropped, without, "log p(x) with a weight of zero")
        return None

    def seeds(self) -> str | None:
        """The same seed gives the same bytes, and nothing global is left changed."""
        first = self.fitted
        with nothing_global_changes():
            again = self.fit()
        require(again.objective == first.objective, f"the objective is {again.objective} and then {first.objective}")
        require(again.trace["value"].equals(first.trace["value"]), "the trace is another one the second time")
        require(set(again.points) == set(first.points), "the points are others the second time")
        for name, value in again.points.items():
            require(torch.equal(value, first.points[name]), f"the point of {name!r} is another one the second time")
        for name, value in again.draws[0].items() if first.program.latents else ():
            require(torch.equal(value, first.draws[0][name]), f"draws of {name!r} are others the second time")
        return None

    def generation(self) -> str | None:
        """New rows have the shape and support of the data."""
        result = self.fitted
        if not result.program.row:
            return "the data have no rows"
        drawn = result.generate(7, seed=0)
        for name, field in self.model.fields.items():
            if name not in result.program.data.row_fields:
                continue
            values = np.asarray(_column(drawn, name, list(self.model.fields)))
            require(len(values) == 7, f"generate(7) has {len(values)} values of {name!r}")
            size = max(1, int(np.prod(result.program.data.values[name].shape[1:])))
            require(values.reshape(7, -1).shape[1] == size, f"generated {name!r} has not {size} numbers a row")
            if values.dtype.kind in "biuf":
                fits = bool(field.support.check(torch.as_tensor(values.astype(float))).all())
                require(fits, f"generated {name!r} is outside {field.support}")
        return None

    def agreement(self) -> str | None:
        """Generated rows come from the density that log_prob gives: E_p[r(x) / p(x)] = 1 for any r.

        Here r is the shares of values among other generated rows, so this is looked at where values are discrete.
        """
        result, program = self.fitted, self.fitted.program
        fields = {s.field for s in program.observed}
        given = {n for s in program.sites.values() for parent in s.args.values() for n in parent.data}
        given |= {str(s.field) for s in program.observed if s.family == "Multinomial"}  # its totals
        discrete = all(bool(f.support.is_discrete) for f in self.model.fields.values())
        apart = bool(program.row) and not (program.locals or program.chained or program.shared)
        if not (discrete and apart and result.is_point and fields == set(self.model.fields) and not fields & given):
            return "not a point estimate of independent rows of discrete values"
        drawn = result.generate(2 * GENERATED, seed=0)
        density = np.exp(result.log_prob(drawn).to_numpy())
        table = drawn if isinstance(drawn, pd.DataFrame) else pd.DataFrame({n: map(str, c) for n, c in drawn.items()})
        keys = [tuple(row) for row in table.itertuples(index=False)]
        shares = Counter(keys[:GENERATED])
        ratios = [shares[key] / GENERATED / p for key, p in zip(keys, density, strict=True)][GENERATED:]
        require_mean(torch.tensor(ratios), 1.0, "shares of generated values over exp(log_prob)")
        return None

    def storage(self) -> str | None:
        """A fit that is saved and loaded gives the same answers."""
        result = self.fitted
        with tempfile.TemporaryDirectory() as folder:
            loaded = Fit.load(result.save(Path(folder) / "fit"), type(self.model))
        require(loaded.objective == result.objective, f"the loaded objective is {loaded.objective}")
        require(loaded.reason == result.reason, f"the loaded reason is {loaded.reason!r}")
        for name, value in result.points.items():
            require(torch.equal(loaded.points[name], value), f"the loaded point of {name!r} is another one")
        for name, value in result.draws[0].items() if result.program.latents else ():
            require(torch.equal(loaded.draws[0][name], value), f"loaded draws of {name!r} are others")
        if result.program.row and not result.program.shared:
            same = loaded.log_prob(samples=SAMPLES).equals(result.log_prob(samples=SAMPLES))
            require(same, "log_prob of the loaded fit is another one")
        return None


def _column(drawn: Any, name: str, every: list[str]) -> Any:
    """Return the values of a field among generated rows: a column, or all that are no other field's."""
    if not hasattr(drawn, "columns") or name in drawn.columns:
        return drawn[name]
    return drawn.drop(columns=[n for n in every if n in drawn.columns])


NAMES = (
    *("numbers", "trace", "convergence", "supports", "objective", "density", "responsibilities", "order", "weights"),
    *("seeds", "generation", "agreement", "storage"),
)


def method_checks(
    method: Method,
    model: Model,
    data: Source,
    *,
    rising: bool | None = None,
    program: Callable[[], Program] | None = None,
) -> dict[str, Check]:
    """Return the checks of `check_method` by name, to be called one by one.

    Parameters
    ----------
    method, model, data, rising
        As in `check_method`.
    program
        Returns the model's program on the data, where there is one already.

    Returns
    -------
    dict
        Name -> function without arguments that raises `CheckError` where the method fails, and returns None, or the
        reason why the check does not apply.

    Examples
    --------
    >>> from inference.methods.exact import Exact
    >>> from zoo.beta_bernoulli import BetaBernoulli
    >>> method_checks(Exact(), BetaBernoulli(), [1, 0, 1])["seeds"]()
    """
    made = FitChecks(method, copy.deepcopy(model), data, rising=rising, program=program)
    checks: dict[str, Check] = {name: partial(_where_legal, made, name) for name in NAMES}
    return {"refusal": made.refusal, **checks}


def _where_legal(made: FitChecks, name: str) -> str | None:
    """Run one check; where the method is not legal there is nothing to check but its refusal."""
    if made.refused:
        return made.refused
    check: Check = getattr(made, name)
    return check()


def check_method(
    method: Method,
    model: Model | None = None,
    data: Source | None = None,
    *,
    rising: bool | None = None,
    skip: Iterable[str] = (),
) -> dict[str, str]:
    """Check that a method keeps what the library promises of every method.

    A pair that is not legal is refused with a reason; all numbers are finite; the objective is what its kind says, a
    bound below the evidence where that has a closed form; draws and points are in their supports; rows have the same
    answers in any order; a weight of one is none; the same seed gives the same bytes and nothing global changes; what
    is saved and loaded answers the same.

    Parameters
    ----------
    method
        With settings that make it short.
    model, data
        What to fit; None for a few small models, of which the method must be able to fit one.
    rising
        Whether the objective may never fall from step to step; None: for EM and CAVI.
    skip
        Names of checks to leave out, or patterns of names: what is known not to hold.

    Returns
    -------
    dict
        Check -> "holds", or why it does not apply.

    Raises
    ------
    CheckError
        An `AssertionError` that names each check that fails, what was expected and what is the case.

    Examples
    --------
    >>> from inference import SVI
    >>> import zoo
    >>> from zoo.testing import check_method
    >>> check_method(SVI(steps=60), zoo.BetaBernoulli(), [1, 0, 1])["seeds"]
    'holds'
    """
    if model is not None and data is not None:
        return run(f"{method!r} on {model!r}", without(method_checks(method, model, data, rising=rising), skip))
    require(model is None, "give the data of the model, too")
    said = run_on_each(for_methods(), repr(method), partial(method_checks, method, rising=rising), skip)
    require("holds" in said.values(), f"{method!r} is legal for none of the small models; give a model and its data")
    return said
