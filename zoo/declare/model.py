"""What a model is: data fields, hyperparameters with defaults, and one generative method."""

from __future__ import annotations

import html
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, dataclass_transform, get_args, get_origin, get_type_hints

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pyro.nn import PyroModule
from pyro.nn.module import _PyroModuleMeta
from torch import Tensor

from zoo.declare.fields import RESERVED, Field
from zoo.errors import ModelError, short, unknown

LARGEST = 2**63  # what tensors cannot hold
REQUIRED = inspect.Parameter.empty


def validate(owner: str, name: str, value: Any, hint: Any) -> Any:
    """Return `value` as the type `hint`, or raise a `ModelError` that names the setting and what it must be."""
    if hint is Any or (isinstance(value, Tensor) and _takes(hint, Tensor)):
        return value
    if isinstance(value, Tensor) and value.ndim:
        value = value.tolist()
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()  # scalars of NumPy and torch
    try:
        found = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
    except (ValidationError, ValueError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        reason = reason[:1].lower() + reason[1:]
        raise ModelError(f"{owner}: {name}={_short(value)} is not valid: {reason}") from None
    if isinstance(value, bool) and not isinstance(found, bool):
        raise ModelError(f"{owner}: {name}={value!r} is not valid: True and False are not numbers")
    if isinstance(found, int) and abs(found) >= LARGEST:
        raise ModelError(f"{owner}: {name}={_short(value)} is not valid: input should be below 2^63 in size")
    # Bounds without an end are infinite, but not what has to be positive; nothing is NaN.
    if isinstance(found, float) and (math.isnan(found) or (math.isinf(found) and _takes(hint, Annotated))):
        raise ModelError(f"{owner}: {name}={found!r} is not valid: input should be a finite number")
    return found


def _takes(hint: Any, kind: Any) -> bool:
    """Tell whether an annotation, or one in a union, is of a kind: a class, or Annotated for numbers in a range."""
    if kind is Annotated and hasattr(hint, "__metadata__"):
        return True
    if isinstance(hint, type) and isinstance(kind, type) and issubclass(kind, hint):
        return True
    return any(_takes(part, kind) for part in get_args(hint))


def _short(value: Any) -> str:
    """Say a value in a line; of an array its shape."""
    if getattr(value, "ndim", 0):
        return f"({type(value).__name__} of shape {tuple(value.shape)})"
    return short(value, 200)


def written(value: Any) -> str:
    """How a setting is written: networks, classes and functions by their names."""
    if isinstance(value, torch.nn.Module):
        return f"{type(value).__name__}(...)"
    return getattr(value, "__name__", repr(value))


def _is_part(hint: Any) -> bool:
    """Tell whether an annotation declares a buffer, a network or a class variable, and no hyperparameter."""
    if hint is ClassVar or get_origin(hint) is ClassVar:
        return True
    return isinstance(hint, type) and issubclass(hint, Tensor | torch.nn.Module)


class _Signature:
    """The `__signature__` of a model's class: its hyperparameters, and what an `__init__` of its own takes."""

    def __get__(self, instance: Model | None, owner: type[Model]) -> inspect.Signature:
        if instance is not None:  # calling an instance runs `forward`
            raise AttributeError("__signature__")
        _, *taken = inspect.signature(owner.__init__).parameters.values()
        if not any(p.kind is p.VAR_KEYWORD for p in taken):
            return inspect.Signature(taken)
        taken = [p for p in taken if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
        kind = inspect.Parameter.KEYWORD_ONLY if taken else inspect.Parameter.POSITIONAL_OR_KEYWORD
        named = {p.name for p in taken}
        for name, (hint, default) in owner.hyperparameters.items():
            if default is REQUIRED and taken and taken[-1].default is not REQUIRED:
                kind = inspect.Parameter.KEYWORD_ONLY  # no place among positional arguments after one with a default
            if name not in named:
                taken.append(inspect.Parameter(name, kind, default=default, annotation=hint))
        return inspect.Signature(taken)


class _ModelType(_PyroModuleMeta):
    """The type of models, which shows in `dir` and `help` what models have, and not the hundred members of modules."""

    def __dir__(cls) -> list[str]:
        """Names that the class has from `Model` on; an instance lists those of `torch.nn.Module` too."""
        own = cls.__mro__[: cls.__mro__.index(Model) + 1]
        return sorted({name for base in own for name in vars(base) if not name.startswith("_")})


@dataclass_transform(eq_default=False)
class Model(PyroModule, metaclass=_ModelType):
    """Base class of models: p(x, z; theta) as a Pyro program in `forward`.

    A subclass declares, in its body,

    * data fields: ``effect = Real("school")``, handed to `forward` by name;
    * hyperparameters: ``scale: float = 5.0``, read as ``self.scale``, set by keyword when the model is made;
    * ``dims``: names of event dimensions of sites, ``{"loc": ("feature",)}``;
    * ``forward(self, ...)``: the generative story in Pyro's words.

    It may refine itself by three more methods, each called with the data fields by name:

    * ``check``: raise `DataError` for data the model cannot be fitted to;
    * ``setup``: make what depends on the data, once per fit: networks (``self.net = MLP(...)``), constants
      (``self.center = torch.nn.Buffer(x.mean(0))``). They are declared there and not in the body, whose annotated names
      type checkers take for hyperparameters;
    * ``initial``: propose starting values, a dict from site or parameter to tensor.

    In these three, ``self.coords`` maps the data's dimensions to their labels, ``self.data_dims`` the fields to the
    names of their dimensions, ``self.row_weights`` holds the weight of each row, or None, and ``self.missing`` maps
    fields with missing cells to where these are; the field itself holds made-up numbers there. What `setup` finds that
    users should know, sentences in ``self.remarks``, stands among the warnings of a fit.

    Raises
    ------
    UnknownNameError
        For a hyperparameter the model does not have.
    ModelError
        For a hyperparameter of the wrong type, or one that is required and missing.

    Examples
    --------
    >>> import pyro
    >>> import pyro.distributions as dist
    >>> import zoo
    >>> class Waits(zoo.Model):
    ...     wait = zoo.Positive("bus")
    ...     a: float = 2.0
    ...
    ...     def forward(self, wait):
    ...         rate = pyro.sample("rate", dist.Gamma(self.a, 1.0))
    ...         with pyro.plate("bus", len(wait)):
    ...             pyro.sample("wait", dist.Exponential(rate), obs=wait)
    >>> from inference import fit
    >>> round(fit(Waits(a=1.0), [2.0, 1.0, 3.0], method="exact", seed=0).objective.value, 3)  # log 3! / 7^4
    -5.992
    """

    dims: Mapping[str, tuple[str, ...]] = {}
    coords: Mapping[str, Any] = {}
    row_weights: Tensor | None = None
    missing: Mapping[str, Tensor] = {}
    data_dims: Mapping[str, tuple[str, ...]] = {}
    remarks: tuple[str, ...] = ()
    __signature__ = _Signature()
    fields: ClassVar[dict[str, Field]] = {}
    hyperparameters: ClassVar[dict[str, tuple[Any, Any]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Collect the fields and hyperparameters of the class body and of its bases."""
        super().__init_subclass__(**kwargs)
        cls.fields = {**cls.fields, **{n: v for n, v in vars(cls).items() if isinstance(v, Field)}}
        own = {n for n in inspect.get_annotations(cls) if not n.startswith("_")} - {
            *cls.fields,
            "dims",
            "coords",
            "row_weights",
            "missing",
            "data_dims",
            "remarks",
        }
        try:
            hints = get_type_hints(cls, include_extras=True)
        except NameError:  # an annotation made of local names: accept any value
            hints = dict.fromkeys(own, Any)
        taken = (
            [d for names in cls.dims.values() for d in names if d in RESERVED] if isinstance(cls.dims, Mapping) else []
        )
        if taken:
            raise ModelError(f"{cls.__name__}: a dimension cannot be called {taken[0]!r}, which ArviZ uses; rename it")
        inherited = {n: (hint, vars(cls).get(n, default)) for n, (hint, default) in cls.hyperparameters.items()}
        cls.hyperparameters = {
            **inherited,
            **{
                n: (hints[n], vars(cls).get(n, REQUIRED))
                for n in inspect.get_annotations(cls)
                if n in own and not _is_part(hints[n])
            },
        }

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__()
        known, owner = type(self).hyperparameters, type(self).__name__
        if len(args) > len(known):
            raise ModelError(f"{owner} takes {len(known)} hyperparameters ({', '.join(known)}), not {len(args)}")
        given: dict[str, Any] = dict(zip(known, args, strict=False))
        twice = [name for name in given if name in settings]
        if twice:
            raise ModelError(f"{owner}: {twice[0]} is given twice, as {given[twice[0]]!r} and {settings[twice[0]]!r}")
        settings = {**given, **settings}
        for name in settings:
            if name not in known:
                raise unknown(f"hyperparameter of {owner}", name, known)
        for name, (hint, default) in known.items():
            value = settings.get(name, default)
            if value is REQUIRED:
                raise ModelError(f"{owner}: hyperparameter {name!r} has no default and must be given")
            given[name] = validate(owner, name, value, hint) if name in settings else value
            object.__setattr__(self, name, given[name])
        object.__setattr__(self, "_given", given)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; a network takes the place of the hyperparameter that says which network."""
        named = isinstance(value, torch.nn.Module) and name in type(self).hyperparameters
        if named:
            vars(self).pop(name, None)
        super().__setattr__(name, value)
        if named:  # where it is found before the default, which stands in the class
            vars(self)[name] = value

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Model:
        """Move weights and buffers as modules do, and also tensors that `setup` kept as plain attributes."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        vars(self).update({n: fn(v) for n, v in vars(self).items() if isinstance(v, Tensor)})
        return self

    def __dir__(self) -> list[str]:
        """List all there is, what comes from `torch.nn.Module` included."""
        return sorted({*object.__dir__(self), *self._parameters, *self._buffers, *self._modules})

    def forward(self, *args: Any, **data: Any) -> Any:
        """Tell the generative story; every subclass has its own.

        Examples
        --------
        >>> import torch
        >>> import zoo
        >>> from pyro.poutine import trace
        >>> told = trace(zoo.BetaBernoulli().forward).get_trace(torch.tensor([1.0, 0.0]))
        >>> [name for name in told.nodes if not name.startswith("_")]
        ['p', 'row', 'x']
        """
        raise ModelError(f"{type(self).__name__} declares no forward(...) method, which tells its generative story")

    def check(self, *args: Any, **data: Any) -> None:
        """Raise `DataError` if the data cannot be fitted; accepts everything unless a model says otherwise.

        Examples
        --------
        >>> import torch
        >>> import zoo
        >>> zoo.PoissonMixture(components=3).check(torch.tensor([[1.0], [2.0]]))
        Traceback (most recent call last):
            ...
        zoo.errors.DataError: more components (3) than distinct rows (2 among 2); ...
        """

    def setup(self, *args: Any, **data: Any) -> None:
        """Make what depends on the data; called once per fit, on the fit's own copy of the model.

        Examples
        --------
        >>> import torch
        >>> import zoo
        >>> model = zoo.GammaPoisson()
        >>> model.setup(torch.tensor([3.0, 5.0]))
        >>> model.exposure  # one over the mean of the data
        tensor(0.2500)
        """

    def initial(self, *args: Any, **data: Any) -> dict[str, Tensor]:
        """Propose starting values for some or all sites and parameters; none unless a model says otherwise.

        Examples
        --------
        >>> import zoo
        >>> model, x = zoo.PPCA(factors=1), torch.eye(4)[:, :3]
        >>> model.setup(x)
        >>> sorted(model.initial(x))
        ['loadings', 'means', 'variance', 'z']
        """
        return {}

    @property
    def settings(self) -> dict[str, Any]:
        """The hyperparameters and their values; of one that `setup` has made a network of, what was given.

        Examples
        --------
        >>> import zoo
        >>> zoo.BetaBernoulli(a=2.0).settings
        {'a': 2.0, 'b': 1.0}
        """
        found = {name: getattr(self, name) for name in type(self).hyperparameters}
        return {n: self._given[n] if isinstance(v, torch.nn.Module) else v for n, v in found.items()}

    def __repr__(self) -> str:
        """Show the model with its hyperparameters, as it would be written."""
        return f"{type(self).__name__}({', '.join(f'{k}={written(v)}' for k, v in self.settings.items())})"

    def _repr_html_(self) -> str:
        said = (inspect.getdoc(type(self)) or "").partition("\n")[0]
        fields = "".join(f"<li>{html.escape(f'{name}: {field!r}')}</li>" for name, field in self.fields.items())
        return f"<h4>{html.escape(repr(self))}</h4>\n<p>{html.escape(said)}</p>\n<ul>{fields}</ul>"


def has_networks(instance: Model) -> bool:
    """Tell whether the model owns network weights, which makes float32 the default precision."""
    return any(isinstance(p, torch.nn.Parameter) for p in instance.parameters())
