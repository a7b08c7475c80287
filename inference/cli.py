"""The command line: zoo list, show, explain, fit, compare, summary, report; the rest is in files of its own."""

from __future__ import annotations

import ast
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from inference.asking import app as asking
from inference.judging import app as judging
from inference.options import (
    COLUMNS,
    DATA,
    DEVICE,
    FORMULA,
    JSON,
    MODEL,
    MODELS,
    OPTION,
    OUT,
    SEED,
    SEPARATOR,
    SET,
    WEIGHTS,
    in_options,
    say,
    subject,
    subjects,
    text_of,
    visible,
)
from inference.runtime.output_folder import check_free
from inference.runtime.written import columns_of, method_of, methods_of, model_class
from inference.upkeep import app as upkeep
from zoo import catalogue, datasets
from zoo.errors import DataError, UnknownNameError, ZooError

app = typer.Typer(
    name="zoo",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error")] = False,
    code: Annotated[
        Path | None, typer.Option(metavar="FILE.py", help="Run a file first: that of the models of a saved fit")
    ] = None,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit")] = False,
) -> None:
    """Declare a latent-variable model once; get every inference method legal for it.

    Exit codes: 0 done, whatever the verdict on a fit; 1 `check` or `calibrate` found something wrong; 2 a mistake in
    what was asked, said in one line on standard error; 130 interrupted.

    With --json commands print an object whose "schema" is 1 until a key changes its meaning or goes; numbers that are
    none (NaN, infinity) are null, and warnings go to standard error.
    """
    if version:
        from importlib.metadata import version as version_of

        say(f"latentzoo {version_of('latentzoo')}")
        raise typer.Exit
    if code is not None:
        from inference.runtime.model_files import import_file

        import_file(code.resolve(), code.stem)
    if context.invoked_subcommand is None:
        say(context.get_help())


app.add_typer(judging)
app.add_typer(asking)
app.add_typer(upkeep)


@app.command("list")
def list_(json: JSON = False) -> None:
    """List models, guides, methods and datasets."""
    if json:
        from inference.reporting import machine

        say(machine.list_text())
        return
    for kind in ("model", "guide", "method"):
        say(f"{kind}s")
        for entry in catalogue.entries(kind).values():
            name = entry.name if kind != "method" else entry.name.lower()
            say(f"  {name:<25}{entry.summary}")
    say("datasets")
    for name in datasets.names():
        say(f"  {name:<25}{datasets.info(name).title}")


@app.command()
def show(model: MODEL, json: JSON = False) -> None:
    """Show a model's card (story, sites, hyperparameters, methods, limits), or a guide's or method's settings."""
    import inspect

    if json:
        from inference.reporting import machine

        say(machine.show_text(model))
        return
    cards = []
    for kind in ("guide", "method"):  # a guide and a method may have the same name
        if any(entry.name.lower() == model.replace("_", "").lower() for entry in catalogue.entries(kind).values()):
            chosen = catalogue.find(kind, model)
            cards.append(f"{kind} {chosen.__name__}{inspect.signature(chosen)}\n\n{inspect.getdoc(chosen)}")
    if cards:
        say("\n\n".join(cards))
        return
    cls = model_class(model)
    say(f"{cls.__name__}\n")
    say(inspect.getdoc(cls) or "(no docstring)")
    say("\nData fields")
    for name, field in cls.fields.items():
        say(f"  {name}: {field!r}")
    say("\nHyperparameters")
    for name, (hint, default) in cls.hyperparameters.items():
        value = "required" if default is inspect.Parameter.empty else f"default {default!r}"
        say(f"  {name}: {_hint(hint)}, {value}")


@app.command()
def explain(
    model: MODEL,
    data: DATA,
    set_: SET = None,
    formula: FORMULA = None,
    columns: COLUMNS = None,
    separator: SEPARATOR = None,
    json: JSON = False,
) -> None:
    """Show sites, plates, what feeds what, and which methods are legal and why not."""
    made, table = subject(model, set_, formula, data, separator)
    from inference.reporting import machine
    from zoo.program.explain import explain as explain_model

    found = explain_model(made, table, columns=columns_of(columns))
    say(machine.explain_text(found) if json else found)


@app.command()
def fit(
    model: MODEL,
    data: DATA,
    method: Annotated[str, typer.Option("--method", "-m", help="em, svi, map, exact, ...")],
    guide: Annotated[str | None, typer.Option("--guide", "-g", help="mean_field, point, encoder, ...")] = None,
    set_: SET = None,
    formula: FORMULA = None,
    option: OPTION = None,
    seed: SEED = None,
    device: DEVICE = "auto",
    weights: WEIGHTS = None,
    columns: COLUMNS = None,
    separator: SEPARATOR = None,
    json: JSON = False,
    out: OUT = None,
) -> None:
    """Fit a model to data by one method; print the fit and its summary, and save it with --out."""
    chosen = method_of(method, guide, option)
    if out is not None:
        check_free(out)
    made, table = subject(model, set_, formula, data, separator)
    from inference.fitting import fit as fit_model
    from inference.reporting import machine

    fitted = fit_model(
        made,
        table,
        method=chosen,
        seed=seed,
        device=device,
        weights=weights,
        columns=columns_of(columns),
    )
    if json:
        say(machine.fit_text(fitted))
    else:
        say(repr(fitted))
        say("")
        say(text_of(fitted.summary()))
    if out is not None:
        _save(fitted, out, quiet=json)


