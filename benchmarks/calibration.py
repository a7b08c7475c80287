"""Ten planted faults that calibration should find, clean runs in which it should find none, and how long refits take.

    python benchmarks/calibration.py [faults | clean | speed]

Each fault stands in a method of a user's own, as it would in real life: it fits another model than the one that is
calibrated, other data, or hands out other draws. Without its fault each of these methods is exact.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import pyro
import pyro.distributions as dist
import torch
from timing import machine, table

import zoo
from inference import SVI, Laplace, Method, calibrate
from inference.approximations.sampled import Sampled
from inference.method import Objective, Outcome
from inference.methods.exact import Exact
from inference.simulated.refits import cores
from zoo import Binary, Category, Positive, Real
from zoo.program.flat_density import Density
from zoo.program.prepare import prepare

GRID = torch.linspace(-12.0, 12.0, 4001, dtype=torch.float64)
DRAWS = 400


@zoo.model(flips=Binary("toss"))
def coin(flips, *, a: float = 2.0, b: float = 2.0):
    """p ~ Beta(a, b), flips ~ Bernoulli(p)."""
    p = pyro.sample("p", dist.Beta(a, b))
    with pyro.plate("toss", len(flips)):
        pyro.sample("flips", dist.Bernoulli(p), obs=flips)


@zoo.model(x=Real("row"))
def mean(x, *, width: float = 2.0, noise: float = 2.0):
    """m ~ Normal(0, width), x ~ Normal(m, noise)."""
    m = pyro.sample("m", dist.Normal(0.0, width))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(m, noise), obs=x)


@zoo.model(x=Real("row"))
def scale(x):
    """s ~ LogNormal(0, 1), x ~ Normal(0, s)."""
    s = pyro.sample("s", dist.LogNormal(0.0, 1.0))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(0.0, s), obs=x)


@zoo.model(x=Real("row"))
def scale_without_constant(x):
    """The same, the constant -log s of a Normal density left out."""
    s = pyro.sample("s", dist.LogNormal(0.0, 1.0))
    pyro.factor("x", (-0.5 * (x / s) ** 2).sum())


@zoo.model(x=Real("row"), y=Real("row"))
def slope(x, y):
    """b ~ Normal(0, 1), y ~ Normal(b x, 1)."""
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(x)):
        pyro.sample("y", dist.Normal(b * x, 1.0), obs=y)


@zoo.model(x=Real("row"), group=Category("row", levels=2))
def groups(x, group):
    """Two groups whose means have priors of their own."""
    m = pyro.sample("m", dist.Normal(torch.tensor([-1.0, 1.0]), 1.0).to_event(1))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(m[group], 1.0), obs=x)


@dataclass(frozen=True)
class Grid(Method):
    """The posterior of one scalar on a fine grid of its unconstrained value; without the Jacobian it is another one."""

    jacobian: bool = True

    def why_not(self, program):
        """Refuse more than one scalar."""
        return None if Density(program).size == 1 else "the grid has one dimension"

    def run(self, program, *, progress=False):
        """Draw points of the grid by their density, and a uniform step between them."""
        density = Density(program)
        with torch.no_grad():
            log_p = torch.vmap(density.log_prob)(GRID[:, None])
            if not self.jacobian:
                log_p = log_p - torch.vmap(lambda u: density.view.constrain_globals(u)[1])(GRID[:, None])
            at = torch.multinomial((log_p - log_p.max()).exp(), DRAWS, replacement=True)
            u = GRID[at] + (torch.rand(DRAWS, dtype=torch.float64) - 0.5) * (GRID[1] - GRID[0])
            values = density.constrain_all(u[:, None])
        return outcome(values)


def outcome(values):
    """Draws, as what a method hands back."""
    return Outcome(
        approximation=Sampled(values, torch.zeros(len(next(iter(values.values()))), dtype=torch.float64)),
        points={},
        objective=Objective(0.0, "log_posterior"),
        trace=None,
        steps=1,
        converged=True,
        reason="",
    )


@dataclass(frozen=True)
class Planted(Method):
    """Another method, which sees another program or whose draws are changed afterwards."""

    inner: Method
    before: Callable | None = None
    after: Callable | None = None

    def why_not(self, program):
        """Refuse what the method inside refuses."""
        return self.inner.why_not(program)

    def run(self, program, *, progress=False):
        """Fit with the fault."""
        found = self.inner.run(program if self.before is None else self.before(program))
        values, _ = found.approximation.draw(program, DRAWS)
        return outcome(values if self.after is None else self.after(values))


def fitting(model):
    """Fit this model in place of the one that is calibrated."""
    return lambda program: prepare(model, program.data)


def rolled(program):
    """Take each row's covariate from the row before it."""
    values = program.data.values
    return program.rebind(replace(program.data, values={**values, "x": values["x"].roll(1)}))


