"""Where missing cells are legal: at sites that observe their field, and nowhere else; what is noted of a structure."""

from __future__ import annotations

import torch
from torch.distributions import constraints

from zoo.data.data import Data
from zoo.data.missing import check_observed, place
from zoo.errors import DataError
from zoo.replay.bijections import lowest_count
from zoo.replay.sites import Site, Structure


def check_missing(structure: Structure, data: Data) -> None:
    """Raise if a field with missing cells is used otherwise than by a site that observes it.

    Raises
    ------
    DataError
        Naming the field, the first missing cell, the site and its argument, and what to do.
    """
    for name in data.missing:
        if name in structure.parted.values():
            continue
        children = [
            (site.name, key)
            for site in structure.sites.values()
            for key, parent in site.args.items()
            if name in parent.data
        ]
        seen = any(_observes(site, name) for site in structure.sites.values())
        made = [s.name for s in structure.sites.values() if name in s.observes and not _observes(s, name)]
        if not seen or children or made:
            why = "no site observes it"
            remedy = "drop or impute these rows, or observe the field at a site of its own"
            if made:
                why = f"site {made[0]!r} observes a function of a field, and not the field itself or a slice of it"
            if children:
                why = f"it feeds the argument {children[0][1]} of site {children[0][0]!r}"
            if children and seen and (site := _completed(structure, name)):
                why = f"the argument {children[0][1]} of site {children[0][0]!r} reads the field itself"
                remedy = f"let the model read what pyro.sample({site!r}, ...) returns, which is summed over"
            elif children and seen:
                own = next(s for s in structure.sites.values() if _observes(s, name))
                remedy = "drop or impute these rows"
                if lowest_count(own.support) is not None or isinstance(own.support, constraints.multinomial):
                    why += f", and the states of its own site {own.name!r} ({own.family}) cannot be listed"
                elif own.event_dim and not own.support.is_discrete:
                    why += f", and the entries of its own site {own.name!r} ({own.family}) are one event"
                    remedy += ", or observe each entry by itself: missing ones are latents then"
                elif children[0][0] != own.name:
                    why = f"the argument {children[0][1]} of site {children[0][0]!r} reads the field itself"
                    remedy = f"let the model read what pyro.sample({own.name!r}, ...) returns, and they are latents"
            raise DataError(
                f"field {name!r} has missing values (NaN), {place(data, name)}, but {why}; only values that a site "
                f"observes can be summed over: {remedy}"
            )


def _observes(site: Site, field: str) -> bool:
    """Whether a site observes a field as it is, or a slice of it."""
    return site.role == "observed" and (site.field == field or (site.part is not None and site.part.field == field))


def check_unseen(structure: Structure, data: Data) -> None:
    """Raise if nothing at all is observed of a field that is no latent's.

    Raises
    ------
    DataError
        Naming the field.
    """
    for name, gone in data.missing.items():
        if bool(gone.all()) and not _completed(structure, name):
            check_observed(name, gone, data.dims[name], data.coords)


def _completed(structure: Structure, field: str) -> str:
    """The site whose missing cells are summed over as a latent's and that observes a field; empty if there is none."""
    return next((site for site, own in structure.completed.items() if own == field), "")


def uncovered(structure: Structure, data: Data) -> bool:
    """Whether data have missing cells in fields that sites read, which were complete when the model was traced."""
    if not data.missing:
        return False
    known = structure.parted.values()
    new = {
        n for n, gone in data.missing.items() if bool(gone.any()) and n not in known and not _completed(structure, n)
    }
    read = any(new.intersection(p.data) for s in structure.sites.values() for p in s.args.values())
    return bool(new) and (read or not any(s.latent or s.role == "parameter" for s in structure.sites.values()))


def blank_rows(structure: Structure, data: Data) -> tuple[str, ...]:
    """Note how many rows have nothing observed: they are kept, but carry no information."""
    fields = {s.field for s in structure.sites.values() if s.role == "observed" and data.row in s.plates}
    if not data.missing or not fields or not fields <= set(data.missing):
        return ()
    rows = [data.missing[str(n)].reshape(len(data), -1).all(1) for n in fields]
    count = int(torch.stack(rows).all(0).sum())
    if not count:
        return ()
    chain = any(site.role == "integrated" for site in structure.sites.values())
    what = "their states follow from the other rows" if chain else "they are kept, but carry no information"
    return (f"{count} of {len(data)} rows have no observed value; {what}",)


def flat_priors(structure: Structure) -> tuple[str, ...]:
    """Note which latents have a prior that is no probability, and what follows from it."""
    if not structure.improper:
        return ()
    names = ", ".join(map(repr, structure.improper))
    return (
        f"the prior of {names} has no draws (it is flat over its support): climbs start where the data are, nothing "
        "is drawn from the prior, and evidences hold up to a constant; whether there is a posterior is not checked",
    )
