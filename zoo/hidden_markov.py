"""Hidden Markov models with normal, Poisson or categorical emissions."""

from __future__ import annotations

from typing import Any, Literal

import pyro
import pyro.distributions as dist
import torch
from pydantic import PositiveInt
from torch import Tensor
from torch.distributions import constraints
from torch.nn import Buffer
from torch.nn.functional import avg_pool1d, one_hot

from zoo.checks import MOST_LEVELS, check_components, check_rows
from zoo.constant_columns import above, floors, note
from zoo.declare.fields import Real
from zoo.declare.model import Model
from zoo.errors import DataError, ModelError
from zoo.initial import cluster_moments, column_moments, kmeans, observed
from zoo.replay.chain import MarkovChain, stationary
from zoo.sequences import check_lengths, first_rows

WINDOW = 5  # rows whose categories together hint at a state

COVARIANCES: dict[str, tuple[str, ...]] = {
    "full": ("state", "feature", "feature_2"),
    "tied": ("feature", "feature_2"),
    "diag": ("state", "feature"),
    "spherical": ("state",),
}


class HiddenMarkov(Model):
    """Hidden Markov model: rows in time come from a few states, each given the state before (Rabiner 1989).

    Generative story::

        z_1                ~ Categorical(initial)
        z_t | z_{t-1} = j  ~ Categorical(transition_j)                t = 2 .. n
        x_t | z_t = k      ~ Normal(means_k, covariances_k)           emission="normal"
                             Poisson(rates_k)                         emission="poisson", features independent
                             Categorical(probs_k)                     emission="categorical", features independent

    With `stationary`, `initial` is no parameter but what the chain keeps: initial = initial transition. With
    `topology="left-right"` sequences begin in state 0 and never go back: transition_jk = 0 for k < j.

    ===========  ===============  =================================================================
    symbol       site             shape
    ===========  ===============  =================================================================
    initial      ``initial``      (state), unless `stationary`
    transition   ``transition``   (state, state_2): from, to
    means        ``means``        (state, feature), "normal"
    covariances  ``covariances``  "normal": full (state, feature, feature), tied (feature, feature),
                                  diag (state, feature), spherical (state)
    rates        ``rates``        (state, feature), "poisson"
    probs        ``probs``        (state, feature, level), "categorical"
    z_t          ``z``            (time), enumerated
    x_t          ``x``            (time, feature)
    ===========  ===============  =================================================================

    Rows are in the order of time. The density of a row is that given the rows before it in its sequence, and
    `assign` gives p(z_t | all rows). New rows are one sequence, unless there are as many of them as were fitted.

    Methods: ``em`` (Baum-Welch); also ``svi`` and ``map`` (gradient ascent of the same likelihood).

    Limits: the likelihood has several maxima, use `EM(restarts=...)`; with normal emissions it has none if a state
    closes in on one row. Rows are not exchangeable: there are no mini-batches, and weights belong to whole sequences.

    Parameters
    ----------
    components
        Number of states, at least 1.
    emission
        "normal" for real numbers, "poisson" for counts, "categorical" for codes 0, 1, 2, ...
    stationary
        Whether chains begin in the distribution that they keep.
    topology
        "ergodic" if any state can follow any other, or "left-right".
    covariance
        For "normal", as in `GMM`: "full", "diag", "tied" or "spherical".
    lengths
        Lengths of the sequences that stand below each other in the rows; None for one sequence.
    levels
        For "categorical", how many categories there can be; None for as many as the data that are fitted have.

    Examples
    --------
    >>> import zoo
    >>> from inference import fit
    >>> finds = zoo.datasets.load("discoveries")
    >>> result = fit(zoo.HiddenMarkov(components=2, emission="poisson"), finds, method="em", seed=0)
    >>> round(result.objective.value, 2)
    -206.18
    """

    x = Real("time", "feature")
    components: PositiveInt = 2
    emission: Literal["normal", "poisson", "categorical"] = "normal"
    stationary: bool = False
    topology: Literal["ergodic", "left-right"] = "ergodic"
    covariance: Literal["full", "diag", "tied", "spherical"] = "full"
    lengths: tuple[PositiveInt, ...] | None = None
    levels: PositiveInt | None = None

    def check(self, x: Tensor) -> None:
        # Refuse rows that the emission cannot explain, lengths that do not add up, and settings that contradict
        if self.stationary and self.topology == "left-right":
            raise ModelError("topology='left-right' ends in its last state, and keeps no other; leave out stationary")
        if self.levels is not None and self.emission != "categorical":
            raise ModelError(
                f"levels={self.levels} is for emission='categorical', found emission={self.emission!r}; leave it out"
            )
        check_lengths(self.lengths, len(x))
        if self.emission == "normal":
            check_rows(x, self.components, self.coords["feature"])
            return
        wrong = (x < 0) | (x != x.round())
        if bool(wrong.any()):
            kinds = {"poisson": "counts 0, 1, 2, ...", "categorical": "category codes 0, 1, 2, ..."}
            raise DataError(
                f"field 'x': emission={self.emission!r} expects {kinds[self.emission]}, found {float(x[wrong][0]):g}; "
                "recode the data, or use emission='normal'"
            )
        if self.emission == "categorical" and float(x.max()) >= MOST_LEVELS:
            raise DataError(
                f"field 'x': emission='categorical' expects codes below {MOST_LEVELS}, found {float(x.max()):g}; "
                "recode it (pandas.factorize), or use emission='poisson' if these are counts"
            )
        if self.levels is not None and float(x.max()) >= self.levels:
            raise DataError(
                f"field 'x': levels={self.levels} expects category codes below that, found {float(x.max()):g}; "
                f"ask for levels={int(x.max()) + 1}, or recode the data (pandas.factorize)"
            )
        if self.emission == "poisson" and not bool(x.any(0).all()):
            name = self.coords["feature"][int((~x.any(0)).nonzero()[0])]
            raise DataError(f"column {name!r}: all counts are 0, so its rates are estimated as 0; drop the column")
        check_components(x, self.components)

    def setup(self, x: Tensor) -> None:
        # Name the dimensions of this emission; count the levels of categories, which later rows may not show
        emissions: dict[str, dict[str, tuple[str, ...]]] = {
            "normal": {"means": ("state", "feature"), "covariances": COVARIANCES[self.covariance]},
            "poisson": {"rates": ("state", "feature")},
            "categorical": {"probs": ("state", "feature", "level")},
        }
        self.dims = {"initial": ("state",), "transition": ("state", "state_2"), **emissions[self.emission]}
        if self.emission == "normal":
            _, variance = column_moments(x, None, self.missing.get("x"))
            self.remarks = note(self, variance, shared=self.covariance == "spherical")
            self.floor = Buffer(0 * variance if self.covariance == "spherical" else floors(variance))
        self.categories = (self.levels or int(x.max()) + 1) if self.emission == "categorical" else 0

    def first(self, x: Tensor) -> Tensor:
        """Which rows begin a sequence.

        Examples
        --------
        >>> import torch
        >>> import zoo
        >>> model = zoo.HiddenMarkov(lengths=(2, 3))
        >>> model.first(torch.zeros(5, 1))
        tensor([ True, False,  True, False, False])
        """
        return first_rows(self.lengths, x)

    def initial(self, x: Tensor) -> dict[str, Tensor]:
        # Start from k-means++ clusters of the rows, counts by their roots and categories by what is around them. What
        # starts at 0 stays there: the transitions and openings that a left-right chain has not.
        k, missing = self.components, self.missing.get("x")
        seen = observed(x, missing)
        if self.emission == "categorical":
            codes = (one_hot(x.long(), self.categories) * seen[..., None]).flatten(1)
            around = avg_pool1d(codes.T[None], WINDOW, 1, WINDOW // 2, count_include_pad=False)[0].T
            labels = self._clusters(around, None)
        else:
            labels = self._clusters(x.sqrt() if self.emission == "poisson" else x, missing)
        member = one_hot(labels, k).to(x)
        size = member.sum(0)[:, None]
        follows = ~self.first(x)[1:]
        moves = member[:-1][follows].T @ member[1:][follows] + 1.0
        opening = member[self.first(x)].sum(0) + 1.0
        if self.topology == "left-right":
            moves, opening = moves.triu(), torch.eye(k).to(opening)[0]
        values = {"transition": moves / moves.sum(1, keepdim=True)}
        if not self.stationary:
            values["initial"] = opening / opening.sum()
        if self.emission == "poisson":
            values["rates"] = (member.T @ (seen * x) + (seen * x).sum(0) / seen.sum(0)) / (member.T @ seen + 1)
        elif self.emission == "categorical":
            probs = (member.T @ codes + codes.mean(0)).reshape(k, x.shape[1], self.categories)
            values["probs"] = probs / probs.sum(-1, keepdim=True)
        else:
            _, values["means"], full = cluster_moments(x, labels, k, missing)
            variances = full.diagonal(dim1=-2, dim2=-1)
            share = (size / size.sum())[:, :, None]
            values["covariances"] = {
                "full": full,
                "tied": (share * full).sum(0),
                "diag": variances,
                "spherical": variances.mean(-1),
            }[self.covariance]
        return values

    def _clusters(self, seen: Tensor, missing: Tensor | None) -> Tensor:
        """Cluster of each row; those of a left-right chain by place in the sequence too, and in its order."""
        if self.topology == "ergodic":
            return kmeans(seen, self.components, missing=missing)
        first, at = self.first(seen), torch.arange(len(seen), device=seen.device)
        sequence = first.cumsum(0) - 1
        start = at[first][sequence]
        place = (at - start) / torch.bincount(sequence)[sequence].to(seen)
        places = place[:, None].expand_as(seen)  # as much of a distance as all columns
        gaps = None if missing is None else torch.cat([missing, torch.zeros_like(missing)], 1)
        labels = kmeans(torch.cat([seen, places], 1), self.components, missing=gaps)
        member = one_hot(labels, self.components).to(seen)
        order = (member.T @ place / member.sum(0)).argsort()
        return order.argsort()[labels]

    def forward(self, x: Tensor) -> None:
        k = self.components
        transition = pyro.param("transition", torch.full((k, k), 1 / k), constraint=constraints.simplex)
        if self.stationary:
            initial = stationary(transition)
        else:
            initial = pyro.param("initial", torch.full((k,), 1 / k), constraint=constraints.simplex)
        emission = self._emission(x.shape[1])
        with pyro.plate("time", len(x)):
            z = pyro.sample("z", MarkovChain(initial, transition, self.first(x)))
            pyro.sample("x", emission(z), obs=x)

    def _emission(self, d: int) -> Any:
        """Declare the parameters of the emission; return its distribution as a function of the state."""
        k, eye = self.components, torch.eye(d)
        if self.emission == "poisson":
            rates = pyro.param("rates", torch.ones(k, d), constraint=constraints.positive)
            return lambda z: dist.Poisson(rates[z]).to_event(1)
        if self.emission == "categorical":
            start = torch.full((k, d, self.categories), 1 / self.categories)
            probs = pyro.param("probs", start, constraint=constraints.simplex)
            return lambda z: dist.Categorical(probs[z]).to_event(1)
        means = pyro.param("means", torch.zeros(k, d))
        if self.covariance in ("full", "tied"):
            start = eye if self.covariance == "tied" else eye.expand(k, d, d)
            matrix = pyro.param("covariances", start, constraint=above(self.floor, "covariances"))
            return lambda z: dist.MultivariateNormal(means[z], matrix if self.covariance == "tied" else matrix[z])
        diag = self.covariance == "diag"
        start = torch.ones(k, d) if diag else torch.ones(k)
        variance = pyro.param("covariances", start, constraint=above(self.floor))

        def independent(z: Tensor) -> Any:
            scale = variance[z].sqrt()
            return dist.Normal(means[z], scale if diag else scale[..., None]).to_event(1)

        return independent
