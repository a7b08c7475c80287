"""Sites and their parents: the words in which the structure of a model is said."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor
from torch.distributions import constraints

from zoo.data.slices import Slice
from zoo.errors import DataError, ModelError
from zoo.replay.bijections import lowest_count
from zoo.replay.repeated import argument_of, compact, entrywise

ALTERNATIVES = (
    {"probs", "logits"},
    {"scale", "variance", "precision"},
    {"covariance_matrix", "precision_matrix", "scale_tril"},
)

Kind = Literal["constant", "site", "indexed", "linear", "bilinear", "function"]
Role = Literal["global", "local", "enumerated", "integrated", "observed", "parameter", "deterministic", "unsupported"]


@dataclass(frozen=True)
class Parent:
    """What one argument of a site's distribution is computed from.

    Attributes
    ----------
    kind
        "constant" (no latent or parameter), "site" (a site's value itself), "indexed" (a site indexed by enumerated
        sites or by categories in the data), "linear" (an affine function of sites, jointly), "bilinear" (affine in one
        local site given the others, and in these jointly given that one, in every state) or "function" (anything else).
    sites
        Latents and parameters it depends on, and networks ("network decoder").
    index
        Enumerated sites it depends on; for "indexed", in the order of the value's dimensions.
    data
        Data fields it depends on.
    scale
        For "site" and "indexed": the argument is this constant times the value.
    broadcast_dims
        For "site" and "indexed": over how many event dimensions the value is broadcast; they stand on its right.
    by
        For "indexed": the data field of categories that the value is indexed by, if it is one.
    entrywise
        For "site" and "indexed": the constant is one for each entry (an exposure, say) and not `scale`.
    """

    kind: Kind
    sites: tuple[str, ...] = ()
    index: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    scale: float = 1.0
    broadcast_dims: int = 0
    by: str = ""
    entrywise: bool = False

    def __str__(self) -> str:
        """Say it in a few words."""
        factor = "" if self.scale == 1.0 else f"{self.scale:.4g} * "
        if self.entrywise:
            factor = " * ".join((*(d for d in self.data if d != self.by), "")) or "constants * "
        if self.kind == "site":
            return factor + self.sites[0]
        if self.kind == "indexed":
            return f"{factor}{self.sites[0]}[{self.by or ', '.join(self.index)}]"
        sources = ", ".join((*self.sites, *self.index, *self.data))
        kind = f"{self.kind} in" if self.kind in ("linear", "bilinear") else "function of"
        return f"{kind} {sources}" if sources else "constant"


@dataclass(frozen=True)
class Site:
    """One site of a model.

    Attributes
    ----------
    role
        "global", "local", "enumerated", "integrated" (a chain of continuous states, which is integrated out),
        "observed", "parameter", "deterministic", or "unsupported" for a discrete latent that can be neither enumerated
        nor drawn as a count.
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
        The parents of each argument of the distribution.
    support
        Where values live.
    initial
        Starting value that a parameter was declared with.
    field
        Data field that an observed site's value is.
    observes
        Data fields that an observed site's value is made from.
    part
        The slice of a field that it is, where it is no whole one.
    states, enum_dim
        For enumerated sites: the values, laid out along their own dimension, and that dimension.
    symbols
        Dimension of the log density -> symbol, fixed for the program.
    """

    name: str
    role: Role
    family: str = ""
    plates: tuple[str, ...] = ()
    plate_dims: tuple[int, ...] = ()
    shape: tuple[int, ...] = ()
    event_dim: int = 0
    args: dict[str, Parent] = dataclasses.field(default_factory=dict)
    support: Any = constraints.real
    initial: Tensor | None = None
    field: str | None = None
    observes: tuple[str, ...] = ()
    part: Slice | None = None
    states: Tensor | None = None
    enum_dim: int = 0
    symbols: dict[int, str] = dataclasses.field(default_factory=dict)

    @property
    def latent(self) -> bool:
        """Whether the site is a latent with a guide's or a point's value (not enumerated)."""
        return self.role in ("global", "local")

    @property
    def by_state(self) -> tuple[str, ...]:
        """Enumerated sites that the prior of a latent depends on."""
        return tuple(dict.fromkeys(n for p in self.args.values() for n in p.index)) if self.latent else ()

    @property
    def countable(self) -> bool:
        """Whether the site is a discrete latent with infinitely many states, which is drawn and not enumerated."""
        return self.latent and lowest_count(self.support) is not None

    @property
    def cardinality(self) -> int:
        """How many states an enumerated site has; 1 for others."""
        return 1 if self.states is None else self.states.shape[0]

    def plate_dim(self, plate: str) -> int:
        """Dimension of a plate in the site's log density, counted from the right: -1, -2, ..."""
        return self.plate_dims[self.plates.index(plate)]

    @property
    def batch_dim(self) -> int:
        """How many dimensions of the value stand left of the event."""
        return len(self.shape) - self.event_dim


@dataclass(frozen=True)
class Tie:
    """Why rows are not independent given the globals, or cannot be taken in parts.

    Attributes
    ----------
    kind
        "local": the log density of a row moves with a local latent of another; "data": with the data of another;
        "whole": that of a site outside the plate of rows moves with the data of rows; "count": with their number.
    site
        Whose log density moves.
    source
        The local latent or data field it moves with.
    """

    kind: Literal["local", "data", "whole", "count"]
    site: str
    source: str

    def __str__(self) -> str:
        """Say it in a sentence."""
        if self.kind == "count":
            return f"site {self.site!r} is outside the plate of rows and depends on how many rows there are"
        if self.kind == "whole":
            return f"site {self.site!r} is outside the plate of rows and depends on all rows of field {self.source!r}"
        what = "the local latent" if self.kind == "local" else "field"
        return (
            f"rows are coupled: the density of {self.site!r} in a row moves with {what} {self.source!r} of other rows"
        )


