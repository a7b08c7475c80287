"""One call: a model, data and a method make a fit; a fit and more data make another."""

from __future__ import annotations

import time
from typing import Any

import torch

from inference.method import Method, as_method
from inference.posterior.fit import Fit, as_fit
from inference.runtime.gradients import differentiable
from inference.runtime.interruption import asked, interruptible, open_to_interruption
from inference.runtime.monitor import Told, check_progress
from inference.runtime.random import as_seed, seeded
from inference.runtime.threads import threads_for, threads_for_data
from inference.runtime.warned import warned_once
from zoo.data.bind import Source
from zoo.data.data import Data
from zoo.data.match import Columns
from zoo.declare.function import ModelLike
from zoo.program.prepare import as_model, prepare
from zoo.structure.failures import naming_lines
from zoo.structure.memory import within_memory


@interruptible()
@naming_lines()
@warned_once()
def fit(
    model: ModelLike | str,
    data: Source | Data,
    *,
    method: Method | type[Method] | str,
    seed: int | None = None,
    device: str | torch.device = "auto",
    dtype: torch.dtype | None = None,
    weights: Any = None,
    columns: Columns | None = None,
    progress: Told | bool = True,
) -> Fit:
    """Fit a model to data by one method.

    Parameters
    ----------
    model
        A `zoo.Model`, a class of one (with default hyperparameters), or the name of a model of the zoo. The fit works
        on a copy; yours is not changed.
    data
        A DataFrame, a dict of arrays, an array or tensor, an xarray Dataset or DataArray, a path to CSV, Parquet or
        NPY, or a dataset's name.
    method
        A method such as ``SVI(guide=MeanField())``, or a name such as "em".
    seed
        Fixes all randomness; None draws one, recorded in the fit. The global RNG is left as it was.
    device
        "auto" (CUDA, where there is one, for models with networks; CPU otherwise), "cpu" or "cuda".
    dtype
        None for float64, or float32 for models with networks.
    weights
        One weight per row, as an array or a column name; an integer weight is a repeated row, 0 a dropped one. A
        Series goes by its labels.
    columns
        Which columns of a table fill a field, ``{"x": ["eruptions", "waiting"], "y": "length"}``, where they do not
        have the field's name; of new rows the fit takes the same.
    progress
        Show a bar on a terminal or in a notebook, elsewhere a line each ten seconds; or a function, told each time as
        ``progress(step, value, metrics)``.

    Returns
    -------
    Fit
        At Ctrl-C of the best so far, with ``converged=False``; a second one raises `KeyboardInterrupt`, and so does the
        first where there is nothing yet to make a fit of.

    Raises
    ------
    DataError, ModelError, MethodError, UnknownNameError
        For what is wrong with the data, the model, the pair of model and method, or a name.
    FitError
        If the method breaks down on these data.

    Examples
    --------
    >>> import zoo
    >>> from inference import fit
    >>> geyser = zoo.datasets.load("faithful")
    >>> result = fit(zoo.GMM(components=2), geyser, method="em", seed=0)
    >>> result.assign(geyser.head(2)).round(2)
    z    0    1
    0  1.0  0.0
    1  0.0  1.0
    """
    check_progress(progress)
    model, method, seed = as_model(model), as_method(method), as_seed(seed)
    began = time.perf_counter()
    with seeded(seed, torch.device("cuda") if torch.cuda.is_available() else None), differentiable():
        with threads_for_data(data), open_to_interruption():
            program = prepare(model, data, device=device, dtype=dtype, weights=weights, columns=columns)
        with threads_for(program), open_to_interruption():
            method.check(program)
            with within_memory(program.model):
                outcome = method.run(program, progress=progress)
    if asked():
        outcome = outcome.interrupted()
    return Fit(program, method, outcome, seed, time.perf_counter() - began)


@interruptible()
@naming_lines()
@warned_once()
def update(
    fit: Fit, new_data: Source, *, method: Method | type[Method] | str | None = None, progress: Told | bool = True
) -> Fit:
    """Go on from a fit with more rows.

    Where the fit has a conjugate posterior (`Exact`, `CAVI`) that is the prior of the new rows; where it is a point
    (`EM`) the expected statistics of the earlier rows are added to theirs.

    Parameters
    ----------
    fit
        Of the rows so far; it is not changed.
    new_data
        Rows like those fitted, independent of them given the latents and parameters.
    method
        How to go on; None for the fit's own method.
    progress
        Show a bar on a terminal or in a notebook, elsewhere a line each ten seconds; or a function, told each time as
        ``progress(step, value, metrics)``.

    Returns
    -------
    Fit
        Of all rows so far; its objective is that of the new rows, its trace goes on from the fit's.

    Raises
    ------
    DataError
        If the new rows are not like those fitted.
    MethodError
        If the method cannot go on from this fit, or one of its settings would be ignored.
    FitError
        If `fit` is none.

    Examples
    --------
    >>> import zoo
    >>> from inference import fit, update
    >>> monday = fit(zoo.BetaBernoulli(), [1, 0, 1], method="exact", seed=0)
    >>> tuesday = update(monday, [1, 0, 1])
    >>> both = fit(zoo.BetaBernoulli(), [1, 0, 1, 1, 0, 1], method="exact", seed=0)
    >>> result = tuesday.log_prob([1.0]), both.log_prob([1.0])
    >>> [round(float(answer.iloc[0]), 4) for answer in result]
    [-0.4778, -0.4778]
    """
    fit = as_fit(fit, "update(fit(model, data, method=...), new_data)")
    if method is None:
        return fit.updated(fit.method.continuing(), new_data, progress=progress)
    method = as_method(method)
    method.check_continuing()
    return fit.updated(method, new_data, progress=progress)
