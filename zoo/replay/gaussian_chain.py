"""The distribution of a linear-Gaussian chain over the rows of a data plate: the state of a state space model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from zoo.elimination.kalman import draw_chain, square_root
from zoo.errors import ModelError
from zoo.replay.chain import firsts

SINGULAR = 1e-12  # share of its largest variance below which a direction has none
APART = 1e-6  # how far from its support a state may be, in units of its size


class LinearGaussianChain(TorchDistribution):
    """p(h) = Normal(h_1 | m, P) prod_t Normal(h_t | A_t h_{t-1} + b_t, Q_t), one state vector per row of its plate.

    Each row is given the row before, so one statement declares the states of a linear-Gaussian state space model. What
    is observed of them follows in plain Pyro, with a Normal location that is affine in the row's state::

        with pyro.plate("time", len(x)):
            h = pyro.sample("h", zoo.LinearGaussianChain(m, P, A, Q))
            pyro.sample("x", dist.Normal((h * design).sum(-1), scale), obs=x)

    Every method integrates over all paths exactly (Kalman filter and smoother, over all rows at once), also where cells
    or whole rows of x are missing (NaN): such rows are forecast. What a row contributes to the log likelihood is
    log p(x_t | x_1, ..., x_{t-1}) of its sequence.

    Parameters
    ----------
    initial_loc, initial_cov
        Mean m, shape (d,), and covariance P, shape (d, d), of the first state. P may be singular, or large where
        nothing is known of where it begins.
    transition
        A, shape (d, d), or one for each row where times are irregular, (rows, d, d). That of a first row is not used.
    noise_cov
        Q, shape (d, d) or (rows, d, d). It may be singular: components without noise of their own, as in a seasonal or
        the companion form of an autoregression.
    offset
        b, shape (d,) or (rows, d); 0 if left out.
    start
        For sequences below each other: true, or 1, in the first row of each, shape (rows,). The first row of all always
        is one.

    Raises
    ------
    ModelError
        If the shapes do not fit.

    Notes
    -----
    Durbin and Koopman (2012), "Time Series Analysis by State Space Methods", chapters 3 and 4.

    Examples
    --------
    >>> import pyro
    >>> import pyro.distributions as dist
    >>> import torch
    >>> import zoo
    >>> from inference import fit
    >>> @zoo.model(x=zoo.Real("time"))
    ... def level(x):
    ...     scale = pyro.sample("scale", dist.Exponential(1.0))
    ...     one = torch.eye(1)
    ...     with pyro.plate("time", len(x)):
    ...         h = pyro.sample("h", zoo.LinearGaussianChain(torch.zeros(1), 100 * one, one, 0.1 * one))
    ...         pyro.sample("x", dist.Normal(h[..., 0], scale), obs=x)
    >>> result = fit(level, [1.0, 1.4, 0.9, 2.1], method="laplace", seed=0)
    >>> result.objective.kind
    'elbo'
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "initial_loc": constraints.real_vector,
        "initial_cov": constraints.positive_semidefinite,
        "transition": constraints.independent(constraints.real, 2),
        "noise_cov": constraints.positive_semidefinite,
        "offset": constraints.real_vector,
    }
    support = constraints.real_vector

    def __init__(
        self,
        initial_loc: Tensor,
        initial_cov: Tensor,
        transition: Tensor,
        noise_cov: Tensor,
        offset: Tensor | None = None,
        start: Tensor | None = None,
        *,
        batch_shape: Sequence[int] = (),
        validate_args: bool | None = None,
    ) -> None:
        d = initial_loc.shape[-1] if initial_loc.ndim else 0
        offset = torch.zeros_like(initial_loc) if offset is None else offset
        self.initial_loc, self.initial_cov, self.start = initial_loc, initial_cov, start
        self.transition, self.noise_cov, self.offset = transition, noise_cov, offset
        shape = torch.Size(batch_shape)
        self._check("initial_loc", initial_loc, (d,), None)
        self._check("initial_cov", initial_cov, (d, d), None)
        rows = shape[-1] if shape else -1
        for name, value, own in (("transition", transition, 2), ("noise_cov", noise_cov, 2), ("offset", offset, 1)):
            self._check(name, value, (d,) * own, rows)
        if start is not None and (start.ndim != 1 or (shape and len(start) != rows)):
            plate = f", and the plate has {rows} rows" if shape else ""
            raise ModelError(
                f"LinearGaussianChain: start says of each row whether a sequence begins there, but has shape "
                f"{tuple(start.shape)}{plate}; give one entry per row"
            )
        super().__init__(shape, torch.Size((d,)), validate_args=validate_args)

    @staticmethod
    def _check(name: str, value: Tensor, own: tuple[int, ...], rows: int | None) -> None:
        """Raise if an argument has another shape than its own, or one of it for each row (-1 for any number)."""
        found = tuple(value.shape)
        by_row = rows is not None and len(found) == len(own) + 1 and found[1:] == own and rows in (-1, found[0])
        if (found == own and own[0]) or by_row:
            return
        many = "" if rows is None else f" or {('rows' if rows == -1 else rows, *own)}".replace("'", "")
        raise ModelError(
            f"LinearGaussianChain: with states of length {own[0]} (that of initial_loc) {name} needs shape "
            f"{own}{many}, not {found}"
        )

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> LinearGaussianChain:
        """Return the chain over this many rows.

        Examples
        --------
        >>> import torch
        >>> import zoo
        >>> one = torch.eye(1)
        >>> walk = zoo.LinearGaussianChain(torch.zeros(1), 100 * one, one, 0.25 * one)
        >>> len(walk), len(walk.expand([3]))
        (1, 3)
        """
        given = self.initial_loc, self.initial_cov, self.transition, self.noise_cov, self.offset, self.start
        return type(self)(*given, batch_shape=batch_shape, validate_args=False)

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.batch_shape[-1] if self.batch_shape else 1

    @property
    def first(self) -> Tensor:
        """Which rows begin a sequence, shape (rows,).

        Examples
        --------
        >>> import torch
        >>> import zoo
        >>> one = torch.eye(1)
        >>> walk = zoo.LinearGaussianChain(torch.zeros(1), 100 * one, one, 0.25 * one).expand([3])
        >>> walk.first
        tensor([ True, False, False])
        """
        return firsts(self.start, len(self), self.initial_loc.device)

    @property
    def steps(self) -> tuple[Tensor, Tensor, Tensor]:
        """F, u and Q of each row, (rows, d, d), (rows, d) and (rows, d, d): of a first row 0, m and P.

        Examples
        --------
        >>> import torch
        >>> import zoo
        >>> one = torch.eye(1)
        >>> walk = zoo.LinearGaussianChain(torch.zeros(1), 100 * one, one, 0.25 * one).expand([3])
        >>> transition, offset, noise = walk.steps
        >>> transition.flatten(), noise.flatten()
        (tensor([0., 1., 1.]), tensor([100.0000,   0.2500,   0.2500]))
        """
        rows, d = len(self), self.event_shape[0]
        first = self.first[:, None]
        return (
            torch.where(first[..., None], 0.0, self.transition.expand(rows, d, d)),
            torch.where(first, self.initial_loc, self.offset.expand(rows, d)),
            torch.where(first[..., None], self.initial_cov, self.noise_cov.expand(rows, d, d)),
        )

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(h_t | h_{t-1}) of each row; minus infinity off what the row before says in directions without noise.

        Examples
        --------
        >>> import torch
        >>> import zoo
        >>> one = torch.eye(1)
        >>> walk = zoo.LinearGaussianChain(torch.zeros(1), 100 * one, one, 0.25 * one).expand([3])
        >>> path = torch.tensor([[0.0], [1.0], [1.0]])
        >>> walk.log_prob(path)
        tensor([-3.2215, -2.2258, -0.2258])
        >>> torch.distributions.Normal(path[:-1, 0], 0.5).log_prob(path[1:, 0])  # of all rows but the first
        tensor([-2.2258, -0.2258])
        """
        transition, offset, noise = self.steps
        before = value.roll(1, -2)
        gap = value - (transition @ before[..., None])[..., 0] - offset
        variances, directions = torch.linalg.eigh(noise)
        along = (directions.mT @ gap[..., None])[..., 0]
        free = variances > SINGULAR * variances.amax(-1, keepdim=True).clamp_min(torch.finfo(noise.dtype).tiny)
        safe = torch.where(free, variances, 1.0)
        density = -0.5 * (along.square() / safe + safe.log() + math.log(2 * math.pi))
        size = APART * (1.0 + value.abs().amax(-1, keepdim=True))
        return torch.where(free, density, torch.where(along.abs() <= size, 0.0, -math.inf)).sum(-1)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw paths.

        Examples
        --------
        >>> import torch
        >>> import zoo
        >>> one = torch.eye(1)
        >>> walk = zoo.LinearGaussianChain(torch.zeros(1), 100 * one, one, 0.25 * one).expand([3])
        >>> walk.sample([10]).shape
        torch.Size([10, 3, 1])
        """
        shape = torch.Size(sample_shape) + self.batch_shape + self.event_shape
        transition, offset, noise = (t.detach().double() for t in self.steps)
        lead = offset.expand(shape if self.batch_shape else (*shape[:-1], 1, shape[-1]))
        return draw_chain(transition, lead, square_root(noise)).reshape(shape).to(self.initial_loc.dtype)


def defects(fn: LinearGaussianChain) -> str:
    """Say which covariance of a chain is none; empty if all are."""
    for name in ("initial_cov", "noise_cov"):
        cov = getattr(fn, name)
        size = cov.abs().amax((-2, -1), keepdim=True)
        if not bool(((cov - cov.mT).abs() <= 1e-8 * size).all()):
            return f"{name} is not symmetric"
        if bool((torch.linalg.eigvalsh(cov) < -1e-8 * size[..., 0]).any()):
            return f"{name} has a negative variance in some direction"
    return ""
