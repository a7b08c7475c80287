"""Running a model with made-up values inside its supports, and checking its plates against the data."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.transforms import identity_transform

from zoo.data.data import Data
from zoo.declare.model import Model
from zoo.errors import ModelError, ZooError
from zoo.replay.bijections import CholeskyVector, bijection, lowest_count
from zoo.replay.evaluate import Values, call, given, is_deterministic, is_plate
from zoo.replay.gaps import keep_to_gaps
from zoo.replay.masked import partner, picked, stand_in, unmask
from zoo.replay.parting import rewritten
from zoo.replay.sites import support_of
from zoo.structure.failures import failure
from zoo.structure.memory import check_size

FARTHEST = 40.0  # unconstrained coordinates of made-up values
LARGEST_COUNT = 10_000  # among made-up values


class Discover(Messenger):
    """Give latents and parameters made-up values inside their supports, or those it was given.

    Parameters
    ----------
    priors
        Distributions that replace those of the model at some latent sites.
    values
        Values of latents and parameters.
    spread
        How wide made-up values are, in standard deviations in unconstrained space.
    fixed
        Values of observed sites, whatever the data are, and of enumerated ones.
    plain
        Shapes of latents in a run without enumeration: where a prior depends on a discrete latent, its distribution
        has a dimension of states, and the value of the latent has none.
    completed
        Observed sites that are taken for latents, as some of their cells are missing.

    Attributes
    ----------
    masks
        Latent site -> the mask that was taken off it.
    enumerated
        Discrete latents that can be summed out, in the order of the story.
    labelled
        Unobserved part of an enumerated site -> its observed part.
    parted
        Unobserved parts of sites that are not enumerated.
    """

    def __init__(
        self,
        priors: dict[str, Any],
        values: Values | None = None,
        spread: float = 1.0,
        fixed: Values | None = None,
        plain: Mapping[str, tuple[int, ...]] | None = None,
        completed: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.fixed, self.plain, self.completed = fixed or {}, plain or {}, completed
        self.masks: dict[str, Any] = {}
        self.seen: Values = {}
        self.enumerated: list[str] = []
        self.labelled: dict[str, str] = {}
        self.parted: set[str] = set()
        self.priors, self.given, self.spread = priors, values or {}, spread
        self.params: dict[str, tuple[Tensor, Any]] = {}
        self.supports: dict[str, Any] = {}
        self.values: Values = {}
        self.written: dict[str, int] = {}
        self.now = ""

    def _value(self, name: str, support: Any, shape: tuple[int, ...]) -> Tensor:
        self.supports[name] = support
        check_size(name, shape)
        self.values[name] = self.given[name] if name in self.given else made_up(support, shape, name, self.spread)
        self.written[name] = self.values[name]._version
        return self.values[name]

    def check_untouched(self) -> None:
        """Raise if the model has written into a value: its prior would be taken at another one than its likelihood."""
        for name, before in self.written.items():
            if self.values[name]._version != before:
                raise ModelError(
                    f"the model changes {name!r} in place (+=, x[i] = ..., .add_()), so that its prior would see "
                    f"another value; make a new tensor: y = x + 1, torch.where(...), or write into {name}.clone()"
                )

    def _shape(self, name: str, fn: Any) -> tuple[int, ...]:
        """Shape of a latent's value: that of its distribution, without the dimensions of states on its left."""
        shape, plain = tuple(fn.shape()), self.plain.get(name)
        if plain is None or len(shape) == len(plain):
            return shape
        own = shape[len(shape) - len(plain) :]
        return tuple(1 if was == 1 else size for was, size in zip(plain, own, strict=True))

    def _pyro_sample(self, msg: Any) -> None:
        self.now = f"at {'plate' if is_plate(msg) else 'site'} {msg['name']!r}"
        if not hasattr(msg["fn"], "event_dim") and not is_plate(msg):
            if hasattr(msg["fn"], "log_prob"):
                raise ModelError(
                    f"site {msg['name']!r} is given a distribution of torch, which lacks what Pyro's have; take "
                    f"pyro.distributions.{type(msg['fn']).__name__}"
                )
            raise ModelError(
                f"site {msg['name']!r} is given {type(msg['fn']).__name__} {msg['fn']!r:.60}, which is no "
                "distribution; give one, such as pyro.distributions.Normal(0.0, 1.0)"
            )
        if is_deterministic(msg):
            states = picked(msg["name"], self.labelled, self.seen)
            if states is not None:
                stand_in(msg, states)
            return
        if msg["name"] in self.completed:
            msg["is_observed"], msg["value"] = False, None
        if is_plate(msg) or msg["is_observed"]:
            if msg["name"] in self.fixed:
                msg["value"] = self.fixed[msg["name"]]
            return
        mask = unmask(msg)
        if mask is not None:
            self.masks[msg["name"]] = mask
        if msg["name"] in self.priors:
            msg["fn"] = given(self.priors[msg["name"]], msg["name"], self.values)
        keep_to_gaps(msg, mask, self.seen)
        fn, name = msg["fn"], msg["name"]
        if fn.has_enumerate_support:
            msg["infer"].update({"enumerate": "parallel", "expand": False})
            self.enumerated.append(name)
            other = partner(name, self.seen)
            if mask is not None and other is not None:
                self.labelled[name] = other
            if name in self.fixed:
                msg["value"], msg["done"] = self.fixed[name], True
        elif lowest_count(fn.support) is not None or not getattr(fn.support, "is_discrete", False):
            # Not yet "done": what is, poutine.enum passes over, without noting which states its density depends on.
            msg["value"] = self._value(name, support_of(fn), self._shape(name, fn))
            if mask is not None and partner(name, self.seen) is not None:
                self.parted.add(name)

    def _pyro_post_sample(self, msg: Any) -> None:
        self.now = f"after {'plate' if is_plate(msg) else 'site'} {msg['name']!r}"
        if not is_plate(msg):
            self.seen[msg["name"]] = msg["value"]

    def _pyro_param(self, msg: Any) -> None:
        name, args = msg["name"], msg["args"]
        self.now = f"at parameter {name!r}"
        initial = args[1] if len(args) > 1 else None
        if isinstance(initial, torch.nn.Parameter) or (isinstance(initial, Tensor) and "$$$" in name):
            msg["value"], msg["done"] = initial, True
            return
        initial = initial() if callable(initial) else initial
        constraint = msg["kwargs"].get("constraint") or constraints.real
        if initial is None and name in pyro.get_param_store():  # a PyroParam, which its module has put there
            initial, constraint = pyro.get_param_store()[name], pyro.get_param_store()._constraints[name]
        if initial is None:
            raise ModelError(f"parameter {name!r} needs a starting value: pyro.param({name!r}, value)")
        initial = torch.as_tensor(initial).detach()
        self.params[name] = (initial, constraint)
        msg["value"], msg["done"] = self._value(name, constraint, tuple(initial.shape)).to(initial.dtype), True

    def _pyro_post_param(self, msg: Any) -> None:
        self.now = f"after parameter {msg['name']!r}"


