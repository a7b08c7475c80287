"""SVI in several processes of `torch.distributed`: the answer of one, and an end when one of them ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from inference import SVI, fit
from tests.cases.models import FLIPS, coin
from zoo import MethodError

ROOT = Path(__file__).parents[3]
SCRIPT = """
import os, signal, sys
import numpy as np, torch, torch.distributed as processes
import zoo
from guides import Encoder, MeanField
from inference import SVI, fit
from tests.cases.models import LinearFactors, NormalMean

processes.init_process_group("gloo")
rows = np.random.default_rng(0).normal(size=(61, 4))
bits = (rows > 0).astype(np.float32)
settings = {"steps": 60, "schedule": "constant", "compile": False, "corrected": False}
cases = {
    "encoder": lambda d: fit(
        zoo.VAE(latent=2, hidden=(6,)), bits, seed=0, dtype=torch.float64,
        method=SVI(Encoder(hidden=(6,)), batch_size=15, accumulate=2, distributed=d, **settings),
    ),
    "own": lambda d: fit(LinearFactors(), rows, method=SVI(MeanField(), distributed=d, **settings), seed=0),
    "globals": lambda d: fit(
        NormalMean(), rows[:, 0], method=SVI(batch_size=20, collapse=False, distributed=d, **settings), seed=0
    ),
}
if sys.argv[1] == "seeds":
    fit(NormalMean(), rows[:, 0], method=SVI(distributed=True), seed=processes.get_rank())
if sys.argv[1] == "killed":
    if processes.get_rank() == 1:
        from inference.variational.optimize import Climb
        step = Climb.step
        def dies(self, *args):
            if self.taken == 20:
                os.kill(os.getpid(), signal.SIGKILL)
            return step(self, *args)
        Climb.step = dies
    cases["own"](True)
for name, run in cases.items():
    shared = run(True)
    if processes.get_rank() == 0:
        alone = run(False)
        worst = np.abs(shared.trace["value"] / alone.trace["value"] - 1).max()
        worst = max([worst, *(float((v - alone.points[n]).abs().max()) for n, v in shared.points.items())])
        print(name, len(alone.trace), worst, flush=True)
processes.destroy_process_group()
"""


def run(what, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
    return subprocess.run(
        [*command, "--rdzv-endpoint", "localhost:0", script, what],
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
        env=os.environ | {"PYTHONPATH": str(ROOT)},  # for `tests.cases` in the script
    )


@pytest.mark.slow
def test_two_processes_give_the_answer_of_one(tmp_path):
    done = run("same", tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    found = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line}
    assert set(found) == {"encoder", "own", "globals"}
    for name, (windows, worst) in found.items():
        assert int(windows) >= 1, name
        assert float(worst) < 1e-6, (name, worst)


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_others(tmp_path):
    done = run("killed", tmp_path)
    assert done.returncode != 0
    assert "SIGKILL" in done.stderr or "one has ended or cannot be reached" in done.stderr


@pytest.mark.slow
def test_other_seeds_are_refused(tmp_path):
    done = run("seeds", tmp_path)
    assert done.returncode != 0
    assert "the seed differ between the 2 processes" in done.stderr


def test_processes_have_to_be_started():
    with pytest.raises(MethodError, match="torchrun"):
        fit(coin, FLIPS, method=SVI(distributed=True, collapse=False), seed=0)
