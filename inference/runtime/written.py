"""Models and settings as they are written on the command line."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import catalogue
from zoo.errors import UnknownNameError, unknown
from zoo.text import SUFFIXES

if TYPE_CHECKING:
    from zoo.declare.model import Model


def model_class(text: str) -> type[Model]:
    """Return the class named in the zoo, or FILE.py:NAME, or what a TOML or YAML file describes."""
    if text.endswith(SUFFIXES):
        from zoo.text.read_model import read_model

        return read_model(text)
    if ":" not in text:
        if text.endswith(".py"):
            raise UnknownNameError(f"which model of {text}? Write {text}:NAME")
        return catalogue.find("model", text)
    from inference.runtime.model_files import import_file
    from zoo.declare.model import Model

    file, _, name = text.rpartition(":")
    path = Path(file)
    module = import_file(path, path.stem)
    models = {n: v for n, v in vars(module).items() if isinstance(v, type) and issubclass(v, Model) and v is not Model}
    if name not in models:
        raise unknown(f"model in {file}", name, models)
    return models[name]


def model_of(text: str, settings: list[str] | None, formula: str | None = None, table: Any = None) -> Model:
    """Return the model of a name, with hyperparameters NAME=VALUE; a regression of a formula over a table."""
    return _made(text, pairs(settings, "--set"), formula, table)


def _made(text: str, settings: dict[str, Any], formula: str | None, table: Any) -> Model:
    cls = model_class(text)
    if formula is None:
        return cls(**settings)
    from zoo.declare.regression import Regression

    if not issubclass(cls, Regression):
        raise UnknownNameError(
            f"--formula is for regressions, such as BayesianRegression, and {cls.__name__} is none; say which columns "
            "fill its fields: --columns FIELD=COLUMN,COLUMN"
        )
    return cls.from_formula(formula, table, **settings)


def models_of(text: str, settings: list[str] | None, formula: str | None = None, table: Any = None) -> list[Model]:
    """Return models with commas between, such as ``GMM(components=2),GMM(components=3)``.

    Each may have hyperparameters of its own in brackets, which go before those that all of them are given.
    """
    shared = pairs(settings, "--set")
    found = []
    for part in _apart(text):
        name, bracket, rest = part.partition("(")
        if not name.strip() or (bracket and not rest.endswith(")")):
            raise UnknownNameError(
                f"MODEL takes a name, or several with commas between, each with settings in brackets or none, such as "
                f"'GMM(components=2),GMM(components=3)', not {text!r}"
            )
        own = pairs(_apart(rest[:-1]) if rest[:-1].strip() else [], f"{name.strip()}(...)")
        found.append(_made(name.strip(), {**shared, **own}, formula, table))
    return found


def pairs(items: list[str] | None, option: str) -> dict[str, Any]:
    """Read NAME=VALUE items; a value is a Python literal where it is one, else text."""
    found: dict[str, Any] = {}
    for item in items or []:
        name, equals, value = item.partition("=")
        if not equals or not name.strip():
            raise UnknownNameError(f"{option} takes NAME=VALUE, not {item!r}")
        try:
            found[name.strip()] = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError):
            found[name.strip()] = value
    return found


def columns_of(items: list[str] | None) -> dict[str, list[str]] | None:
    """Read FIELD=COLUMN,COLUMN items: which columns of the table fill a field; None if there are none."""
    found: dict[str, list[str]] = {}
    for item in items or []:
        name, equals, listed = item.partition("=")
        columns = [column.strip() for column in listed.split(",") if column.strip()]
        if not equals or not name.strip() or not columns:
            raise UnknownNameError(f"--columns takes FIELD=COLUMN,COLUMN, such as x=height,weight, not {item!r}")
        if name.strip() in found:
            raise UnknownNameError(f"--columns says twice what {name.strip()!r} is; give all its columns with commas")
        found[name.strip()] = columns
    return found or None


def _apart(text: str) -> list[str]:
    """Return what stands between commas, those inside of brackets left out."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def names_of(text: str) -> list[str]:
    """Read names with commas between."""
    return [name.strip() for name in text.split(",") if name.strip()]


def method_of(name: str, guide: str | None, settings: list[str] | None) -> Any:
    """Make a method of its name, a guide's, and settings as NAME=VALUE."""
    cls = catalogue.find("method", name)
    chosen = pairs(settings, "--option")
    fields = getattr(cls, "__dataclass_fields__", {})
    if guide is not None:
        if "guide" not in fields:
            raise UnknownNameError(f"{name} takes no guide; leave out --guide, or use --method svi")
        chosen["guide"] = guide
    for key in chosen:
        if key not in fields:
            raise unknown(f"setting of {name}", key, fields)
    return cls(**chosen)


def methods_of(names: str, guides: list[str] | None, settings: list[str] | None) -> dict[str, Any]:
    """Make methods by label: names with commas between, svi once with each guide, settings as METHOD.NAME=VALUE."""
    listed = names_of(names)
    classes = {name: catalogue.find("method", name).__name__ for name in listed}
    if guides and "SVI" not in classes.values():
        raise UnknownNameError(f"--guide is for svi, which is not among the methods {names}; leave it out")
    own: dict[str, list[str]] = {name: [] for name in listed}
    for item in settings or []:
        name, dot, setting = item.partition(".")
        if not dot or "=" in name:
            raise UnknownNameError(f"--option takes METHOD.NAME=VALUE where methods are compared, not {item!r}")
        if name.strip() not in own:
            raise unknown("method of --methods", name.strip(), listed)
        own[name.strip()].append(setting)
    found = {}
    for name in listed:
        with_guides: list[str] | list[None] = guides if guides and classes[name] == "SVI" else [None]
        for guide in with_guides:
            label = f"{name} {guide}" if len(with_guides) > 1 else name
            found[label] = method_of(name, guide, own[name])
    return found
