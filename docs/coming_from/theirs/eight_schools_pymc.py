"""Eight schools in PyMC: mean and standard deviation of mu and tau, with their Monte Carlo errors."""

import arviz as az
import numpy as np
import pymc as pm

effect = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
error = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])

with pm.Model(coords={"school": range(8)}):
    mu = pm.Normal("mu", 0.0, 5.0)
    tau = pm.HalfCauchy("tau", 5.0)
    standard = pm.Normal("standard", 0.0, 1.0, dims="school")
    theta = pm.Deterministic("theta", mu + tau * standard, dims="school")
    pm.Normal("effect", theta, error, observed=effect, dims="school")
    draws = pm.sample(5000, tune=1000, chains=4, cores=1, target_accept=0.95, random_seed=1, progressbar=False)
print(az.summary(draws, var_names=["mu", "tau"], round_to=3))
