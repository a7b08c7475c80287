"""Linear dynamical systems: a few continuous states that drive all columns."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pydantic import PositiveInt
from torch import Tensor
from torch.nn import Buffer

from zoo.checks import check_factors, check_varies
from zoo.constant_columns import above, floors, note, units
from zoo.declare.fields import Real
from zoo.declare.model import Model
from zoo.initial import column_moments, observed
from zoo.replay.gaussian_chain import LinearGaussianChain
from zoo.sequences import check_lengths, first_rows

SHRINKS = 0.99  # largest modulus of an eigenvalue of the transition at the start
LEFT = 0.05  # smallest share of a column's variance that the start leaves to its noise


class LinearDynamicalSystem(Model):
    """Linear dynamical system: rows in time come from a few states that move linearly, with noise.

    Generative story (Ghahramani and Hinton 1996)::

        h_1              ~ Normal(initial, I)
        h_t | h_{t-1}    ~ Normal(transition h_{t-1}, I)                        t = 2 .. n
        x_t | h_t        ~ Normal(means + loadings h_t, diag(variances))

    ===========  ===============  ========================
    symbol       site             shape
    ===========  ===============  ========================
    initial      ``initial``      (state)
    transition   ``transition``   (state, state_2): to, from
    means        ``means``        (feature)
    loadings     ``loadings``     (feature, state)
    variances    ``variances``    (feature)
    h_t          ``h``            (time, state), integrated
    x_t          ``x``            (time, feature)
    ===========  ===============  ========================

    Rows are in the order of time. The density of a row is that given the rows before it in its sequence; missing cells
    and whole missing rows are integrated out, so that rows of NaN at the end are forecasts (`impute`), and `posterior`
    has draws of the states given all rows. New rows are one sequence, unless there are as many of them as were fitted.

    Methods: ``em`` (the exact likelihood by Kalman's filter, climbed by its gradient); also ``map`` and ``svi``.

    Limits: the states are identified only up to a rotation, as their noise is the same in every direction: turned by R
    they have the transition R A R^T and the loadings C R^T. The likelihood may have several maxima, and rises without
    end as the variance of one column goes to 0 (a Heywood case). Rows are not exchangeable: there are no mini-batches,
    and weights belong to whole sequences.

    Parameters
    ----------
    states
        Number of continuous states, at least 1 and fewer than columns.
    lengths
        Lengths of the sequences that stand below each other in the rows; None for one sequence.

    Examples
    --------
    >>> import zoo
    >>> from inference import fit
    >>> geyser = zoo.datasets.load("faithful").head(50)
    >>> result = fit(zoo.LinearDynamicalSystem(states=1), geyser, method="em", seed=0)
    >>> round(result.objective.value, 1)
    -229.6
    """

    x = Real("time", "feature")
    states: PositiveInt = 1
    lengths: tuple[PositiveInt, ...] | None = None

    dims = {
        "initial": ("state",),
        "transition": ("state", "state_2"),
        "means": ("feature",),
        "loadings": ("feature", "state"),
        "variances": ("feature",),
        "h": ("state",),
    }

    def check(self, x: Tensor) -> None:
        # Refuse rows that are all the same, too many states, and lengths that do not add up
        check_lengths(self.lengths, len(x))
        check_varies(x, self.coords["feature"])
        check_factors(x, self.states)

    def setup(self, x: Tensor) -> None:
        # Note the columns that do not vary
        _, variance = column_moments(x, None, self.missing.get("x"))
        self.remarks, self.floor = note(self, variance), Buffer(floors(variance))

    def first(self, x: Tensor) -> Tensor:
        """Which rows begin a sequence.

        Examples
        --------
        >>> import torch
        >>> import zoo
        >>> model = zoo.LinearDynamicalSystem(lengths=(2, 3))
        >>> model.first(torch.zeros(5, 1))
        tensor([ True, False,  True, False, False])
        """
        return first_rows(self.lengths, x)

    def initial(self, x: Tensor) -> dict[str, Tensor]:
        # Start from the principal components of the standardized columns, and their regression on the row before
        seen = observed(x, self.missing.get("x"))
        means, variance = column_moments(x, None, self.missing.get("x"))
        scale = units(variance).sqrt()
        y = seen * (x - means) / scale  # a missing cell stands at the mean
        _, _, axes = torch.linalg.svd(y, full_matrices=False)
        axes = axes[: self.states].mT
        scores = y @ axes
        follows = ~self.first(x)[1:]
        before, after = scores[:-1][follows], scores[1:][follows]
        ridge = 1e-3 * scores.square().mean() * torch.eye(self.states).to(x)
        second = before.mT @ before / max(1, len(before)) + ridge
        move = torch.linalg.solve(second, before.mT @ after / max(1, len(before))).mT
        largest = torch.linalg.eigvals(move).abs().max()
        move = move * (SHRINKS / largest).clamp_max(1.0)
        left = after - before @ move.mT
        root = torch.linalg.cholesky(left.mT @ left / max(1, len(left)) + ridge)
        rest = y.square().mean(0) - (scores @ axes.mT).square().mean(0)
        return {
            "initial": torch.linalg.solve(root, scores[self.first(x)].mean(0)),
            "transition": torch.linalg.solve(root, move @ root),
            "means": means,
            "loadings": scale[:, None] * (axes @ root),
            "variances": torch.where(variance > 0, scale.square() * rest.clamp_min(LEFT), self.floor),
        }

    def forward(self, x: Tensor) -> None:
        d, q = x.shape[1], self.states
        start = pyro.param("initial", torch.zeros(q))
        transition = pyro.param("transition", 0.5 * torch.eye(q))
        means = pyro.param("means", torch.zeros(d))
        loadings = pyro.param("loadings", torch.eye(d, q))
        variances = pyro.param("variances", torch.ones(d), constraint=above(self.floor))
        with pyro.plate("time", len(x)):
            chain = LinearGaussianChain(start, torch.eye(q), transition, torch.eye(q), start=self.first(x))
            h = pyro.sample("h", chain)
            pyro.sample("x", dist.Normal(means + h @ loadings.mT, variances.sqrt()).to_event(1), obs=x)
