"""The models of the zoo: densities by other means, what their cards say, where they start, published fits, bad data."""

from __future__ import annotations

import inspect
import re

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from scipy.special import gammaln, logsumexp

import zoo
from inference import EM, MAP, SVI, Exact, Fit, fit
from inference.diagnostics.coordinates import event_names
from tests.cases.densities import LATER_DENSITIES, over_assignments
from tests.cases.models import LATER, LINES, SIZES, ZOO_CASES
from tests.cases.spread import spread
from zoo import catalogue
from zoo.program.prepare import prepare
from zoo.replay.evaluate import model_context
from zoo.replay.multinomial import Multinomial
from zoo.replay.random import reseed
from zoo.structure.discover import made_up

QUICK = {"exact": Exact(), "em": EM(max_steps=20), "svi": SVI(steps=60), "map": MAP(steps=60)}


# -- densities ---------------------------------------------------------------------------------------------------


def poisson_mixture(model, v, counts):
    counts = np.asarray(counts)
    value = over_assignments(v["weights"], stats.poisson(v["rates"]).logpmf(counts[:, None]))
    if model.concentration:
        value += stats.dirichlet([model.concentration] * model.components).logpdf(v["weights"])
    if model.shape:
        value += stats.gamma(model.shape, scale=counts.mean() / model.shape).logpdf(v["rates"]).sum()
    return value


def latent_class(model, v, x):
    x = np.asarray(x)
    items = [np.log(v["probs"][:, j, x[:, j]]).T for j in range(x.shape[1])]
    return over_assignments(v["weights"], sum(items))


def mixture_of_regressions(model, v, data):
    x, y = np.asarray(data["x"]), np.asarray(data["y"])
    lines = (x - model.intercept * x.mean(0)) @ v["coefficients"].T + (v["intercepts"] if model.intercept else 0)
    return over_assignments(v["weights"], stats.norm(lines, v["scales"]).logpdf(y[:, None]))


def k_means(model, v, x):
    density = stats.norm(v["centers"], np.sqrt(v["variance"])).logpdf(np.asarray(x)[:, None])
    return over_assignments(np.full(model.clusters, 1 / model.clusters), density.sum(-1))


def noise_prior(model, v, guess):
    """Precision of the noise and its log prior; `guess` is the default guess of the variance."""
    if model.scale:
        return model.scale**-2, 0.0
    guess = model.prior_scale**2 if model.prior_scale else guess
    return v["precision"], stats.gamma(model.df / 2, scale=2 / (model.df * guess)).logpdf(v["precision"])


def normal_normal(model, v, x):
    precision, value = noise_prior(model, v, np.var(x))
    center = np.mean(x) if model.center is None else model.center
    value += stats.norm(center, (model.shrinkage * precision) ** -0.5).logpdf(v["mean"])
    return value + stats.norm(v["mean"], precision**-0.5).logpdf(x).sum()


def regression_setting(model, data):
    """Centred columns, their variances, the level of y, and the variance of least-squares residuals."""
    x, y = np.asarray(data["x"]), np.asarray(data["y"])
    if not model.intercept:
        return x, np.square(x).mean(0), 0.0, None
    centred = x - x.mean(0)
    residual = np.linalg.lstsq(centred, y - y.mean(), rcond=None)[1][0]
    return centred, centred.var(0), y.mean(), residual / (len(y) - x.shape[1] - 1)


def bayesian_regression(model, v, data):
    x, variances, level, guess = regression_setting(model, data)
    precision, value = noise_prior(model, v, guess)
    prior = model.shrinkage * precision
    value += stats.norm(0, (prior * variances) ** -0.5).logpdf(v["coefficients"]).sum()
    loc = x @ v["coefficients"]
    if model.intercept:
        value += stats.norm(level, prior**-0.5).logpdf(v["intercept"])
        loc = loc + v["intercept"]
    return value + stats.norm(loc, precision**-0.5).logpdf(data["y"]).sum()


def gamma_poisson(model, v, counts):
    b = model.a / np.mean(counts) if model.b is None else model.b
    return stats.gamma(model.a, scale=1 / b).logpdf(v["rate"]) + stats.poisson(v["rate"]).logpmf(counts).sum()


