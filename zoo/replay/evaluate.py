"""Running a model with given values: log densities site by site, or a simulation."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor
from torch.utils import _pytree as pytree

from zoo.data.patterns import MissingCells
from zoo.declare.model import Model
from zoo.errors import ModelError
from zoo.replay.chain import MarkovChain
from zoo.replay.draws import from_noise, noise_density, normal_draw, vectorized_draw
from zoo.replay.gaps import keep_to_gaps
from zoo.replay.gaussian_chain import LinearGaussianChain
from zoo.replay.location_scale import recentred
from zoo.replay.masked import IMPOSSIBLE, OBSERVED, evidence, impossible, partner, picked, stand_in, unmask
from zoo.replay.normals import log_density, observed_density
from zoo.replay.sites import beyond_categories
from zoo.replay.swapped import called_with
from zoo.replay.writable import run_writable

Values = dict[str, Tensor]


def is_plate(message: Any) -> bool:
    """Tell whether a sample message only marks the entry to a plate."""
    return isinstance(message["fn"], _Subsample)


def is_deterministic(message: Any) -> bool:
    """Tell whether a sample message comes from `pyro.deterministic`."""
    return bool(message["infer"].get("_deterministic"))


@contextmanager
def model_context(dtype: torch.dtype, device: torch.device) -> Iterator[None]:
    """Run with this default precision and device, without Pyro's validation, with a parameter store of one's own.

    All of that belongs to the process: whoever comes in from outside takes turns by `undisturbed`. No turn is taken
    here, as a sampler runs the model in threads of its own while the one that waits for it has the turn.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        place = torch.device(device) if device.type != "cpu" else nullcontext()
        with pyro.validation_enabled(False), pyro.get_param_store().scope(), place:
            yield
    finally:
        torch.set_default_dtype(before)


class Drawn(Exception):
    """All sites that a simulation was for have their draws: no error, but the end of a run."""


