"""Models in TOML and YAML: the same programs as their Python twins, mistakes by line and key, no code that runs."""

from __future__ import annotations

import tomllib

import numpy as np
import pytest
import torch
import yaml

import zoo
from inference import Fit, fit
from tests.cases.models import SCHOOLS, EightSchools
from tests.cases.spread import spread
from zoo.program.prepare import prepare

RNG = np.random.default_rng(0)
COIN = """
fields.x = "Binary(row)"
hyperparameters = { a = 1.0, b = 1.0 }
sites.p = "Beta(a, b)"
sites.row.x = "Bernoulli(p)"
"""
RATE = """
fields.counts = "Count(row)"
hyperparameters = { a = 2.0, b = 0.5 }
sites.rate = "Gamma(a, b)"
sites.row.counts = "Poisson(rate)"
"""
SHARES = """
fields.counts = "Count(row, category)"
hyperparameters.concentration = 1.0
sites.probs = "Dirichlet(full(size(category), concentration))"
sites.row.counts = "Multinomial(sum(counts, -1), probs)"
dims.probs = ["category"]
"""
LEVEL = """
fields.x = "Real(row)"
hyperparameters = { scale = 2.0, shrinkage = 0.01 }
constants = { location = "mean(x)" }
definitions.precision = "scale ** -2"
sites.mean = "Normal(location, rsqrt(shrinkage * precision * ones(1)[0]))"
sites.row.x = "Normal(mean, scale)"
"""
EVENTS = """
fields.counts = "Count(row)"
hyperparameters.components = 2
[parameters]
weights = { start = "full(components, 1 / components)", constraint = "simplex" }
rates = { start = "ones(components)", constraint = "positive" }
[sites.row]
z = "Categorical(weights)"
counts = "Poisson(rates[z])"
[dims]
weights = ["component"]
rates = ["component"]
"""
ANSWERS = """
fields.x = "Category(row, item)"
hyperparameters.components = 2
constants.most = "levels(x)"
[parameters]
weights = { start = "full(components, 1 / components)", constraint = "simplex" }
probs = { start = "full(components, size(item), most, 1 / most)", constraint = "simplex" }
[sites.row]
z = "Categorical(weights)"
x = "Categorical(probs[z]).to_event(1)"
[dims]
weights = ["component"]
probs = ["component", "item", "level"]
"""
TOPICS = """
fields.counts = "Count(document, word)"
hyperparameters.topics = 2
plates.topic = "topics"
sites.topic.words = "Dirichlet(full(size(word), 1 / topics))"
[sites.document]
shares = "Dirichlet(full(topics, 1 / topics))"
counts = "Multinomial(sum(counts, -1), shares @ words)"
[dims]
words = ["word"]
shares = ["topic"]
"""
TREATMENTS = """
name = "EightSchools"
doc = "Treatment effects of coaching programmes in eight schools (Rubin 1981)."

[fields]
effect = "Real(school)"
error = "Positive(school)"

[hyperparameters]
scale = 5.0

[sites]
mu = "Normal(0, scale)"
tau = "HalfCauchy(scale)"

[sites.school]
theta = "Normal(mu, tau)"
effect = "Normal(theta, error)"
"""
COUNTS = RNG.poisson(3.0, (12, 4)) + 1
TWINS = {
    "BetaBernoulli": (COIN, zoo.BetaBernoulli(), [1, 0, 1, 1]),
    "GammaPoisson": (RATE, zoo.GammaPoisson(a=2.0, b=0.5), [3, 0, 4]),
    "DirichletMultinomial": (SHARES, zoo.DirichletMultinomial(), COUNTS),
    "NormalNormal": (LEVEL, zoo.NormalNormal(scale=2.0), [1.0, 4.0, 2.5]),
    "PoissonMixture": (EVENTS, zoo.PoissonMixture(), [1, 2, 9, 8, 0, 11]),
    "LatentClass": (ANSWERS, zoo.LatentClass(), RNG.integers(0, 3, (30, 4))),
    "LDA": (TOPICS, zoo.LDA(topics=2), COUNTS),
    "EightSchools": (TREATMENTS, EightSchools(), SCHOOLS),
}


