"""A first model: declare it, see what it is, fit it exactly, and ask it questions."""

import numpy as np
import pyro
import pyro.distributions as dist

import zoo
from inference import Exact, fit
from zoo import Count


class Visits(zoo.Model):
    """Visits per day at a steady, unknown rate."""

    visits = Count("day")
    shape: float = 2.0
    rate: float = 0.5

    def forward(self, visits):
        per_day = pyro.sample("per_day", dist.Gamma(self.shape, self.rate))
        with pyro.plate("day", len(visits)):
            pyro.sample("visits", dist.Poisson(per_day), obs=visits)


first_week = np.array([3, 5, 4, 8, 2, 6, 5])
second_week = np.array([7, 4, 6, 5, 9, 3, 6])

print(zoo.explain(Visits(), first_week))
result = fit(Visits(), first_week, method="exact", seed=0)
print(result)
print(result.summary())

both = Exact().update(result, second_week)  # the posterior of the first week is the prior of the second
print("after two weeks:", both.summary().loc["per_day", "mean"].round(3), "visits per day")
print("probability of 8 or 9 visits:", np.exp(both.log_prob([8, 9])).sum().round(3))
print("ten simulated days:", both.generate(10)["visits"].astype(int).tolist())
