"""Location-scale latents in coordinates between those of their value and of the noise behind it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from zoo.replay.sites import base_distribution

FAMILIES = ("Normal", "StudentT", "Cauchy", "Laplace", "Logistic")


def recentred(fn: Any, w: Tensor, degree: Tensor) -> tuple[Tensor, Tensor]:
    """z = m + s^(1 - l) (w - l m) and log|dz/dw| = (1 - l) log s, for location m, scale s, degree of centring l.

    With l = 1 w is the value z itself, with l = 0 the noise (z - m) / s; in between w has location l m and scale s^l
    (Gorinova, Moore and Hoffman 2020, "Automatic reparameterisation of probabilistic programs").

    Parameters
    ----------
    fn
        The site's distribution, of a location-scale family.
    w, degree
        Shape of the value; degrees are between 0 and 1.

    Returns
    -------
    tuple
        The value, and the log Jacobian in the shape of the log density.
    """
    base, rest = base_distribution(fn), 1 - degree
    log_scale = rest * base.scale.log()
    value = base.loc + log_scale.exp() * (w - degree * base.loc)
    entries = log_scale.expand(value.shape)
    return value, entries.sum(list(range(-fn.event_dim, 0))) if fn.event_dim else entries


def coordinates(fn: Any, value: Tensor, degree: Tensor) -> Tensor:
    """w at which `recentred` has this value."""
    base = base_distribution(fn)
    w: Tensor = degree * base.loc + ((degree - 1) * base.scale.log()).exp() * (value - base.loc)
    return w
