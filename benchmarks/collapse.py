"""Smallest effective sample size per second by NUTS, with conjugate latents integrated out and without.

    python benchmarks/collapse.py [names...] [--seeds 3]

For each model: the smallest bulk and tail effective size of any latent, gradients, divergences, and processor seconds,
all together, without those of compilation, and of sampling alone (start, recentring, compilation and judging left out);
then how many times as much the collapsed run has of each per second. The two posteriors are held against each other:
the largest difference of means in Monte Carlo standard errors.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import torch

import inference.methods.nuts as nuts
import inference.sampling.chains as chains
import zoo
from inference import NUTS, fit
from zoo import Category, Count, Positive, Real


@zoo.model(effect=Real("school"), error=Positive("school"))
def eight_schools(effect: torch.Tensor, error: torch.Tensor) -> None:
    """Coaching in eight schools (Rubin 1981), centred."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", len(effect)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("effect", dist.Normal(theta, error), obs=effect)


@zoo.model(y=Real("case"), x=Real("case"), group=Category("case"))
def intercepts(y: torch.Tensor, x: torch.Tensor, group: torch.Tensor, *, groups: int = 6, unit: float = 1.0) -> None:
    """Random intercepts, one slope, half-Normal scales."""
    mu = pyro.sample("mu", dist.Normal(0.0, 10 * unit))
    beta = pyro.sample("beta", dist.Normal(0.0, 10 * unit))
    tau = pyro.sample("tau", dist.HalfNormal(2 * unit))
    sigma = pyro.sample("sigma", dist.HalfNormal(2 * unit))
    with pyro.plate("groups", groups):
        a = pyro.sample("a", dist.Normal(mu, tau))
    with pyro.plate("case", len(y)):
        pyro.sample("y", dist.Normal(a[group.long()] + beta * x, sigma), obs=y)


@zoo.model(y=Real("case"), batch=Category("case"))
def dyestuff(y: torch.Tensor, batch: torch.Tensor) -> None:
    """Yields of dyestuff from six batches (Davies 1967)."""
    mu = pyro.sample("mu", dist.Normal(1500.0, 100.0))
    tau = pyro.sample("tau", dist.HalfNormal(100.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(100.0))
    with pyro.plate("batches", 6):
        a = pyro.sample("a", dist.Normal(mu, tau))
    with pyro.plate("case", len(y)):
        pyro.sample("y", dist.Normal(a[batch.long()], sigma), obs=y)


@zoo.model(y=Count("unit"), n=Count("unit"))
def shares(y: torch.Tensor, n: torch.Tensor) -> None:
    """Beta-Binomial with hyperpriors on the mean and the prior count."""
    mean = pyro.sample("mean", dist.Beta(1.0, 1.0))
    size = pyro.sample("size", dist.LogNormal(2.0, 1.5))
    with pyro.plate("unit", len(y)):
        share = pyro.sample("share", dist.Beta(mean * size, (1 - mean) * size))
        pyro.sample("y", dist.Binomial(n, share), obs=y)


@zoo.model(y=Count("pump"), time=Positive("pump"))
def pumps(y: torch.Tensor, time: torch.Tensor) -> None:
    """Failures of ten pumps (Gaver and O'Muircheartaigh 1987), Gamma-Poisson with hyperpriors."""
    a = pyro.sample("a", dist.Exponential(1.0))
    b = pyro.sample("b", dist.Gamma(0.1, 1.0))
    with pyro.plate("pump", len(y)):
        rate = pyro.sample("rate", dist.Gamma(a, b))
        pyro.sample("y", dist.Poisson(rate * time), obs=y)


# Rats with tumours among those of 71 experiments (Gelman et al. 2013, table 5.1).
TUMOURS = [0] * 14 + [1] * 8 + [2] * 9 + [1, 5, 2, 5, 3, 2, 7, 7, 3, 3, 2, 9, 10] + [4] * 7
TUMOURS += [10, 4, 4, 4, 5, 11, 12, 5, 5, 6, 5, 6, 6, 6, 6, 16, 15, 15, 9, 4]
RATS = [20] * 7 + [19] * 4 + [18, 18, 17] + [20] * 4 + [19, 19, 18, 18, 25, 24, 23] + [20] * 6
RATS += [10, 49, 19, 46, 27, 17, 49, 47, 20, 20, 13, 48, 50] + [20] * 7
RATS += [48, 19, 19, 19, 22, 46, 49, 20, 20, 23, 19, 22, 20, 20, 20, 52, 46, 47, 24, 14]
HITS = [18, 17, 16, 15, 14, 14, 13, 12, 11, 11, 10, 10, 10, 10, 10, 9, 8, 7]  # of 45 at bats (Efron and Morris 1975)
YIELDS = [1545, 1440, 1440, 1520, 1580, 1540, 1555, 1490, 1560, 1495, 1595, 1550, 1605, 1510, 1560]
YIELDS += [1445, 1440, 1595, 1465, 1545, 1595, 1630, 1515, 1635, 1625, 1520, 1455, 1450, 1480, 1445]
FAILURES = [5, 1, 5, 14, 3, 19, 1, 1, 4, 22]
HOURS = [94.3, 15.7, 62.9, 126, 5.24, 31.4, 1.05, 1.05, 2.1, 10.5]


def houses() -> dict[str, Any]:
    """Made-up radon measurements: 85 counties of 1 to 30 houses, one in five measured on the ground floor."""
    rng = np.random.default_rng(0)
    county = np.repeat(np.arange(85), rng.integers(1, 31, 85))
    floor = (rng.random(len(county)) < 0.2).astype(float)
    y = rng.normal(1.3, 0.3, 85)[county] - 0.7 * floor + rng.normal(0, 0.75, len(county))
    return {"y": y, "x": floor, "group": county}


CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "eight schools": (
        eight_schools(),
        {"effect": [28, 8, -3, 7, -1, 1, 18, 12], "error": [15, 10, 16, 11, 9, 11, 10, 18]},
    ),
    "rat tumours": (shares(), {"y": TUMOURS, "n": RATS}),
    "baseball": (shares(), {"y": HITS, "n": [45] * 18}),
    "dyes": (dyestuff(), {"y": YIELDS, "batch": np.repeat(np.arange(6), 5)}),
    "radon": (intercepts(groups=85), houses()),
    "pumps": (pumps(), {"y": FAILURES, "time": HOURS}),
}