def symbol_of(node: Any) -> str | None:
    """Symbol of the dimension that an enumerated site is laid out on."""
    symbol: str | None = node["infer"].get("_dim_to_symbol", {}).get(node["infer"].get("_enumerate_dim"))
    return symbol


def is_enumerated(infer: dict[str, Any]) -> bool:
    """Tell whether a site was marked for enumeration."""
    return infer.get("enumerate") == "parallel"


def made_up(support: Any, shape: tuple[int, ...], name: str, spread: float = 1.0) -> Tensor:
    """Return a random value inside a support, `spread` standard deviations wide in unconstrained space."""
    lowest = lowest_count(support)
    if lowest is not None:
        return lowest + (spread * torch.randn(shape)).abs().exp().clamp_max(LARGEST_COUNT).floor()
    transform = bijection(support, name)
    if isinstance(transform, CholeskyVector):  # the condition of a random triangle grows with its size
        spread = spread / shape[-1]
    value: Tensor = transform(spread * torch.randn(transform.inverse_shape(torch.Size(shape))))
    return value


def moved_to(value: Tensor, support: Any, name: str, far: tuple[float, float] | None = None) -> Tensor:
    """Return the value at minus its unconstrained coordinates; with `far`, at so many times these, a unit further out.

    `far` is for real values, and for the unconstrained coordinates of others. A function that is linear in pieces bends
    between a value, what is opposite of it, and what is far out.
    """
    if lowest_count(support) is not None:
        return value
    transform = bijection(support, name)
    try:
        u = transform.inv(value)
    except RuntimeError:  # a made-up matrix next to singular, in single precision, has no factor
        return value
    if far is not None and not isinstance(transform, CholeskyVector):  # a random triangle far out has no condition
        u = (far[0] if transform is identity_transform else far[1]) * (u + u.sign())
    else:
        u = -u
    if transform is not identity_transform:  # what rounding has moved to the edge of a support stays inside
        u = u.clamp(-FARTHEST, FARTHEST)
    moved: Tensor = transform(u)
    return moved


def run(model: Model, data: Data, networks: Values, messenger: Discover, enumerate_from: int | None) -> Any:
    """Run the model under `messenger`; turn whatever goes wrong inside it into a `ModelError` that names the site."""

    def traced(data: Data) -> Any:
        def story() -> Any:
            with rewritten(data):
                return call(model, frozenset(networks), networks, data.values)

        program: Any = messenger(story)
        if enumerate_from is not None:
            program = poutine.enum(program, first_available_dim=enumerate_from)
        trace = poutine.trace(program).get_trace()
        messenger.check_untouched()
        for name, before in versions.items():
            if data.values[name]._version != before:
                raise ModelError(f"the model changes the data field {name!r} in place; make a new tensor, {name} + 1")
        return trace

    versions = {n: v._version for n, v in data.values.items() if not v.is_inference()}
    try:
        return traced(data)
    except ZooError as error:  # Pyro adds the shapes of all sites to it; the first one is its cause
        raise (error.__cause__ if isinstance(error.__cause__, ZooError) else error) from None
    except (Exception, SystemExit, GeneratorExit) as error:
        place = messenger.now or "before its first site"
        side_by_side = () if enumerate_from is None else tuple(messenger.enumerated)
        raise failure(model, data, place, error, traced, side_by_side) from error


def sample_sites(trace: Any) -> Iterator[tuple[str, Any]]:
    """Yield the sample sites of a trace with their names, without the plates'."""
    for name, node in trace.nodes.items():
        if node["type"] == "sample" and not is_plate(node):
            yield name, node