@pytest.fixture
def written(tmp_path):
    def write(text: str, name: str = "model.toml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


@spread("name", TWINS, part=0, of=2)
def test_a_text_is_the_same_program_as_its_twin(name, written):
    text, twin, data = TWINS[name]
    model = zoo.read_model(written(text))()
    mine, other = prepare(model, data), prepare(twin, data)
    values = other.initial()
    assert torch.equal(mine.log_joint(values).total(), other.log_joint(values).total())
    for site, share in other.responsibilities(values).items():
        assert torch.equal(mine.responsibilities(values)[site], share)
    # Sites, what feeds what, plates, shapes, and the methods that are legal and why others are not.
    said, expected = (zoo.explain(m, data).splitlines()[1:] for m in (model, twin))
    assert said == expected
    again = prepare(zoo.read_model(written(as_yaml(text), "model.yaml"))(), data)
    assert torch.equal(again.log_joint(values).total(), mine.log_joint(values).total())


def as_yaml(text: str) -> str:
    return yaml.safe_dump(tomllib.loads(text), sort_keys=False)


YAML = """
name: Coin
fields:
  x: Binary(row)
hyperparameters: {a: 1e0, b: 1}  # a number, though YAML 1.1 has it as text
sites:
  p: Beta(a, b)
  row:
    x: Bernoulli(p)
"""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("Beta(a, b)", "Beta(a, c)", r":7: sites\.p: unknown name 'c'"),
        ("  row:", "  rov:", r":8: sites\.rov: unknown plate 'rov'; did you mean 'row'"),
        ("sites:", "site:", r":6: site: unknown key 'site'; did you mean 'sites'"),
        ("{a: 1e0,", "{a: wide,", r":5: hyperparameters\.a: expected a number, found 'wide'"),
        ("{a: 1e0,", "{a: yes,", r":5: hyperparameters\.a: expected a number, found 'yes'"),
        ("  x: Binary(row)", "  x: Binary(row)\n  x: Real(row)", r":5: fields\.x is there twice"),
        ("Beta(a, b)", "!!python/object/apply:os.system ['true']", r":7: sites\.p: .*os\.system makes an object"),
        ("Beta(a, b)", "&p Beta(a, b)\n  q: *p", r":7: sites\.q: references \(&, \*\) are not read"),
        ("Beta(a, b)", "[" * 500, r":1: is no YAML: "),
        ("Beta(a, b)", "{a", r":\d+: is no YAML: "),
        ("{a: 1e0,", "{[a]: 1,", r":5: expected a name, found seq"),
    ],
)
def test_a_mistake_in_yaml_is_told_with_its_line_and_key(old, new, said, written):
    with pytest.raises(zoo.ZooError, match=r"model\.yml" + said):
        prepare(zoo.read_model(written(YAML.replace(old, new), "model.yml")), [1, 0])


def test_yaml_is_fitted_by_its_path_saved_and_read_again(written, tmp_path):
    found = fit(str(written(YAML, "coin.yaml")), [1, 0, 1, 1], method="exact", seed=0)
    assert found.objective.value == fit("beta_bernoulli", [1, 0, 1, 1], method="exact", seed=0).objective.value
    assert repr(Fit.load(found.save(tmp_path / "fit")).model) == "Coin(a=1.0, b=1)"


