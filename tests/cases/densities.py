"""Log joint densities of models of the zoo written out in SciPy, the discrete latents summed over every assignment."""

from __future__ import annotations

import itertools

import numpy as np
from scipy import stats
from scipy.special import expit, gammaln, logsumexp


def over_assignments(weights, log_density):
    """log sum over all assignments z of prod_i weights[z_i] exp(log_density[i, z_i]), one by one."""
    rows, states = log_density.shape
    joint = np.log(weights) + log_density
    return logsumexp([joint[range(rows), z].sum() for z in itertools.product(range(states), repeat=rows)])


def columns(data):
    """Centred columns of x, and the units of their effects."""
    x = np.asarray(data["x"], dtype=float)
    two = [len(np.unique(column)) == 2 for column in x.T]
    return x - x.mean(0), np.where(two, np.ptp(x, 0), 2 * x.std(0))


def logistic_regression(model, v, data):
    x, unit = columns(data)
    prior = stats.norm(0, 1) if model.df is None else stats.t(model.df)
    value = prior.logpdf(v["intercept"] / model.intercept_scale) - np.log(model.intercept_scale)
    value += (prior.logpdf(v["coefficients"] * unit / model.scale) - np.log(model.scale / unit)).sum()
    p = expit(v["intercept"] + x @ v["coefficients"])
    return value + stats.bernoulli(p).logpmf(data["y"]).sum()


def poisson_regression(model, v, data):
    x, unit = columns(data)
    exposure = np.asarray(data.get("exposure", np.ones(len(x))))
    level = np.log(np.sum(data["y"]) / exposure.sum())
    value = stats.norm(level, model.intercept_scale).logpdf(v["intercept"])
    value += stats.norm(0, model.scale / unit).logpdf(v["coefficients"]).sum()
    rate = exposure * np.exp(v["intercept"] + x @ v["coefficients"])
    return value + stats.poisson(rate).logpmf(data["y"]).sum()


def hierarchical_regression(model, v, data):
    (x, unit), y = columns(data), np.asarray(data["y"])
    g, s = np.unique(data["group"], return_inverse=True)[1], np.std(y)
    value = stats.norm(y.mean(), model.scale * s).logpdf(v["intercept"])
    value += stats.norm(0, model.scale * s / unit).logpdf(v["coefficients"]).sum()
    value += stats.halfnorm(scale=s).logpdf([v["between"], v["noise"]]).sum()
    value += stats.norm(v["intercept"], v["between"]).logpdf(v["intercepts"]).sum()
    slopes = np.broadcast_to(v["coefficients"], (g.max() + 1, x.shape[1]))
    if model.slopes:
        value += stats.halfnorm(scale=s / unit).logpdf(v["slope_scales"]).sum()
        slopes = v["slopes"]
        value += stats.norm(v["coefficients"], v["slope_scales"]).logpdf(slopes).sum()
    return value + stats.norm(v["intercepts"][g] + (x * slopes[g]).sum(1), v["noise"]).logpdf(y).sum()


def zero_inflated_poisson(model, v, counts):
    counts = np.asarray(counts)
    log_density = np.stack([stats.poisson(v["rate"]).logpmf(counts), np.where(counts == 0, 0.0, -np.inf)], 1)
    value = over_assignments(np.array([1 - v["gate"], v["gate"]]), log_density)
    if model.concentration:
        value += stats.beta(model.concentration, model.concentration).logpdf(v["gate"])
    if model.shape:
        value += stats.gamma(model.shape, scale=counts[counts > 0].mean() / model.shape).logpdf(v["rate"])
    return value


def item_response(model, v, x):
    x, value = np.asarray(x), 0.0
    if model.scale:
        value += stats.norm(0, model.scale).logpdf(v["difficulty"]).sum()
    if model.spread and model.discrimination != "one":
        value += stats.lognorm(model.spread).logpdf(v["discrimination"]).sum()
    steep = v.get("discrimination", 1.0)

    def answers(ability):
        p = expit(steep * (ability - v["difficulty"]))
        return stats.bernoulli(p).logpmf(x).sum(1)

    if model.nodes is None:
        return value + stats.norm.logpdf(v["ability"]).sum() + answers(v["ability"][:, None]).sum()
    points, weights = np.polynomial.hermite_e.hermegauss(model.nodes)
    return value + over_assignments(weights / weights.sum(), np.stack([answers(point) for point in points], 1))


def mixture_of_experts(model, v, data):
    x, y, unit = np.asarray(data["x"]), np.asarray(data["y"]), columns(data)[1]
    gate = v["levels"] + ((x - x.mean(0)) / unit) @ v["gate"].T
    lines = (x - model.intercept * x.mean(0)) @ v["coefficients"].T + (v["intercepts"] if model.intercept else 0)
    prior = stats.norm(0, model.gate_scale).logpdf(v["gate"]).sum()
    prior += stats.norm(0, model.gate_scale).logpdf(v["levels"]).sum()
    weights = np.exp(gate - logsumexp(gate, axis=1, keepdims=True))
    density = stats.norm(lines, v["scales"]).logpdf(y[:, None])
    return prior + logsumexp(np.log(weights) + density, axis=1).sum()  # rows are independent


