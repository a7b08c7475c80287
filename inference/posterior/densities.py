"""The groups log_likelihood and log_prior: what each observed site says of each row, and each prior of its latents."""

from __future__ import annotations

from functools import cache

import numpy as np
from torch import Tensor

from inference.approximations.sites import (
    by_entry,
    entry_densities,
    joined,
    row_sites,
    shares_latents,
    site_likelihoods,
)
from inference.diagnostics.arviz import Group
from inference.diagnostics.deferred import Deferred
from inference.posterior.answer import Answer
from inference.posterior.observed import Observed
from inference.posterior.streams import Stream
from zoo.replay.evaluate import Values
from zoo.replay.sites import Site

LARGEST = 200_000_000  # entries of the pointwise log likelihood beyond which it is left out: 1.6 GB
INTEGRATION_SAMPLES = 100  # draws of the locals per draw of the globals in the pointwise log likelihood


def density_groups(answer: Answer, observed: Observed, left_out: list[str]) -> dict[str, Group]:
    """Log densities under each draw of the globals, a variable for each observed site and for each prior.

    What there is none of, and why, is added to `left_out`.
    """
    program = answer.program
    if not answer.has_draws:
        return {}
    groups = {"log_prior": _log_prior(answer, left_out)}
    if program.shared:
        left_out.append(f"log_likelihood: rows have none of their own, as they share {program.shared[0].name!r}")
    elif program.coupled:
        left_out.append(f"log_likelihood: {program.coupled}")
    elif answer.draw_count * len(program.data) > LARGEST:
        left_out.append(f"log_likelihood: it would have {answer.draw_count * len(program.data)} entries")
    else:
        groups["log_likelihood"] = _log_likelihood(answer, observed, left_out)
    return {name: group for name, group in groups.items() if group.variables}


def _log_likelihood(answer: Answer, observed: Observed, left_out: list[str]) -> Group:
    """A variable for each observed site, by row or by the plates that it has."""
    program, sites = answer.program, row_sites(answer.program)
    dims: dict[str, tuple[str, ...]] = {}
    variables: dict[str, Deferred] = {}
    lead = answer.approximation.chains, answer.draw_count // answer.approximation.chains

    @cache
    def by_row() -> np.ndarray:
        with answer.running(Stream.LOG_LIKELIHOOD):
            found = site_likelihoods(
                program, answer.approximation, answer.points, _globals(answer), INTEGRATION_SAMPLES
            )
        return np.stack([answer.by_chain(v) for v in found.cpu().numpy()])

    together = len(sites) > 1 and joined(program)
    names = ["+".join(s.name for s in sites)] if together else [s.name for s in sites]
    for k, name in enumerate(names):
        known = None if together else observed.known[name]

        def values(k: int = k, known: Tensor | None = known) -> np.ndarray:
            array: np.ndarray = by_row()[k]
            return array if known is None else array.take(known.numpy(), -1)

        variables[name] = Deferred((*lead, len(program.data) if known is None else len(known)), float, values)
        dims[name] = (program.row if together else observed.row_dim(name),)
    notes = {}
    if len(names) > 1 and shares_latents(program):
        own = ", ".join(s.name for s in (*program.locals, *program.enumerated))
        for k, name in enumerate(names):
            before = f"{', '.join(names[:k])}, " if k else ""
            notes[name] = f"log p({name} | {before}globals) of each row, averaged over its {own}: the terms add up"
    for site in program.observed:
        if site not in sites:
            entries = _entries(answer, site)
            if entries is None:
                left_out.append(f"log_likelihood of {site.name}: its entries are no rows, and depend on each other")
            else:
                variables[site.name], dims[site.name] = entries, site.plates
    return Group(variables, dims, observed.coords(), {"row": program.row}, notes)


def _entries(answer: Answer, site: Site) -> Deferred | None:
    """Log density of a site outside the plate of rows, entry by entry of its plates; None if it has no such."""
    program = answer.program
    latents = {s.name for s in (*program.locals, *program.enumerated)}
    if any(latents.intersection((*p.sites, *p.index)) for p in site.args.values()):
        return None
    return _by_entry(answer, [site])[site.name]


def _log_prior(answer: Answer, left_out: list[str]) -> Group:
    """A variable for each global latent, by the plates that it has."""
    sites = [s for s in answer.program.globals if by_entry(answer.program, s)]
    for site in answer.program.globals:
        if site not in sites:
            left_out.append(f"log_prior of {site.name}: its entries share the discrete latent {site.by_state[0]}")
    return Group(_by_entry(answer, sites), {s.name: s.plates for s in sites})


def _by_entry(answer: Answer, sites: list[Site]) -> dict[str, Deferred]:
    """Log densities of sites, each evaluated when it is looked at, all of them at once."""
    program = answer.program
    lead = answer.approximation.chains, answer.draw_count // answer.approximation.chains

    @cache
    def densities() -> list[np.ndarray]:
        draws = answer.draws.values
        with answer.running(Stream.LOG_LIKELIHOOD):
            found = entry_densities(program, answer.points, draws, answer.draw_count, sites)
        return [answer.by_chain(v.cpu().numpy()) for v in found]

    def of(k: int) -> Deferred:
        shape = program.site_shape(sites[k])[: sites[k].batch_dim]
        return Deferred((*lead, *shape), float, lambda: densities()[k])

    return {s.name: of(k) for k, s in enumerate(sites)}


def _globals(answer: Answer) -> Values:
    names = {s.name for s in answer.program.globals}
    return {n: v for n, v in answer.draws.values.items() if n in names}