def dirichlet_multinomial(model, v, counts):
    prior = stats.dirichlet([model.concentration] * len(counts[0])).logpdf(v["probs"])
    return prior + sum(stats.multinomial(sum(row), v["probs"]).logpmf(row) for row in counts)


def factors(model, v, x):
    noise = np.sqrt(v["variances"] if "variances" in v else v["variance"])
    loc = v["means"] + v["z"] @ v["loadings"].T
    return stats.norm(loc, noise).logpdf(x).sum() + stats.norm.logpdf(v["z"]).sum()


def linear_dynamical_system(model, v, x):
    """All rows of a sequence as one Normal."""
    x, value, at = np.asarray(x, float), 0.0, 0
    for n in model.lengths or (len(x),):
        q, a, c = model.states, v["transition"], v["loadings"]
        moves = np.zeros((n, n, q, q))  # from the noise of one row to the state of another
        for t in range(n):
            moves[t, t] = np.eye(q)
            for s in range(t):
                moves[t, s] = a @ moves[t - 1, s]
        flat = moves.transpose(0, 2, 1, 3).reshape(n * q, n * q)
        cov = flat @ flat.T
        design = np.kron(np.eye(n), c)
        mean = np.tile(v["means"], n) + design @ (flat[:, :q] @ v["initial"])
        total = design @ cov @ design.T + np.diag(np.tile(v["variances"], n))
        value += stats.multivariate_normal(mean, total).logpdf(x[at : at + n].ravel())
        at += n
    return value


DENSITIES = {
    "PoissonMixture": poisson_mixture,
    "LatentClass": latent_class,
    "MixtureOfRegressions": mixture_of_regressions,
    "NormalNormal": normal_normal,
    "GammaPoisson": gamma_poisson,
    "DirichletMultinomial": dirichlet_multinomial,
    "BayesianRegression": bayesian_regression,
    "FactorAnalysis": factors,
    "PPCA": factors,
    "KMeans": k_means,
    **LATER_DENSITIES,
    "LinearDynamicalSystem": linear_dynamical_system,
}
SLOW = {name: [pytest.mark.slow] if name in LATER else [] for name in DENSITIES}
CASES = [pytest.param(name, *case, marks=SLOW[name]) for name in DENSITIES for case in ZOO_CASES[name]]
every_case = pytest.mark.parametrize(("name", "model", "data"), CASES, ids=lambda v: v if isinstance(v, str) else "")
EVERY_MODEL = [pytest.param(name, marks=SLOW[name]) for name in DENSITIES]
every_model = pytest.mark.parametrize("name", EVERY_MODEL)


def random_values(program, seed):
    with torch.random.fork_rng(), model_context(program.dtype, program.device):
        reseed(seed)
        sites = [*program.parameters, *program.latents]
        return {s.name: made_up(s.support, program.site_shape(s), s.name) for s in sites}


@every_case
@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=pytest.mark.slow) for s in (1, 2))])
def test_the_log_joint_is_that_of_the_story(name, model, data, seed):
    program = prepare(model, data)
    values = random_values(program, seed)
    expected = DENSITIES[name](model, {n: v.numpy() for n, v in values.items()}, data)
    assert float(program.log_joint(values).total()) == pytest.approx(expected, rel=1e-7)


def closed_form_ppca(x, factors):
    """Maximum-likelihood means, loadings and variance (Tipping and Bishop 1999, equations 7 and 8)."""
    eigenvalues, axes = np.linalg.eigh(np.cov(x.T, bias=True))
    variance = eigenvalues[:-factors].mean()
    return x.mean(0), axes[:, -factors:] * np.sqrt(eigenvalues[-factors:] - variance), variance


@pytest.mark.parametrize(("factors", "expected"), [(1, -470.669458), (2, -404.962780)])
def test_ppca_has_its_known_likelihood_at_its_known_maximum(factors, expected):
    """log p(x) = log p(x, z) - log p(z | x) at any z; the maximum on iris in closed form, as evaluated elsewhere."""
    x = zoo.datasets.load("iris").to_numpy()
    means, loadings, variance = closed_form_ppca(x, factors)
    precision = np.eye(factors) + loadings.T @ loadings / variance
    center = np.linalg.solve(precision, loadings.T @ (x - means).T / variance).T
    z = np.random.default_rng(0).normal(size=(len(x), factors))
    posterior = stats.multivariate_normal(np.zeros(factors), np.linalg.inv(precision)).logpdf(z - center)
    values = {"means": means, "loadings": loadings, "variance": np.array(variance), "z": z}
    joint = prepare(zoo.PPCA(factors), x).log_joint({n: torch.as_tensor(v) for n, v in values.items()})
    assert float(joint.total()) - posterior.sum() == pytest.approx(expected, abs=1e-6)