def doubled(program):
    """Count every row twice."""
    return program.rebind(replace(program.data, weights=torch.full((len(program.data),), 2.0, dtype=torch.float64)))


def around_mean(by=0.0, times=1.0):
    """Move and stretch draws, in their own standard deviations."""

    def change(values):
        return {n: v.mean(0) + times * (v - v.mean(0)) + by * v.std(0) for n, v in values.items()}

    return change


def flipped(values):
    """Hand out the second group as the first."""
    return {n: v.flip(-1) for n, v in values.items()}


FLIPS = {"flips": [1, 0, 1, 1, 0, 0]}
ROWS = {"x": [0.3, -1.0, 2.2]}
LINE = {"x": [-1.0, 0.5, 2.0, 0.1, -0.7], "y": [0.0] * 5}
GROUPS = {"x": [0.0] * 6, "group": [0, 1, 0, 1, 1, 0]}
FAULTS = {
    "prior scale wrong": (mean(), ROWS, Planted(Grid(), fitting(mean(width=1.0)))),
    "missing Jacobian": (coin(), FLIPS, Grid(jacobian=False)),
    "likelihood scale": (mean(), ROWS, Planted(Grid(), fitting(mean(noise=3.0)))),
    "swapped labels": (groups(), GROUPS, Planted(Exact(), None, flipped)),
    "dropped constant": (scale(), ROWS, Planted(Grid(), fitting(scale_without_constant()))),
    "wrong weight": (mean(), ROWS, Planted(Grid(), doubled)),
    "too narrow q": (mean(), ROWS, Planted(Grid(), None, around_mean(times=0.7))),
    "shifted draws": (mean(), ROWS, Planted(Grid(), None, around_mean(by=0.3))),
    "wrong hyperparameter in simulation": (coin(a=4.0), FLIPS, Planted(Grid(), fitting(coin()))),
    "off-by-one data": (slope(), LINE, Planted(Grid(), rolled)),
}
CLEAN = [(coin(), FLIPS, Grid()), (mean(), ROWS, Grid()), (scale(), ROWS, Grid()), (slope(), LINE, Grid())]
CLEAN += [(groups(), GROUPS, Exact()), (coin(), FLIPS, Exact())]


def faults(simulations=1000):
    """One run for each fault."""
    rows = []
    for name, (model, data, method) in FAULTS.items():
        result = calibrate(model, method, like=data, simulations=simulations, seed=1)
        row = result.table["adjusted"]
        rows.append((name, "caught" if result.alarm else "MISSED", f"{row.min():.1e}", result.table["reading"].max()))
        print(f"{rows[-1][0]:<36} {rows[-1][1]:<7} p {rows[-1][2]}  {rows[-1][3]}", flush=True)
    print(f"{sum(r[1] == 'caught' for r in rows)} of {len(rows)} faults caught, {simulations} simulations each")


def clean(runs=100, simulations=200):
    """Runs without a fault, each with a seed of its own."""
    alarms = 0
    for seed in range(runs):
        model, data, method = CLEAN[seed % len(CLEAN)]
        result = calibrate(model, method, like=data, simulations=simulations, seed=seed)
        alarms += result.alarm
        if result.alarm:
            print(result, flush=True)
    print(f"{alarms} alarms in {runs} runs without a fault, {simulations} simulations each")


class Schools(zoo.Model):
    """Eight schools with standardized effects (Rubin 1981)."""

    effect = Real("school")
    error = Positive("school")

    def forward(self, effect, error):
        """Tell the generative story."""
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = pyro.sample("tau", dist.HalfCauchy(5.0))
        with pyro.plate("school", len(effect)):
            standard = pyro.sample("standard", dist.Normal(0.0, 1.0))
            pyro.sample("effect", dist.Normal(mu + tau * standard, error), obs=effect)


EIGHT = {
    "effect": [28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0],
    "error": [15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0],
}


def speed(simulations=1000):
    """Time of so many refits."""
    geyser = zoo.datasets.load("faithful")
    cases = [
        ("coin, exact", zoo.BetaBernoulli(), FLIPS["flips"], Exact()),
        ("eight schools, laplace", Schools(), EIGHT, Laplace()),
        ("eight schools, svi", Schools(), EIGHT, SVI()),
        ("BayesianGMM(2), cavi", zoo.BayesianGMM(components=2), geyser, "cavi"),
    ]

    def rows():
        for name, model, data, method in cases:
            began = time.perf_counter()
            result = calibrate(model, method, like=data, simulations=simulations, seed=1)
            yield name, simulations, f"{time.perf_counter() - began:.1f}", len(result.failures)

    table(("case", "refits", "seconds", "broke down"), rows(), (28, 8, 9, 11))


def main():
    """Run what was asked for, else all."""
    print(f"{machine()}, {cores()} cores")
    parts = {"faults": faults, "clean": clean, "speed": speed}
    for name in sys.argv[1:] or parts:
        parts[name]()


if __name__ == "__main__":
    main()
