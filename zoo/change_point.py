"""Change points: counts or measurements whose level changes at a few unknown times."""

from __future__ import annotations

import math
from typing import Literal

import pyro
import pyro.distributions as dist
import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from zoo.declare.fields import Real
from zoo.declare.model import Model
from zoo.errors import DataError

MOST_CELLS = 1 << 24  # rows times places of the changes, which are summed over together


class ChangePoint(Model):
    """Rows in time whose level changes a few times, at places that are not known (Carlin, Gelfand and Smith 1992).

    Generative story::

        change_1 < .. < change_K  uniform over all places behind the first of the n times that occur
        level_k      ~ Gamma(a, b)  or  Normal(center, width)       k = 1 .. K + 1
        noise        ~ HalfNormal(width)                            likelihood="normal"
        x_i | level  ~ Poisson(level_k)  or  Normal(level_k, noise)    change_{k-1} <= time_i < change_k

    ===========  ================  ===================================================
    symbol       site              shape
    ===========  ================  ===================================================
    change_k     ``change_1``,     (), enumerated: the first time of segment k + 1, by its place
                 ``change_2``, ..  among the times that occur, from 0
    level        ``level``         (segment)
    noise        ``noise``         (), "normal"
    x_i          ``x``             (row)
    ===========  ================  ===================================================

    Each row comes with its time, in any order; several rows may have the same. `assign` gives the posterior of each
    change, `most_probable` of all of them jointly.

    Methods: ``exact`` for counts (given the places levels are Gamma, so the posterior is a mixture over places); also
    ``nuts``, ``svi``, ``dadvi``, ``laplace``, ``pathfinder``, ``smc``, ``em`` and ``map``.

    Limits: the number of changes is given; compare several by their log evidence. Places are summed over together, n^K
    of them, so that K is 1, or 2 for some hundred rows. Levels change at times that occur, and not between them.

    Parameters
    ----------
    changes
        Number K of changes, at least 1.
    likelihood
        "poisson" for counts, "normal" for measurements.
    a, b
        Positive; shape and rate of the Gamma prior of a count's levels.
    center, width
        Mean and standard deviation of the Normal prior of a measurement's levels; `width` is that of the noise, too.

    Examples
    --------
    >>> import zoo
    >>> from inference import fit
    >>> finds = zoo.datasets.load("discoveries").reset_index()
    >>> result = fit(zoo.ChangePoint(), finds, method="exact", columns={"x": "discoveries", "time": "year"}, seed=0)
    >>> int(result.posterior["posterior"]["change_1"].median())
    73
    """

    x = Real("row")
    time = Real("row")
    changes: PositiveInt = 1
    likelihood: Literal["poisson", "normal"] = "poisson"
    a: PositiveFloat = 2.0
    b: PositiveFloat = 1.0
    center: float = 0.0
    width: PositiveFloat = 10.0

    def check(self, x: Tensor, time: Tensor) -> None:
        # Refuse fewer times than segments, places that are too many, and rows that are no counts
        places = len(time.unique())
        if places <= self.changes:
            raise DataError(f"changes={self.changes} make {self.changes + 1} segments, but there are {places} times")
        if places**self.changes * len(x) > MOST_CELLS:
            raise DataError(
                f"changes={self.changes} have {places**self.changes:,} places, which are summed over in each of "
                f"{len(x)} rows: too many; ask for fewer changes, or fit parts of the rows"
            )
        wrong = (x < 0) | (x != x.round())
        if self.likelihood == "poisson" and bool(wrong.any()):
            raise DataError(
                f"field 'x': likelihood='poisson' expects counts 0, 1, 2, ..., found {float(x[wrong][0]):g}; use "
                "likelihood='normal'"
            )

    def setup(self, x: Tensor, time: Tensor) -> None:
        # Keep the times that occur; name the dimension of the levels
        self.times = torch.nn.Buffer(time.unique())
        self.dims = {"level": ("segment",)}

    def initial(self, x: Tensor, time: Tensor) -> dict[str, Tensor]:
        # Start from segments of as many times each
        segment = torch.searchsorted(self.times, time) * (self.changes + 1) // len(self.times)
        means = torch.stack([x[segment == k].mean() for k in range(self.changes + 1)])
        if self.likelihood == "poisson":
            return {"level": (means + self.a / self.b) / 2}
        return {"level": means, "noise": (x - means[segment]).std(correction=0).clamp_min(1e-3 * self.width)}

    def forward(self, x: Tensor, time: Tensor) -> None:
        n, k = len(self.times), self.changes
        place = torch.searchsorted(self.times, time.contiguous())
        segment = torch.zeros_like(place)
        before = torch.zeros((), dtype=torch.long, device=x.device)
        for i in range(k):
            before = pyro.sample(f"change_{i + 1}", dist.Categorical(self._places(n, k - 1 - i).to(x)[before]))
            segment = segment + (place >= before)
        with pyro.plate("segment", k + 1):
            prior = dist.Gamma(self.a, self.b) if self.likelihood == "poisson" else dist.Normal(self.center, self.width)
            level = pyro.sample("level", prior)
        noise = pyro.sample("noise", dist.HalfNormal(self.width)) if self.likelihood == "normal" else None
        with pyro.plate("row", len(x)):
            at = level[segment]
            pyro.sample("x", dist.Poisson(at) if noise is None else dist.Normal(at, noise), obs=x)

    @staticmethod
    def _places(n: int, later: int) -> Tensor:
        """p(place | place before), shape (n, n), such that all ordered places are equally probable.

        A place t after s leaves C(n - 1 - t, later) choices for the `later` places behind it.
        """
        choices = torch.tensor([math.comb(n - 1 - t, later) for t in range(n)], dtype=torch.float64)
        table = choices.repeat(n, 1).triu(1)
        total = table.sum(1, keepdim=True)
        return torch.where(total > 0, table / total.clamp_min(1.0), 1 / n)  # behind the last row there is no place