# -- cards, names and starts ---------------------------------------------------------------------------------------


@every_case
def test_sites_have_the_shapes_the_card_tells(name, model, data):
    lines = dict(re.findall(r"``(\w+)``\s+(\(.*)", inspect.getdoc(type(model))))
    told = {n: [tuple(d for d in s.split(", ") if d) for s in re.findall(r"\(([^)]*)\)", v)] for n, v in lines.items()}
    program = prepare(model, data)
    for site in program.sites.values():
        dims = event_names(program, site)
        assert dims in told[site.name], site.name
        assert len(dims) == len(site.shape), site.name


@spread(("name", "model", "data"), CASES, part=0, of=2, ids=lambda v: v if isinstance(v, str) else "")
def test_explain_says_what_can_be_done(name, model, data):
    text = zoo.explain(model, data)
    assert repr(model) in text
    assert re.search(r"^\w+ +yes", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("kmeans", "KMeans"),
        ("k_means", "KMeans"),
        ("k-means", "KMeans"),
        ("ppca", "PPCA"),
        ("poisson_mixture", "PoissonMixture"),
        ("latent-class", "LatentClass"),
        ("mixtureofregressions", "MixtureOfRegressions"),
    ],
)
def test_names_are_found_however_they_are_written(given, name):
    assert catalogue.find("model", given) is getattr(zoo, name)


@spread(("scale", "shift"), [(1.0, 0.0), (1e6, 1e9), (1e-6, -3.0)], part=1, of=3)
@every_model
def test_every_start_is_inside_the_supports(name, scale, shift):
    """`Program.initial` refuses proposals outside supports and starts with a density that is not a number."""
    for model, data in ZOO_CASES[name]:
        units = data
        if isinstance(next(iter(model.fields.values())), zoo.Real):
            fields = data if isinstance(data, dict) else {"x": data}
            coded = isinstance(model, zoo.NaiveBayes) and model.features != "normal"
            real = {n for n, f in model.fields.items() if type(f) is zoo.Real and not coded}
            units = {n: scale * np.asarray(v) + shift if n in real else v for n, v in fields.items()}
        program = prepare(model, units)
        proposed = program.model.initial(**program.data.values)
        if proposed:
            assert set(proposed) == {s.name for s in (*program.parameters, *program.latents)}
        for _ in range(5):
            assert all(bool(v.isfinite().all()) for v in program.initial().values())


@spread("name", EVERY_MODEL, part=0, of=2)
def test_a_fit_survives_being_saved(name, tmp_path):
    model, data = ZOO_CASES[name][0]
    program = prepare(model, data)
    method = next(m for m in QUICK.values() if m.why_not(program) is None)
    found = fit(model, data, method=method, seed=0, device="cpu", progress=False)
    loaded = Fit.load(found.save(tmp_path / "fit"))
    assert loaded.log_prob(samples=20).equals(found.log_prob(samples=20))
    first, second = found.generate(5, seed=1), loaded.generate(5, seed=1)
    if isinstance(first, dict):  # of more than two dimensions
        assert all(len(v) == 5 and np.array_equal(v, second[n]) for n, v in first.items())
    else:
        assert len(first) == 5
        assert first.equals(second)


# -- published and closed-form fits --------------------------------------------------------------------------------


@pytest.mark.parametrize(("components", "expected"), [(1, 391.9189), (2, 360.3690), (3, 356.8489)])
def test_earthquakes_have_their_known_mixtures(reference, components, expected):
    """Zucchini and MacDonald (2009), table 1.2: negative log likelihood of the yearly counts."""
    counts = reference("data/earthquakes.json")["counts"]
    found = fit(zoo.PoissonMixture(components), counts, method=EM(restarts=10), seed=0, progress=False)
    assert -found.objective.value == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("first_code", [0, 1])
