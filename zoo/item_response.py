"""Item response models: abilities of persons, difficulties of items."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor
from torch.distributions import constraints
from torch.nn import Buffer

from zoo.declare.fields import Binary
from zoo.declare.model import Model
from zoo.errors import DataError
from zoo.initial import observed

CLOSE = 1.7  # logits per probit, about: a logistic curve is a Normal one in these units


class ItemResponse(Model):
    """Item response model: right answers come with ability and go with difficulty (Birnbaum 1968; Rasch 1960).

    Generative story::

        difficulty_j        ~ Normal(0, scale)                                           only with `scale`
        discrimination_j    ~ LogNormal(0, spread)                                       only with `spread`
        ability_i           ~ Normal(0, 1)                                               i = 1 .. n
        x_ij                ~ Bernoulli(p_ij),  log odds discrimination_j (ability_i - difficulty_j)

    With `nodes` the ability is one of so many: node_i ~ Categorical(weights), ability_i = points_node_i, with points
    and weights of Gauss-Hermite quadrature, so that the likelihood is the marginal one of Bock and Aitkin (1981).

    ==============  ==================  ===========================================================
    symbol          site                shape
    ==============  ==================  ===========================================================
    difficulty      ``difficulty``      (item)
    discrimination  ``discrimination``  (item) for "each", () for "common", none for "one"
    ability_i       ``ability``         (person), without `nodes`
    node_i          ``node``            (person), enumerated, with `nodes`
    x_ij            ``x``               (person, item)
    ==============  ==================  ===========================================================

    Answers are a table of persons by items; those that were not given are NaN. A long table becomes one by
    ``frame.pivot(index="person", columns="item", values="answer")``.

    Methods: with both priors ``svi``, ``map``, ``dadvi``, ``laplace``, ``pathfinder``, ``nuts`` and ``smc``; with
    `nodes` also ``em``, which without priors is marginal maximum likelihood.

    Limits: one ability, answers right or wrong, no guessing. `map` without `nodes` takes the mode of abilities too,
    which is no estimate of the items. Items that all answer alike have no maximum without a prior.

    Parameters
    ----------
    discrimination
        "each" item has its own (2PL), all have a "common" one (1PL), or it is "one" (Rasch).
    nodes
        Number of points that abilities are on; None for any ability.
    scale
        Prior standard deviation of difficulties; None for no prior.
    spread
        Prior standard deviation of the logarithms of discriminations; None for no prior.

    Examples
    --------
    >>> import zoo
    >>> from inference import fit
    >>> answers = [[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 1], [0, 1, 0, 0], [1, 0, 1, 0]] * 5
    >>> result = fit(zoo.ItemResponse("one", nodes=9), answers, method="em", seed=0)
    >>> result.posterior["point_estimate"]["difficulty"].argsort().values  # from easy to hard
    array([0, 1, 2, 3])
    """

    x = Binary("person", "item")
    discrimination: Literal["each", "common", "one"] = "each"
    nodes: PositiveInt | None = None
    scale: PositiveFloat | None = 3.0
    spread: PositiveFloat | None = 1.0

    def check(self, x: Tensor) -> None:
        # Refuse one item, and items that all answer alike where no prior holds their difficulty
        if x.shape[1] < 2:
            raise DataError("field 'x': expected at least 2 items, found 1, which does not tell persons from chance")
        seen = observed(x, self.missing.get("x"))
        right = (seen * x).sum(0)
        alike = (right == 0) | (right == seen.sum(0))
        if self.scale is None and bool(alike.any()):
            name = self.coords["item"][int(alike.nonzero()[0])]
            raise DataError(
                f"item {name!r}: all its answers are {int(right[alike][0] > 0)}, so that its difficulty is infinite at "
                "the maximum; drop it, or give scale=..."
            )

    def setup(self, x: Tensor) -> None:
        # Name the dimensions of this kind of discrimination; make the points of quadrature
        self.dims = {
            "difficulty": ("item",),
            **({"discrimination": ("item",)} if self.discrimination == "each" else {}),
        }
        if self.nodes is not None:
            points, weights = np.polynomial.hermite_e.hermegauss(self.nodes)
            self.points = Buffer(torch.from_numpy(points))
            self.weights = Buffer(torch.from_numpy(weights / weights.sum()))

    def initial(self, x: Tensor) -> dict[str, Tensor]:
        # Start from the log odds of each item, and abilities from the log odds of each person's right answers
        seen = observed(x, self.missing.get("x"))
        right = (seen * x).sum(0)
        odds = ((right + 0.5) / (seen.sum(0) - right + 0.5)).log()
        start = {"difficulty": -odds * (1 + CLOSE**-2) ** 0.5}
        if self.discrimination != "one":
            start["discrimination"] = torch.ones(x.shape[1:] if self.discrimination == "each" else ()).to(x)
        if self.nodes is None:
            mine = (seen * x).sum(1)
            ability = ((mine + 0.5) / (seen.sum(1) - mine + 0.5)).log()
            start["ability"] = 0.5 * (ability - ability.mean())
        return start

    def forward(self, x: Tensor) -> None:
        items = x.shape[1]
        difficulty = (
            pyro.param("difficulty", torch.zeros(items))
            if self.scale is None
            else pyro.sample("difficulty", dist.Normal(torch.zeros(items), self.scale).to_event(1))
        )
        discrimination = self._discrimination(items)
        with pyro.plate("person", len(x)):
            if self.nodes is None:
                ability = pyro.sample("ability", dist.Normal(0.0, 1.0))
            else:
                ability = self.points[pyro.sample("node", dist.Categorical(self.weights))]
            logits = discrimination * (ability[..., None] - difficulty)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def _discrimination(self, items: int) -> Any:
        """Of each item, of all, or 1."""
        if self.discrimination == "one":
            return 1.0
        shape = (items,) if self.discrimination == "each" else ()
        if self.spread is None:
            return pyro.param("discrimination", torch.ones(shape), constraint=constraints.positive)
        return pyro.sample("discrimination", dist.LogNormal(torch.zeros(shape), self.spread).to_event(len(shape)))
