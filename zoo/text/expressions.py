"""Arithmetic in text, read as a tree of a few kinds of nodes and worked out by hand: no Python is run."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from zoo.errors import ModelError, unknown
from zoo.replay.chain import MarkovChain
from zoo.replay.multinomial import Multinomial
from zoo.text.arguments import check_arguments

LONGEST = 2000  # characters
DEEPEST = 150  # parts in each other
MOST = 1 << 24  # numbers that a function makes of nothing but their count
MOST_OF = 1 << 30  # that come of an operation on two tensors, which may have the rows of data
OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.MatMult: operator.matmul,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}


def _tensor(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.get_default_dtype())


def _of_tensor(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda value: function(_tensor(value))


def _checked_size(numbers: int, most: int = MOST) -> None:
    """Raise where a part would make more numbers than a model needs, before they are made."""
    if numbers > most:
        raise ValueError(f"it would make {numbers} numbers, and a part of a declared model makes {most} at most")


def _full(size: Any, size_or_value: Any, *more: Any) -> Tensor:
    given = [size, size_or_value, *more]
    sizes = tuple(map(int, given[:-1]))
    _checked_size(math.prod(sizes))
    return torch.full(sizes, float(given[-1]))


def _eye(size: Any) -> Tensor:
    _checked_size(int(size) ** 2)
    return torch.eye(int(size))


def _stack(*parts: Any) -> Tensor:
    tensors = [_tensor(part) for part in parts]
    _checked_size(sum(t.numel() for t in tensors))
    return torch.stack(tensors, -1)


def _along(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda value, *dims: function(_tensor(value), tuple(map(int, dims))) if dims else function(_tensor(value))


FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{f.__name__: _of_tensor(f) for f in (torch.exp, torch.log, torch.log1p, torch.sqrt, torch.rsqrt, torch.square)},
    **{f.__name__: _of_tensor(f) for f in (torch.abs, torch.sigmoid)},
    "softplus": lambda v: torch.nn.functional.softplus(_tensor(v)),
    "softmax": lambda v: torch.softmax(_tensor(v), -1),
    "cumsum": lambda v: torch.cumsum(_tensor(v), -1),
    "stack": lambda part, *parts: _stack(part, *parts),
    "full": _full,
    "zeros": lambda size, *sizes: _full(size, *sizes, 0.0),
    "ones": lambda size, *sizes: _full(size, *sizes, 1.0),
    "eye": _eye,
    "sum": _along(torch.sum),
    "mean": _along(torch.mean),
    "variance": _along(lambda v, dims=None: torch.var(v, dims, correction=0)),
    "levels": lambda codes: int(codes.max()) + 1,
}
PYRO = """
AsymmetricLaplace Bernoulli Beta BetaBinomial Binomial Categorical Cauchy Chi2 Dirichlet DirichletMultinomial
Exponential Gamma GammaPoisson Geometric Gumbel HalfCauchy HalfNormal InverseGamma LKJCholesky Laplace LogNormal
Logistic LowRankMultivariateNormal MultivariateNormal NegativeBinomial Normal OneHotCategorical OrderedLogistic Pareto
Poisson SkewLogistic SoftLaplace StudentT Uniform VonMises Weibull Wishart ZeroInflatedNegativeBinomial
ZeroInflatedPoisson
"""
DISTRIBUTIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(dist, name) for name in PYRO.split()},
    "Multinomial": Multinomial,  # of rows with totals of their own
    "MarkovChain": MarkovChain,
}
SIZE = "size"


class Expression:
    """Arithmetic over names: numbers, ``+ - * / ** @``, indices, and the functions of `FUNCTIONS`.

    Parameters
    ----------
    text
        As it is written.
    names
        What it may name.
    dims
        Dimensions that `size` may name.
    place
        The file, the line and the key that it is from, for errors.
    distribution
        Whether it is a distribution of such arguments, with ``.to_event(n)`` or without.

    Raises
    ------
    ModelError, UnknownNameError
        If it is anything else, or names what is not there.
    """

    def __init__(
        self, text: str, names: Collection[str], dims: Collection[str], place: str = "", *, distribution: bool = False
    ) -> None:
        if not isinstance(text, str) or len(text) > LONGEST:
            raise ModelError(
                f"expected an expression of at most {LONGEST} characters as text, found {str(text)[:40]!r}"
            )
        self.text, self._names, self._dims, self.place = text, names, dims, place
        try:
            self._tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ModelError(f"{text!r} is no expression: {getattr(error, 'msg', error)}") from None
        if _depth(self._tree) > DEEPEST:
            raise ModelError(f"{text[:40]!r}...: parts stand in each other more than {DEEPEST} deep; name some of them")
        if distribution:
            self._check_distribution(self._tree)
        else:
            self._check(self._tree)
        self.named = {node.id for node in ast.walk(self._tree) if isinstance(node, ast.Name)} & set(names)

    def _check_distribution(self, node: ast.AST) -> None:
        match node:
            case ast.Call(
                func=ast.Attribute(value=inner, attr="to_event"), args=[ast.Constant(value=int())], keywords=[]
            ):
                self._check_distribution(inner)
            case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
                if name not in DISTRIBUTIONS:
                    raise unknown("distribution", name, DISTRIBUTIONS)
                if any(keyword.arg is None for keyword in keywords):
                    raise ModelError(f"{self.text!r}: arguments have names or none, and no stars")
                check_arguments(node, name, DISTRIBUTIONS[name])
                for argument in (*args, *(keyword.value for keyword in keywords)):
                    self._check(argument)
            case _:
                raise ModelError(f"{self.text!r}: expected a distribution, such as Normal(0, 1)")

    def _check(self, node: ast.AST) -> None:
        match node:
            case ast.Constant(value=bool() | int() | float()):
                return
            case ast.Name(id=name):
                if name not in self._names:
                    raise unknown("name", name, self._names)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=inner):
                self._check(inner)
            case ast.BinOp(op=op, left=left, right=right) if type(op) in OPERATORS or isinstance(op, ast.Pow):
                self._check(left)
                self._check(right)
            case ast.Call(func=ast.Name(id="size"), args=[ast.Name(id=dim)], keywords=[]):
                if dim not in self._dims:
                    raise unknown("dimension", dim, self._dims)
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
                if name not in FUNCTIONS:
                    raise unknown("function", name, (*FUNCTIONS, SIZE))
                check_arguments(node, name, FUNCTIONS[name])
                for argument in args:
                    self._check(argument)
            case ast.List(elts=parts) | ast.Tuple(elts=parts):
                for part in parts:
                    self._check(part)
            case ast.Subscript(value=value, slice=index):
                self._check(value)
                self._check(index)
            case _:
                raise ModelError(
                    f"{self.text!r}: {ast.unparse(node)!r} is not arithmetic; expressions are made of numbers, names, "
                    f"+ - * / ** @, indices x[z], and the functions {', '.join((*FUNCTIONS, SIZE))}"
                )

    def value(self, values: Mapping[str, Any], sizes: Mapping[str, int]) -> Any:
        """Work it out: a number, a tensor or a distribution."""
        with self.located():
            return _value(self._tree, values, sizes)

    @contextmanager
    def located(self) -> Iterator[None]:
        """Note on what is raised inside where the expression stands."""
        try:
            yield
        except Exception as error:
            error.add_note(f"{self.place}, `{self.text}`")
            raise


def _depth(tree: ast.AST) -> int:
    """Return how many parts stand in each other, which is looked for layer by layer: it may be thousands."""
    depth, layer = 0, [tree]
    while layer:
        depth, layer = depth + 1, [part for node in layer for part in ast.iter_child_nodes(node)]
    return depth


def _numbers(op: ast.AST, one: Tensor, other: Tensor) -> int:
    """Return how many numbers an operation on two tensors makes; 0 where they do not go together, as it says itself."""
    with suppress(RuntimeError):
        if isinstance(op, ast.MatMult) and one.dim() and other.dim():
            rest = math.prod(torch.broadcast_shapes(one.shape[:-2], other.shape[:-2]))
            return int(rest * math.prod(one.shape[-2:-1]) * (other.shape[-1] if other.dim() > 1 else 1))
        return math.prod(torch.broadcast_shapes(one.shape, other.shape))
    return 0


def _value(node: Any, values: Mapping[str, Any], sizes: Mapping[str, int]) -> Any:
    """Work out a node that has been checked."""

    def inside(part: Any) -> Any:
        return _value(part, values, sizes)

    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            return values[name]
        case ast.UnaryOp(op=op, operand=inner):
            return OPERATORS[type(op)](inside(inner))
        case ast.BinOp(op=ast.Pow(), left=left, right=right):
            base, power = inside(left), inside(right)  # as floats: whole numbers have no largest, and take all memory
            return (float(base) if isinstance(base, int) else base) ** power
        case ast.BinOp(op=op, left=left, right=right):
            one, other = inside(left), inside(right)
            if isinstance(one, Tensor) and isinstance(other, Tensor) and one.numel() * other.numel() > MOST_OF:
                _checked_size(_numbers(op, one, other), MOST_OF)
            return OPERATORS[type(op)](one, other)
        case ast.Call(func=ast.Attribute(value=inner), args=[ast.Constant(value=dims)]):
            return inside(inner).to_event(dims)
        case ast.Call(func=ast.Name(id="size"), args=[ast.Name(id=dim)]):
            return sizes[dim]
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
            given = {str(k.arg): inside(k.value) for k in keywords}
            return (DISTRIBUTIONS.get(name) or FUNCTIONS[name])(*map(inside, args), **given)
        case ast.List(elts=parts):
            return torch.stack([_tensor(inside(part)) for part in parts])
        case ast.Tuple(elts=parts):
            return tuple(map(inside, parts))
        case ast.Subscript(value=value, slice=index):
            return inside(value)[inside(index)]
    raise AssertionError(ast.dump(node))
