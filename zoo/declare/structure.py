"""What a model is made of, learned by running it: its sites, their plates and families, and what feeds what.

The model is run with made-up values inside the supports. The first run finds sites and checks plates. The second
enumerates the discrete latents. Then each source of variation in turn (a latent, a parameter, a network, a data field)
is given another value: the arguments that move depend on it, and comparing an argument with a site's value tells
"this site itself" from "a function of it".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Delta, Unit
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import constraints, transform_to

from zoo.declare.data import Data
from zoo.declare.evaluate import Values, call, is_deterministic, is_plate
from zoo.declare.model import Model
from zoo.errors import DataError, ModelError, ZooError

ALTERNATIVES = (
    {"probs", "logits"},
    {"scale", "variance", "precision"},
    {"covariance_matrix", "precision_matrix", "scale_tril"},
)
SAMPLE_ROWS = 64  # rows that the comparing runs see: enough to tell values apart, whatever the size of the data


@dataclass(frozen=True)
class Feed:
    """What feeds one argument of a site's distribution.

    Attributes
    ----------
    kind
        "constant" (no latent or parameter), "site" (a site's value itself), "indexed" (a site indexed by an
        enumerated site) or "function" (anything else).
    sites
        Latents and parameters it depends on.
    index
        Enumerated sites it depends on.
    data
        Data fields it depends on.
    scale
        For "site" and "indexed": the argument is this constant times the value.
    pad
        For "site" and "indexed": how many event dimensions the value is broadcast over on the right.
    """

    kind: str
    sites: tuple[str, ...] = ()
    index: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    scale: float = 1.0
    pad: int = 0

    def __str__(self) -> str:
        """Say it in a few words."""
        factor = "" if self.scale == 1.0 else f"{self.scale:.4g} * "
        if self.kind == "site":
            return factor + self.sites[0]
        if self.kind == "indexed":
            return f"{factor}{self.sites[0]}[{self.index[0]}]"
        sources = ", ".join((*self.sites, *self.index, *self.data))
        return f"function of {sources}" if sources else "constant"


@dataclass(frozen=True)
class Site:
    """One site of a model.

    Attributes
    ----------
    role
        "global", "local", "enumerated", "observed", "parameter", "deterministic", or "unsupported" for a discrete
        latent that cannot be enumerated.
    family
        Name of the distribution ("Normal"), empty for parameters.
    plates
        Names of the plates, left to right as their dimensions stand.
    plate_dims
        Their negative dimensions.
    shape
        Shape of the value in the traced data, without enumeration dimensions.
    event_dim
        How many dimensions on the right are one event.
    args
        What feeds each argument of the distribution.
    support
        Where values live.
    initial
        Starting value that a parameter was declared with.
    field
        Data field an observed site takes its value from.
    states, enum_dim
        For enumerated sites: the values, laid out along their own dimension, and that dimension.
    symbols
        Dimension of the log density -> symbol, fixed for the program.
    """

    name: str
    role: str
    family: str = ""
    plates: tuple[str, ...] = ()
    plate_dims: tuple[int, ...] = ()
    shape: tuple[int, ...] = ()
    event_dim: int = 0
    args: dict[str, Feed] = dataclasses.field(default_factory=dict)
    support: Any = constraints.real
    initial: Tensor | None = None
    field: str | None = None
    states: Tensor | None = None
    enum_dim: int = 0
    symbols: dict[int, str] = dataclasses.field(default_factory=dict)

    @property
    def latent(self) -> bool:
        """Whether the site is a latent with a guide's or a point's value (not enumerated)."""
        return self.role in ("global", "local")

    @property
    def batch_dim(self) -> int:
        """How many dimensions of the value stand left of the event."""
        return len(self.shape) - self.event_dim


@dataclass(frozen=True)
class Structure:
    """The sites of a model in the order of its story, and the symbol of each plate."""

    sites: dict[str, Site]
    plates: dict[str, str]


class _Discover(Messenger):
    """Give latents and parameters made-up values inside their supports, or those it was given."""

    def __init__(self, priors: dict[str, Any], values: Values | None = None) -> None:
        super().__init__()
        self.priors, self.given = priors, values or {}
        self.params: dict[str, tuple[Tensor, Any]] = {}
        self.supports: dict[str, Any] = {}
        self.values: Values = {}
        self.now = ""

    def _value(self, name: str, support: Any, shape: tuple[int, ...]) -> Tensor:
        self.supports[name] = support
        self.values[name] = self.given[name] if name in self.given else _made_up(support, shape, name)
        return self.values[name]

    def _pyro_sample(self, msg: Any) -> None:
        self.now = f"site {msg['name']!r}"
        if is_plate(msg) or msg["is_observed"] or is_deterministic(msg):
            return
        if msg["name"] in self.priors:
            msg["fn"] = self.priors[msg["name"]]
        fn, name = msg["fn"], msg["name"]
        if fn.has_enumerate_support:
            msg["infer"].update({"enumerate": "parallel", "expand": False})
        elif not getattr(fn.support, "is_discrete", False):
            msg["value"], msg["done"] = self._value(name, fn.support, tuple(fn.shape())), True

    def _pyro_param(self, msg: Any) -> None:
        name, args = msg["name"], msg["args"]
        self.now = f"parameter {name!r}"
        initial = args[1] if len(args) > 1 else None
        if isinstance(initial, torch.nn.Parameter) or (isinstance(initial, Tensor) and "$$$" in name):
            msg["value"], msg["done"] = initial, True
            return
        initial = initial() if callable(initial) else initial
        if initial is None:
            raise ModelError(f"parameter {name!r} needs a starting value: pyro.param({name!r}, value)")
        initial = torch.as_tensor(initial).detach()
        constraint = msg["kwargs"].get("constraint") or constraints.real
        self.params[name] = (initial, constraint)
        msg["value"], msg["done"] = self._value(name, constraint, tuple(initial.shape)).to(initial.dtype), True


def name_in(infer: dict[str, Any]) -> bool:
    """Tell whether a site was marked for enumeration."""
    return infer.get("enumerate") == "parallel"


def _made_up(support: Any, shape: tuple[int, ...], name: str) -> Tensor:
    """Return a random value inside a support."""
    try:
        value: Tensor = transform_to(support)(torch.randn(torch.Size(shape)))
    except NotImplementedError:
        raise ModelError(f"{name!r}: its support {support} is not one that values can be made for") from None
    return value


def _run(model: Model, data: Data, networks: Values, messenger: _Discover, enumerate_from: int | None) -> Any:
    """Run the model under `messenger`; turn whatever goes wrong inside it into a `ModelError` that names the site."""

    def run() -> Any:
        return call(model, frozenset(networks), networks, data.values)

    program: Any = messenger(run)
    if enumerate_from is not None:
        program = poutine.enum(program, first_available_dim=enumerate_from)
    try:
        return poutine.trace(program).get_trace()
    except ZooError:
        raise
    except Exception as error:
        cause = error.__cause__ or error
        first = str(cause).strip().partition("\n")[0]
        raise ModelError(
            f"{type(model).__name__} failed at {messenger.now or 'its start'} on data of shapes "
            f"{ {n: tuple(v.shape) for n, v in data.values.items()} }: {type(cause).__name__}: {first}. "
            "Check that every data plate has the length of its data and that sites inside it have that "
            "shape"
        ) from error


def _sites(trace: Any) -> Iterator[tuple[str, Any]]:
    for name, node in trace.nodes.items():
        if node["type"] == "sample" and not is_plate(node):
            yield name, node


def _frames(node: Any) -> list[Any]:
    return sorted((f for f in node["cond_indep_stack"] if f.vectorized), key=lambda f: f.dim)


def trace(model: Model, data: Data, networks: Values, priors: dict[str, Any]) -> Structure:
    """Learn the structure of `model` on `data`; runs without Pyro's validation, whose checks are made here.

    Raises
    ------
    ModelError
        If the model fails, or its plates do not fit its data.
    """
    first = _Discover(priors)
    plain = _run(model, data, networks, first, None)
    depth = 0
    for name, node in _sites(plain):
        depth = max([depth, *(-f.dim for f in _frames(node))])
        _check_plates(model, data, name, node)
    part = data
    if data.row and len(data) > SAMPLE_ROWS:
        part = data.take(torch.arange(SAMPLE_ROWS))
    given = first.values if part is data else {}
    try:
        return _compare(model, data, part, networks, priors, plain, first, _Discover(priors, given), depth)
    except ModelError:
        if part is data:
            raise
        return _compare(model, data, data, networks, priors, plain, first, _Discover(priors, first.values), depth)


def _compare(
    model: Model,
    data: Data,
    part: Data,
    networks: Values,
    priors: dict[str, Any],
    plain: Any,
    first: _Discover,
    second: _Discover,
    depth: int,
) -> Structure:
    """Enumerate, give each source another value in turn, and describe what moved."""
    base = _run(model, part, networks, second, -1 - depth)
    for _, node in _sites(base):
        log_prob = scale_and_mask(node["fn"].log_prob(node["value"]), node["scale"], node["mask"])
        node["log_prob"] = node["unscaled_log_prob"] = log_prob
    base.pack_tensors()
    seen = {name: views(node["fn"]) for name, node in _sites(base)}
    sources: dict[tuple[str, str], set[str]] = {(n, key): set() for n, found in seen.items() for key in found}
    changes: list[tuple[str, Data, Values, Values]] = []
    for name, value in second.values.items():
        other = _made_up(second.supports[name], tuple(value.shape), name)
        changes.append((name, part, networks, {**second.values, name: other}))
    for name in dict.fromkeys(n.partition(".")[0] for n in networks):
        moved = {n: v + 0.1 * torch.randn_like(v) if n.partition(".")[0] == name else v for n, v in networks.items()}
        changes.append((f"network {name}", part, moved, second.values))
    for name, value in part.values.items():
        shuffled = replace(part, values={**part.values, name: value.flip(0) if value.ndim else value})
        changes.append((f"data {name}", shuffled, networks, second.values))
    for source, rows, weights, values in changes:
        moved_trace = _run(model, rows, weights, _Discover(priors, values), -1 - depth)
        for name, node in _sites(moved_trace):
            for key, view in views(node["fn"]).items() if name in seen else ():
                before = seen[name].get(key)
                if before is None or before.shape != view.shape or not torch.equal(before, view):
                    sources.setdefault((name, key), set()).add(source)
    return _describe(data, plain, base, first, second, sources)


def _check_plates(model: Model, data: Data, name: str, node: Any) -> None:
    """Check a site's plates against its own shape and against the data's named dimensions."""
    frames = _frames(node)
    for frame in frames:
        if frame.full_size != frame.size:
            raise ModelError(
                f"plate {frame.name!r} uses subsample_size; leave mini-batches to the method, for example "
                "SVI(batch_size=...)"
            )
        if frame.name in data.coords and frame.size != len(data.coords[frame.name]):
            raise ModelError(
                f"site {name!r}: plate {frame.name!r} has size {frame.size}, but the data have "
                f"{len(data.coords[frame.name])} along {frame.name!r}; write pyro.plate({frame.name!r}, "
                "len(data))"
            )
    if is_deterministic(node) or isinstance(node["fn"], Unit | Delta):
        return
    covered = {f.dim for f in frames}
    batch = node["fn"].batch_shape
    for dim in range(-len(batch), 0):
        if batch[dim] > 1 and dim not in covered:
            raise ModelError(
                f"site {name!r} has batch shape {tuple(batch)}, but its dimension {dim} of size {batch[dim]} is in no "
                f"plate (its plates: {[f.name for f in frames] or 'none'}); put the site inside "
                f"`with pyro.plate({data.row or 'row'!r}, {batch[dim]})`, or make the dimension part of the event "
                "with .to_event(1)"
            )
    if node["is_observed"]:
        field_name = _field(data, name, node["value"])
        dims = data.dims.get(field_name, ()) if field_name else ()
        names = {f.name for f in frames}
        if dims and dims[0] == data.row and data.row not in names:
            raise ModelError(
                f"{type(model).__name__}: field {field_name!r} has first dimension {data.row!r}, but site "
                f"{name!r} is in plates {sorted(names) or 'none'}; name its plate {data.row!r}"
            )


def _field(data: Data, name: str, value: Tensor) -> str | None:
    """Name the data field an observed value is: the very tensor, or the one with the site's name."""
    for field_name, tensor in data.values.items():
        if tensor.shape == value.shape and tensor.data_ptr() == value.data_ptr():
            return field_name
    return name if name in data.values else None