@pytest.mark.parametrize(("classes", "expected"), [(2, -317.256837), (3, -293.704979), (4, -289.285849)])
def test_carcinoma_has_its_known_classes(references, classes, expected, first_code):
    """Ratings of slides by seven pathologists (Agresti 2002, table 13.1), coded 1 and 2 or 0 and 1."""
    ratings = pd.read_csv(references / "data" / "lca_carcinoma.csv") + (first_code - 1)
    method = EM(restarts=10, max_steps=3000)
    found = fit(zoo.LatentClass(classes), ratings, method=method, seed=0, progress=False)
    assert found.objective.value == pytest.approx(expected, abs=1e-5)
    assert set(np.unique(found.generate(50, seed=0))) <= {first_code, first_code + 1}


def test_items_may_have_different_numbers_of_levels():
    """With one class the maximum is the share of each answer, item by item, and unused levels have probability 0."""
    x = np.array([[0, 2, 1], [1, 0, 1], [1, 1, 0], [0, 3, 1], [0, 2, 1]])
    found = fit(zoo.LatentClass(1), x, method="em", seed=0, progress=False)
    shares = np.stack([np.bincount(column, minlength=4) for column in x.T]) / len(x)
    np.testing.assert_allclose(found.points["probs"][0], shares, atol=1e-12)
    assert found.objective.value == pytest.approx(sum(np.log(shares[j, a]) for row in x for j, a in enumerate(row)))


def test_words_and_codes_are_the_same_answers():
    codes = np.array([[0, 1], [1, 1], [0, 0], [1, 0], [0, 1], [0, 0]])
    words = np.where(codes == 1, "yes", "no")
    first, second = (fit(zoo.LatentClass(), x, method="em", seed=0, progress=False) for x in (codes, words))
    assert first.objective == second.objective
    assert set(np.unique(second.generate(20, seed=0).to_numpy())) == {"no", "yes"}


def whiteside():
    house = zoo.datasets.load("whiteside")
    return house, house[["temperature", "gas"]].rename(columns={"gas": "y"})


def test_one_line_is_least_squares():
    house, data = whiteside()
    slope, intercept = np.polyfit(house["temperature"], house["gas"], 1)
    scale = (house["gas"] - intercept - slope * house["temperature"]).std(ddof=0)
    found = fit(zoo.MixtureOfRegressions(1), data, method="em", seed=0, progress=False)
    assert found.objective.value == pytest.approx(stats.norm(0, scale).logpdf(scale) * len(house), abs=1e-5)
    for name, expected in (("coefficients", slope), ("intercepts", house["gas"].mean()), ("scales", scale)):
        assert float(found.points[name]) == pytest.approx(expected, rel=1e-3)


def test_two_lines_beat_the_grouping_that_was_made():
    """The maximum is at least as high as with the lines before and after insulation, and finds those weeks."""
    house, data = whiteside()
    groups = [part for _, part in house.groupby("insulated")]
    lines = [np.polyfit(g["temperature"], g["gas"], 1) for g in groups]
    density = []
    for g, line in zip(groups, lines, strict=True):
        noise = (g["gas"] - np.polyval(line, g["temperature"])).std(ddof=0)
        density.append(
            np.log(len(g) / 56) + stats.norm(np.polyval(line, house["temperature"]), noise).logpdf(data["y"])
        )
    found = fit(zoo.MixtureOfRegressions(2), data, method=EM(restarts=5), seed=0, progress=False)
    assert found.objective.value >= logsumexp(density, axis=0).sum()
    assigned = found.assign().to_numpy().argmax(1)
    agree = (assigned == house["insulated"]).mean()
    assert max(agree, 1 - agree) > 0.9


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("clusters", [2, 3, 5])
def test_hard_em_of_k_means_is_lloyds_algorithm(clusters, seed):
    """From the same start: the same centers, labels and inertia as scikit-learn's KMeans."""
    cluster = pytest.importorskip("sklearn.cluster")
    x = zoo.datasets.load("iris").to_numpy()
    start = x[np.random.default_rng(seed).choice(len(x), clusters, replace=False)]

    class FromHere(zoo.KMeans):
        def initial(self, x):
            return {"centers": torch.as_tensor(start), "variance": torch.tensor(1.0)}

    expected = cluster.KMeans(clusters, init=start, n_init=1, tol=0, max_iter=1000).fit(x)
    found = fit(FromHere(clusters), x, method=EM(hard=True), seed=0, progress=False)
    np.testing.assert_allclose(found.points["centers"], expected.cluster_centers_, rtol=1e-9)
    np.testing.assert_array_equal(found.assign().to_numpy().argmax(1), expected.labels_)
    variance = expected.inertia_ / x.size
    assert float(found.points["variance"]) == pytest.approx(variance, rel=1e-9)
    height = -0.5 * x.size * (np.log(2 * np.pi * variance) + 1) - len(x) * np.log(clusters)
    assert found.objective.value == pytest.approx(height, rel=1e-9)


