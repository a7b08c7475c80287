"""Latent Dirichlet allocation."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn.functional import one_hot

from zoo.declare.fields import Count
from zoo.declare.model import Model
from zoo.errors import DataError
from zoo.initial import kmeans
from zoo.replay.multinomial import Multinomial

MIXED = 0.95  # share of what all have in common in the start: documents whose topics are sure of themselves stay there


class LDA(Model):
    """Latent Dirichlet allocation: documents are mixtures of topics, topics are shares of words (Blei et al. 2003).

    Generative story::

        words_k            ~ Dirichlet(word_concentration, ..., word_concentration)         k = 1 .. topics
        shares_d           ~ Dirichlet(topic_concentration, ..., topic_concentration)       d = 1 .. documents
        counts_d           ~ Multinomial(words in d, sum_k shares_dk words_k)

    which is that each word of a document is of a topic drawn by the document's shares, and drawn from that topic's
    words; the order of words does not matter.

    ===========  ============  ====================
    symbol       site          shape
    ===========  ============  ====================
    words        ``words``     (topic, word)
    shares       ``shares``    (document, topic)
    counts_d     ``counts``    (document, word)
    ===========  ============  ====================

    Data are a table of counts, a row for each document and a column for each word, or a long table with the columns
    `document` and `word`, a row for each word of a document (and `counts`, if a row stands for several).

    Methods: ``cavi`` (mean-field over shares, words and the topic of each word, the last at its best: Blei, Ng and
    Jordan 2003 with smoothed topics; with `CAVI(batch_size=...)` by batches of documents: Hoffman, Blei and Bach 2010);
    also ``svi`` with any guide, ``map``, ``laplace``, ``pathfinder``, ``nuts``,
    ``smc`` and ``dadvi``.

    Limits: topics are exchangeable and the posterior has many modes, use `CAVI(restarts=...)`; topics are not
    correlated, their number is given, and counts are kept as a full table.

    Parameters
    ----------
    topics
        Number of topics, at least 1.
    topic_concentration
        Dirichlet concentration of each topic's share of a document; None for 1 / topics.
    word_concentration
        Dirichlet concentration of each word's share of a topic; None for 1 / topics.

    Examples
    --------
    >>> import numpy as np
    >>> import zoo
    >>> from inference import fit
    >>> counts = np.array([[5, 4, 0, 0], [4, 6, 1, 0], [0, 0, 7, 5], [0, 1, 4, 6]])
    >>> result = fit(zoo.LDA(topics=2), {"counts": counts}, method="cavi", seed=0)
    >>> dict(result.posterior["posterior"]["words"].sizes)
    {'chain': 1, 'draw': 1000, 'topic': 2, 'word': 4}
    """

    counts = Count("document", "word")
    topics: PositiveInt = 10
    topic_concentration: PositiveFloat | None = None
    word_concentration: PositiveFloat | None = None

    dims = {"words": ("word",), "shares": ("topic",)}

    def check(self, counts: Tensor) -> None:
        # Refuse documents without words, and words in no document
        for dim, total in (("document", counts.sum(1)), ("word", counts.sum(0))):
            if bool((total == 0).any()):
                name = self.coords[dim][int((total == 0).nonzero()[0])]
                what = "has no words" if dim == "document" else "is in no document"
                raise DataError(f"field 'counts': {dim} {name!r} {what}; leave it out")
        if counts.shape[1] < 2:
            raise DataError("field 'counts': expected at least 2 words, found 1")

    def initial(self, counts: Tensor) -> dict[str, Tensor]:
        # Start from clusters of documents by the roots of their shares of words, each mixed with all documents
        k = self.topics
        labels = kmeans((counts / counts.sum(1, keepdim=True)).sqrt(), k)
        member = one_hot(labels, k).to(counts)
        overall = counts.sum(0) / counts.sum()
        words = member.T @ counts
        own = (words + overall) / (words.sum(1, keepdim=True) + 1)
        return {"words": own + MIXED * (overall - own), "shares": member + MIXED * (1 / k - member)}

    def forward(self, counts: Tensor) -> None:
        k = self.topics
        of_topics, of_words = (1 / k if c is None else c for c in (self.topic_concentration, self.word_concentration))
        with pyro.plate("topic", k):
            words = pyro.sample("words", dist.Dirichlet(torch.full(counts.shape[1:], of_words)))
        with pyro.plate("document", len(counts)):
            shares = pyro.sample("shares", dist.Dirichlet(torch.full((k,), of_topics)))
            pyro.sample("counts", Multinomial(counts.sum(-1), shares @ words), obs=counts)
