"""Analyze a posterior with ArviZ: eight schools, and what khat says of a mean-field guide on it."""

import tempfile
from pathlib import Path

import pyro
import pyro.distributions as dist

import zoo
from inference import Fit, az, compare
from zoo import Positive, Real


class EightSchools(zoo.Model):
    """Effects of coaching in eight schools (Rubin 1981), with standardized school effects."""

    effect = Real("school")
    error = Positive("school")
    scale: float = 5.0

    def forward(self, effect, error):
        mu = pyro.sample("mu", dist.Normal(0.0, self.scale))
        tau = pyro.sample("tau", dist.HalfCauchy(self.scale))
        with pyro.plate("school", len(effect)):
            standard = pyro.sample("standard", dist.Normal(0.0, 1.0))
            theta = pyro.deterministic("theta", mu + tau * standard)
            pyro.sample("effect", dist.Normal(theta, error), obs=effect)


schools = zoo.datasets.load("eight_schools")
table = compare(EightSchools(), schools, methods=["svi", "em"], seed=0)
print(table)

result = table["svi"]
print(az.summary(result.posterior, var_names=["mu", "tau", "theta"], kind="stats"))
print(az.loo(result.posterior))

with tempfile.TemporaryDirectory() as folder:
    az.plot_forest(result.posterior, var_names=["theta"], backend="matplotlib").savefig(Path(folder) / "forest.png")
    az.plot_trace_dist(result.posterior, var_names=["mu", "tau"], backend="matplotlib").savefig(
        Path(folder) / "trace.png"
    )
    again = Fit.load(result.save(Path(folder) / "fit"), model=EightSchools)
    print("the loaded fit has the same summary:", again.summary().equals(result.summary()))
