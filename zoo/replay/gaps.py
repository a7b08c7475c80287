"""Priors of what was not observed of a site: where something was, there is no latent, and nothing depends on it.

There it has a standard distribution without parameters, which integrates to one, so that no mode and no scale is drawn
to what is not there.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions.transforms import identity_transform

from zoo.replay.bijections import bijection
from zoo.replay.masked import partner


def keep_to_gaps(msg: Any, mask: Any, seen: Collection[str]) -> None:
    """Let the unobserved part of a continuous site (`obs_mask`) have the site's distribution where its mask is true.

    `seen` are the names of the sites before it.
    """
    if mask is not None and not msg["fn"].has_enumerate_support and partner(msg["name"], seen) is not None:
        msg["fn"] = in_gaps(msg["fn"], ~torch.as_tensor(mask))


def in_gaps(fn: Any, seen: Tensor) -> Any:
    """Return a distribution where nothing was observed, and a standard one elsewhere.

    Parameters
    ----------
    fn
        The distribution of the site.
    seen
        Which entries of its batch were observed.
    """
    if isinstance(fn, dist.Independent):
        inner: Any = in_gaps(fn.base_dist, seen.reshape(seen.shape + (1,) * fn.reinterpreted_batch_ndims))
        return inner.to_event(fn.reinterpreted_batch_ndims)
    if type(fn) is dist.Normal:  # a Normal as before, which can be integrated out
        return dist.Normal(torch.where(seen, 0.0, fn.loc), torch.where(seen, 1.0, fn.scale))
    gaps: Any = Gaps
    return gaps(seen, fn, standard(fn))


class Gaps(dist.MaskedMixture):
    """A distribution in some entries, and another, of the same support, where something was observed."""

    @property
    def support(self) -> Any:
        """Where values of both are."""
        return self.component0.support


def standard(fn: Any) -> Any:
    """Return the distribution that standard Normal coordinates have in the support of another."""
    zeros = torch.zeros(fn.shape())
    normal = dist.Normal(zeros, torch.ones_like(zeros))
    transform = bijection(fn.support, "")
    made = normal if transform is identity_transform else dist.TransformedDistribution(normal, [transform])
    return made.to_event(fn.event_dim) if fn.event_dim else made
