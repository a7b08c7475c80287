"""kill -9: fits go on from their checkpoints, and processes that fit together say which of them is gone.

Ctrl-C in one of these ends all of them with the same fit.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[3]
KILLS = 3
FIT = """
import sys
import numpy as np
import zoo
from inference import CAVI, EM, NUTS, SVI, fit
name, folder, out = sys.argv[1:]
path = f"{folder}/state" if out != "whole" else None
rows = np.load(f"{folder}/rows.npy")
model, data, method = {
    "EM": (zoo.GMM(components=4), rows, EM(tolerance=0.0, max_steps=150, restarts=2, checkpoint=path)),
    "EM, streamed": (
        zoo.GMM(components=3), zoo.stream(f"{folder}/rows.npy", chunk=400),
        EM(tolerance=0.0, max_steps=60, checkpoint=path),
    ),
    "CAVI": (zoo.BayesianGMM(components=4), rows, CAVI(tolerance=0.0, max_steps=150, checkpoint=path)),
    "SVI": (
        zoo.BayesianGMM(components=2), rows[:200],
        SVI(steps=1500, compile=False, checkpoint=path, checkpoint_every=50),
    ),
    "NUTS": (
        zoo.NormalNormal(), rows[:50, 0], NUTS(chains=6, warmup=300, draws=300, compile=False, checkpoint=path),
    ),
}[name]
found = fit(model, data, method=method, seed=0, progress=False)
tensors = {**found.approximation.tensors(), **found.points}
np.savez(f"{folder}/{out}.npz", value=found.objective.value, **{n: t.numpy() for n, t in tensors.items()})
"""
TOGETHER = """
import os, signal, sys
import numpy as np, torch.distributed as processes
import zoo
from inference import EM, SVI, fit
from inference.runtime.processes import Processes

processes.init_process_group("gloo")
rank, made, add_up = processes.get_rank(), [], Processes.add_up

def dies(self, tensors):
    made.append(1)
    if rank == 1 and len(made) == 15:
        os.kill(os.getpid(), signal.SIGKILL)
    return add_up(self, tensors)

Processes.add_up = dies
rows = np.random.default_rng(0).normal(size=(90, 2))
if sys.argv[1] == "EM":
    fit(zoo.GMM(components=2), rows, method=EM(tolerance=0.0, max_steps=500, distributed=True), seed=0, progress=False)
else:
    method = SVI(steps=500, distributed=True, compile=False)
    fit(zoo.BayesianGMM(components=2), rows, method=method, seed=0, progress=False)
"""
SHARED = """
import os, signal, sys
import numpy as np, torch.distributed as processes
import zoo
from inference import CAVI, EM, SVI, fit
from inference.runtime.monitor import Monitor

signal.signal(signal.SIGINT, signal.default_int_handler)  # which what is started in the background may lack
processes.init_process_group("gloo")
rank, record = processes.get_rank(), Monitor.record
name, folder, out = sys.argv[1:]
noting = {"distributed": True, "checkpoint": None if out in ("whole", "pressed") else f"{folder}/state"}

def presses(self, step, value):
    record(self, step, value)
    if rank == 1 and step >= 20:
        Monitor.record = record
        os.kill(os.getpid(), signal.SIGINT)

if out == "pressed":
    Monitor.record = presses
