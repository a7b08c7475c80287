"""What is promised of every model, method, guide and family: the conformance suite on everything that is registered."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch

import zoo
from guides import MeanField, Point
from inference import Method
from inference.conjugate import closed_form, load
from inference.conjugate.exponential_family import Likelihood
from tests.cases.models import (
    CONJUGATE,
    FLIPS,
    LATER,
    OWN_CASES,
    SCHOOLS,
    ZOO_CASES,
    EightSchools,
    NormalMean,
    coin,
    gates,
)
from tests.cases.spread import spread
from zoo import catalogue, testing
from zoo.program.explain import legality
from zoo.program.prepare import prepare

CASES = [*(case for cases in ZOO_CASES.values() for case in cases), *OWN_CASES]
QUICK = testing.quick_methods()
DENSITY_ONLY = (
    "laplace",
    "dadvi",
    "pathfinder",
    "nuts",
    "smc",
)  # see no more than the density: one case will do
FIRST = {type(model): i for i, (model, _) in reversed(list(enumerate(CASES)))}


# Further shapes of a model are fitted by each method, but not saved, and not fitted over again.
CLOSED_FORMS = ("exact", "em", "cavi")
OFTEN = ("* storage", "* seeds", "svi weights", "map weights")


def methods_for(case: int) -> list[Method]:
    model = type(CASES[case][0])
    chosen = {n: m for n, m in QUICK.items() if n not in DENSITY_ONLY or FIRST[model] == case}
    if model in (EightSchools, zoo.HierarchicalRegression):  # no mode: the density rises without bound as a scale falls
        chosen.pop("laplace", None)
    if model is zoo.HierarchicalRegression:  # nor has the ELBO over so few fixed draws of so many coefficients
        chosen.pop("dadvi", None)
    return list(chosen.values())


CASE_NUMBERS = [
    pytest.param(i, id=f"{i}-{name}", marks=[pytest.mark.slow] if name in LATER else [])
    for i, name in enumerate(type(model).__name__ for model, _ in CASES)
]
everywhere = pytest.mark.parametrize("case", CASE_NUMBERS)


def test_every_registered_model_has_small_data():
    missing = set(zoo.models()) - set(ZOO_CASES)
    assert not missing, f"add a few rows of data for {sorted(missing)} to ZOO_CASES in tests/cases/models.py"


@spread("case", [CASE_NUMBERS[i] for i in sorted(FIRST.values())], part=0, of=4)
def test_every_model_keeps_its_promises_with_closed_forms(case):
    """One shape of each model by the quick methods; other shapes and methods are among the slow tests."""
    quick = [QUICK[name] for name in CLOSED_FORMS]
    said = testing.check_model(*CASES[case], methods=quick, skip=("* storage", "* seeds"))
    assert all(len(what) > 4 for what in said.values())


@pytest.mark.slow
@everywhere
def test_every_model_keeps_its_promises_with_every_method(case):
    first = FIRST[type(CASES[case][0])] == case
    said = testing.check_model(*CASES[case], methods=methods_for(case), skip=() if first else OFTEN)
    assert all(len(what) > 4 for what in said.values())


@spread("case", CASE_NUMBERS, part=0, of=2)
def test_legal_methods_follow_from_the_latents(case):
    program = prepare(*CASES[case], device="cpu")
    said = {name.lower(): why for name, why in legality(program).items()}
    assert set(said) == set(QUICK)
    name = type(CASES[case][0]).__name__
    labelled = name == "NaiveBayes" and not program.enumerated
    if program.locals:  # legal where their posterior given parameters without prior has a closed form
        by_state = all(b.by_state for b in closed_form(program).blocks if program.locals[0].name in b.unknowns)
        alone = by_state or all(s.cardinality == 1 for s in program.enumerated)
        assert said["em"] is not None or (alone and not program.globals)
    else:
        assert (said["em"] is None) == bool(program.enumerated or program.integrated or labelled)
    given_states = name == "ChangePoint" and len(program.latents) == 1
    assert (said["exact"] is None) == (name in (*CONJUGATE, "coin") or given_states or labelled)
    assert (
        said["exact"] is not None or said["cavi"] is None or given_states
    )  # one block after the other, or all at once
    for site in program.enumerated:  # Pyro marks states with the address of a distribution, which another may have
        assert vars(site.states) == {}


# -- guides ------------------------------------------------------------------------------------------------------------

STEPS = 20
EVERY = {name: entry.load() for name, entry in catalogue.entries("guide").items()}
GUIDES = {  # those whose settings have no defaults are tried as one would write them
    **{name: guide for name, guide in EVERY.items() if name not in ("Custom", "Guides")},
    "Flow": lambda: EVERY["Flow"](layers=2, hidden=(8,)),
    "Guides": lambda: MeanField() & Point("mean"),
}
GUIDE_CASES = {  # beside the suite's own: latents of a group of rows, and one latent
    "Encoder": (zoo.VAE(latent=2, hidden=(4,)), [[1, 0, 1], [0, 0, 1], [1, 1, 0], [0, 1, 1]]),
    "Laplace": (coin(a=2.0), FLIPS),
    "LowRank": (EightSchools(), SCHOOLS),
    "FullRank": (EightSchools(), SCHOOLS),
    "MeanField": (EightSchools(), SCHOOLS),
    "Flow": (NormalMean(), [1.0, 2.5, 0.3]),
    "ByState": (gates(), [0.3, 2.5, 4.1]),
    "ClassifyingEncoder": (gates(), [0.3, 2.5, 4.1]),
}


LONG = ("ClassifyingEncoder", "Conjugate", "Encoder", "Flow", "FullRank", "Guides", "Laplace", "LowRank", "MeanField")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in LONG else []) for n in GUIDES])
def test_every_guide_keeps_its_promises(name):
    if name not in ("ByState", "ClassifyingEncoder"):  # which fit none of the suite's small models
        testing.check_guide(GUIDES[name](), steps=STEPS, skip=("svi weights", "svi storage"))
    if name in GUIDE_CASES:
        testing.check_guide(GUIDES[name](), *GUIDE_CASES[name], steps=STEPS)


# -- families ----------------------------------------------------------------------------------------------------------

T = torch.tensor
TRIL, SHARES = T([[1.0, 0.0], [0.4, 0.7]]), T([0.2, 0.3, 0.5])
DISTRIBUTIONS = {  # of each family, alone and in a batch; those of a prior have a mode inside their support
    "Bernoulli": [dist.Bernoulli(T([0.3, 0.6])), dist.Binomial(5, T(0.4))],
    "Beta": [dist.Beta(2.0, 3.0), dist.Beta(T([1.5, 40.0]), T([2.5, 1.2]))],
    "Categorical": [dist.Categorical(SHARES), dist.Categorical(torch.stack([SHARES, SHARES.flip(0)]))],
    "Multinomial": [dist.Multinomial(6, SHARES), dist.OneHotCategorical(SHARES)],
    "Dirichlet": [dist.Dirichlet(T([2.0, 3.0, 1.5])), dist.Dirichlet(T([[2.0, 3.0, 1.5], [50.0, 1.2, 2.0]]))],
    "Gamma": [dist.Gamma(2.0, 3.0), dist.Gamma(T([3.0, 0.8]), T([1.0, 20.0]))],
    "InverseGamma": [dist.InverseGamma(3.0, 2.0), dist.InverseGamma(T([4.0, 6.0]), T([1.0, 20.0]))],
    "Laplace": [dist.Laplace(1.0, 2.0), dist.Laplace(T([0.0, 30.0]), T([1.0, 0.2]))],
    "MultivariateNormal": [
        dist.MultivariateNormal(T([1.0, -2.0]), scale_tril=TRIL),
        dist.MultivariateNormal(T([[1.0, -2.0], [0.0, 30.0]]), precision_matrix=TRIL @ TRIL.mT),
    ],
    "NegativeBinomial": [dist.NegativeBinomial(3.0, T(0.4)), dist.NegativeBinomial(T([2.0, 5.0]), T([0.4, 0.7]))],
    "Normal": [dist.Normal(1.0, 2.0), dist.Normal(T([0.0, 30.0]), T([1.0, 0.2]))],
    "Poisson": [dist.Poisson(2.0), dist.Poisson(T([1.0, 8.0]))],
    "Exponential": [dist.Exponential(2.0), dist.Exponential(T([1.0, 8.0]))],
    "Student": [dist.StudentT(3.0, 1.0, 2.0), dist.StudentT(T([4.0, 1.0]), T([0.0, 30.0]), T([1.0, 0.2]))],
    "MultivariateStudent": [
        dist.MultivariateStudentT(T(3.0), T([1.0, -2.0]), TRIL),
        dist.MultivariateStudentT(T([4.0, 1.5]), T([[1.0, -2.0], [0.0, 30.0]]), torch.stack([TRIL, 2 * TRIL])),
    ],
    "Wishart": [
        dist.Wishart(T(5.0), scale_tril=TRIL),
        dist.Wishart(T([5.0, 7.0]), scale_tril=torch.stack([TRIL, 2 * TRIL])),
    ],
}
IN_A_MODEL = {"Chain"}  # its entries are a program's: the cases with a hidden Markov chain are its checks


def registered_families(of=Likelihood):
    """Families of the library that are of some distribution: not those that stand in tests, or are made for a site."""
    load()
    below = {c for one in of.__subclasses__() for c in (one, *registered_families(one).values())}
    return {c.__name__: c for c in below if c.distributions and c.__module__.startswith("inference.conjugate.")}


def test_every_registered_family_has_distributions():
    missing = set(registered_families()) - set(DISTRIBUTIONS) - IN_A_MODEL
    assert not missing, f"add a distribution of {sorted(missing)} to DISTRIBUTIONS in tests/test_invariants.py"


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_every_family_keeps_its_promises(name):
    family = registered_families()[name]
    said = testing.check_family(family, *DISTRIBUTIONS[name])
    assert set(said.values()) <= {"holds", "a constant must not multiply the value"}
    of = {type(fn).__name__ for fn in DISTRIBUTIONS[name]}
    assert of == {law.__name__ for law in family.distributions}
