"""The result of one method on one program."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd
import xarray as xr
from torch import nn

from inference.diagnostics.arviz import summarize
from inference.method import Method
from inference.posterior import store
from inference.posterior.described import fit_sections, model_sections, reproduction
from inference.posterior.more_rows import joined, on_new_rows
from inference.posterior.questions.codes import CodeQuestions
from inference.posterior.questions.draws import DrawQuestions
from inference.posterior.questions.points import PointQuestions
from inference.posterior.questions.rows import RowQuestions
from inference.posterior.relabelled import with_labels
from inference.posterior.replicates import SIMULATED
from inference.posterior.store import Record
from inference.reporting.page import write_page
from inference.runtime.gradients import differentiable
from inference.runtime.interruption import asked, open_to_interruption
from inference.runtime.monitor import Told
from inference.runtime.random import seeded
from inference.runtime.threads import threads_for
from inference.runtime.whole import as_path
from zoo.data.bind import Source
from zoo.declare.function import ModelLike
from zoo.errors import FitError


class Fit(RowQuestions, DrawQuestions, CodeQuestions, PointQuestions):
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

    Examples
    --------
    >>> import tempfile
    >>> import zoo
    >>> from inference import Fit, fit
    >>> result = fit(zoo.BetaBernoulli(), [1, 0, 1, 1, 0, 1], method="exact", seed=0)
    >>> result.converged, result.reason
    (True, 'closed form')
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     again = Fit.load(result.save(folder))
    >>> again.objective == result.objective
    True
    """

    def summary(self) -> pd.DataFrame:
        """ArviZ's summary of the posterior draws as a DataFrame, or the values of a point estimate.

        A point comes with standard errors `se` by observed information, as `standard_errors` gives them; where they
        are left out, ``attrs["note"]`` says why. Numbers are rounded where the frame is printed, not in it.

        Examples
        --------
        >>> import zoo
        >>> from inference import fit
        >>> result = fit(zoo.GMM(components=2), "faithful", method="em", seed=0)
        >>> print(result.summary().head(2).round(2))
                    value     se
        weights[0]  0.640  0.030
        weights[1]  0.360  0.030
        """
        if not self.is_point:
            return summarize(self.posterior)
        point = self.posterior["point_estimate"].to_dataset()
        return summarize(xr.DataTree.from_dict({"/point_estimate": point, "/standard_error": self._errors}))

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

        >>> import zoo
        >>> from inference import fit
        >>> result = fit(zoo.GMM(components=2), "faithful", method="em", seed=0)
        >>> result.relabelled().summary()["value"].head(2).round(2).tolist()
        [0.64, 0.36]
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

    def updated(self, method: Method, new_data: Source, *, progress: Told | bool = False) -> Fit:
        """Go on with more rows by a method; `inference.update(fit, new_data)` says how.

        Examples
        --------
        >>> import zoo
        >>> from inference import Exact, fit
        >>> first = fit(zoo.BetaBernoulli(), [1, 0, 1], method="exact", seed=0)
        >>> later = first.updated(Exact(), [1, 1, 1])
        >>> whole = fit(zoo.BetaBernoulli(), [1, 0, 1, 1, 1, 1], method="exact", seed=0)
        >>> print(f"{first.objective.value + later.objective.value:.4f} {whole.objective.value:.4f}")
        -3.7377 -3.7377
        """
        began = time.perf_counter()
        with seeded(self.seed, self.program.device), differentiable():
            program = on_new_rows(self.program, new_data)
            with threads_for(program), open_to_interruption():
                program, outcome = method.continued(program, self, progress=progress)
        if asked():
            outcome = outcome.interrupted()
        outcome = replace(outcome, trace=joined(self.trace, outcome.trace))
        return Fit(program, method, outcome, self.seed, time.perf_counter() - began)

    def __getstate__(self) -> dict[str, Any]:
        """Return a copy of all there is: of tensors that are sent to a process, torch takes the memory away.

        It is shared from then on, and arrays of NumPy that were made of it would show whatever comes to be there.
        """
        return copy.deepcopy(vars(self))

    @property
    def _record(self) -> Record:
        return Record(self.program, self.method, self.outcome, self.seed, self.seconds)

    def report(self, path: str | Path) -> Path:
        """Write an HTML page with pictures: model, data, method, verdict, summary, how to repeat. Return its path.

        Examples
        --------
        >>> import tempfile
        >>> import zoo
        >>> from inference import fit
        >>> result = fit(zoo.BetaBernoulli(), [1, 0, 1, 1, 0, 1], method="exact", seed=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     page = result.report(f"{folder}/coin.html")
        ...     page.read_text("utf-8")[:15]
        '<!DOCTYPE html>'
        """
        name = type(self.method).__name__.lower()
        call = f"fit({self.model!r}, data, method={self.method!r}, seed={self.seed})"
        own = fit_sections(self, self._record, self.posterior, self.summary(), name)
        pages = [*model_sections(self.program), *own, reproduction(call)]
        return write_page(as_path(path, "report(path)"), f"{type(self.model).__name__} by {name}", pages)

    def save(self, folder: str | Path, *, local: bool = False) -> Path:
        """Write the fit to a folder: safetensors, JSON, CSV and NetCDF, no pickle. Return the folder.

        What is simulated (predictive and prior groups) is not among the files; a loaded fit simulates the same again.

        A fit or comparison saved there before is replaced as a whole, with a warning if it was another; a folder with
        anything else is refused. Folders above are made. A run that is killed meanwhile leaves what was there before,
        or the new fit, never a part. ``SHA256SUMS`` has the sum of every file, which loading checks.

        Parameters
        ----------
        folder
            Where to.
        local
            Write draws of the latents of rows, too, where `posterior` leaves them out because they are many.

        Examples
        --------
        >>> import tempfile
        >>> import zoo
        >>> from inference import fit
        >>> result = fit(zoo.BetaBernoulli(), [1, 0, 1, 1, 0, 1], method="exact", seed=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sorted(p.name for p in result.save(f"{folder}/coin").iterdir())
        ['SHA256SUMS', 'fit.json', 'posterior.nc', 'tensors.safetensors', 'trace.csv']
        """
        groups = self._groups(whole=True) if local else self.posterior
        kept = {n: g.to_dataset() for n, g in groups.children.items() if n not in SIMULATED}
        kept |= {"standard_error": self._errors} if self.is_point else {}
        posterior = xr.DataTree.from_dict({"/": xr.Dataset(attrs=groups.attrs), **kept})
        place = as_path(folder, "save(folder)")
        return store.save(self._record, repr(self), posterior, place)

    @staticmethod
    def load(
        folder: str | Path, model: ModelLike | None = None, networks: Mapping[str, nn.Module] = MappingProxyType({})
    ) -> Fit:
        """Read a fit written by `save`, whose files are checked against their sums and whose model against what it was.

        Parameters
        ----------
        folder
            Where it was saved.
        model
            The model's class, where it cannot be imported by the name it was saved under.
        networks
            Where the model or its guide were given a module (not a class or a function): one like it, by the name of
            the setting, as in ``{"decoder": Mine(), "network": Yours()}``. It gets the weights of the fit.

        Examples
        --------
        >>> import tempfile
        >>> import zoo
        >>> from inference import Fit, fit
        >>> result = fit(zoo.BetaBernoulli(), [1, 0, 1, 1, 0, 1], method="exact", seed=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     again = Fit.load(result.save(f"{folder}/coin"))
        >>> again.objective.kind
        'log_evidence'
        """
        return Fit(*store.load(as_path(folder, "Fit.load(folder)"), model, networks))


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
