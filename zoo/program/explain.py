"""Say what a model is on some data: its sites, its plates, what feeds what, and which methods are legal."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from zoo import catalogue
from zoo.data.bind import Source
from zoo.data.match import Columns
from zoo.declare.function import ModelLike
from zoo.errors import ZooError
from zoo.program.prepare import prepare
from zoo.program.program import Program
from zoo.replay.masked import OBSERVED
from zoo.replay.random import reseed
from zoo.replay.sites import primary
from zoo.replay.surroundings import undisturbed
from zoo.structure.failures import naming_lines

Answer = TypeVar("Answer")


def _table(rows: Sequence[tuple[str, ...]], header: tuple[str, ...]) -> list[str]:
    widths = [max(len(r[i]) for r in [header, *rows]) for i in range(len(header))]
    return ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in [header, *rows]]


def _count(missing: torch.Tensor | None) -> str:
    return "" if missing is None else str(int(missing.sum()))


def legality(program: Program) -> dict[str, str | None]:
    """For each method, None if it is legal for this program with its default settings, else the reason why not."""
    return _of_methods(lambda method: method.why_not(program))


def _of_methods(ask: Callable[[Any], Answer]) -> dict[str, Answer]:
    """Ask every method with its default settings, by name."""
    answers: dict[str, Answer] = {}
    for entry in catalogue.entries("method").values():
        with entry.guarded():
            answers[entry.name] = ask(entry.load()())
    return answers


def _verdict(method: Any, program: Program) -> str:
    """Say "yes", and how the method goes about it, or "no" and why."""
    why_not = method.why_not(program)
    if why_not is not None:
        return f"no: {why_not}"
    how = method.how(program)
    return f"yes ({how})" if how else "yes"


class Explanation(str):
    """Text to print, laid out in columns; a notebook shows it as it is printed.

    Attributes
    ----------
    model
        As it would be written.
    tables
        The same as rows: of "sites", "data" and "methods".
    """

    model: str
    tables: dict[str, list[dict[str, str]]]

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self)}</pre>"


@undisturbed()
@naming_lines()
def explain(model: ModelLike | str, data: Source, *, columns: Columns | None = None) -> Explanation:
    """Describe a model on data: sites, plates, what feeds each argument, and for each method "yes" or why not.

    Parameters
    ----------
    model, data, columns
        As for `fit`.

    Returns
    -------
    Explanation
        Text to print.

    Examples
    --------
    >>> import zoo
    >>> print(*zoo.explain(zoo.BetaBernoulli(), [1, 0, 1, 1, 0, 1]).splitlines()[2:5], sep=chr(10))
    site  role      distribution                                            plates  shape
    p     global    Beta(concentration1=constant, concentration0=constant)  -       ()
    x     observed  Bernoulli(probs=p)                                      row     (6)
    """
    with torch.random.fork_rng(devices=[]):
        reseed(0)
        return describe(prepare(model, data, device="cpu", columns=columns))


def describe(program: Program) -> Explanation:
    """Describe a program as `explain` does a model on data."""
    model, tables = repr(program.model), _tables(program)
    lines = [model]
    for table in tables.values():
        lines += ["", *_table([tuple(row.values()) for row in table], tuple(table[0]))]
    made = Explanation("\n".join(lines))
    made.model, made.tables = model, tables
    return made


def _tables(program: Program) -> dict[str, list[dict[str, str]]]:
    """Return what `describe` says as rows: of sites, of data and of methods."""
    sites = []
    completed = program.structure.completed
    for site in program.sites.values():
        if site.family == "Evidence" and site.name.removesuffix(OBSERVED) in completed:
            continue
        shape = str(tuple(site.shape)).replace(",)", ")")
        args = ", ".join(f"{k}={v}" for k, v in primary(site.args).items())
        role = site.role + (f" ({site.cardinality})" if site.role == "enumerated" else "")
        role += ", partly observed" if site.name in completed else ""
        sites.append(
            {
                "site": site.name,
                "role": role,
                "distribution": f"{site.family}({args})" if site.family else str(site.support),
                "plates": ", ".join(site.plates) or "-",
                "shape": shape,
            }
        )
    gone = program.data.missing
    data = [
        {
            "data": n,
            "field": repr(program.model.fields[n]),
            "shape": str(tuple(v.shape)).replace(",)", ")"),
            **({"missing": _count(gone.get(n))} if gone else {}),
        }
        for n, v in program.data.values.items()
    ]
    try:
        verdicts = [(n.lower(), said) for n, said in _of_methods(lambda method: _verdict(method, program)).items()]
    except ZooError as error:  # a model no method can start on
        verdicts = [("", str(error))]
    return {"sites": sites, "data": data, "methods": [{"method": n, "legal": said} for n, said in verdicts]}
