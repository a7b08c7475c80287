"""Eight schools in NumPyro: mean and standard deviation of mu and tau, with their Monte Carlo errors."""

import arviz as az
import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS

effect = jnp.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
error = jnp.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def schools(effect, error):
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("school", len(effect)):
        standard = numpyro.sample("standard", dist.Normal(0.0, 1.0))
        numpyro.sample("effect", dist.Normal(mu + tau * standard, error), obs=effect)


chains = MCMC(
    NUTS(schools, target_accept_prob=0.95), num_warmup=1000, num_samples=5000, num_chains=4, chain_method="sequential",
    progress_bar=False,
)  # fmt: skip
chains.run(jax.random.key(1), effect, error)
print(az.summary(az.from_numpyro(chains), var_names=["mu", "tau"], round_to=3))
