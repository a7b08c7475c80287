"""A method and a kind of q declared in a user's own file are fitted, saved and loaded, in a new process too."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import zoo
from guides import Guide, MeanField
from inference import Fit, fit
from inference.approximations.approximation import Approximation
from inference.approximations.point import PointMass
from inference.method import Method, Objective, Outcome
from inference.runtime.sums import seal
from tests.cases.models import FLIPS, coin
from zoo.errors import FitError, MethodError
from zoo.program.program import Program
from zoo.replay.evaluate import Values

ROOT = Path(__file__).parents[3]


@dataclass
class Grid(Approximation):
    """q(z) = sum_k weight_k delta(z - z_k) over a grid of values of one latent."""

    name: str
    values: Tensor
    weights: Tensor
    kind = "grid of a test"

    def draw(self, program: Program, count: int) -> tuple[Values, Tensor]:
        at = torch.multinomial(self.weights, count, replacement=True)
        return {self.name: self.values[at]}, self.weights[at].log()

    def describe(self) -> dict[str, Any]:
        return {"name": self.name}

    def tensors(self) -> dict[str, Tensor]:
        return {"values": self.values, "weights": self.weights}

    @classmethod
    def read(cls, described: Mapping[str, Any], tensors: dict[str, Tensor], program: Program) -> Grid:
        return cls(described["name"], tensors["values"], tensors["weights"])


@dataclass(frozen=True)
class Riemann(Method):
    """Sums over a grid on the unit interval; `guide` is there to be saved."""

    points: int = 50
    guide: Guide = field(default_factory=MeanField)

    def why_not(self, program: Program) -> str | None:
        return None if len(program.latents) == 1 else "there is more than one latent"

    def run(self, program: Program, *, progress: bool = False) -> Outcome:
        grid = (torch.arange(self.points, dtype=program.dtype) + 0.5) / self.points
        name = program.latents[0].name
        height = torch.stack([program.log_joint({name: z}).total() for z in grid])
        value = float(height.logsumexp(0)) - float(np.log(self.points))
        trace = pd.DataFrame({"step": [1], "seconds": [0.0], "value": [value]})
        return Outcome(
            approximation=Grid(name, grid, torch.softmax(height, 0)),
            points={},
            objective=Objective(value, "log_evidence"),
            trace=trace,
            steps=1,
            converged=True,
            reason="summed",
        )


@pytest.fixture(scope="module")
def found():
    return fit(coin(a=2.0), FLIPS, method=Riemann(points=200), seed=3, progress=False)


def test_it_is_saved_and_loaded(found, tmp_path):
    loaded = Fit.load(found.save(tmp_path / "fit"))
    assert isinstance(loaded.approximation, Grid)
    assert loaded.method == found.method
    assert loaded.objective == found.objective
    pd.testing.assert_frame_equal(loaded.summary(), found.summary(), check_exact=True)


@pytest.mark.slow
def test_it_is_loaded_in_a_new_process(found, tmp_path):
    folder = found.save(tmp_path / "fit")
    script = f"""
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        from inference import Fit
        found = Fit.load(sys.argv[1])
        print(type(found.method).__name__, type(found.approximation).__name__, repr(found.log_prob([1.0]).item()))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["Riemann", "Grid", repr(found.log_prob([1.0]).item())]


def test_its_evidence_is_exact(found):
    exact = fit(coin(a=2.0), FLIPS, method="exact", seed=3, progress=False).objective.value
    np.testing.assert_allclose(found.objective.value, exact, atol=1e-4)


def test_a_kind_of_the_library_is_taken():
    with pytest.raises(MethodError, match="'point' is the kind of PointMass"):

        class Mine(PointMass):
            kind = "point"


def test_without_a_kind_it_says_so(found, tmp_path):
    class Nameless(Grid):
        kind = None

    q = found.approximation
    outcome = Outcome(
        approximation=Nameless(q.name, q.values, q.weights),
        points={},
        objective=found.objective,
        trace=found.trace,
        steps=1,
        converged=True,
        reason="",
    )
    nameless = Fit(found.program, found.method, outcome, 3, 0.0)
    with pytest.raises(FitError, match=r"Nameless.*no `kind`"):
        nameless.save(tmp_path / "fit")


def test_a_kind_that_is_gone_says_so(found, tmp_path):
    folder = found.save(tmp_path / "fit")
    text = (folder / "fit.json").read_text()
    (folder / "fit.json").write_text(text.replace("grid of a test", "nothing").replace('"Grid"', '"Gone"'))
    seal(folder)
    with pytest.raises(zoo.errors.ModelError, match="Gone of tests"):
        Fit.load(folder)
