"""CONTRIBUTING.md is true: each skeleton in it is one new file, which is found by being there and passes the suite."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from functools import cache
from pathlib import Path

import pytest

from tests.cases.sources import PACKAGES, ROOT

USE = """
    import inspect
    import pyro
    import pyro.distributions as dist
    import guides, inference, zoo
    from inference.cli import app
    assert "Pebbles" in zoo.models() and "Pebbles" in dir(zoo) and zoo.Pebbles
    result = inference.fit("pebbles", [1.0, 2.0], method=inference.SVI(guide="logistic", steps=10), seed=0)
    assert type(result.method.guide) is guides.Logistic
    assert result.summary().index.tolist() == ["rate"]
    best = inference.fit("Pebbles", [1.0, 2.0], method="best_draw", seed=0)
    assert best.steps == 1000 and type(best.method) is inference.BestDraw
    best.save("fit")
    assert inference.Fit.load("fit").log_prob().equals(best.log_prob())
    assert "bestdraw" in zoo.explain("Pebbles", [1.0, 2.0])
    try:
        inference.fit("Pebbles", [1.0, 2.0], method="em")
    except zoo.MethodError as error:
        assert "bestdraw" in str(error)
    class Tries(zoo.Model):
        x = zoo.Count("row")

        def forward(self, x):
            p = pyro.sample("p", dist.Beta(2.0, 3.0))
            with pyro.plate("row", len(x)):
                pyro.sample("x", dist.Geometric(p), obs=x)

    q = inference.fit(Tries(), [3, 0, 1], method="exact", seed=0).approximation.distributions["p"]
    assert (float(q.concentration1), float(q.concentration0)) == (2.0 + 3, 3.0 + 4)
    print(inference.__file__)
    app(["list"], standalone_mode=False)
"""


@cache
def skeletons() -> dict[str, str]:
    """File -> text of every block of code that begins with the name of its file."""
    blocks = re.findall(
        r"```python\n# ([\w/]+\.py)\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), re.DOTALL
    )
    return dict(blocks)


@pytest.fixture(scope="module")
def house(tmp_path_factory) -> Path:
    """A copy of the packages with every skeleton added."""
    folder = tmp_path_factory.mktemp("house")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file, text in skeletons().items():
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(text, encoding="utf-8")
    return folder


def run(house: Path, *command: str) -> str:
    """Run Python there, and return what it prints."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(house), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, *command], cwd=house, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_there_is_a_skeleton_of_each():
    folders = {str(Path(file).parent) for file in skeletons()}
    assert folders == {"zoo", "guides", "inference/methods", "inference/conjugate", "tests"}


@pytest.mark.slow
def test_a_new_model_guide_method_or_family_is_one_new_file(house):
    """No edit elsewhere, and Python, explain, errors and the command line know it."""
    lines = run(house, "-c", textwrap.dedent(USE)).splitlines()
    assert Path(lines[0]).is_relative_to(house)
    for name in ("Pebbles", "Logistic", "bestdraw"):
        assert any(line.split()[:1] == [name] for line in lines)


@pytest.mark.slow
def test_the_skeletons_pass_the_suite(house):
    """The test file as it is printed, and the guide, the method and the family of the other skeletons."""
    (house / "tests" / "test_others.py").write_text(
        textwrap.dedent(
            """
            import pyro.distributions as dist
            import torch

            import guides, inference, zoo
            from inference.conjugate.geometric import Geometric
            from zoo.testing import check_family, check_guide, check_method

            def test_logistic():
                check_guide(guides.Logistic(), steps=20)

            def test_best_draw():
                check_method(inference.BestDraw(draws=50), rising=True)

            def test_geometric():
                said = check_family(Geometric, dist.Geometric(torch.tensor([0.3, 0.6])))
                assert set(said.values()) == {"holds"} and "update of probs" in said
            """
        ),
        encoding="utf-8",
    )
    shutil.copy(ROOT / "pyproject.toml", house)
    said = run(house, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests")
    assert re.search(r"1[3-9] passed", said)


def test_the_skeletons_keep_the_style_of_the_house(house):
    files = [str(house / file) for file in skeletons() if not file.startswith("tests/")]
    ruff = [sys.executable, "-m", "ruff"]
    for verb in (["check"], ["format", "--check"]):
        subprocess.run([*ruff, *verb, "--config", str(ROOT / "pyproject.toml"), *files], check=True, cwd=ROOT)


@pytest.mark.slow
def test_the_skeleton_of_a_model_has_the_form_of_a_card(house):
    """As the cards of the zoo: see `test_house.py`."""
    code = """
        import inspect, re, zoo
        card = inspect.getdoc(zoo.Pebbles)
        for section in ("Generative story", "Methods:", "Limits:", "Parameters"):
            assert section in card, section
        assert all(f"``{name}``" in card for name in ("rate", "weight"))
    """
    run(house, "-c", textwrap.dedent(code))
