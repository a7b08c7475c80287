"""Options that commands of the command line share, and what is made of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inference.runtime.written import model_of, models_of

if TYPE_CHECKING:
    from zoo.declare.model import Model

MODEL = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A model of the zoo, or one of yours: my_models.py:Coin, coin.toml or coin.yaml"
    ),
]
MODELS = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="A model, or several with commas: 'GMM(components=2),GMM(components=3)'"),
]
DATA = Annotated[
    str,
    typer.Argument(
        metavar="DATA", help="A dataset's name; a .csv, .tsv, .xlsx, .parquet, .feather, .npy or .npz file; - for stdin"
    ),
]
SET = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A hyperparameter of the model; may be repeated")
]
OPTION = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="NAME=VALUE", help="A setting of the method; may be repeated"),
]
SEED = Annotated[int | None, typer.Option(min=0, help="Fixes all randomness; drawn and reported if left out")]
OUT = Annotated[Path | None, typer.Option(help="Folder to write to")]
DEVICE = Annotated[str, typer.Option(help="auto, cpu or cuda")]
COLUMNS = Annotated[
    list[str] | None,
    typer.Option("--columns", metavar="FIELD=COLUMN,COLUMN", help="Columns that fill a field; may be repeated"),
]
SEPARATOR = Annotated[str | None, typer.Option(help="Between the columns of a text file, if not what it shows itself")]
WEIGHTS = Annotated[str | None, typer.Option(help="Column that holds a weight per row")]
JSON = Annotated[bool, typer.Option("--json", help="Print JSON, for programs")]
FORMULA = Annotated[
    str | None, typer.Option(metavar="'Y ~ X'", help="Response and predictors of a regression, as columns of DATA")
]


# Also what turns the direction of writing, by which text looks other than it is.
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def data_of(text: str, separator: str | None) -> Any:
    """Read a file or dataset here, so that a column of weights can be named."""
    from zoo.frames.read import read

    return read(text, separator=separator)


def subject(
    model: str, settings: list[str] | None, formula: str | None, data: str, separator: str | None
) -> tuple[Model, Any]:
    """Return a model and its data; mistakes in it are told before data are read, unless it is made of them."""
    if formula is None:
        made = model_of(model, settings)
        return made, data_of(data, separator)
    table = data_of(data, separator)
    return model_of(model, settings, formula, table), table


def subjects(
    models: str, settings: list[str] | None, formula: str | None, data: str, separator: str | None
) -> tuple[list[Model], Any]:
    """Return models with commas between, and their data."""
    if formula is None:
        made = models_of(models, settings)
        return made, data_of(data, separator)
    table = data_of(data, separator)
    return models_of(models, settings, formula, table), table


def say(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Write text, in which what steers a terminal is written out: names and labels come from data."""
    typer.echo(visible(text), err=err, nl=nl)


def visible(text: str) -> str:
    r"""Write control characters but for line ends and tabs as in Python, ``\x1b``."""
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def in_options(text: str) -> str:
    """Write an error's remedy as it is said here: ``--columns y=...`` for ``columns={'y': ...}``."""
    return re.sub(
        r"\bcolumns=(?:\{'(\w+)': [^}]*\}|\.\.\.)", lambda found: f"--columns {found[1] or 'FIELD'}=...", text
    )


def text_of(table: Any) -> str:
    """Lay out a whole table."""
    import pandas as pd

    whole = {"display.max_rows": None, "display.max_columns": None, "display.width": 80}
    with pd.option_context({**whole, "display.float_format": lambda v: f"{v:.6g}"}):
        return repr(table)