def base_distribution(fn: Any) -> Any:
    """Strip the wrappers that only reshape, expand or mask a distribution."""
    while hasattr(fn, "base_dist") and type(fn).__name__ in (
        "Independent",
        "ExpandedDistribution",
        "MaskedDistribution",
    ):
        fn = fn.base_dist
    return fn


def views(fn: Any) -> dict[str, Tensor]:
    """Return every parameterization of a distribution's arguments: for a Normal also its variance and precision."""
    base = base_distribution(fn)
    found = {}
    for name in base.arg_constraints:
        value = getattr(base, name, None)
        if isinstance(value, Tensor):
            found[name] = value
    if type(base).__name__ == "Normal":
        found["variance"] = base.scale.square()
        found["precision"] = base.scale.square().reciprocal()
    return found


def _feed(view: Tensor, batch_dim: int, sources: set[str], sites: Values, states: Values) -> Feed:
    """Compare one argument with the values of the sites it depends on."""
    data = tuple(sorted(o.removeprefix("data ") for o in sources if o.startswith("data ")))
    nets = tuple(sorted(o for o in sources if o.startswith("network ")))
    origin = tuple(n for n in sites if n in sources)
    index = tuple(n for n, code in states.items() if _varies(view, batch_dim, code))
    if not origin and not index and not nets:
        return Feed("constant", data=data)
    if len(origin) == 1 and len(index) <= 1 and not nets:
        value = sites[origin[0]]
        if index:
            code = states[index[0]].long()
            if value.ndim == 0 or int(code.max()) >= value.shape[0]:
                return Feed("function", origin, index, data)
            value = value[code]
        for pad in range(view.ndim - batch_dim + 1):
            scale = _ratio(view, value[(..., *[None] * pad)])
            if scale is not None:
                return Feed("indexed" if index else "site", origin, index, data, scale, pad)
    return Feed("function", origin + nets, index, data)


