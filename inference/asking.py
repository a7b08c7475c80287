"""The command line's questions to a saved fit: assign, predict, generate, impute, encode, log-prob."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from inference.options import JSON, SEPARATOR, say, visible
from zoo.errors import DataError

app = typer.Typer()

DIR = Annotated[Path, typer.Argument(metavar="DIR", help="A folder written by fit, or one of compare's")]
NEW = Annotated[
    str | None, typer.Argument(metavar="[DATA]", help="Rows like those fitted, - for standard input; else those fitted")
]
TO = Annotated[
    Path | None,
    typer.Option("--out", help="A .csv, .tsv, .parquet or .json file; else, or by -, CSV on standard output"),
]
SEED = Annotated[int | None, typer.Option(min=0, help="Fixes the draws; else it follows from the fit's")]
SITE = Annotated[str | None, typer.Option(help="Which latent, where there are several")]
STDOUT = Path("-")
LABEL = "row"  # heads the labels of rows where they have no name


@app.command()
def assign(
    folder: DIR, data: NEW = None, site: SITE = None, separator: SEPARATOR = None, json: JSON = False, out: TO = None
) -> None:
    """Say for each row how probable each state of its discrete latent is."""
    _write(_fit(folder, out, json).assign(_rows(data, separator), site=site), out, json)


@app.command("log-prob")
def log_prob(
    folder: DIR,
    data: NEW = None,
    samples: Annotated[int, typer.Option(min=1, help="Draws, where a density is estimated by them")] = 1000,
    separator: SEPARATOR = None,
    json: JSON = False,
    out: TO = None,
) -> None:
    """Say the log density of each row."""
    _write(_fit(folder, out, json).log_prob(_rows(data, separator), samples=samples).to_frame("log_prob"), out, json)


@app.command()
def predict(
    folder: DIR,
    data: NEW = None,
    draws: Annotated[int, typer.Option(min=2, help="Draws of each row")] = 1000,
    seed: SEED = None,
    separator: SEPARATOR = None,
    json: JSON = False,
    out: TO = None,
) -> None:
    """Say what is to be observed of each row: mean, standard deviation, 5 % and 95 % quantile of predictive draws."""
    import pandas as pd

    tree = _fit(folder, out, json).predict(_rows(data, separator), draws=draws, seed=seed)
    drawn = tree["posterior_predictive"].to_dataset()
    columns: dict[str, Any] = {}
    index: Any = None
    for name, array in drawn.data_vars.items():
        values = array.stack(sample=("chain", "draw")).transpose(..., "sample")
        index = values.indexes.get(values.dims[0], index)
        flat = values.to_numpy().reshape(values.shape[0], -1, values.shape[-1])
        for j in range(flat.shape[1]):
            label = str(name) if values.ndim == 2 else f"{name}[{j}]"
            columns[label] = flat[:, j].mean(-1)
            columns[f"{label}_sd"] = flat[:, j].std(-1, ddof=1)
            for percent in (5, 95):
                columns[f"{label}_{percent}%"] = pd.DataFrame(flat[:, j]).quantile(percent / 100, axis=1).to_numpy()
    _write(pd.DataFrame(columns, index=index), out, json)


@app.command()
def generate(
    folder: DIR,
    rows: Annotated[int, typer.Argument(metavar="N", min=1, help="How many")],
    seed: SEED = None,
    json: JSON = False,
    out: TO = None,
) -> None:
    """Draw new rows from the fitted model."""
    _write(_fit(folder, out, json).generate(rows, seed=seed), out, json)


@app.command()
def impute(
    folder: DIR,
    data: NEW = None,
    mean: Annotated[bool, typer.Option("--mean", help="Their conditional means instead of a draw")] = False,
    seed: SEED = None,
    separator: SEPARATOR = None,
    json: JSON = False,
    out: TO = None,
) -> None:
    """Complete rows: draw each missing cell given the observed cells of its row."""
    _write(_fit(folder, out, json).impute(_rows(data, separator), mean=mean, seed=seed), out, json)


@app.command()
def encode(folder: DIR, data: NEW = None, separator: SEPARATOR = None, json: JSON = False, out: TO = None) -> None:
    """Say the mean and standard deviation of the continuous latents of each row."""
    import pandas as pd

    codes = _fit(folder, out, json).encode(_rows(data, separator))
    parts = []
    for name, array in codes.data_vars.items():
        flat = array.to_numpy().reshape(array.shape[0], -1)
        labels = [str(name)] if array.ndim == 1 else [f"{name}[{j}]" for j in range(flat.shape[1])]
        parts.append(pd.DataFrame(flat, columns=labels, index=array.indexes.get(array.dims[0])))
    _write(pd.concat(parts, axis=1), out, json)


def _fit(folder: Path, out: Path | None, json: bool) -> Any:
    """Load a fit, if its answer can be written to where it is to go."""
    if out is not None and out != STDOUT:
        if json:
            raise DataError(
                "--json is for standard output; leave out --out, or write a table to a .json file with it alone"
            )
        if out.suffix not in WRITERS:
            raise DataError(f"--out {out}: tables are written as {', '.join(WRITERS)} files")
        if not out.parent.is_dir():
            raise DataError(f"--out {out}: there is no folder {out.parent}; make it first")
    from inference.posterior.fit import Fit

    return Fit.load(folder)


def _rows(text: str | None, separator: str | None) -> Any:
    from zoo.frames.read import read

    return None if text is None else read(text, separator=separator)


WRITERS: dict[str, Callable[[Any, Path], Any]] = {
    ".csv": lambda table, path: table.to_csv(path),
    ".tsv": lambda table, path: table.to_csv(path, sep="\t"),
    ".parquet": lambda table, path: table.to_parquet(path),
    ".json": lambda table, path: table.reset_index().to_json(path, orient="records"),
}


def _write(table: Any, out: Path | None, json: bool) -> None:
    """Write a table with the labels of its rows."""
    import pandas as pd

    if not isinstance(table, pd.DataFrame):
        raise DataError("the fields of this model are no columns of a table; ask in Python: Fit.load(folder)")
    if table.columns.nlevels > 1:
        table = table.set_axis(["_".join(map(str, c)) for c in table.columns], axis=1)
    table = table.set_axis([str(c) for c in table.columns], axis=1)
    table.index.name = table.index.name or LABEL
    if json:
        from inference.reporting import machine

        say(machine.rows_text(table))
        return
    if out is None or out == STDOUT:
        text = table.to_csv()
        typer.echo(visible(text) if sys.stdout.isatty() else text.encode(), nl=False)
        return
    from inference.runtime.whole import whole_file

    with whole_file(out) as new:
        WRITERS[out.suffix](table, new)
    say(f"saved to {out}")
