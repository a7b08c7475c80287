"""The same answers on a CUDA device as on the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import guides
import zoo
from guides import Conjugate, Encoder, Flow, FullRank, LowRank
from inference import CAVI, EM, MAP, NUTS, SVI, Fit, Laplace, Pathfinder, fit
from tests.cases.models import FLIPS, StudentMixture, coin

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]

RNG = np.random.default_rng(0)
BITS = (RNG.random((300, 1)) < 0.5).astype(float)
PIXELS = np.where(RNG.random((300, 12)) < 0.1, 1 - BITS, BITS)  # two patterns with noise
HEAVY = np.r_[RNG.standard_t(4, 100) - 3, RNG.standard_t(4, 150) + 3]

CASES = {
    "gmm-em": (zoo.GMM(components=2), "faithful", EM()),
    "gmm-tied-em": (zoo.GMM(components=2, covariance="tied"), "faithful", EM()),
    "bayesian-em": (zoo.BayesianGMM(components=2), "faithful", EM()),
    "student-em": (StudentMixture(), HEAVY, EM()),
    "bayesian-map": (zoo.BayesianGMM(components=2), "faithful", MAP()),
    "bayesian-svi": (zoo.BayesianGMM(components=2), "faithful", SVI()),
    "bayesian-full-rank": (zoo.BayesianGMM(components=2), "faithful", SVI(guide=FullRank())),
    "batches": (zoo.BayesianGMM(components=2), "faithful", SVI(batch_size=100)),
    "bayesian-cavi": (zoo.BayesianGMM(components=2), "faithful", CAVI()),
    "hidden-markov-em": (zoo.HiddenMarkov(components=2), np.sort(HEAVY)[:, None], EM()),
    "factors-em": (zoo.PPCA(factors=1), "faithful", EM()),
    "laplace": (coin, FLIPS, Laplace()),
    "pathfinder": (coin, FLIPS, Pathfinder()),
    "nuts": (coin, FLIPS, NUTS(chains=2, warmup=200, draws=200)),
    "compiled": (zoo.BayesianGMM(components=2), "faithful", SVI(compile=True)),
    "restarts": (zoo.BayesianGMM(components=2), "faithful", SVI(restarts=4)),
    "low-rank": (zoo.BayesianGMM(components=2), "faithful", SVI(guide=LowRank(2))),
    "conjugate": (zoo.BayesianGMM(components=2), "faithful", SVI(guide=Conjugate())),
    "laplace-guide": (coin, FLIPS, SVI(guide=guides.Laplace())),
    "flow": (coin, FLIPS, SVI(guide=Flow())),
    "importance": (coin, FLIPS, SVI(objective="iwae")),
    "exact": (coin, FLIPS, "exact"),
    "vae": (zoo.VAE(latent=2, hidden=(16,)), PIXELS, SVI(guide=Encoder(hidden=(16,)), steps=3000)),
}


def both(name):
    model, data, method = CASES[name]
    return [fit(model, data, method=method, seed=0, device=d) for d in ("cpu", "cuda")]


@pytest.mark.parametrize("name", CASES)
def test_the_device_gives_what_the_cpu_gives(name):
    cpu, cuda = both(name)
    assert cuda.program.device.type == "cuda"
    assert all(v.device.type == "cuda" for v in cuda.points.values())
    assert cuda.objective.kind == cpu.objective.kind
    # Draws differ by device. Deterministic methods end within their tolerance, noisy ones within 0.05 nats of their
    # best and their error; a network's end depends on its draws, by a small part of a nat per row.
    slack = {"vae": 0.3 * len(PIXELS)}.get(name, 1e-3 if cuda.objective.error == 0 else 0.1)
    slack += 4 * (cpu.objective.error + cuda.objective.error)
    assert abs(cuda.objective.value - cpu.objective.value) < slack
    assert cuda.converged == cpu.converged
    if cpu.program.enumerated:
        ours, theirs = (f.assign().to_numpy() for f in (cuda, cpu))
        if np.corrcoef(ours[:, 0], theirs[:, 0])[0, 1] < 0:
            ours = ours[:, ::-1]
        assert (ours.argmax(1) == theirs.argmax(1)).mean() >= 270 / 272
    assert np.isfinite(cuda.log_prob()).all()
    assert abs(cuda.log_prob().mean() - cpu.log_prob().mean()) < (0.3 if name == "vae" else 0.01)


@pytest.mark.parametrize("name", ["gmm-em", "bayesian-svi", "vae"])
def test_the_same_seed_gives_the_same_bytes_and_leaves_the_devices_random_state(name):
    model, data, method = CASES[name]
    method = SVI(guide=method.guide, steps=60) if isinstance(method, SVI) else method
    torch.cuda.manual_seed(5)
    before = torch.cuda.get_rng_state()
    first, second = (fit(model, data, method=method, seed=0, device="cuda") for _ in range(2))
    assert first.objective == second.objective
    assert first.trace["value"].equals(second.trace["value"])
    assert first.log_prob().equals(second.log_prob())
    assert torch.equal(torch.cuda.get_rng_state(), before)


@pytest.mark.parametrize("name", ["gmm-em", "bayesian-svi", "vae"])
def test_every_question_can_be_asked(name, tmp_path):
    model, data, method = CASES[name]
    method = SVI(guide=method.guide, steps=60) if isinstance(method, SVI) else method
    found = fit(model, data, method=method, seed=0, device="cuda")
    found.save(tmp_path)
    assert len(found.summary())
    assert len(found.generate(5)) == 5
    assert found.predict(draws=3)["posterior_predictive"].sizes["draw"] == 3
    loaded = Fit.load(tmp_path)
    np.testing.assert_allclose(loaded.log_prob(), found.log_prob(), rtol=1e-5, atol=0.5 if name == "vae" else 1e-6)


def test_networks_choose_the_device_by_themselves():
    model, data, _ = CASES["vae"]
    found = fit(model, data, method=SVI(guide=Encoder(), steps=5), seed=0)
    assert found.program.device.type == "cuda"
    assert fit(zoo.GMM(), "faithful", method=EM(max_steps=2), seed=0).program.device.type == "cpu"
