"""Mixture of products of Bernoullis."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from zoo.checks import check_components
from zoo.declare.fields import Binary
from zoo.declare.model import Model
from zoo.initial import SEED_ROWS, kmeans

START_CELLS = 20_000_000  # pixels of the rows that the start is made from


class BernoulliMixture(Model):
    """Mixture of Bernoullis: each row is one of a few templates, seen through independent noise at every pixel.

    Generative story::

        weights            ~ Dirichlet(1, ..., 1)
        p_kj               ~ Beta(1 + smoothing, 1 + smoothing)
        z_i                ~ Categorical(weights)                  i = 1 .. n
        x_ij | z_i = k     ~ Bernoulli(p_kj)                       for every pixel j

    (Bishop 2006, section 9.3.3; Juan and Vidal 2004 for images.)

    ===========  ===========  =================================================
    symbol       site         shape
    ===========  ===========  =================================================
    weights      ``weights``  (component)
    p            ``probs``    (component, feature), or (component, image ...)
    z_i          ``z``        (row), enumerated
    x_i          ``x``        (row, feature), or (row, image ...)
    ===========  ===========  =================================================

    Methods: ``em`` (the posterior mode, in closed form), ``cavi``; also ``map``, ``svi``, ``dadvi``, ``laplace``,
    ``pathfinder``, ``nuts`` and ``smc``, for few components.

    Limits: the posterior has many modes, use `EM(restarts=...)`; strokes are shared between templates, which a mixture
    has to learn one by one, so that many components are needed.

    Parameters
    ----------
    components
        Number of templates, at least 1.
    smoothing
        Rows on, and rows off, that the prior counts for at the mode, in each component. Without any, a pixel that is
        never on in a component makes rows in which it is on impossible there; 0.1 was best for test rows of digits and
        of clothes among 0.01 to 0.5.

    Examples
    --------
    >>> import zoo
    >>> from inference import EM, fit
    >>> digits = (zoo.datasets.load("digits") >= 8).astype(int)[:300]
    >>> result = fit(zoo.BernoulliMixture(components=4), digits, method=EM(max_steps=50), seed=0)
    >>> result.assign(digits.head(2)).shape
    (2, 4)
    """

    x = Binary("row", "feature", ...)
    components: PositiveInt = 2
    smoothing: NonNegativeFloat = 0.1

    def check(self, x: Tensor) -> None:
        # Refuse fewer distinct rows than components
        check_components(x.flatten(1), self.components)

    def setup(self, x: Tensor) -> None:
        # Name the dimensions of the pixels
        self.dims = {"weights": ("component",), "probs": ("component", *self.data_dims["x"][1:])}

    def initial(self, x: Tensor) -> dict[str, Tensor]:
        # Start from k-means++ clusters, each smoothed by one row of average pixels
        flat = x.flatten(1)
        most = min(SEED_ROWS, max(self.components, START_CELLS // flat.shape[1]))
        sample = flat[torch.randperm(len(x), device=x.device)[:most]]
        labels = kmeans(sample, self.components, standardize=False)
        member = torch.nn.functional.one_hot(labels, self.components).to(sample)
        size = member.sum(0)
        average = (sample.sum(0) + 0.5) / (len(sample) + 1)
        probs = (member.mT @ sample + average) / (size[:, None] + 1)
        return {"weights": (size + 1) / (size + 1).sum(), "probs": probs.reshape(-1, *x.shape[1:])}

    def forward(self, x: Tensor) -> None:
        k, shape, prior = self.components, x.shape[1:], torch.tensor(1 + self.smoothing)
        weights = pyro.sample("weights", dist.Dirichlet(torch.ones(k)))
        probs = pyro.sample("probs", dist.Beta(prior, prior).expand((k, *shape)).to_event(1 + len(shape)))
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Bernoulli(probs[z]).to_event(len(shape)), obs=x)
