"""Truths and the data simulated from them: from the prior, or from the posterior given data that stay."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import pandas as pd
import torch
from torch import Tensor

from inference.posterior.answer import Answer
from zoo.data.data import Data
from zoo.errors import DataError, FitError, ModelError
from zoo.program.program import Program
from zoo.replay.evaluate import Values
from zoo.replay.sites import Site

MOST_ROWS = 1_000_000  # that rows with weights are written out to


@dataclass(frozen=True)
class Truth:
    """One simulation.

    Attributes
    ----------
    values
        What the latents are, locals of all rows among them.
    program
        On the data to be refitted.
    """

    values: Values
    program: Program


class Truths:
    """z' ~ p(z), x' ~ p(x | z'); with a posterior z' ~ p(z | x), x' ~ p(x | z') beside the rows x.

    Shapes, covariates, labels and which cells are missing are those of the program's data. A row of weight w stands for
    w rows.

    Parameters
    ----------
    program
        On the data that simulated ones are to be like.
    posterior
        Draws from the posterior given these data, which stay as they are (Säilynoja et al. 2025).

    Raises
    ------
    ModelError, DataError, FitError
        If data cannot be simulated, and why.
    """

    def __init__(self, program: Program, posterior: Answer | None = None) -> None:
        _check(program)
        self.posterior = posterior
        if posterior is not None:
            _check_posterior(program, posterior)
        self.program = _written_out(program)

    @property
    def like(self) -> Program:
        """A program of the size that is refitted."""
        return self.program if self.posterior is None else self.program.rebind(_joined(*[self.program.data] * 2))

    def draw(self) -> Truth:
        """Simulate once, by the global RNG."""
        with warnings.catch_warnings():  # torch warns of singular draws of a wide Wishart, which it draws again
            warnings.simplefilter("ignore", UserWarning)
            return self._from_prior() if self.posterior is None else self._from_posterior(self.posterior)

    def _from_prior(self) -> Truth:
        program = self.program
        seen = program.simulate({})
        data = _with_observed(program, seen)
        return Truth({s.name: seen[s.name].detach() for s in program.latents}, program.rebind(data))

    def _from_posterior(self, posterior: Answer) -> Truth:
        program, draws = self.program, posterior.draws.values
        which = int(torch.randint(len(posterior.draws.log_q), ()))
        known = {s.name: draws[s.name][which] for s in program.globals}
        seen = program.simulate(known)
        joined = _joined(program.data, _with_observed(program, seen))
        locals_ = {
            s.name: torch.cat([draws[s.name][which], seen[s.name]], s.batch_dim + s.plate_dim(program.row))
            for s in program.locals
        }
        return Truth({**known, **locals_}, program.rebind(joined))


def _check(program: Program) -> None:
    """Refuse what cannot be simulated in one run of the model."""
    if program.parameters or program.networks:
        name = program.parameters[0].name if program.parameters else min(program.networks)
        raise ModelError(
            f"calibration draws true values from the prior, and parameter {name!r} has none; give it one with "
            f"pyro.sample({name!r}, ...) in place of pyro.param"
        )
    if not program.latents:
        raise ModelError("calibration is about posterior draws, and there is no latent to draw")
    fields = {s.field for s in program.observed if s.field}
    for site in program.observed:
        if site.family == "Unit":
            raise ModelError(
                f"site {site.name!r} is a pyro.factor, a density without anything drawn, from which data cannot be "
                "simulated; write it as a distribution of an observed field or of a latent"
            )
        if not site.field:
            raise ModelError(
                f"site {site.name!r} does not observe a data field itself, so that simulated values of it are no data; "
                "observe the field (a transformed distribution has the density of what it was before)"
            )
    for site in (*program.observed, *program.latents, *program.enumerated):
        for argument, parent in site.args.items():
            used = sorted(fields.intersection(parent.data))
            if used:
                raise ModelError(
                    f"site {site.name!r}: {argument} depends on the observed field {used[0]!r}, so that data cannot be "
                    "simulated in one run of the model; give what it is computed from as a field of its own"
                )
    _check_identity(program)


def _check_identity(program: Program) -> None:
    """Refuse sites that observe a function of the field of their name."""
    with torch.random.fork_rng(devices=[]), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # as above
        drawn = program.simulate({}, observed=False)
        seen = program.replay({s.name: drawn[s.name] for s in program.latents}, densities=False).seen
    for site in program.observed:
        assert site.field
        value, field = seen[site.name], program.data.values[site.field]
        if value.shape != field.shape or not bool(torch.equal(value.to(field), field)):
            raise ModelError(
                f"site {site.name!r} observes a function of the field {site.field!r}, so that simulated values of it "
                "are no data; observe the field itself"
            )


def _check_posterior(program: Program, posterior: Answer) -> None:
    """Refuse what has no second set of rows beside the first."""
    if posterior.is_point:
        raise FitError("posterior: the fit is a point estimate, which has no draws; fit by a method that has some")
    if not program.row:
        raise FitError("posterior: new rows are simulated beside those fitted, and the model's data have no rows")
    if program.chained or program.shared:
        raise FitError(
            "posterior: new rows are simulated beside those fitted, and here rows depend on each other; calibrate "
            "without `posterior`"
        )
    outside = [s.name for s in program.observed if program.row not in s.plates]
    if outside:
        raise FitError(f"posterior: site {outside[0]!r} is observed outside the rows, of which more are simulated")
    if posterior.program.data.weights is not None and program.locals:
        raise FitError("posterior: the fitted rows have weights and latents of their own; fit them without weights")


def _written_out(program: Program) -> Program:
    """Write rows of whole weights out as so many rows: those are what the weights say, and can be simulated."""
    weights = program.data.weights
    if weights is None:
        return program
    whole = weights.round()
    if not bool((weights == whole).all()):
        at = int((weights != whole).nonzero()[0])
        raise DataError(
            f"row {program.data.coords[program.data.row][at]!r} has weight {float(weights[at]):g}: a row can be "
            "simulated a whole number of times only; give whole weights or leave them out"
        )
    if float(whole.sum()) > MOST_ROWS:
        raise DataError(f"the weights stand for {float(whole.sum()):.0f} rows, too many to simulate; scale them down")
    rows = torch.repeat_interleave(torch.arange(len(weights), device=weights.device), whole.long())
    program.model.row_weights = None
    return program.rebind(replace(program.data.take(rows), weights=None))


def _with_observed(program: Program, seen: Values) -> Data:
    """Data with simulated values of what is observed; missing cells stay missing, at their made-up values."""
    values = dict(program.data.values)
    for site in program.observed:
        name = site.field or ""
        drawn = _as(seen[site.name], values[name], site)
        gone = program.data.missing.get(name)
        values[name] = drawn if gone is None else torch.where(gone, values[name], drawn)
    return replace(program.data, values=values)


def _as(drawn: Tensor, like: Tensor, site: Site) -> Tensor:
    """A simulated value in the type of its field."""
    if drawn.shape != like.shape:
        raise ModelError(
            f"site {site.name!r}: simulated values have shape {tuple(drawn.shape)}, the field {site.field!r} has "
            f"{tuple(like.shape)}"
        )
    return drawn.detach().to(like)


def _joined(first: Data, second: Data) -> Data:
    """Rows of both, those of the first on top."""
    inside = set(first.row_fields)
    return replace(
        first,
        values={n: torch.cat([v, second.values[n]]) if n in inside else v for n, v in first.values.items()},
        coords={**first.coords, first.row: pd.RangeIndex(2 * len(first))},
        missing={n: torch.cat([m, m]) if n in inside else m for n, m in first.missing.items()},
        stream=None,
    )