@dataclass(frozen=True)
class Structure:
    """The sites of a model in the order of its story, and the symbol of each plate.

    Attributes
    ----------
    example, example_rows
        Made-up values of latents and parameters, and the rows of the data they go with (None for all).
    ties
        What ties rows to one another.
    not_drawn
        Why data cannot be drawn from the sites, one after the other; empty if they can.
    improper
        Latents whose prior cannot be drawn from: it is flat, and no probability.
    completed
        Observed site whose missing cells are summed over as a latent's -> its field.
    parted
        Site -> the field that it observes, for sites whose missing cells are latents because others read them.
    in_turn
        Fields whose entries of a row are drawn in turn, each given those before it, as their sites read them.
    products
        Multiply-adds of a row in the networks, one draw through them in all states of its discrete latents; 0 without.
    """

    sites: dict[str, Site]
    plates: dict[str, str]
    example: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    example_rows: Tensor | None = None
    ties: tuple[Tie, ...] = ()
    not_drawn: str = ""
    improper: tuple[str, ...] = ()
    completed: dict[str, str] = dataclasses.field(default_factory=dict)
    parted: dict[str, str] = dataclasses.field(default_factory=dict)
    in_turn: tuple[str, ...] = ()
    products: int = 0

    def sizes(self, known: Collection[str]) -> dict[str, int]:
        """Lengths of the plates that are no dimension of the data, in the data that were traced."""
        found: dict[str, int] = {}
        for site in self.sites.values():
            if site.role not in ("parameter", "deterministic"):
                for plate, dim in zip(site.plates, site.plate_dims, strict=True):
                    axis = site.batch_dim + dim
                    if plate not in known and axis >= 0:
                        found[plate] = max(found.get(plate, 1), site.shape[axis])
        return found


CIRCLE = constraints.interval(-math.pi, math.pi)


def support_of(fn: Any) -> Any:
    """Where values of a distribution live; torch gives angles the whole line, where their density has no integral.

    What torch says of a mixture is no set that has a bijection; its values are those of its components.
    """
    base: Any = base_distribution(fn)
    if type(base).__name__ == "VonMises":
        return CIRCLE
    if type(base).__name__ != "MixtureSameFamily":
        return fn.support
    inside = support_of(base.component_distribution)
    more = fn.event_dim - base.event_dim
    return constraints.independent(inside, more) if more else inside


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
    """Return every parameterization of a distribution's arguments: for a Normal also its variance and precision.

    Of a Student t, variance and covariance are those of the Normal that it is a scale mixture of.
    """
    base = base_distribution(fn)
    arguments = {n: v for n in base.arg_constraints if isinstance(v := argument_of(base, n), Tensor)}
    if type(base).__name__ in ("Normal", "StudentT"):  # torch knows them by their scale only
        arguments["variance"] = entrywise(Tensor.square, base.scale)
        arguments["precision"] = entrywise(lambda scale: scale.square().reciprocal(), base.scale)
    if type(base).__name__ == "MultivariateStudentT":
        arguments["covariance_matrix"], arguments["precision_matrix"] = base.covariance_matrix, base.precision_matrix
    return arguments


def primary(args: dict[str, Parent]) -> dict[str, Parent]:
    """Keep one of each group of alternative parameterizations: a recognized one where there is one."""
    kept = dict(args)
    for group in ALTERNATIVES:
        present = [n for n in args if n in group]
        if len(present) > 1:
            rank = {"site": 0, "indexed": 0, "linear": 1, "bilinear": 1, "constant": 1, "function": 2}
            best = min(present, key=lambda n: rank[args[n].kind])
            for name in present:
                if name != best:
                    del kept[name]
    return kept


def check_arguments(name: str, fn: Any) -> None:
    """Raise if a numeric argument of a distribution is outside its bounds: a probability above 1, a negative scale."""
    base = base_distribution(fn)
    for argument, constraint in base.arg_constraints.items():
        value = base.__dict__.get(argument)
        if constraints.is_dependent(constraint) or constraint.event_dim or not isinstance(value, Tensor):
            continue
        value = compact(value)
        wrong = ~constraint.check(value) & ~value.isnan()  # what is not a number shows in the log density
        if bool(wrong.any()):
            raise ModelError(
                f"site {name!r}: the argument {argument} of its {type(base).__name__} is {float(value[wrong][0]):g} at "
                f"the starting values, where {constraint} is needed; transform its input, with sigmoid or exp for "
                "example"
            )


def check_support(name: str, family: str, support: Any, value: Tensor, missing: Tensor | None = None) -> None:
    """Raise if an observed value is outside the support of the distribution that is to explain it."""
    inside = support.check(value)
    if missing is not None:  # of an event, all that was seen is looked at as soon as nothing is missing
        inside = inside | missing.flatten(inside.ndim).any(-1) if missing.ndim > inside.ndim else inside | missing
    if not bool(inside.all()):
        raise DataError(
            f"site {name!r}: {int((~inside).sum())} observed values are outside the support of its "
            f"{family} ({support}); correct the data or the model"
        )


def beyond_categories(name: str, fn: Any, value: Tensor) -> DataError | None:
    """Return the error of codes for which a distribution has no category; None where that is not what is wrong."""
    base = base_distribution(fn)
    if type(base).__name__ != "Categorical":
        return None
    count = base.logits.shape[-1]
    wrong = value[(value < 0) | (value >= count)]
    if not wrong.numel():
        return None
    return DataError(
        f"site {name!r} has category {float(wrong.reshape(-1)[0]):g}, and its distribution has the {count} categories "
        f"0 to {count - 1}; leave such rows out, or fit with data or a model that have this category too"
    )
