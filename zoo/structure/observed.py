"""Where missing cells are legal: at sites that observe their field, and nowhere else; what is noted of a structure."""

from __future__ import annotations

import torch

from zoo.data.data import Data
from zoo.data.missing import place
from zoo.errors import DataError
from zoo.replay.sites import Structure


def check_missing(structure: Structure, data: Data) -> None:
    """Raise if a field with missing cells is used otherwise than by a site that observes it.

    Raises
    ------
    DataError
        Naming the field, the first missing cell, the site and its argument, and what to do.
    """
    for name in data.missing:
        children = [
            (site.name, key)
            for site in structure.sites.values()
            for key, parent in site.args.items()
            if name in parent.data
        ]
        seen = any(site.field == name and site.role == "observed" for site in structure.sites.values())
        made = [s.name for s in structure.sites.values() if name in s.observes and s.field != name]
        if not seen or children or made:
            why = "no site observes it"
            if made:
                why = f"site {made[0]!r} observes a function of a field, and not the field itself"
            if children:
                why = f"it feeds the argument {children[0][1]} of site {children[0][0]!r}"
            raise DataError(
                f"field {name!r} has missing values (NaN), {place(data, name)}, but {why}; only values that a site "
                "observes can be summed over: drop or impute these rows, or observe the field at a site of its own"
            )


def blank_rows(structure: Structure, data: Data) -> tuple[str, ...]:
    """Note how many rows have nothing observed: they are kept, but carry no information."""
    fields = {s.field for s in structure.sites.values() if s.role == "observed" and data.row in s.plates}
    if not data.missing or not data.row or not fields <= set(data.missing):
        return ()
    rows = [data.missing[str(n)].reshape(len(data), -1).all(1) for n in fields]
    count = int(torch.stack(rows).all(0).sum())
    if not count:
        return ()
    return (f"{count} of {len(data)} rows have no observed value; they are kept, but carry no information",)


def flat_priors(structure: Structure) -> tuple[str, ...]:
    """Note which latents have a prior that is no probability, and what follows from it."""
    if not structure.improper:
        return ()
    names = ", ".join(map(repr, structure.improper))
    return (
        f"the prior of {names} has no draws (it is flat over its support): climbs start where the data are, nothing "
        "is drawn from the prior, and evidences hold up to a constant; whether there is a posterior is not checked",
    )