class Clock:
    """Processor seconds of this process and of the compilers that it starts; those of compilation and of sampling."""

    def __init__(self) -> None:
        self.compiling = self.sampling = 0.0
        self._lower, self._sample = nuts.lower_gradient, chains.run_nutpie
        nuts.lower_gradient, chains.run_nutpie = self._compiled, self._sampled

    def _compiled(self, *args: Any, **options: Any) -> Any:
        began = self.now()
        lowered = self._lower(*args, **options)
        self.compiling += self.now() - began
        return lowered

    def _sampled(self, *args: Any, **options: Any) -> Any:
        began = self.now()
        drawn = self._sample(*args, **options)
        self.sampling += self.now() - began
        return drawn

    @staticmethod
    def now() -> float:
        """Processor seconds so far."""
        spent = os.times()
        return time.process_time() + spent.children_user + spent.children_system


def measured(clock: Clock, model: Any, data: dict[str, Any], method: NUTS, seed: int) -> tuple[dict[str, float], Any]:
    """Run once; what it took and gave, and the summary of its draws."""
    before, clock.compiling, clock.sampling = clock.now(), 0.0, 0.0
    fitted = fit(model, data, method=method, seed=seed, progress=False)
    spent = clock.now() - before
    ess = fitted.diagnostics["ess"]
    row = {
        "ess": ess,
        "gradients": fitted.steps,
        "divergences": fitted.diagnostics["divergences"],
        "seconds": spent,
        "compiling": clock.compiling,
        "sampling": clock.sampling,
        "ess/s": ess / spent,
        "ess/s apart": ess / (spent - clock.compiling),
        "ess/s sampling": ess / clock.sampling,
    }
    return row, fitted


def differences(one: Any, other: Any) -> float:
    """Largest difference of posterior means, in their joint Monte Carlo standard errors."""
    tables = [fit.summary().data if hasattr(fit.summary(), "data") else fit.summary() for fit in (one, other)]
    means = [t["mean"].astype(float) for t in tables]
    errors = [t["mcse_mean"].astype(float) for t in tables]
    return float(((means[0] - means[1]).abs() / np.hypot(*errors)).max())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"among {', '.join(CASES)}; all if none is given")
    parser.add_argument("--seeds", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    clock, rows = Clock(), []
    fit(*CASES["eight schools"], method=NUTS(chains=1, warmup=20, draws=20), seed=0, progress=False)  # imports
    for name in given.names or CASES:
        for seed in range(given.seeds):
            model, data = CASES[name]
            plain, whole = measured(clock, model, data, NUTS(collapse=False), seed)
            short, collapsed = measured(clock, model, data, NUTS(), seed)
            short |= {f"times {n}": short[n] / plain[n] for n in ("ess/s", "ess/s apart", "ess/s sampling")}
            short["differ"] = differences(whole, collapsed)
            head = {"model": name, "seed": seed}
            rows += [{**head, "collapse": "no", **plain}, {**head, "collapse": "auto", **short}]
            print(shown(rows[-2:]), flush=True)
    print("\n" + shown(rows))


def shown(rows: list[dict[str, Any]]) -> str:
    """Rows as a table."""
    return str(pd.DataFrame(rows).to_string(index=False, na_rep="", float_format="{:.2f}".format))


if __name__ == "__main__":
    main()
