"""Eight schools in Stan (PyStan): mean and standard deviation of mu and tau, with their Monte Carlo errors."""

import arviz as az
import stan

PROGRAM = """
data {
  int<lower=0> J;
  vector[J] y;
  vector<lower=0>[J] sigma;
}
parameters {
  real mu;
  real<lower=0> tau;
  vector[J] standard;
}
transformed parameters {
  vector[J] theta = mu + tau * standard;
}
model {
  mu ~ normal(0, 5);
  tau ~ cauchy(0, 5);
  standard ~ normal(0, 1);
  y ~ normal(theta, sigma);
}
"""
data = {"J": 8, "y": [28, 8, -3, 7, -1, 1, 18, 12], "sigma": [15, 10, 16, 11, 9, 11, 10, 18]}
posterior = stan.build(PROGRAM, data=data, random_seed=1)
draws = posterior.sample(num_chains=4, num_samples=5000, num_warmup=1000, delta=0.95)
print(az.summary(az.from_pystan(posterior=draws), var_names=["mu", "tau"], round_to=3))
