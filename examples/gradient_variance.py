"""How noisy gradient estimates of the ELBO are: pathwise, score-function, and score-function with a baseline.

For q = Normal(m, s^2) over each unconstrained coordinate of a model, three unbiased estimates of the same gradient:
pathwise, through the draw (Kingma and Welling 2014); the score function, grad log q times (log p - log q), which needs
no derivative of the model (Ranganath, Gerrish and Blei 2014); and the same minus a baseline, the mean over the other
draws (Mnih and Rezende 2016). This is why the library reparameterizes, and enumerates what cannot be reparameterized.
"""

import pyro
import pyro.distributions as dist
import torch

import zoo
from zoo.program.flat_density import Density
from zoo.program.prepare import prepare

DRAWS = 20_000
GROUP = 8  # draws that share a baseline


class Schools(zoo.Model):
    """Effects of coaching in eight schools, standardized (Rubin 1981)."""

    effect = zoo.Real("school")
    error = zoo.Positive("school")

    def forward(self, effect, error):
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = pyro.sample("tau", dist.HalfCauchy(5.0))
        with pyro.plate("school", len(effect)):
            theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
            pyro.sample("effect", dist.Normal(mu + tau * theta, error), obs=effect)


def main():
    """Print the variance of each estimate of the gradient to the means."""
    schools = {"effect": [28, 8, -3, 7, -1, 1, 18, 12], "error": [15, 10, 16, 11, 9, 11, 10, 18]}
    torch.manual_seed(0)
    program = prepare(Schools(), schools)
    density = Density(program)
    mean = density.unconstrain(program.initial())
    scale = torch.full_like(mean, 0.5)

    noise = torch.randn(DRAWS, density.size, dtype=mean.dtype)
    u = mean + scale * noise
    value, slope = density.gradient(u)
    log_q = torch.distributions.Normal(mean, scale).log_prob(u).sum(-1)
    entropy_slope = noise / scale  # of -log q, through the draw; the score vanishes on average
    pathwise = slope + entropy_slope
    score = noise / scale  # of log q, to the means
    weight = (value - log_q)[:, None]
    grouped = weight.unflatten(0, (-1, GROUP))
    others = (grouped.sum(1, keepdim=True) - grouped) / (GROUP - 1)
    estimates = {
        "pathwise": pathwise,
        "score function": score * weight,
        "with a baseline": score * (grouped - others).flatten(0, 1),
    }
    print(f"{'estimate':16} {'mean gradient to mu':>20} {'variance, summed':>18} {'times pathwise':>15}")
    for name, found in estimates.items():
        variance = float(found.var(0).sum())
        ratio = variance / float(pathwise.var(0).sum())
        print(f"{name:16} {float(found[:, 0].mean()):20.4f} {variance:18.1f} {ratio:15.1f}")


if __name__ == "__main__":
    main()