def evidence_gamma_poisson(model, x):
    b, total = model.a / np.mean(x) if model.b is None else model.b, np.sum(x)
    shape = model.a + total
    return (
        model.a * np.log(b)
        - gammaln(model.a)
        + gammaln(shape)
        - shape * np.log(b + len(x))
        - gammaln(np.add(x, 1)).sum()
    )


def evidence_dirichlet_multinomial(model, x):
    x, a = np.asarray(x), model.concentration
    prior, after = np.full(x.shape[1], a), a + x.sum(0)
    constant = gammaln(x.sum(1) + 1).sum() - gammaln(x + 1).sum()
    return constant + gammaln(prior.sum()) - gammaln(prior).sum() + gammaln(after).sum() - gammaln(after.sum())


def marginal(model, y, center, covariance, guess):
    """Normal with noise of known scale, Student t without (Bishop 2006, exercise 3.23)."""
    if model.scale:
        return stats.multivariate_normal(center, model.scale**2 * covariance).logpdf(y)
    guess = model.prior_scale**2 if model.prior_scale else guess
    return stats.multivariate_t(center, guess * covariance, model.df).logpdf(y)


def evidence_normal_normal(model, x):
    center = np.full(len(x), np.mean(x) if model.center is None else model.center)
    return marginal(model, x, center, np.eye(len(x)) + 1 / model.shrinkage, np.var(x))


def evidence_bayesian_regression(model, data):
    x, variances, level, guess = regression_setting(model, data)
    covariance = np.eye(len(x)) + (x / variances) @ x.T / model.shrinkage + model.intercept / model.shrinkage
    return marginal(model, data["y"], np.full(len(x), level), covariance, guess)


EVIDENCES = {
    "GammaPoisson": evidence_gamma_poisson,
    "DirichletMultinomial": evidence_dirichlet_multinomial,
    "NormalNormal": evidence_normal_normal,
    "BayesianRegression": evidence_bayesian_regression,
}


@pytest.mark.parametrize(
    ("name", "model", "data"),
    [c for c in CASES if c.values[0] in EVIDENCES],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_the_evidence_is_the_marginal_density(name, model, data):
    found = fit(model, data, method="exact", seed=0, progress=False)
    assert found.objective.value == pytest.approx(EVIDENCES[name](model, data), rel=1e-7)


@pytest.mark.parametrize(("given", "shift"), [(2.0**-20, 0.0), (2.0**10, 1e9)], ids=["small", "far"])
@spread("method", ["em", "exact"], part=0, of=2)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[*SLOW[n], *([pytest.mark.slow] if "Factor" in n else [])])
        for n in DENSITIES
        if n != "LinearDynamicalSystem"  # its likelihood of six rows has no maximum
    ],
)
def test_the_units_of_the_data_do_not_matter(name, method, given, shift):
    """In units c times as small, n numbers have a density c^n times as small: default priors and starts go along."""
    model, data = ZOO_CASES[name][0]
    observed = list(model.fields)[-1]
    if not isinstance(model.fields[observed], zoo.Real) or QUICK[method].why_not(prepare(model, data)):
        return
    fields = {n: np.asarray(v) for n, v in (data if isinstance(data, dict) else {observed: data}).items()}
    scales = dict.fromkeys(fields, given) | {observed: 2.0**10}  # powers of 2, which round nothing
    real = {n for n, f in model.fields.items() if type(f) is zoo.Real}
    units = {n: scales[n] * v + shift if n in real else v for n, v in fields.items()}
    # Plain steps are the same to the last digit; extrapolated ones end within the tolerance of the same limit.
    steps = EM(acceleration=None) if method == "em" else method
    plain, other = (fit(model, d, method=steps, seed=0, progress=False).objective for d in (fields, units))
    if plain.kind == "log_posterior":  # a density in units of its own; and its climb has not ended
        return
    # Numbers next to 1e9 are kept to 1e-7, one part in 1e9 of a spread of 100.
    assert other.value == pytest.approx(
        plain.value - fields[observed].size * 10 * np.log(2), rel=1e-8 if shift == 0 else 1e-6
    )


