"""Topics of news (395 documents of Reuters, 4,258 words): held-out perplexity and time against scikit-learn.

Run with: pip install lda==3.0.2 && python benchmarks/lda_against_sklearn.py [--topics 10] [--seeds 1]
"""

import argparse
import time

import numpy as np
from lda.datasets import load_reuters
from scipy.special import digamma
from sklearn.decomposition import LatentDirichletAllocation
from timing import machine, table

import zoo
from inference import CAVI, fit

BATCH, PASSES, TRAIN = 50, 40, 300


def split(seed):
    """Counts of documents to train on; of half of the words of each other document, and of its other half."""
    counts = load_reuters()
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(counts))
    train, test = counts[order[:TRAIN]], counts[order[TRAIN:]]
    seen = train.sum(0) > 0
    train, test = train[:, seen], test[:, seen]
    given = rng.binomial(test, 0.5)
    return train, given, test - given


def completion(words, alpha, given, rest):
    """Perplexity of the other half of documents whose shares follow from one half (mean-field, topics known)."""
    shares = np.full((len(given), len(words)), 1 / len(words))
    for _ in range(200):
        ratio = given / np.maximum(shares @ words, 1e-300)
        gamma = alpha + shares * (ratio @ words.T)
        shares = np.exp(digamma(gamma) - digamma(gamma.sum(1, keepdims=True)))
    mean = gamma / gamma.sum(1, keepdims=True)
    return np.exp(-(rest * np.log(mean @ words)).sum() / rest.sum())


def ours(method, k, seed, train):
    """Seconds, steps and topics."""
    start = time.perf_counter()
    found = fit(zoo.LDA(k), train, method=method, seed=seed, progress=False)
    took = time.perf_counter() - start
    return took, len(found.trace), found.posterior["posterior"]["words"].to_numpy().mean((0, 1))


def theirs(learning, k, seed, train):
    """Seconds, steps and topics."""
    model = LatentDirichletAllocation(
        k, learning_method=learning, max_iter=PASSES, batch_size=BATCH, total_samples=TRAIN, random_state=seed
    )
    start = time.perf_counter()
    model.fit(train)
    took = time.perf_counter() - start
    return took, model.n_iter_, model.components_ / model.components_.sum(1, keepdims=True)


def main():
    """Print a row for each way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--topics", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    k = args.topics
    ways = {
        f"CAVI(max_steps={PASSES})": lambda *a: ours(CAVI(max_steps=PASSES), *a),
        "CAVI()": lambda *a: ours(CAVI(), *a),
        f"CAVI(batch_size={BATCH}, max_steps={PASSES})": lambda *a: ours(CAVI(batch_size=BATCH, max_steps=PASSES), *a),
        f"scikit-learn, batch, {PASSES} passes": lambda *a: theirs("batch", *a),
        f"scikit-learn, online, {PASSES} passes": lambda *a: theirs("online", *a),
    }

    def rows():
        for seed in range(args.seeds):
            train, given, rest = split(seed)
            for name, way in ways.items():
                took, steps, words = way(k, seed, train)
                yield seed, name, f"{took:.1f}", steps, f"{completion(words, 1 / k, given, rest):.1f}"

    print(machine())
    table(("seed", "way", "seconds", "steps", "perplexity"), rows(), (4, 36, 8, 6, 11))


if __name__ == "__main__":
    main()