class Replay(Messenger):
    """Give sites and parameters the values they are to have; keep each site's log density and what else is asked.

    Parameters
    ----------
    values
        Values of latent sites, enumerated sites and parameters.
    priors
        Distributions that replace those of the model at some latent sites.
    simulate
        Draw every latent that has no value.
    observed
        With `simulate`: draw observed sites too.
    until
        With `simulate`: sites after the last of which the run ends, by `Drawn`; none for a whole run.
    densities
        Evaluate log densities; without, values and distributions only.
    missing
        Observed site -> which of its cells are missing and have to be integrated out.
    lead
        With `simulate` inside `torch.vmap`: a number that varies over it, so that each entry gets draws of its own.
    left_out
        Sites whose log density is not evaluated.
    zeros
        Whether what has probability 0 gets the log density -inf; torch gives it that of the smallest number above 0,
        which has a gradient.
    noise
        Standard Normal noise behind some Normal latents, which have the value that their distribution makes of it.
    sizes
        Plate -> its length, whatever the model makes of the rows at hand: groups of which these hold some only.
    degrees
        Location-scale sites whose entry in `values` stands in other coordinates -> how far they are centred
        (`recentred`). Their log density is then that of these coordinates.

    Attributes
    ----------
    log_volume
        log|dz/dnoise| of these latents.
    labelled
        Observed parts of sites that are enumerated in other rows; their log density is evidence about the states.
    """

    def __init__(
        self,
        values: Mapping[str, Tensor],
        priors: Mapping[str, Any] | None = None,
        *,
        simulate: bool = False,
        observed: bool = True,
        until: Collection[str] = (),
        densities: bool = True,
        missing: Mapping[str, MissingCells] | None = None,
        lead: Tensor | None = None,
        left_out: Collection[str] = (),
        zeros: bool = False,
        noise: Mapping[str, Tensor] | None = None,
        sizes: Mapping[str, int] | None = None,
        degrees: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.degrees = degrees or {}
        self.volumes: Values = {}  # log|dz/dw| of recentred sites
        self.lead, self.skipped, self.zeros, self.noise = lead, left_out, zeros, noise or {}
        self.volume: Values = {}
        self.sizes = sizes or {}
        self.values, self.priors, self.simulate, self.observed = values, priors or {}, simulate, observed
        self.until = frozenset(until)
        self.densities, self.missing = densities, missing or {}
        self.now = ""
        self.log_probs: dict[str, Tensor] = {}
        self.firsts: Values = {}
        self.seen: Values = {}
        self.distributions: dict[str, Any] = {}
        self.labelled: set[str] = set()
        self._enumerated: set[str] = set()  # unobserved parts of sites that are enumerated in other rows
        self._left_out: set[str] = set()  # unobserved parts that nothing depends on
        self._masks: dict[str, Any] = {}
        self._completed: Values = {}  # what is observed of sites whose missing cells are summed over as a latent's

    def _pyro_sample(self, msg: Any) -> None:
        if is_plate(msg):
            self._resize(msg)
            return
        for frame in msg["cond_indep_stack"] if self.sizes else ():
            if frame.name in self.sizes and frame.full_size != frame.size:  # no subsample, though Pyro takes it for one
                msg["scale"] = msg["scale"] * frame.size / frame.full_size
        name = self.now = msg["name"]
        if msg["is_observed"] and name + OBSERVED in self.missing:
            self._completed[name], msg["is_observed"], msg["value"] = msg["value"], False, None
        if is_deterministic(msg):
            states = picked(name, self._enumerated, self.seen)
            if states is not None:
                stand_in(msg, states)
            return
        if not msg["is_observed"]:
            self._masks[name] = unmask(msg)
            keep_to_gaps(msg, self._masks[name], self.seen)
        if name in self.priors:
            msg["fn"] = given(self.priors[name], name, self.seen)
        if name in self.noise:
            msg["value"], self.volume[name] = from_noise(msg["fn"], self.noise[name])
            msg["done"] = True
        elif name in self.degrees and name in self.values:
            msg["value"], self.volumes[name] = recentred(msg["fn"], self.values[name], self.degrees[name])
            msg["done"] = True
        elif name in self.values:
            msg["value"], msg["done"] = self.values[name], True
        elif self.simulate and not isinstance(msg["fn"], dist.Unit) and (self.observed or not msg["is_observed"]):
            msg["value"], msg["is_observed"] = self._draw(msg["fn"]), False
            msg["done"] = msg["value"] is not None
        elif not msg["is_observed"] and (other := partner(name, self.seen)) is not None:
            self._left_out.add(name)
            msg["value"], msg["done"] = self.seen[other], True
        elif not msg["is_observed"]:
            raise ModelError(
                f"site {name!r} was not there when the model was traced; the sites of a model must not "
                "depend on the values drawn"
            )

    def _resize(self, msg: Any) -> None:
        """Give a plate its length."""
        size = self.sizes.get(msg["name"])
        if size is not None and msg["fn"].subsample_size is None and msg["fn"].size != size:
            msg["value"], msg["done"] = torch.arange(size), True

    def _draw(self, fn: Any) -> Tensor | None:
        return normal_draw(fn) if self.lead is None else vectorized_draw(fn, self.lead)

    def _pyro_post_sample(self, msg: Any) -> None:
        if is_plate(msg):
            return
        name = msg["name"]
        if name in self._left_out:
            return
        self.seen[name] = msg["value"]
        if name in self._completed:
            self.seen[name + OBSERVED] = msg["value"] if self.simulate else self._completed[name]
        if self.until and self.until <= self.seen.keys():
            raise Drawn
        if self.simulate or is_deterministic(msg):
            return
        mask, other = self._masks.get(name), partner(name, self.seen)
        if mask is not None and other is not None and msg["fn"].has_enumerate_support:
            self._enumerated.add(name)
            self.labelled.add(other)
            self.log_probs[other] = evidence(msg["value"], self.seen[other], mask, msg["fn"].event_dim)
        if name in self._completed:
            where = name + OBSERVED
            self.labelled.add(where)
            cells = self.missing[where].missing
            log_evidence = evidence(msg["value"], self._completed[name], cells, msg["fn"].event_dim)
            lost = -math.inf if self.zeros else IMPOSSIBLE
            self.log_probs[where] = torch.where(log_evidence == IMPOSSIBLE, lost, log_evidence)
        self.distributions[name] = msg["fn"]
        if isinstance(msg["fn"], MarkovChain | LinearGaussianChain):
            self.firsts[name] = msg["fn"].first
        if not self.densities or name in self.skipped:
            return
        if name in self.noise:
            self.log_probs[name] = noise_density(msg["fn"], self.noise[name], self.volume[name], msg["scale"])
            return
        if name in self.missing:
            log_prob = observed_density(name, msg["fn"], msg["value"], self.missing[name])
        else:
            try:
                log_prob = log_density(msg["fn"], msg["value"], msg["args"], msg["kwargs"])
            except RuntimeError as error:
                raise beyond_categories(name, msg["fn"], msg["value"]) or error from error
        if self.zeros:
            gone = self.missing[name].missing if name in self.missing else None
            log_prob = log_prob.masked_fill(impossible(msg["fn"], msg["value"], gone), -math.inf)
        self.log_probs[name] = scale_and_mask(log_prob, msg["scale"], msg["mask"])
        if name in self.volumes:
            self.log_probs[name] = self.log_probs[name] + self.volumes[name]

    def _pyro_param(self, msg: Any) -> None:
        name = msg["name"]
        if name in self.values:
            msg["value"], msg["done"] = self.values[name], True
        elif len(msg["args"]) > 1 and isinstance(msg["args"][1], Tensor):
            msg["value"], msg["done"] = msg["args"][1], True  # weights of a network, put in place by `call`


def given(prior: Any, name: str, values: Mapping[str, Tensor]) -> Any:
    """Return the distribution that takes the place of a site's own, given the values of the sites before it."""
    return prior.given(name, values) if hasattr(prior, "given") else prior


def call(model: Model, networks: frozenset[str], values: Mapping[str, Tensor], data: Mapping[str, Tensor]) -> Any:
    """Run a model on data, its network weights taken from `values`."""
    weights = {n: values[n] for n in networks if n in values}

    def run() -> Any:
        return called_with(model, weights, **data)

    return run_writable(run, values.values())


def many(function: Callable[[Values], Any], values: Values, count: int, chunk: int) -> Any:
    """Apply `function` to each of `count` values stacked along dimension 0, `chunk` at a time in one vectorized call.

    Models whose control flow depends on values cannot be vectorized; they are evaluated one by one.
    """
    if not values:  # all the same
        return pytree.tree_map(lambda t: t.expand(count, *t.shape), function({}))
    try:
        return torch.vmap(function, chunk_size=max(1, min(chunk, count)))(values)
    except RuntimeError as error:
        if "linalg" in str(error):  # a matrix without a factor: one by one it would be the same
            raise
        results = [function({n: v[i] for n, v in values.items()}) for i in range(count)]
        if isinstance(results[0], tuple):
            return tuple(torch.stack(parts) for parts in zip(*results, strict=True))
        return torch.stack(results)