def _varies(view: Tensor, batch_dim: int, code: Tensor) -> bool:
    """Tell whether an argument changes along the dimension that an enumerated site is laid out on."""
    axis = batch_dim - code.ndim
    if axis < 0 or view.shape[axis] <= 1:
        return False
    return not torch.equal(view, view.narrow(axis, 0, 1).expand_as(view))


def _ratio(view: Tensor, value: Tensor) -> float | None:
    """Return c if `view` is c times `value`, broadcast without widening, for one constant c; otherwise None."""
    try:
        if torch.broadcast_shapes(view.shape, value.shape) != view.shape:
            return None
    except RuntimeError:
        return None
    value = value.to(view.dtype).expand(view.shape)
    tolerance = 1e-9 if view.dtype == torch.float64 else 1e-4
    largest = value.abs().max()
    anchor = value.abs().argmax()
    scale = view.reshape(-1)[anchor] / value.reshape(-1)[anchor]
    if bool(((view - scale * value).abs() <= tolerance * (scale * largest).abs()).all()) and bool(scale != 0):
        number = float(scale)
        return 1.0 if abs(number - 1.0) < 10 * tolerance else number
    return None


def _describe(
    data: Data,
    plain: Any,
    enumerated_run: Any,
    first: _Discover,
    second: _Discover,
    sources: dict[tuple[str, str], set[str]],
) -> Structure:
    """Put together the sites from the two runs."""
    sites: dict[str, Site] = {
        name: Site(
            name, "parameter", shape=tuple(initial.shape), support=constraint, initial=initial, event_dim=initial.ndim
        )
        for name, (initial, constraint) in first.params.items()
    }
    states = {n: node["value"] for n, node in _sites(enumerated_run) if name_in(node["infer"])}
    plates: dict[str, str] = {}
    for name, node in _sites(plain):
        if name not in enumerated_run.nodes:
            raise ModelError(
                f"site {name!r} comes and goes between runs; the sites of a model must be the same in every run"
            )
        other, frames = enumerated_run.nodes[name], _frames(node)
        symbols = dict(other["infer"].get("_dim_to_symbol", {}))
        plates.update({f.name: symbols[f.dim] for f in frames if f.dim in symbols})
        names, value = tuple(f.name for f in frames), node["value"]
        fn = base_distribution(node["fn"])
        args = (
            {}
            if is_deterministic(node)
            else {
                key: _feed(view, len(other["fn"].batch_shape), sources[name, key], second.values, states)
                for key, view in views(other["fn"]).items()
            }
        )
        if is_deterministic(node):
            role = "deterministic"
        elif node["is_observed"]:
            role = "observed"
        elif name in states:
            role = "enumerated"
        elif name not in first.values:
            role = "unsupported"
        else:
            role = "local" if data.row and data.row in names else "global"
        event_dim = max(value.ndim - len(frames), 0) if role == "deterministic" else node["fn"].event_dim
        sites[name] = Site(
            name,
            role,
            type(fn).__name__,
            names,
            tuple(f.dim for f in frames),
            tuple(value.shape),
            event_dim,
            args,
            node["fn"].support if role != "deterministic" else constraints.real,
            field=_field(data, name, value) if role == "observed" else None,
            states=states.get(name),
            enum_dim=other["infer"].get("_enumerate_dim", 0),
            symbols=symbols,
        )
    if not any(s.role == "observed" for s in sites.values()):
        raise ModelError("the model observes nothing: give the data to a site with obs=...")
    _check_supports(sites)
    return Structure(sites, plates)