def student_t_mixture(model, v, x):
    x, k = np.asarray(x), model.components
    df = v.get("df", np.full(k, model.df))
    if model.covariance == "full":
        laws = [stats.multivariate_t(v["means"][j], v["covariances"][j], df[j]).logpdf(x) for j in range(k)]
    else:
        laws = [stats.t(df[j], v["means"][j], v["scales"][j]).logpdf(x).sum(1) for j in range(k)]
    return over_assignments(v["weights"], np.stack(laws, 1))


def dawid_skene(model, v, data):
    counts, confusion = np.asarray(data["counts"]), v["confusion"]
    laws = [
        [sum(stats.multinomial(n.sum(), confusion[k, j]).logpmf(n) for j, n in enumerate(item)) for k in range(2)]
        for item in counts
    ]
    value = over_assignments(v["weights"], np.array(laws))
    if model.concentration:
        prior = stats.dirichlet([model.concentration] * counts.shape[2])
        value += prior.logpdf(v["weights"]) + sum(prior.logpdf(row) for row in confusion.reshape(-1, counts.shape[2]))
    return value


def mixture_of_factors(model, v, x):
    k = len(v["weights"])
    noise = np.sqrt(np.broadcast_to(v["variances"], v["means"].shape))
    loc = [v["means"][j] + v["t"] @ v["loadings"][j].T for j in range(k)]
    density = np.stack([stats.norm(loc[j], noise[j]).logpdf(x).sum(-1) for j in range(k)])
    return over_assignments(v["weights"], density.T) + stats.norm.logpdf(v["t"]).sum()


def dirichlet_process_mixture(model, v, x):
    x = np.asarray(x)
    center, spread = x.mean(0), x.var(0) / model.kinds ** (2 / x.shape[1])
    sticks, means, precisions = v["sticks"], v["means"], v["precisions"]
    weights = np.r_[sticks, 1.0] * np.r_[1.0, (1 - sticks).cumprod()]
    value = stats.beta(1.0, model.concentration).logpdf(sticks).sum()
    value += stats.gamma(1.5, scale=2 / spread).logpdf(precisions).sum()
    value += stats.norm(center, (model.shrinkage * precisions) ** -0.5).logpdf(means).sum()
    laws = [stats.norm(m, p**-0.5).logpdf(x).sum(1) for m, p in zip(means, precisions, strict=True)]
    return value + over_assignments(weights, np.stack(laws, 1))


def naive_bayes(model, v, data):
    """Labels that are missing are summed over, row by row."""
    x, labels = np.asarray(data["x"], dtype=float), data["y"]
    names = sorted({y for y in labels if y not in (None, -1)}, key=str)
    k, d = len(names), x.shape[1]
    value = stats.dirichlet(np.ones(k)).logpdf(v["weights"]) if model.smoothing else 0.0
    if model.features == "normal":
        laws = np.stack([stats.norm(v["means"][c], v["precisions"][c] ** -0.5).logpdf(x).sum(1) for c in range(k)], 1)
        if model.smoothing:
            rate = model.smoothing / 2 * x.var(0)
            value += stats.gamma(1 + model.smoothing / 2, scale=1 / rate).logpdf(v["precisions"]).sum()
            scale = (0.01 * model.smoothing * v["precisions"]) ** -0.5
            value += stats.norm(x.mean(0), scale).logpdf(v["means"]).sum()
    else:
        probs = v["probs"].reshape(-1, v["probs"].shape[-1])
        value += sum(stats.dirichlet(np.full(len(p), 1.0 + model.smoothing)).logpdf(p) for p in probs)
        codes, logs = x.astype(int), np.log(v["probs"])
        if model.features == "counts":
            laws = np.stack([(x * logs[c]).sum(1) for c in range(k)], 1)
            laws += (gammaln(x.sum(1) + 1) - gammaln(x + 1).sum(1))[:, None]
        else:
            laws = np.stack([sum(logs[c, j, codes[:, j]] for j in range(d)) for c in range(k)], 1)
    joint = np.log(v["weights"]) + laws
    return value + sum(
        row[names.index(y)] if y in names else logsumexp(row) for row, y in zip(joint, labels, strict=True)
    )


def lda(model, v, counts):
    counts, k = np.asarray(counts), model.topics
    of_topics, of_words = (1 / k if c is None else c for c in (model.topic_concentration, model.word_concentration))
    value = sum(stats.dirichlet(np.full(counts.shape[1], of_words)).logpdf(row) for row in v["words"])
    for row, shares in zip(counts, v["shares"], strict=True):
        p = shares @ v["words"]
        value += stats.dirichlet(np.full(k, of_topics)).logpdf(shares)
        value += gammaln(row.sum() + 1) - gammaln(row + 1).sum() + (row * np.log(p)).sum()
    return value


LATER_DENSITIES = {
    "LogisticRegression": logistic_regression,
    "PoissonRegression": poisson_regression,
    "HierarchicalRegression": hierarchical_regression,
    "ZeroInflatedPoisson": zero_inflated_poisson,
    "ItemResponse": item_response,
    "DirichletProcessMixture": dirichlet_process_mixture,
    "LDA": lda,
    "NaiveBayes": naive_bayes,
    "DawidSkene": dawid_skene,
    "StudentTMixture": student_t_mixture,
    "MixtureOfExperts": mixture_of_experts,
    "MixtureOfFactorAnalyzers": mixture_of_factors,
}
