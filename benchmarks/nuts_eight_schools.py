"""Smallest effective sample size per second on eight schools, against Pyro's NUTS and NumPyro's, in one run.

Non-centred eight schools, 4 chains of 1000 + 1000 draws, acceptance 0.8. The smallest effective sample size is over
bulk and tails of all ten latents. "first" counts everything from the call to the draws, compilation included (the cache
of torch's compiler is empty); "again" leaves compilation out. Run with:
pip install numpyro==0.22.0 nutpie==0.16.8 && python benchmarks/nuts_eight_schools.py [--pyro 1]
"""

import argparse
import os
import tempfile
import time

os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp()

import jax
import numpy as np
import numpyro
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import MCMC as PyroMCMC
from pyro.infer import NUTS as PyroNUTS
from timing import machine, table

import zoo
from inference import NUTS, fit
from inference.diagnostics.agreement import check_chains
from zoo import Positive, Real

CHAINS, WARMUP, DRAWS, ACCEPT = 4, 1000, 1000, 0.8
EFFECT = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERROR = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
LATENTS = ("mu", "tau", "standard")


@zoo.model(effect=Real("school"), error=Positive("school"))
def schools(effect, error):
    """Eight schools with standardized effects."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", len(effect)):
        standard = pyro.sample("standard", dist.Normal(0.0, 1.0))
        pyro.sample("effect", dist.Normal(mu + tau * standard, error), obs=effect)


def in_numpyro(effect, error):
    """Eight schools in NumPyro."""
    mu = numpyro.sample("mu", numpyro.distributions.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", numpyro.distributions.HalfCauchy(5.0))
    with numpyro.plate("school", len(effect)):
        standard = numpyro.sample("standard", numpyro.distributions.Normal(0.0, 1.0))
        numpyro.sample("effect", numpyro.distributions.Normal(mu + tau * standard, error), obs=effect)


def smallest(draws):
    """Smallest effective sample size over bulk and tails of all latents."""
    return check_chains({n: np.asarray(draws[n], float) for n in LATENTS}).ess


def ours(seed):
    """Seconds with and without compilation, and the smallest effective sample size."""
    method = NUTS(CHAINS, WARMUP, DRAWS, target_accept=ACCEPT, compile=True)
    began = time.perf_counter()
    found = fit(schools(), {"effect": EFFECT, "error": ERROR}, method=method, seed=seed, progress=False)
    first = time.perf_counter() - began
    again = found.trace["seconds"].iloc[-1]
    draws = {n: v.reshape(CHAINS, DRAWS, *v.shape[1:]).numpy() for n, v in found.approximation.values.items()}
    return first, again, smallest(draws)


def with_numpyro(chain_method, seed):
    """The same by NumPyro."""
    kernel = numpyro.infer.NUTS(in_numpyro, target_accept_prob=ACCEPT)
    settings = {"num_warmup": WARMUP, "num_samples": DRAWS, "num_chains": CHAINS, "progress_bar": False}
    sampler = numpyro.infer.MCMC(kernel, chain_method=chain_method, **settings)

    def run(seed):
        began = time.perf_counter()
        sampler.run(jax.random.PRNGKey(seed), EFFECT, ERROR)
        draws = {n: np.asarray(v) for n, v in sampler.get_samples(group_by_chain=True).items()}
        return time.perf_counter() - began, draws

    first, _ = run(seed)
    again, draws = run(seed + 1)
    return first, again, smallest(draws)


def with_pyro(seed):
    """The same by Pyro, one chain after the other."""
    pyro.set_rng_seed(seed)
    torch.set_default_dtype(torch.float64)
    effect, error = torch.tensor(EFFECT), torch.tensor(ERROR)

    def model():
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = pyro.sample("tau", dist.HalfCauchy(5.0))
        with pyro.plate("school", len(effect)):
            standard = pyro.sample("standard", dist.Normal(0.0, 1.0))
            pyro.sample("effect", dist.Normal(mu + tau * standard, error), obs=effect)

    began, chains = time.perf_counter(), []
    for _ in range(CHAINS):
        sampler = PyroMCMC(PyroNUTS(model, target_accept_prob=ACCEPT), DRAWS, warmup_steps=WARMUP, disable_progbar=True)
        sampler.run()
        chains.append(sampler.get_samples())
    spent = time.perf_counter() - began
    return spent, spent, smallest({n: torch.stack([c[n] for c in chains]).numpy() for n in LATENTS})


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pyro", type=int, default=1, help="0 leaves Pyro's NUTS, which takes minutes, out")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    print(machine())
    runs = {
        "latentzoo": ours,
        "NumPyro vectorized": lambda seed: with_numpyro("vectorized", seed),
        "NumPyro sequential": lambda seed: with_numpyro("sequential", seed),
    }
    found = {name: [] for name in runs}
    for seed in range(options.repeats):  # in turn, so that other work on the machine meets all of them
        for name, run in runs.items():
            found[name].append(run(seed))
    best = {n: (r[0][0], min(a for _, a, _ in r), np.median([e for *_, e in r])) for n, r in found.items()}
    if options.pyro:
        best["Pyro"] = with_pyro(0)
    mine = best["latentzoo"]
    rows = [
        (
            name,
            f"{first:.2f}",
            f"{again:.2f}",
            f"{ess:.0f}",
            f"{ess / first:.0f}",
            f"{ess / again:.0f}",
            f"{mine[2] / mine[0] / (ess / first):.1f}",
            f"{mine[2] / mine[1] / (ess / again):.1f}",
        )
        for name, (first, again, ess) in best.items()
    ]
    header = ("sampler", "first s", "again s", "least ESS", "ESS/s first", "ESS/s again", "ratio first", "ratio again")
    table(header, rows, (19, 8, 8, 10, 12, 12, 12, 12))


if __name__ == "__main__":
    main()
