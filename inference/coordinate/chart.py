"""Where coordinate ascent is, as one vector of real numbers, any of which is a place: what extrapolation works in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.transforms import Transform

from inference.conjugate.posteriors import Posterior, Single, read
from inference.coordinate.ascent import State, distinct
from zoo.program.program import Program
from zoo.replay.bijections import bijection
from zoo.replay.evaluate import Values

NUMBERS: Mapping[str, constraints.Constraint] = {  # what posteriors over several unknowns are made of
    "tril": constraints.lower_cholesky,
    "kappa": constraints.positive,
    "a": constraints.positive,
    "b": constraints.positive,
    "df": constraints.positive,
}


class Map(ABC):
    """Real numbers for the values of one tensor, whose own dimensions are on the right."""

    @abstractmethod
    def flat(self, value: Tensor) -> Tensor:
        """Numbers of a value, in its own shape or as vectors; not finite where it has none."""

    @abstractmethod
    def value(self, numbers: Tensor) -> Tensor:
        """Return the value that has these numbers."""


class Same(Map):
    """Real numbers as they are."""

    def flat(self, value: Tensor) -> Tensor:
        """Do nothing."""
        return value

    def value(self, numbers: Tensor) -> Tensor:
        """Do nothing."""
        return numbers


class Root(Map):
    """x = u^2: a variance or a rate may go to 0 in finitely many steps, where its logarithm has no limit."""

    def flat(self, value: Tensor) -> Tensor:
        """Take the square root."""
        return value.sqrt()

    def value(self, numbers: Tensor) -> Tensor:
        """Square."""
        return numbers.square()


class Angle(Map):
    """p = sin^2 u."""

    def flat(self, value: Tensor) -> Tensor:
        """Take the angle, in [0, pi / 2]."""
        return value.sqrt().asin()

    def value(self, numbers: Tensor) -> Tensor:
        """Take the squared sine."""
        return numbers.sin().square()


class Sphere(Map):
    """p = u^2 / |u|^2: probabilities, of which some may be 0."""

    def flat(self, value: Tensor) -> Tensor:
        """Take square roots."""
        return value.sqrt()

    def value(self, numbers: Tensor) -> Tensor:
        """Square, and divide by the sum."""
        square = numbers.square()
        return square / square.sum(-1, keepdim=True)


class Triangle(Map):
    """S = L L^T, or L itself: numbers are the entries of L below its diagonal and on it."""

    def __init__(self, *, product: bool) -> None:
        self.product = product

    def flat(self, value: Tensor) -> Tensor:
        """Entries (..., d (d + 1) / 2) of matrices (..., d, d)."""
        if self.product:
            value, info = torch.linalg.cholesky_ex(value)
            value = torch.where((info == 0)[..., None, None], value, torch.nan)
        row, column = torch.tril_indices(value.shape[-1], value.shape[-1], device=value.device)
        return value[..., row, column]

    def value(self, numbers: Tensor) -> Tensor:
        """Matrices (..., d, d)."""
        count = numbers.shape[-1]
        size = int((8 * count + 1) ** 0.5 - 1) // 2
        row, column = torch.tril_indices(size, size, device=numbers.device)
        tril = numbers.new_zeros(*numbers.shape[:-1], size, size)
        tril[..., row, column] = numbers
        # Columns of L may change their signs together, so that its diagonal is positive.
        tril = tril * tril.diagonal(dim1=-2, dim2=-1).sign()[..., None, :]
        return tril @ tril.mT if self.product else tril


class Other(Map):
    """The bijection from unconstrained space."""

    def __init__(self, transform: Transform) -> None:
        self.transform = transform

    def flat(self, value: Tensor) -> Tensor:
        """Invert it."""
        numbers: Tensor = self.transform.inv(value)
        return numbers

    def value(self, numbers: Tensor) -> Tensor:
        """Apply it."""
        value: Tensor = self.transform(numbers)
        return value


def map_of(support: constraints.Constraint, name: str) -> Map:
    """Return real numbers for values in a support.

    Coordinates in which an edge of the support is a point: where the limit of an ascent is at an edge, or next to it,
    numbers that run off to infinity would have no limit to be extrapolated to.
    """
    base = support.base_constraint if isinstance(support, constraints.independent) else support
    if base in (constraints.real, constraints.real_vector):
        return Same()
    if base is constraints.simplex:
        return Sphere()
    if base is constraints.positive_definite or base is constraints.lower_cholesky:
        return Triangle(product=base is constraints.positive_definite)
    ends = getattr(base, "lower_bound", None), getattr(base, "upper_bound", None)
    if isinstance(base, type(constraints.positive) | type(constraints.nonnegative)) and ends == (0, None):
        return Root()
    if isinstance(base, type(constraints.unit_interval)) and ends == (0, 1):
        return Angle()
    return Other(bijection(support, name))


@dataclass
class Part:
    """One tensor of a state.

    Attributes
    ----------
    name
        Of the unknown, or of a number of a posterior.
    posterior
        The unknowns of the posterior that it belongs to; empty for a point.
    map
        Its real numbers.
    shape
        Shape of the numbers of one state.
    """

    name: str
    posterior: tuple[str, ...]
    map: Map
    shape: torch.Size

    def of(self, state: State) -> Tensor:
        """Return the tensor."""
        if not self.posterior:
            return state.values[self.name]
        return state.posteriors[self.posterior[0]].tensors()[self.name]


class Chart:
    """States as vectors, shape (starts, p): values of all unknowns but local ones, and the numbers of posteriors.

    Local latents follow from the rest in one step. A number that is not finite is none of the vector's; it stands at 0.

    Parameters
    ----------
    program
        What the unknowns are.
    state
        Any state.
    stacked
        Values are those of several starts, stacked along a new dimension 0.
    """

    def __init__(self, program: Program, state: State, *, stacked: bool = False) -> None:
        self.stacked, self.dtype = stacked, program.dtype
        self.parts: list[Part] = []
        local = {s.name for s in program.locals}
        for name, value in state.values.items():
            if name in local or name in state.posteriors:
                continue
            support = program.sites[name].support if name in program.sites else constraints.real
            self._add(name, (), map_of(support, name), value)
        for posterior in distinct(state.posteriors):
            if local & set(posterior.names):
                continue
            laws = posterior.base.arg_constraints if isinstance(posterior, Single) else NUMBERS
            for name, tensor in posterior.tensors().items():
                if tensor.is_floating_point():
                    self._add(name, posterior.names, map_of(laws.get(name, constraints.real), name), tensor)

    def _add(self, name: str, posterior: tuple[str, ...], how: Map, value: Tensor) -> None:
        numbers = how.flat(value)
        self.parts.append(Part(name, posterior, how, numbers.shape[1:] if self.stacked else numbers.shape))

    @property
    def size(self) -> int:
        """How many numbers."""
        return sum(part.shape.numel() for part in self.parts)

    def vector(self, state: State) -> Tensor:
        """Return the vector of a state, in double precision."""
        starts = len(next(iter(state.values.values()))) if self.stacked else 1
        flat = [part.map.flat(part.of(state).double()).reshape(starts, -1) for part in self.parts]
        return torch.cat(flat, 1).nan_to_num(0.0, 0.0, 0.0)

    def state(self, vector: Tensor, like: State) -> State:
        """Return the state at a vector; what is not in it, or has no number there, is as in `like`."""
        values, posteriors = dict(like.values), dict(like.posteriors)
        numbers: dict[tuple[str, ...], Values] = {}
        flat = vector.split([part.shape.numel() for part in self.parts], 1)
        for part, own in zip(self.parts, flat, strict=True):
            known = part.of(like)
            shape = (len(vector), *part.shape) if self.stacked else part.shape
            value = part.map.value(own.reshape(shape)).to(known.dtype)
            usable = part.map.flat(known).isfinite()
            value = torch.where(usable if usable.shape == value.shape else usable.all(), value, known)
            if part.posterior:
                numbers.setdefault(part.posterior, {})[part.name] = value
            else:
                values[part.name] = value
        for names, changed in numbers.items():
            made = remade_of(posteriors[names[0]], changed)
            posteriors.update(dict.fromkeys(names, made))
            values.update({n: v for n, v in made.mean().items() if n in values})
        return State(values, posteriors)


def remade_of(q: Posterior, changed: Values) -> Posterior:
    """Make a posterior of the same kind from other numbers."""
    return read(q.kind, q.names, q.describe(), {**q.tensors(), **changed})
