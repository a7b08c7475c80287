"""Models made from plain Pyro functions."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Protocol, get_type_hints, overload

from torch import Tensor

from zoo.declare.fields import Field
from zoo.declare.model import REQUIRED, Model
from zoo.errors import ModelError

P = ParamSpec("P")


class FunctionModel(Protocol[P]):
    """What a type checker knows of a model made from a function; at run time it is a class that descends from `Model`.

    Calling it with the function's hyperparameters makes an instance.
    """

    __name__: str
    fields: dict[str, Field]
    hyperparameters: dict[str, tuple[Any, Any]]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Model:
        """Make a model with these hyperparameters."""


ModelLike = Model | type[Model] | FunctionModel[...]


class Declare(Protocol):
    """A decorator that takes a function's data arguments away: what is left, P, are its hyperparameters."""

    # Types cannot say "all positional arguments", so they are counted; of functions with many, nothing is checked.
    @overload
    def __call__(self, f: Callable[Concatenate[Any, Any, Any, Any, Any, Any, ...], Any], /) -> FunctionModel[...]: ...
    @overload
    def __call__(self, f: Callable[Concatenate[Any, Any, Any, Any, Any, P], Any], /) -> FunctionModel[P]: ...
    @overload
    def __call__(self, f: Callable[Concatenate[Any, Any, Any, Any, P], Any], /) -> FunctionModel[P]: ...
    @overload
    def __call__(self, f: Callable[Concatenate[Any, Any, Any, P], Any], /) -> FunctionModel[P]: ...
    @overload
    def __call__(self, f: Callable[Concatenate[Any, Any, P], Any], /) -> FunctionModel[P]: ...
    @overload
    def __call__(self, f: Callable[Concatenate[Any, P], Any], /) -> FunctionModel[P]: ...
    def __call__(self, f: Callable[..., Any], /) -> FunctionModel[...]:
        """Make the function a model."""


def model(**fields: Field) -> Declare:
    """Turn a plain Pyro function into a model: data arguments are the `fields`, keyword-only ones hyperparameters.

    Examples
    --------
    >>> import pyro, pyro.distributions as dist
    >>> from zoo import Binary, model
    >>> @model(flips=Binary("toss"))
    ... def coin(flips, *, a: float = 1.0, b: float = 1.0):
    ...     heads = pyro.sample("heads", dist.Beta(a, b))
    ...     with pyro.plate("toss", len(flips)):
    ...         pyro.sample("flips", dist.Bernoulli(heads), obs=flips)
    >>> coin(a=2.0)
    coin(a=2.0, b=1.0)
    """
    for name, field in fields.items():
        if not isinstance(field, Field):
            raise ModelError(f"zoo.model: {name}={field!r} must be a field, for example {name}=Real('row')")

    def decorate(function: Callable[..., Any], /) -> Any:
        parameters = inspect.signature(function).parameters.values()
        keyword = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
        positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        variable = [str(p) for p in parameters if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        if variable:
            raise ModelError(f"{function.__name__}: {variable[0]} is not allowed; name every argument")
        if set(positional) != set(fields):
            raise ModelError(
                f"{function.__name__}: the arguments before '*' must be the data fields {sorted(fields)}, "
                f"not {sorted(positional)}; hyperparameters come after '*'"
            )

        def forward(self: Model, **data: Tensor) -> Any:
            return function(**data, **self.settings)

        try:
            hints = get_type_hints(function, include_extras=True)
        except NameError:
            hints = {}
        body: dict[str, Any] = {
            "__doc__": function.__doc__,
            "__module__": function.__module__,
            "__qualname__": function.__qualname__,
            "__annotations__": {p.name: hints.get(p.name, Any) for p in keyword},
            "forward": forward,
            **fields,
            **{p.name: p.default for p in keyword if p.default is not REQUIRED},
        }
        return types.new_class(function.__name__, (Model,), exec_body=lambda space: space.update(body))

    return decorate
