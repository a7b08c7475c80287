"""How far from their limits EM and CAVI end where they say that they are within 1e-06 of it, and what that costs.

Run with: python benchmarks/limits.py [--only NAME] [--seeds 5]

Models of the zoo and models as users declare them, each with several data sets. From where a fit at default settings
has ended it is taken on: extrapolated to a tolerance of 1e-13, then by 2,000 plain steps. The plain fit is from the
same start.
"""

import argparse
import warnings

import numpy as np
import torch
from declared import CASES
from declared.data import clusters, factors, labels, lines, mixed, path, rated
from timing import machine, table

import zoo
from inference import CAVI, EM
from inference.coordinate.acceleration import Acceleration
from inference.coordinate.ascent import Coordinates
from inference.coordinate.convergence import WithinTolerance
from inference.coordinate.loop import ascend
from inference.coordinate.together import Together
from inference.runtime.monitor import Monitor
from inference.runtime.random import seeded
from zoo.program.prepare import prepare

METHODS = {"em": EM, "cavi": CAVI}
MOST, PLAIN, SAID = 5000, 2000, 1e-6
WIDTHS = (36, 6, 34, 34, 34)


def zoo_cases():
    """Name -> model, data from a generator, method."""

    def low(rng):
        return clusters(rng, 400, 3, 2, gap=1.5)

    def stay(rng):
        return 1.5 * (z := path(rng, 400, 2)) + rng.normal(size=len(z))

    def answers(rng):
        return labels(rng, 200, 6, 3)

    def counts(rng):
        return rng.poisson(np.array([1.0, 3.0, 6.0])[rng.integers(3, size=300)])

    def zeros(rng):
        return np.where(rng.random(300) < 0.3, 0, rng.poisson(1.2, size=300))

    def words(rng):
        return rng.poisson(2.0 * rng.dirichlet(np.ones(3), size=40) @ rng.dirichlet(np.full(12, 0.5), size=3) * 12)

    return {
        "GMM(3)": (zoo.GMM(components=3), low, "em"),
        "GMM(4, tied)": (zoo.GMM(components=4, covariance="tied"), low, "em"),
        "GMM(3, diag)": (zoo.GMM(components=3, covariance="diag"), low, "em"),
        "BayesianGMM(3)": (zoo.BayesianGMM(components=3), low, "cavi"),
        "BayesianGMM(3), mode": (zoo.BayesianGMM(components=3), low, "em"),
        "FactorAnalysis(2)": (zoo.FactorAnalysis(factors=2), lambda rng: factors(rng, 150, 6), "em"),
        "PPCA(2)": (zoo.PPCA(factors=2), lambda rng: rng.normal(size=(150, 6)) @ rng.normal(size=(6, 6)), "em"),
        "LatentClass(3)": (zoo.LatentClass(components=3), answers, "em"),
        "PoissonMixture(3)": (zoo.PoissonMixture(components=3), counts, "em"),
        "HiddenMarkov(2)": (zoo.HiddenMarkov(components=2), stay, "em"),
        "HiddenMarkov(3)": (zoo.HiddenMarkov(components=3), stay, "em"),
        "MixtureOfRegressions(2)": (
            zoo.MixtureOfRegressions(components=2),
            lambda rng: {n: v[:, None] if n == "x" else v for n, v in lines(rng, noise=1.5).items()},
            "em",
        ),
        "ZeroInflatedPoisson": (zoo.ZeroInflatedPoisson(), zeros, "em"),
        "StudentTMixture(2)": (zoo.StudentTMixture(components=2), low, "em"),
        "DirichletProcessMixture(5)": (zoo.DirichletProcessMixture(components=5), low, "cavi"),
        "MixtureOfFactorAnalyzers(2)": (zoo.MixtureOfFactorAnalyzers(), lambda rng: clusters(rng, 200, 2, 4), "em"),
        "LDA(3)": (zoo.LDA(topics=3), words, "cavi"),
    }


def user_cases():
    """Name -> model, data from a generator, method."""
    harder = {
        "raters": lambda rng: rated(rng, 150, 5, 3, 0.6),
        "mixed fields": lambda rng: mixed(rng, 150),
        "Normal mixture": lambda rng: clusters(rng, gap=2.0),
    }
    return {
        f"user: {name}, {kind}": (case.model, harder.get(name, case.data), kind)
        for name, case in CASES.items()
        for kind in case.methods
        if "of 4" not in name and "of 5" not in name and "8 clusters" not in name and "Gamma mixture" not in name
    }


class Counting:
    """E-steps while it is entered."""

    def __enter__(self):
        self.steps, self.kept = 0, (Coordinates.expect, Together.evaluate)

        def expect(this, state):
            self.steps += 1
            return self.kept[0](this, state)

        Coordinates.expect = expect
        return self

    def __exit__(self, *_):
        Coordinates.expect, Together.evaluate = self.kept


def climb(program, method, start, rule):
    """Climb from a start; return the ascent and how many E-steps that took."""
    climber = method.starts(program)
    with Counting() as counted:
        one = type(climber)(
            **{**vars(climber), "count": 1, "start": lambda _: start, "rule": rule or climber.rule, "candidates": None}
        )
        best, _, _ = one.climb("", progress=False)
    return best, counted.steps


def limit(program, method, state):
    """Objective at the end of a long climb from a state."""
    eps = torch.finfo(program.dtype).eps
    for tolerance, most, hastened in ((1e-13, MOST, True), (1e-300, PLAIN, False)):
        way = method.starts(program).way(state)
        way.acceleration = Acceleration(program, tolerance, extrapolates=True) if hastened else None
        (ascent,) = ascend(way, WithinTolerance(tolerance, most, eps), [Monitor("", most, show=False)])
        state = ascent.state
    return ascent.value


def main():
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="")
    parser.add_argument("--seeds", type=int, default=5)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_grad_enabled(True)
    print(machine())
    table(("model", "method", "E-steps, plain", "E-steps, accelerated", "left, nats"), [], WIDTHS)
    missed = fits = costly = 0
    for name, (model, data, kind) in {**zoo_cases(), **user_cases()}.items():
        if asked.only not in name:
            continue
        plain, hastened, left = [], [], []
        for seed in range(asked.seeds):
            method = METHODS[kind]()
            with seeded(seed):
                program = prepare(model, data(np.random.default_rng(seed)), device="cpu", dtype=torch.float64)
                climber = method.starts(program)
                start = climber.screened()
                best, steps = climb(program, method, start, None)
                slow = METHODS[kind](acceleration=None, max_steps=MOST)
                other, long = climb(program, slow, start, None)
                top = limit(program, method, best.state)
            short = top - best.value
            said = best.converged and "within" in best.reason
            fits += said
            missed += said and short > SAID
            costly += steps > 1.2 * long + 5
            plain.append(f"{long}{'' if other.converged else '*'}")
            hastened.append(f"{steps}{'' if best.converged else '*'}")
            left.append(f"{short:.0e}")
        table((name, kind, " ".join(plain), " ".join(hastened), " ".join(left)), [], WIDTHS)
    print(f"{missed} of {fits} that say so are further away; {costly} took over 20 % more E-steps than plain")


if __name__ == "__main__":
    main()
