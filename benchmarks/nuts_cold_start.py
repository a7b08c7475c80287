"""NUTS from a cold start, against NumPyro's: each fit in a process of its own, import and summary included.

Eight schools, non-centred, and five posteriors of posteriordb (in the folder that ZOO_REFERENCES names); 4 chains of
1000 + 1000 draws, defaults otherwise, in double precision. Seconds on the clock and CPU seconds, child processes
included; "cold" has an empty cache of torch's compiler, "cached" one that an earlier process has filled. NumPyro's
chains run one after the other and vectorized. Smallest ESS is over all latents. Run with:
python benchmarks/nuts_cold_start.py [--numpyro FOLDER] [--repeats 1] [--only arK]
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SCHOOLS = "eight_schools-eight_schools_noncentered"
REGRESSIONS = ("kidiq-kidscore_interaction", "mesquite-mesquite", "arK-arK", "sblrc-blr")
POSTERIORS = (SCHOOLS, *REGRESSIONS, "gp_pois_regr-gp_regr")
CHAINS, WARMUP, DRAWS = 4, 1000, 1000


def data_of(name):
    """The data of one posterior."""
    file = Path(os.environ["ZOO_REFERENCES"]) / "posteriordb" / f"{name.partition('-')[0]}.json"
    return json.loads(file.read_text(encoding="utf-8"))


def ours(name):
    """Declare, fit, sum up; the smallest effective sample size."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from inference import NUTS, fit
    from tests.cases.posteriordb_more import posterior

    model, data, _ = posterior(name, data_of(name))
    found = fit(model, data, method=NUTS(CHAINS, WARMUP, DRAWS), seed=0, progress=False)
    found.summary()
    return found.diagnostics["ess"]


def linear(y, x, wide, scale, half):
    """A linear regression in NumPyro, with the priors of the declared one."""
    import numpyro
    import numpyro.distributions as dist

    def model():
        beta = numpyro.sample("beta", dist.Normal(np.zeros(x.shape[1]), wide).to_event(1))
        sigma = numpyro.sample("sigma", half(scale))
        numpyro.sample("y", dist.Normal(x @ beta, sigma), obs=y)

    return model


def numpyro_model(name, data):
    """The same posterior, declared in NumPyro."""
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from tests.cases.posteriordb_more import columns

    get = {n: np.asarray(v, float) for n, v in data.items()}
    if name == SCHOOLS:

        def schools():
            mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
            tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
            with numpyro.plate("school", len(get["y"])):
                standard = numpyro.sample("standard", dist.Normal(0.0, 1.0))
                numpyro.sample("y", dist.Normal(mu + tau * standard, get["sigma"]), obs=get["y"])

        return schools
    if name == "kidiq-kidscore_interaction":
        x = columns({**get, "inter": get["mom_hs"] * get["mom_iq"]}, "mom_hs", "mom_iq", "inter")
        return linear(get["kid_score"], x, 1e4, 2.5, dist.HalfCauchy)
    if name == "mesquite-mesquite":
        x = columns(get, "diam1", "diam2", "canopy_height", "total_height", "density", "group")
        return linear(get["weight"], x, 1e6, 1e5, dist.HalfCauchy)
    if name == "sblrc-blr":
        return linear(get["y"], get["X"], 10.0, 10.0, dist.HalfNormal)
    if name == "arK-arK":
        order, y = data["K"], get["y"]
        before = np.stack([y[order - k : len(y) - k] for k in range(1, order + 1)], 1)

        def ark():
            alpha = numpyro.sample("alpha", dist.Normal(0.0, 10.0))
            beta = numpyro.sample("beta", dist.Normal(np.zeros(order), 10.0).to_event(1))
            sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
            numpyro.sample("y", dist.Normal(alpha + before @ beta, sigma), obs=y[order:])

        return ark

    def gp_regr():
        rho = numpyro.sample("rho", dist.Gamma(25.0, 4.0))
        alpha = numpyro.sample("alpha", dist.HalfNormal(2.0))
        sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
        gaps = get["x"][:, None] - get["x"]
        whole = alpha**2 * jnp.exp(-0.5 * (gaps / rho) ** 2) + sigma * jnp.eye(len(gaps))
        numpyro.sample("y", dist.MultivariateNormal(np.zeros(len(gaps)), whole), obs=get["y"])

    return gp_regr


def with_numpyro(name, chain_method):
    """The same by NumPyro."""
    import jax
    import numpyro
    from numpyro.diagnostics import summary

    jax.config.update("jax_enable_x64", True)
    kernel = numpyro.infer.NUTS(numpyro_model(name, data_of(name)))
    settings = {"num_warmup": WARMUP, "num_samples": DRAWS, "num_chains": CHAINS, "progress_bar": False}
    sampler = numpyro.infer.MCMC(kernel, chain_method=chain_method, **settings)
    sampler.run(jax.random.PRNGKey(0))
    said = summary(sampler.get_samples(group_by_chain=True))
    return float(min(np.min(s["n_eff"]) for s in said.values()))


def one(side, name):
    """Run in this process; print what was measured."""
    ess = ours(name) if side == "ours" else with_numpyro(name, side)
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(json.dumps({"cpu": sum(u.ru_utime + u.ru_stime for u in used), "ess": ess}))


def apart(side, name, cache, folder):
    """Seconds, CPU seconds and smallest effective sample size of a process of its own."""
    paths = os.pathsep.join([*([folder] if side != "ours" and folder else []), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache, "PYTHONPATH": paths}
    began = time.perf_counter()
    command = [sys.executable, "-W", "ignore", __file__, "--one", side, name]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout.splitlines()[-1])
    return time.perf_counter() - began, said["cpu"], said["ess"]


def main():
    """Print the table, best of the repeats."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--numpyro", default="", help="folder with numpyro, if it is not installed")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--only", nargs="*", help="names of posteriors, or parts of them")
    options = parser.parse_args()
    if options.one:
        one(*options.one)
        return
    print(f"{'posterior':42} {'sampler':22} {'s':>6} {'CPU s':>6} {'ESS':>6}")
    for name in POSTERIORS:
        if options.only and not any(part in name for part in options.only):
            continue
        lines = {}
        for _ in range(options.repeats):  # in turn, so that other work on the machine meets all of them
            cache = tempfile.mkdtemp()
            for label, side in (
                ("latentzoo cold", "ours"),
                ("latentzoo cached", "ours"),
                ("NumPyro sequential", "sequential"),
                ("NumPyro vectorized", "vectorized"),
            ):
                lines.setdefault(label, []).append(apart(side, name, cache, options.numpyro))
        for label, runs in lines.items():
            wall, cpu, ess = (min(r[0] for r in runs), min(r[1] for r in runs), np.median([r[2] for r in runs]))
            print(f"{name:42} {label:22} {wall:6.1f} {cpu:6.1f} {ess:6.0f}", flush=True)


if __name__ == "__main__":
    main()
