"""Observed sites of which some cells are missing, and which other sites read: what is missing becomes a latent.

Where nothing reads a missing cell, it is left out of the likelihood, for its density integrates to one. Where a site
does, as the outcome of a regression reads a covariate that has a distribution of its own, the site is told apart as
Pyro does for `obs_mask`: ``name_observed``, a latent ``name_unobserved``, and ``name``, which picks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from zoo.data.data import Data
from zoo.replay.gaps import in_gaps
from zoo.replay.masked import OBSERVED, UNOBSERVED
from zoo.replay.mixtures import Opened
from zoo.replay.vectors import Apart


class Parting(Messenger):
    """Write observed sites in parts, as ``pyro.sample(name, fn, obs=value, obs_mask=seen)`` does.

    Parameters
    ----------
    seen
        Site -> which entries of its batch are observed.
    """

    def __init__(self, seen: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.seen = seen

    def _pyro_sample(self, msg: Any) -> None:
        seen: Any = self.seen.get(msg["name"])
        name, fn = msg["name"], msg["fn"]
        if seen is None or not msg["is_observed"] or msg["infer"].get("_deterministic"):
            return
        if fn.event_dim:  # an entry of a batch is there if all of its event is
            seen = seen.flatten(seen.ndim - fn.event_dim).all(-1)
        with pyro.poutine.mask(mask=seen):
            observed = pyro.sample(name + OBSERVED, fn, obs=msg["value"])
        unobserved = pyro.sample(name + UNOBSERVED, in_gaps(fn, seen))
        picked = torch.where(seen.reshape(seen.shape + (1,) * fn.event_dim), observed, unobserved)
        picked = pyro.deterministic(name, picked, event_dim=fn.event_dim)
        msg["value"], msg["done"], msg["stop"] = picked, True, True


@contextmanager
def rewritten(data: Data) -> Iterator[None]:
    """Run a model with mixtures opened, discrete vectors taken apart, and sites parted that `data` says are to be."""
    with Parting(_seen(data)) if data.parted else nullcontext(), Apart(), Opened():
        yield


def _seen(data: Data) -> dict[str, Tensor]:
    return {
        site: ~data.missing.get(field, torch.zeros_like(data.values[field], dtype=torch.bool))
        for site, field in data.parted.items()
    }