@app.command()
def compare(
    model: MODELS,
    data: DATA,
    methods: Annotated[str, typer.Option("--methods", "-m", help="Names with commas between: em,svi,map")],
    guide: Annotated[
        list[str] | None, typer.Option("--guide", "-g", help="Guide for svi; several are as many rows")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="METHOD.NAME=VALUE", help="A setting of a method; may be repeated"),
    ] = None,
    set_: SET = None,
    formula: FORMULA = None,
    holdout: Annotated[str | None, typer.Option(help="Fraction of the rows to leave out, or their positions")] = None,
    folds: Annotated[int | None, typer.Option(min=2, help="Leave out every row once, so many at a time")] = None,
    reference: Annotated[
        Path | None, typer.Option(metavar="DIR|FILE", help="The truth: a saved fit, a summary (.csv) or draws (.nc)")
    ] = None,
    seed: SEED = None,
    device: DEVICE = "auto",
    weights: WEIGHTS = None,
    columns: COLUMNS = None,
    separator: SEPARATOR = None,
    json: JSON = False,
    out: OUT = None,
) -> None:
    """Fit models by several methods and print them side by side; write fits, table and figures with --out."""
    chosen = methods_of(methods, guide, option)
    if holdout is not None and folds is not None:
        raise DataError("--holdout and --folds both say which rows are left out; give one of them")
    left_out = None if holdout is None else _rows(holdout)
    if out is not None:
        check_free(out)
    made, table = subjects(model, set_, formula, data, separator)
    from inference.comparing.reference import read
    from inference.comparison import compare as compare_methods
    from inference.reporting import machine

    result = compare_methods(
        made[0] if len(made) == 1 else made,
        table,
        methods=chosen,
        holdout=left_out,
        folds=folds,
        reference=None if reference is None else read(reference),
        seed=seed,
        device=device,
        weights=weights,
        columns=columns_of(columns),
    )
    say(machine.comparison_text(result) if json else str(result))
    if not result.fits:
        raise typer.Exit(2)
    if out is not None:
        _save(result, out, quiet=json)


@app.command()
def summary(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder written by fit or compare")],
    json: JSON = False,
) -> None:
    """Summarize a saved fit, or every fit of a saved comparison."""
    from inference.posterior.store import read_summary

    folders = [folder] if (folder / "fit.json").exists() else sorted(p.parent for p in folder.glob("*/fit.json"))
    if not folders:
        raise UnknownNameError(f"{folder} holds no saved fit: there is no fit.json in it")
    if json:
        from inference.reporting import machine

        say(machine.summary_text({place.name: read_summary(place) for place in folders}))
        return
    for place in folders:
        text, table = read_summary(place)
        if len(folders) > 1:
            say(f"== {place.name}")
        say(text)
        say("")
        say(text_of(table))


@app.command()
def report(folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder written by fit or compare")]) -> None:
    """Write one HTML page, report.html, on a saved fit or comparison into its folder."""
    from inference.report import report as report_on

    say(f"saved to {report_on(folder)}")


def _save(result: Any, folder: Path, *, quiet: bool) -> None:
    """Save a fit or comparison, and say so, and what it took the place of."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        result.save(folder)
    say(f"\nsaved to {folder}", err=quiet)
    for warning in said:
        say(str(warning.message), err=True)


def _rows(text: str) -> Any:
    """Read a fraction, or positions with commas between."""
    try:
        given = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        given = None
    if isinstance(given, tuple) and all(type(i) is int for i in given):
        return list(given)
    if not isinstance(given, float) or not 0 < given < 1:
        raise DataError(
            "--holdout takes a fraction of the rows between 0 and 1, such as 0.2, or their positions, counted from 0, "
            f"with commas between, not {text!r}"
        )
    return given


def _hint(hint: Any) -> str:
    text = hint.__name__ if isinstance(hint, type) else str(hint)
    bounds = {"Annotated[int, Gt(gt=0)]": "whole number above 0", "Annotated[float, Gt(gt=0)]": "number above 0"}
    for long, short in {"typing.": "", **bounds}.items():
        text = text.replace(long, short)
    return text


def main() -> None:
    """Run the command line; a user's mistake is one line on standard error and exit code 2."""
    debug = "--debug" in sys.argv[1:]
    written = warnings.formatwarning
    warnings.formatwarning = lambda *said, **more: visible(written(*said, **more))
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    try:
        code = app(args=arguments, prog_name="zoo", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except typer.Abort:
        sys.exit(130)
    except Exception as error:
        usage = getattr(error, "format_message", None)  # what the argument parser raises for wrong usage
        if debug or not (usage or isinstance(error, ZooError | OSError)):
            raise
        text = usage() if usage else str(error)
        if text.startswith("No such option"):
            text += "; names that begin with - go after --, or begin with ./"
        say("error: " + in_options(" ".join(text.split())), err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