# -- rows of counts with totals of their own -----------------------------------------------------------------------


def test_the_multinomial_takes_a_total_for_each_row():
    totals, probs = (torch.tensor(v, dtype=torch.float64) for v in ([3, 0, 40], [0.2, 0, 0.5, 0.3]))
    fn = Multinomial(totals, probs)
    with torch.random.fork_rng():
        reseed(0)
        drawn = fn.sample((4000,))
    assert torch.equal(drawn.sum(-1), totals.expand(4000, 3))
    assert fn.support.check(drawn).all()
    assert (drawn[..., 1] == 0).all()
    # Standard errors of the moments; 9 cells are looked at, 4.5 standard errors are one in ten thousand.
    error = (totals[:, None] * probs * (1 - probs) / 4000).sqrt()
    assert ((drawn.mean(0) - totals[:, None] * probs).abs() <= 4.5 * error).all()
    covariance = np.cov(drawn[:, 2].numpy().T)
    expected = 40 * (np.diag(probs) - np.outer(probs, probs))
    np.testing.assert_allclose(covariance, expected, atol=4.5 * 12 / np.sqrt(4000))
    density = [
        stats.multinomial(int(n), probs.numpy()).logpmf(row) for n, row in zip(totals, drawn[0].numpy(), strict=True)
    ]
    np.testing.assert_allclose(fn.log_prob(drawn[0]), density, atol=1e-12)
    assert fn.expand((2, 3)).log_prob(drawn[:2]).shape == (2, 3)
    with pytest.raises(NotImplementedError, match="gradient"):
        fn.rsample()


# -- data that go wrong --------------------------------------------------------------------------------------------

X = np.array(LINES["x"])
Y = np.array(LINES["y"])
WRONG = {
    "counts that are not whole": (zoo.PoissonMixture(), [1.5, 2, 3], "'counts' .*whole number.*1.5 at row 0"),
    "counts below zero": (zoo.PoissonMixture(), [1, -2, 3], "'counts' .*found -2 at row 1"),
    "no events": (zoo.PoissonMixture(1), [0, 0, 0], "all 3 counts are 0.*GammaPoisson"),
    "few counts": (zoo.PoissonMixture(3), [1, 2], r"components \(3\) than distinct rows \(2 among 2\)"),
    "few different counts": (zoo.PoissonMixture(3), [1, 1, 2, 2], r"distinct rows \(2 among 4\)"),
    "answers that are not codes": (zoo.LatentClass(), [[0.5, 1], [1, 0]], "'x' .*category code.*0.5 at row 0"),
    "answers below zero": (zoo.LatentClass(), [[-2, 1], [1, 0]], "'x' .*category code.*-2 at row 0"),
    "an identifier among the items": (
        zoo.LatentClass(),
        pd.DataFrame({"a": [0, 1, 1], "id": [5000, 5001, 5002]}),
        "item 'id': .*found 5002; recode it",
    ),
    "one pattern of answers": (zoo.LatentClass(), [[0, 1]] * 4, r"distinct rows \(1 among 4\)"),
    "constant column": (
        zoo.MixtureOfRegressions(),
        {"x": np.c_[X, np.ones(len(X))], "y": Y},
        "column 2 is constant; drop it",
    ),
    "dependent columns": (zoo.MixtureOfRegressions(), {"x": np.c_[X, X.sum(1)], "y": Y}, "determine 3 of the 4"),
    "fewer rows than unknowns": (zoo.MixtureOfRegressions(), {"x": X[:2], "y": Y[:2]}, "2 rows determine 2 of the 3"),
    "no variation to regress": (zoo.MixtureOfRegressions(), {"x": X, "y": 0 * Y + 3}, "'y': .*found 3 10 times"),
    "huge response": (zoo.MixtureOfRegressions(), {"x": X, "y": Y * 1e200}, "'y'.*too large"),
    "one value": (zoo.NormalNormal(), [3.0], "'x': .*found 3 1 times.*prior_scale"),
    "the same value": (zoo.NormalNormal(), [3.0, 3.0], "'x': .*found 3 2 times.*prior_scale"),
    "one category": (zoo.DirichletMultinomial(), [[1], [2]], "at least 2 categories"),
    "shares for counts": (zoo.DirichletMultinomial(), [[0.5, 0.5]], "'counts' .*whole number"),
    "constant predictor": (zoo.BayesianRegression(), {"x": [[1.0], [1.0]], "y": [1.0, 2.0]}, "column 0 is constant"),
    "zero predictor": (
        zoo.BayesianRegression(intercept=False),
        {"x": [[0.0, 1.0], [0.0, 2.0]], "y": [1.0, 2.0]},
        "column 0 is 0",
    ),
    "constant response": (zoo.BayesianRegression(), {"x": X, "y": 0 * Y + 3}, "'y': .*found 3 10 times.*prior_scale"),
    "as many factors as columns": (zoo.PPCA(3), SIZES, "fewer factors than columns, found 3 factors and 3 columns"),
    "factors for one column": (zoo.FactorAnalysis(), [[1.0], [2.0]], "fewer factors than columns"),
    "few rows for factors": (zoo.PPCA(2), SIZES[:3], r"explain the 3 rows without error.*2 direction\(s\)"),
    "one row of factors": (zoo.PPCA(), SIZES[:1], "0 direction"),
    "huge factors": (zoo.PPCA(), np.array(SIZES) * 1e200, "too large"),
    "rows that are the same": (zoo.KMeans(), [[1.0, 2.0]] * 3, "the same"),
    "one row": (zoo.KMeans(1), [[1.0, 2.0]], "the same"),
    "more clusters than rows": (zoo.KMeans(4), SIZES[:3], r"components \(4\)"),
    "tiny distances": (zoo.KMeans(), np.array(SIZES) * 1e-200, "too small"),
}


