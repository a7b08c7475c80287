"""Latent Dirichlet allocation: scikit-learn's bound and perplexity, documents folded in, long tables."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.special import digamma, gammaln, logsumexp

import zoo
from inference import CAVI, fit
from zoo import Count
from zoo.program.explain import legality
from zoo.program.prepare import prepare


def documents(seed=0, topics=4, words=60, number=140, length=80):
    """Counts of words in documents of a few topics each; words that the first 100 do not have are left out."""
    rng = np.random.default_rng(seed)
    vectors, shares = rng.dirichlet(np.full(words, 0.1), topics), rng.dirichlet(np.full(topics, 0.2), number)
    counts = np.array([rng.multinomial(rng.poisson(length) + 10, s @ vectors) for s in shares])
    seen = counts[:100].sum(0) > 0
    return counts[:100, seen], counts[100:, seen]


def coefficients(counts):
    """log n! - sum log x!, which the density of counts has and that of words in their order has not."""
    return gammaln(counts.sum(1) + 1) - gammaln(counts + 1).sum(1)


def by_turns(counts, shares, words, alpha, eta, rounds):
    """Variational Bayes of Blei, Ng and Jordan (2003) from shares and words; the bound, and Dirichlet parameters."""
    log_s, log_w = np.log(shares), np.log(words)
    for _ in range(rounds):
        phi = np.exp(log_s)[:, :, None] * np.exp(log_w)[None]
        phi /= phi.sum(1, keepdims=True)
        gamma = alpha + (phi * counts[:, None]).sum(2)
        log_s = digamma(gamma) - digamma(gamma.sum(1, keepdims=True))
        phi = np.exp(log_s)[:, :, None] * np.exp(log_w)[None]
        phi /= phi.sum(1, keepdims=True)
        lam = eta + (phi * counts[:, None]).sum(0)
        log_w = digamma(lam) - digamma(lam.sum(1, keepdims=True))

    def kl(a, prior, logs):
        size = a.shape[1]
        own = gammaln(a.sum(1)) - gammaln(a).sum(1) - gammaln(size * prior) + size * gammaln(prior)
        return (own + ((a - prior) * logs).sum(1)).sum()

    mixed = np.log(np.exp(log_s) @ np.exp(log_w))
    bound = (counts * mixed).sum() + coefficients(counts).sum() - kl(gamma, alpha, log_s) - kl(lam, eta, log_w)
    return bound, gamma, lam


@pytest.mark.slow
def test_cavi_climbs_as_the_paper_has_it():
    counts, _ = documents(words=20, length=30)
    counts = counts[:30, counts[:30].sum(0) > 0]
    model = zoo.LDA(3, topic_concentration=0.4, word_concentration=0.3)
    found = fit(model, counts, method=CAVI(tolerance=1e-9, max_steps=5000), seed=0, progress=False)
    means = found.posterior["posterior"]
    shares, words = (means[n].to_numpy().mean((0, 1)) for n in ("shares", "words"))
    bound, gamma, lam = by_turns(counts, shares, words, 0.4, 0.3, 3000)
    assert found.objective.value == pytest.approx(bound, abs=1e-4)
    np.testing.assert_allclose(shares, gamma / gamma.sum(1, keepdims=True), atol=0.02)
    np.testing.assert_allclose(words, lam / lam.sum(1, keepdims=True), atol=0.02)
    assert (found.trace["value"].diff().dropna() > -1e-8).all()


def perplexity(counts, words, alpha, draws=40_000):
    """exp(- log p / words) of new documents given topics: the mean over draws of their shares from the prior."""
    shares = np.random.default_rng(1).dirichlet(np.full(len(words), alpha), draws)
    logs = np.log(shares @ words) @ counts.T
    return np.exp(-(logsumexp(logs, axis=0) - np.log(draws)).sum() / counts.sum())


@pytest.mark.slow
def test_held_out_documents_are_as_likely_as_scikit_learn_has_them():
    """By the same estimate, of the topics that each has found; scikit-learn's own number is by a bound below it."""
    decomposition = pytest.importorskip("sklearn.decomposition")
    train, test = documents()
    found = fit(zoo.LDA(4), train, method=CAVI(restarts=5), seed=0, progress=False)
    settings = {"max_iter": 300, "learning_method": "batch", "max_doc_update_iter": 1000, "mean_change_tol": 1e-6}
    each = [decomposition.LatentDirichletAllocation(4, random_state=s, **settings).fit(train) for s in range(3)]
    best = max(each, key=lambda one: one.score(train))
    assert found.objective.value > best.score(train) + coefficients(train).sum() - 5.0  # both stop at local maxima
    theirs = perplexity(test, best.components_ / best.components_.sum(1, keepdims=True), 0.25)
    ours = perplexity(test, found.posterior["posterior"]["words"].to_numpy().mean((0, 1)), 0.25)
    assert ours == pytest.approx(theirs, rel=0.01)
    assert ours < best.perplexity(test)
    by_log_prob = np.exp(-(found.log_prob(test, samples=500) - coefficients(test)).sum() / test.sum())
    assert by_log_prob == pytest.approx(ours, rel=0.02)


def test_long_tables_are_counted():
    long = pd.DataFrame(
        {"document": ["b", "b", "a", "b", "a"], "word": ["cat", "dog", "cat", "cat", "emu"], "counts": [1, 2, 3, 4, 5]}
    )
    bound = prepare(zoo.LDA(2), long).data
    assert bound.values["counts"].tolist() == [[5, 2, 0], [3, 0, 5]]
    assert {n: list(c) for n, c in bound.coords.items()} == {"document": ["b", "a"], "word": ["cat", "dog", "emu"]}


@zoo.model(counts=Count("text", "token"))
def topics(counts, *, k: int = 2, squared: bool = False):
    """Topics in a user's words: no plates of topics, the shares first."""
    vectors = pyro.sample("vectors", dist.Dirichlet(torch.ones(k, counts.shape[1])).to_event(1))
    with pyro.plate("text", len(counts)):
        shares = pyro.sample("shares", dist.Dirichlet(torch.ones(k)))
        probs = torch.einsum("nk,kj->nj", shares, vectors)
        probs = probs.square() / probs.square().sum(-1, keepdim=True) if squared else probs
        total = int(counts.sum(-1).max())
        pyro.sample("counts", dist.Multinomial(total, probs, validate_args=False), obs=counts)


def test_topics_are_recognized_in_any_model():
    counts = np.array([[4, 3, 0, 1], [0, 1, 5, 2], [3, 0, 1, 4]])
    assert legality(prepare(topics(), counts))["CAVI"] is None
    assert "no conjugate family" in legality(prepare(topics(squared=True), counts))["CAVI"]


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([[1, 2], [0, 0]], "document 1 has no words"),
        (pd.DataFrame({"a": [1, 2], "b": [0, 0]}), "word 'b' is in no document"),
        ([[1], [2]], "at least 2 words"),
    ],
)
def test_documents_that_say_nothing_are_refused(counts, message):
    with pytest.raises(zoo.DataError, match=message):
        prepare(zoo.LDA(2), counts)