def test_a_text_is_fitted_saved_and_read_again(written, tmp_path):
    path = written(COIN.replace("\n", '\nname = "Coin"\n', 1))
    found = fit(str(path), [1, 0, 1, 1], method="exact", seed=0)
    assert repr(found.model) == "Coin(a=1.0, b=1.0)"
    assert found.objective.value == fit("beta_bernoulli", [1, 0, 1, 1], method="exact", seed=0).objective.value
    found.save(tmp_path / "fit")
    assert Fit.load(tmp_path / "fit").log_prob([1, 0]).tolist() == found.log_prob([1, 0]).tolist()
    assert zoo.read_model(path)(a=3).settings == {"a": 3.0, "b": 1.0}
    path.unlink()
    with pytest.raises(zoo.ModelError, match=r"not there any more, or give its class"):
        Fit.load(tmp_path / "fit")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("Normal(mu, tau)", "Normal(mu, tauu)", r":17: sites\.school\.theta: unknown name 'tauu'; did you mean 'tau'"),
        ("HalfCauchy(scale)", "HalfCauchi(scale)", r":14: sites\.tau: unknown distribution 'HalfCauchi'; did you mean"),
        ("Normal(0, scale)", "Normal(tau, scale)", r":13: sites\.mu: unknown name 'tau'"),
        ("[sites.school]", "[sites.shool]", r":16: sites\.shool: unknown plate 'shool'; did you mean 'school'"),
        ("Positive(school)", "Positiv(school)", r":7: fields\.error: unknown kind of field 'Positiv'"),
        ("scale = 5.0", "scale = 'wide'", r":10: hyperparameters\.scale: expected a number, found 'wide'"),
        ("scale = 5.0", "mu = 5.0", r":13: sites\.mu: unknown name 'scale'"),
        ("scale = 5.0", "scale = 5.0\ntau = 1", r":15: sites\.tau: 'tau' is among the hyperparameters already"),
        ("[sites]", "[site]", r":12: site: unknown key 'site'; did you mean 'sites'"),
        ("Normal(mu, tau)", "mu + tau", r":17: sites\.school\.theta: .*expected a distribution, such as Normal"),
        ("Normal(mu, tau)", "Normal(mu, tau", r":17: sites\.school\.theta: .* is no expression"),
        ("tau = ", "tau ", r"model\.toml is no TOML file: .*line 14"),
        (
            "[sites]",
            "[definitions]\na = 'b'\nb = '1'\n[sites]",
            r":13: definitions\.a: it names 'b', which is not above",
        ),
        ("[sites]", "[definitions]\nloc = 'theta'\n[sites]\nx = 'Normal(loc, 1)'", r":15: sites\.x: .*needs 'theta'"),
        ("HalfCauchy(scale)", "HalfCauchy(scale, 3)", r":14: sites\.tau: HalfCauchy takes scale; found .*too many"),
        ("HalfCauchy(scale)", "HalfCauchy(scales=1)", r":14: sites\.tau: HalfCauchy takes scale; found "),
        (
            "HalfCauchy(scale)",
            "HalfCauchy(exp(scale, 2))",
            r":14: sites\.tau: exp takes value; found 'exp\(scale, 2\)'",
        ),
        ("HalfCauchy(scale)", "HalfCauchy(full(scale))", r":14: sites\.tau: full takes size, size_or_value"),
        ("HalfCauchy(scale)", "Bernoulli()", r":14: sites\.tau: Bernoulli takes .* expected one of probs, logits"),
        (
            "HalfCauchy(scale)",
            "Normal(loc=0, loc=1, scale=1)",
            r":14: sites\.tau: .*multiple values for argument 'loc'",
        ),
        ('effect = "Normal', 'result = "Normal', r":12: sites: no site is called as a field is \(effect, error\)"),
        ("[sites]", "[dims]\nnu = ['school']\n[sites]", r":13: dims\.nu: unknown site or parameter 'nu'"),
    ],
)
def test_a_mistake_is_told_with_its_line_and_key(old, new, said, written):
    with pytest.raises(zoo.ZooError, match=said):
        zoo.read_model(written(TREATMENTS.replace(old, new)))


@pytest.mark.parametrize(
    "text",
    [
        "Normal(__import__('os').system('true'), 1)",
        "Normal(().__class__.__bases__[0].__subclasses__(), 1)",
        "Normal(mu.data, 1)",
        "Normal((lambda: 0)(), 1)",
        "Normal([i for i in mu], 1)",
        "Normal(open('/etc/passwd'), 1)",
        "Normal(mu if tau else 0, 1)",
        "Normal('a', 1)",
        "Normal(loc=mu, **tau)",
        "Normal(*mu)",
        "exec(mu)",
        "Normal(mu, 1).sample()",
        "Normal(mu := 3, 1)",
        "Normal(" + "(" * 300 + ")" * 300 + ", 1)",
        "Normal(" + "1+" * 2000 + "1, 1)",
    ],
)
def test_nothing_but_arithmetic_is_read(text, written):
    with pytest.raises(zoo.ZooError, match=r":17: sites\.school\.theta: "):
        zoo.read_model(written(TREATMENTS.replace("Normal(mu, tau)", text)))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "rates[z]",
            "rates[z + 1]",
            r"in .*model\.toml:9: sites\.row\.counts, .Poisson\(rates\[z \+ 1\]\).: IndexError",
        ),
        ("Poisson(rates[z])", "Poisson(rates)", r"in .*model\.toml:9: sites\.row\.counts, .*: ValueError"),
        (
            "full(components, 1 / components)",
            "ones(components)",
            r":5: parameters\.weights: .*which is not in Simplex;",
        ),
        (
            "full(components, 1 / components)",
            "full(components, 1 / 0)",
            r":5: parameters\.weights: .*ZeroDivisionError",
        ),
    ],
)
def test_a_mistake_that_shows_with_data_is_told_with_its_line_and_key(old, new, said, written):
    model = zoo.read_model(written(EVENTS.replace(old, new)))
    with pytest.raises(zoo.ModelError, match=said):
        prepare(model(), [1, 2, 9, 8])


def test_whole_numbers_do_not_grow_without_end(written):
    model = zoo.read_model(written(TREATMENTS.replace("Normal(mu, tau)", "Normal(9 ** 9 ** 9 ** 9, tau)")))
    with pytest.raises(zoo.ModelError, match="OverflowError"):
        prepare(model(), SCHOOLS)