def _check_supports(sites: dict[str, Site]) -> None:
    """Refuse latents whose support moves with another site: no fixed bijection exists."""
    for site in sites.values():
        if site.latent and site.family in ("Uniform", "Pareto"):
            moving = [s for feed in site.args.values() for s in feed.sites]
            if moving:
                raise ModelError(
                    f"site {site.name!r}: the support of its {site.family} depends on {moving[0]!r}; "
                    "sample it on a fixed support and transform it with pyro.deterministic"
                )


def primary(args: dict[str, Feed]) -> dict[str, Feed]:
    """Keep one of each group of alternative parameterizations: a recognized one where there is one."""
    kept = dict(args)
    for group in ALTERNATIVES:
        present = [n for n in args if n in group]
        if len(present) > 1:
            rank = {"site": 0, "indexed": 0, "constant": 1, "function": 2}
            best = min(present, key=lambda n: rank[args[n].kind])
            for name in present:
                if name != best:
                    del kept[name]
    return kept


def check_support(site: Site, value: Tensor) -> None:
    """Raise if an observed value is outside the support of the distribution that is to explain it."""
    inside = site.support.check(value)
    if not bool(inside.all()):
        raise DataError(
            f"site {site.name!r}: {int((~inside).sum())} observed values are outside the support of its "
            f"{site.family} ({site.support}); correct the data or the model"
        )
