"""Fits of one model under the same labels."""

from __future__ import annotations

from inference.posterior.fit import Fit
from zoo.program.exchangeable import exchangeable


def matched(fits: dict[str, Fit], truth: Fit | None = None) -> tuple[dict[str, Fit], str]:
    """Return the fits with exchangeable states under the labels of one, and in words whose.

    The reference is `truth`, if there is one, else the first fit that has converged to draws of the posterior itself,
    else to anything, else the first of all.
    """
    able = {label: fitted for label, fitted in fits.items() if exchangeable(fitted.program)}
    if not able:
        return fits, ""
    if truth is not None:
        return {**fits, **{n: fitted.relabelled(truth) for n, fitted in able.items()}}, (
            "exchangeable states have the labels of the reference; relabel=False leaves their own"
        )
    best = max(
        able, key=lambda label: able[label].converged + 2 * (able[label].converged and able[label].approximation.exact)
    )
    reference = able[best].relabelled()
    matched = {label: reference if label == best else fitted.relabelled(reference) for label, fitted in able.items()}
    sites = ", ".join(dict.fromkeys(n for g in exchangeable(reference.program) for n in g.sites))
    return {
        **fits,
        **matched,
    }, f"states of {sites} have the labels of {best} in all fits; relabel=False leaves their own"
