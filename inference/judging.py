"""The command line's judgements: check, calibrate, evidence."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from inference.options import (
    COLUMNS,
    DATA,
    DEVICE,
    FORMULA,
    JSON,
    MODEL,
    OPTION,
    SEED,
    SEPARATOR,
    SET,
    WEIGHTS,
    say,
    subject,
    text_of,
)
from inference.runtime.output_folder import check_writable
from inference.runtime.written import columns_of, method_of, names_of
from zoo.errors import DataError, UnknownNameError

FOUND = 1  # the exit code of a judgement that finds something wrong

app = typer.Typer()


@app.command()
def calibrate(
    model: MODEL,
    data: DATA,
    method: Annotated[str, typer.Option("--method", "-m", help="exact, cavi, svi, laplace, nuts, ...")],
    simulations: Annotated[int, typer.Option("--simulations", "-n", min=2, help="How many data sets")] = 200,
    guide: Annotated[str | None, typer.Option("--guide", "-g", help="mean_field, full_rank, ...")] = None,
    set_: SET = None,
    formula: FORMULA = None,
    option: OPTION = None,
    seed: SEED = None,
    weights: WEIGHTS = None,
    columns: COLUMNS = None,
    separator: SEPARATOR = None,
    json: JSON = False,
    out: Annotated[Path | None, typer.Option(help="Folder for refits and result; goes on from what is there")] = None,
) -> None:
    """Refit data simulated like DATA; say whether true values rank among the draws as they should."""
    chosen = method_of(method, guide, option)
    if out is not None:
        check_writable(out)
    made, table = subject(model, set_, formula, data, separator)
    from inference.calibration import calibrate as calibrate_method
    from inference.reporting import machine

    options: dict[str, Any] = {"weights": weights, "columns": columns_of(columns), "folder": out}
    result = calibrate_method(made, chosen, like=table, simulations=simulations, seed=seed, **options)
    say(machine.calibration_text(result) if json else str(result))
    if out is not None:
        say(f"\nsaved to {out}", err=json)
    if result.alarm:
        raise typer.Exit(FOUND)


@app.command()
def evidence(
    model: MODEL,
    data: DATA,
    methods: Annotated[
        str, typer.Option("--methods", "-m", help="Names with commas between")
    ] = "exact,laplace,smc,nuts",
    set_: SET = None,
    formula: FORMULA = None,
    seed: SEED = None,
    device: DEVICE = "auto",
    weights: WEIGHTS = None,
    columns: COLUMNS = None,
    separator: SEPARATOR = None,
    json: JSON = False,
) -> None:
    """Print the log evidence of a model by several methods, what kind each number is, and its error."""
    names = names_of(methods)
    made, table = subject(model, set_, formula, data, separator)
    from inference.evidences import evidence as evidence_of
    from inference.reporting import machine

    options: dict[str, Any] = {"device": device, "weights": weights, "columns": columns_of(columns)}
    result = evidence_of(made, table, methods=names, seed=seed, **options)
    say(machine.evidence_text(result) if json else str(result))


@app.command("check")
def check_(
    what: Annotated[str, typer.Argument(metavar="MODEL|DIR", help="A model, or a folder written by fit")],
    data: Annotated[str | None, typer.Argument(metavar="[DATA]", help="What the model is to be checked on")] = None,
    set_: SET = None,
    formula: FORMULA = None,
    seed: SEED = None,
    columns: COLUMNS = None,
    separator: SEPARATOR = None,
    json: JSON = False,
) -> None:
    """Find what is wrong in a model on DATA; or say which aspects of its data a saved fit does not reproduce."""
    from inference.reporting import machine

    if data is None:
        if not Path(what).is_dir():
            raise DataError(f"{what!r} is no folder of a saved fit; a model is checked on data: zoo check MODEL DATA")
        if columns or formula:
            given = "--columns" if columns else "--formula"
            raise UnknownNameError(f"{given} is for data, and a saved fit knows its own; leave it out")
        from inference.checking import check as check_fit
        from inference.posterior.fit import Fit

        judged = check_fit(Fit.load(Path(what)), seed=seed)
        say(machine.check_text(judged) if json else f"{judged}\n\n{text_of(judged.table)}")
        if judged.misfits or judged.conflicts:
            raise typer.Exit(FOUND)
        return
    if seed is not None:
        raise UnknownNameError("--seed is for the replicates of a saved fit; leave it out when a model is checked")
    from zoo.program.check import check as check_model

    made, table = subject(what, set_, formula, data, separator)
    found = check_model(made, table, columns=columns_of(columns))
    say(machine.model_check_text(found) if json else str(found))
    if not found.ok:
        raise typer.Exit(FOUND)
