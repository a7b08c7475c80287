"""Models, guides and methods of other packages; packages of other people with the names of ours."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

import guides
import zoo
from inference import SVI, Fit, compare, fit
from inference.cli import app
from tests.cases.sources import ROOT
from zoo import catalogue

CODE = '''
from dataclasses import dataclass
import pyro, pyro.distributions as dist
import zoo
from guides import MeanField
from inference import Laplace

class Tides(zoo.Model):
    """Heights of the sea."""
    height = zoo.Real("hour")
    def forward(self, height):
        level = pyro.sample("level", dist.Normal(0.0, 1.0))
        with pyro.plate("hour", len(height)):
            pyro.sample("height", dist.Normal(level, 1.0), obs=height)

@dataclass(frozen=True)
class Wide(MeanField):
    """As wide as the sea."""

@dataclass(frozen=True, kw_only=True)
class Sounding(Laplace):
    """By a rope."""

@dataclass(frozen=True, kw_only=True)
class Fickle(Laplace):
    def why_not(self, program):
        raise KeyError("depth")
'''
SEA = [1.0, 2.0, 3.0]


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A function that installs a package: its modules and entry points, as an installer would lay them out."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(name: str, points: str, **modules: str) -> None:
        for module, text in modules.items():
            (tmp_path / f"{module}.py").write_text(text, encoding="utf-8")
            monkeypatch.delitem(sys.modules, module, raising=False)
        folder = tmp_path / f"{name}-0.1.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n", encoding="utf-8")
        (folder / "entry_points.txt").write_text(points, encoding="utf-8")
        catalogue.entries.cache_clear()

    yield install
    catalogue.entries.cache_clear()


@pytest.fixture
def tides(installed):
    points = "[latentzoo.models]\nTides=tides:Tides\n[latentzoo.guides]\nWide=tides:Wide\n"
    installed("tides", points + "[latentzoo.methods]\nEcho=tides:Sounding\n", tides=CODE)


@pytest.mark.slow
def test_what_other_packages_add_is_there_as_if_it_shipped(tides, tmp_path, capsys):
    app(["list"], standalone_mode=False)
    listed = capsys.readouterr().out
    for line in ("Tides                    Heights of the sea. (tides 0.1)", "Wide ", "echo "):
        assert f"  {line}" in listed
    assert "tides" not in sys.modules  # listing imports nothing
    assert "Tides" in zoo.models()
    assert "Tides" in dir(zoo)
    assert type(zoo.Tides()).__module__ == "tides"
    assert "echo        yes" in zoo.explain("tides", SEA)
    assert list(compare("tides", SEA, methods=["exact", "echo"], seed=0).table.index) == ["exact", "echo"]
    with pytest.raises(zoo.MethodError, match=r"Legal here: .*echo"):
        fit("tides", SEA, method="em", seed=0)
    fitted = fit("tides", SEA, method=SVI(guide="wide", steps=3), seed=0)
    assert type(fitted.method.guide) is guides.Wide
    assert type(Fit.load(fitted.save(tmp_path / "fit")).method.guide) is guides.Wide


BROKEN = {
    "is not there": ("Loose=gone.methods:Loose", r"'Loose' of the package broken 0.1 cannot be imported .*No module"),
    "does not run": ("Loose=broken:Loose", r"'Loose' of the package broken 0.1 .*\(RuntimeError: at sea\)"),
    "is no method": ("Loose=tides:Tides", r"'Loose' .* 0.1: expected a class that descends from inference.Method"),
    "fails when asked": ("Loose=tides:Fickle", r"'Loose' of the package broken 0.1 failed \(KeyError: 'depth'\)"),
    "has our name": ("EM=tides:Sounding", r"'EM' of the package broken 0.1, for latentzoo has one of that name"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_is_left_out_with_a_warning_that_names_the_package(tides, installed, case):
    point, said = BROKEN[case]
    installed("broken", f"[latentzoo.methods]\n{point}\n", broken="raise RuntimeError('at sea')")
    with pytest.warns(UserWarning, match="left out: method " + said):
        assert "loose" not in zoo.explain("tides", SEA)
    if not point.startswith("EM") and "Fickle" not in point:
        with pytest.raises(zoo.ZooError, match=said):
            fit("tides", SEA, method="loose", seed=0)


SHADOWS = {
    "a file": ("inference.py", "import zoo", r"'inference' is shadowed: `import inference` finds {}/inference.py"),
    "a package": ("guides/__init__.py", "from inference import fit", r"'guides' is shadowed.* finds {}/guides, which"),
    "ours comes second": ("inference.py", "import zoo, inference", r"rename that file"),
    "zoo": ("zoo.py", "from inference import fit", r"'zoo' is shadowed: `import zoo` finds {}/zoo.py; rename"),
    "the script": ("inference.py", None, r"'inference' is shadowed: `import inference` finds {}/inference.py"),
}


@pytest.mark.parametrize("case", SHADOWS)
def test_what_shadows_a_package_is_named(tmp_path, case):
    file, code, said = SHADOWS[case]
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("import zoo\n" if code is None else "mine = True\n", encoding="utf-8")
    arguments = [file] if code is None else ["-c", code]
    done = subprocess.run(
        [sys.executable, *arguments], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: latentzoo's package "), done.stderr
    assert re.search(said.format(re.escape(str(tmp_path))), last), last


def test_a_package_that_was_overwritten_is_told_from_ours(tmp_path):
    for package in ("zoo", "guides", "inference"):
        (tmp_path / package).mkdir()
        for path in (ROOT / package).glob("*.py"):
            (tmp_path / package / path.name).symlink_to(path)
    (tmp_path / "zoo" / "shadowed.py").unlink()
    (tmp_path / "zoo" / "shadowed.py").write_text((ROOT / "zoo" / "shadowed.py").read_text(encoding="utf-8"))
    (tmp_path / "inference" / "__init__.py").unlink()
    (tmp_path / "inference" / "__init__.py").write_text("from inference.core import Stream\n", encoding="utf-8")
    done = subprocess.run([sys.executable, "-c", "import zoo"], cwd=tmp_path, env={}, capture_output=True, text=True)
    assert "latentzoo's package 'inference' was overwritten by a distribution" in done.stderr