@pytest.mark.parametrize("what", WRONG)
def test_data_that_cannot_be_fitted_are_refused(what):
    model, data, message = WRONG[what]
    with pytest.raises(zoo.DataError, match=message):
        prepare(model, data)


RIGHT = {
    "no events": (zoo.GammaPoisson(), [0, 0, 0]),
    "one row of nothing": (zoo.GammaPoisson(a=0.5), [0]),
    "billions": (zoo.GammaPoisson(), [10**9, 2 * 10**9]),
    "empty rows": (zoo.DirichletMultinomial(), [[0, 0], [3, 1]]),
    "nothing at all": (zoo.DirichletMultinomial(), [[0, 0, 0]]),
    "the same value under known noise": (zoo.NormalNormal(scale=2.0), [3.0, 3.0]),
    "one value far out": (zoo.NormalNormal(scale=1e-3), [1e12]),
    "one component for one row": (zoo.PoissonMixture(1), [5]),
    "zeros in one component": (zoo.PoissonMixture(2), [0] * 20 + [5, 6, 7, 9]),
    "an item that all answer alike": (zoo.LatentClass(2), [[0, 1], [0, 0], [0, 1], [0, 0]]),
    "a constant column without intercept": (
        zoo.MixtureOfRegressions(intercept=False),
        {"x": np.c_[X, np.ones(len(X))], "y": Y},
    ),
    "a constant column among clusters": (zoo.KMeans(2), np.c_[SIZES, np.ones(6)]),
    "as many rows as clusters": (zoo.KMeans(3), SIZES[:3]),
    "more columns than rows": (zoo.BayesianRegression(scale=1.0), {"x": X[:2], "y": Y[:2]}),
    "dependent predictors": (zoo.BayesianRegression(scale=1.0), {"x": np.c_[X, X.sum(1)], "y": Y}),
}


@pytest.mark.parametrize("what", RIGHT)
def test_extreme_data_are_fitted(what):
    model, data = RIGHT[what]
    program = prepare(model, data)
    method = next(m for m in QUICK.values() if m.why_not(program) is None)
    found = fit(model, data, method=method, seed=0, device="cpu", progress=False)
    assert np.isfinite(found.objective.value)
    assert np.isfinite(found.log_prob(samples=20)).all()
    assert all(bool(v.isfinite().all()) for v in found.points.values())
