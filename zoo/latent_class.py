"""Latent class analysis."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pydantic import PositiveInt
from torch import Tensor
from torch.distributions import constraints

from zoo.checks import MOST_LEVELS, check_components
from zoo.declare.fields import Category
from zoo.declare.model import Model
from zoo.errors import DataError
from zoo.initial import SEED_ROWS, kmeans

START_CELLS = 20_000_000  # indicators of answers in the rows that the start is made from


class LatentClass(Model):
    """Latent class analysis: a few classes explain how the answers to several items go together (Goodman 1974).

    Generative story::

        z_i                ~ Categorical(weights)            i = 1 .. n
        x_ij | z_i = k     ~ Categorical(probs_kj)           j = 1 .. items, independent given the class

    ===========  ===========  ==========================
    symbol       site         shape
    ===========  ===========  ==========================
    weights      ``weights``  (component)
    probs        ``probs``    (component, item, level)
    z_i          ``z``        (row), enumerated
    x_ij         ``x``        (row, item)
    ===========  ===========  ==========================

    Items may be yes/no or have several levels, and each its own number of them: `level` is as long as the longest item
    needs, and a level that an item never takes is estimated as probability 0. Codes count from 0; items coded 1 .. L
    are taken as they are, with level 0 at probability 0, which changes no likelihood. Labels (words) are coded in
    sorted order, the same for all items.

    Methods: ``em`` (closed form); also ``svi`` and ``map`` (gradient ascent of the same likelihood).

    Limits: the likelihood has several maxima, use `EM(restarts=...)`; probabilities of 0 and 1 are common maxima; with
    few items many classes are not identified: more parameters than answer patterns have no unique maximum.

    Parameters
    ----------
    components
        Number of classes, at least 1.

    Examples
    --------
    >>> import pandas as pd
    >>> import zoo
    >>> from inference import EM, fit
    >>> wards = pd.DataFrame({"cough": [1, 1, 0, 0, 1] * 8, "fever": [1, 1, 0, 0, 0] * 8, "rash": [0, 0, 1, 1, 1] * 8})
    >>> result = fit(zoo.LatentClass(components=2), wards, method=EM(restarts=5), seed=0)
    >>> result.assign(wards.drop_duplicates()).round(1)
    z    0    1
    0  1.0  0.0
    2  0.0  1.0
    4  0.0  1.0
    """

    x = Category("row", "item")
    components: PositiveInt = 2

    dims = {"weights": ("component",), "probs": ("component", "item", "level")}

    def check(self, x: Tensor) -> None:
        # Refuse codes with long gaps, and fewer distinct rows than classes
        if int(x.max()) >= MOST_LEVELS:
            item = self.coords["item"][int((x == x.max()).any(0).nonzero()[0])] if "item" in self.coords else "x"
            raise DataError(
                f"item {item!r}: expected codes 0, 1, 2, ... of at most {MOST_LEVELS} levels, found {int(x.max())}; "
                "recode it (pandas.factorize) or drop it"
            )
        check_components(x, self.components)

    def setup(self, x: Tensor) -> None:
        # Count the levels, which later rows may not show
        self.levels = int(x.max()) + 1

    def initial(self, x: Tensor) -> dict[str, Tensor]:
        # Start from k-means++ clusters of the rows as indicators, each smoothed by one row of average answers
        most = min(SEED_ROWS, max(self.components, START_CELLS // (x.shape[1] * self.levels)))
        sample = x[torch.randperm(len(x), device=x.device)[:most]]
        answers = torch.nn.functional.one_hot(sample, self.levels).double()
        labels = kmeans(answers.flatten(1), self.components)
        member = torch.nn.functional.one_hot(labels, self.components).to(answers)
        size = member.sum(0)
        average = (answers.sum(0) + 1 / self.levels) / (len(sample) + 1)
        probs = (torch.einsum("nk,njl->kjl", member, answers) + average) / (size[:, None, None] + 1)
        return {"weights": (size + 1) / (size + 1).sum(), "probs": probs}

    def forward(self, x: Tensor) -> None:
        k, shape = self.components, (self.components, x.shape[1], self.levels)
        weights = pyro.param("weights", torch.full((k,), 1 / k), constraint=constraints.simplex)
        probs = pyro.param("probs", torch.full(shape, 1 / self.levels), constraint=constraints.simplex)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Categorical(probs[z]).to_event(1), obs=x)