steps = 10**6 if out == "pressed" else 400
rows = np.load(f"{folder}/rows.npy")
model, method = {
    "EM": (zoo.GMM(components=4), EM(tolerance=0.0, max_steps=steps, **noting)),
    "CAVI": (zoo.BayesianGMM(components=4), CAVI(tolerance=0.0, max_steps=steps, **noting)),
    "SVI": (
        zoo.BayesianGMM(components=2),
        SVI(steps=5 * steps, schedule="constant", compile=False, checkpoint_every=50, **noting),
    ),
}[name]
found = fit(model, rows, method=method, seed=0, progress=False)
tensors = {**found.approximation.tensors(), **found.points}
said = np.array(f"{found.converged} {found.reason}")
np.savez(f"{folder}/{out}{rank}.npz", said=said, **{n: t.numpy() for n, t in tensors.items()})
"""


def started(script, *arguments, said=os.devnull, **environment):
    with Path(said).open("w") as errors:
        return subprocess.Popen(
            [sys.executable, "-c", script, *map(str, arguments)],
            stderr=errors,
            env=os.environ | {"PYTHONPATH": str(ROOT), **environment},
        )


def together(world, script, *arguments, folder):
    """Start so many processes of one group; what each says goes into a file of the folder."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    group = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": str(world)}
    return [started(script, *arguments, said=folder / f"said{rank}", RANK=str(rank), **group) for rank in range(world)]


def written(folder):
    """When the state was written."""
    path = folder / "state"
    return path.stat().st_mtime_ns if path.exists() else 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["EM", "EM, streamed", "CAVI", "SVI", "NUTS"])
def test_the_same_bytes_after_kills(tmp_path, name):
    rows = np.random.default_rng(0).normal(size=(1500, 2)) + np.random.default_rng(1).integers(0, 4, (1500, 1))
    np.save(tmp_path / "rows.npy", rows)
    moments = np.random.default_rng(len(name))
    assert started(FIT, name, tmp_path, "whole").wait(200) == 0
    for _ in range(KILLS):
        before = written(tmp_path)
        process = started(FIT, name, tmp_path, "resumed")
        while written(tmp_path) == before and process.poll() is None:
            time.sleep(0.01)
        time.sleep(moments.uniform(0.0, 0.3))
        assert process.poll() is None, "it was over before it was killed"
        process.kill()
        process.wait()
    assert started(FIT, name, tmp_path, "resumed").wait(200) == 0
    whole, resumed = (np.load(tmp_path / f"{out}.npz") for out in ("whole", "resumed"))
    assert [n for n in whole.files if whole[n].tobytes() != resumed[n].tobytes()] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["EM", "SVI"])
def test_the_process_that_is_gone_is_named(name, tmp_path):
    found = together(3, TOGETHER, name, folder=tmp_path)
    assert found[1].wait(120) == -signal.SIGKILL
    began = time.monotonic()
    for rank in (0, 2):
        assert found[rank].wait(timeout=60) == 1
        said = (tmp_path / f"said{rank}").read_text()
        assert f"Gone: process {rank} of 3 waits for others, of which process 1 has ended" in said, said[-1500:]
    assert time.monotonic() - began < 60


def fits(folder, out):
    """What each of two processes had in the end, as bytes."""
    files = [np.load(folder / f"{out}{rank}.npz") for rank in range(2)]
    return [{n: file[n].tobytes() for n in file.files} for file in files], [str(file["said"]) for file in files]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["EM", "CAVI", "SVI"])
def test_together_after_kills_and_ctrl_c(name, tmp_path):
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(600, 2)) + 2.0 * np.arange(600)[:, None] % 6)
    moments = np.random.default_rng(len(name))
    for out in ("whole", "pressed"):
        assert [p.wait(300) for p in together(2, SHARED, name, tmp_path, out, folder=tmp_path)] == [0, 0]
    numbers, said = fits(tmp_path, "pressed")
    assert numbers[0] == numbers[1]
    assert said[0].startswith("False interrupted by Ctrl-C after")
    for _ in range(KILLS):
        before = written(tmp_path)
        both = together(2, SHARED, name, tmp_path, "resumed", folder=tmp_path)
        while written(tmp_path) == before and both[0].poll() is None:
            time.sleep(0.01)
        time.sleep(moments.uniform(0.0, 0.2))
        assert both[0].poll() is None, "it was over before it was killed"
        for process in both:
            process.kill()
            process.wait()
    assert [p.wait(300) for p in together(2, SHARED, name, tmp_path, "resumed", folder=tmp_path)] == [0, 0]
    assert fits(tmp_path, "resumed") == fits(tmp_path, "whole")
