"""The built distributions: what is in them, and what a user's type checker says where the wheel is installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("zoo", "guides", "inference")
SHIPPED = {f"{package}/{file}" for package in PACKAGES for file in ("__init__.py", "__init__.pyi", "py.typed")}

pytestmark = pytest.mark.slow


def run(*command: object, at: Path, check: bool = True) -> str:
    """What a command says, without the environment's own Python path."""
    environment = {n: v for n, v in os.environ.items() if n not in ("PYTHONPATH", "MYPYPATH")}
    done = subprocess.run([*map(str, command)], cwd=at, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with a wheel and a source distribution, made of a copy of the project."""
    source = tmp_path_factory.mktemp("source")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    for kind in ("sdist", "wheel"):
        run(sys.executable, "-c", f"from setuptools import build_meta; build_meta.build_{kind}('dist')", at=source)
    return source / "dist"


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """An interpreter that has the wheel, and everything else from this environment."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=os.name != "nt")
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", at=folder).strip())
    (site / "rest.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    assert Path(run(python, "-c", "import zoo; print(zoo.__file__)", at=folder).strip()).is_relative_to(site)
    return python


def data() -> set[str]:
    """Files of the packages that are no code."""
    return {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }


def test_types_stubs_and_data_are_in_both_distributions(built):
    wanted = SHIPPED | data()
    (wheel,), (source,) = built.glob("*.whl"), built.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        assert wanted <= set(archive.namelist())
    with tarfile.open(source) as archive:
        assert wanted <= {name.partition("/")[2] for name in archive.getnames()}


def test_the_wheel_works_where_it_is_installed(installed, tmp_path):
    code = "import zoo; print(zoo.__version__, len(zoo.datasets.load('faithful')), zoo.GMM(components=3))"
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)[1]
    assert run(installed, "-c", code, at=tmp_path) == f"{version} 272 GMM(components=3, covariance='full')\n"


def checked(python: Path, file: Path, *options: str) -> str:
    """What mypy says of a file, in a folder without settings of its own."""
    command = [sys.executable, "-m", "mypy", "--python-executable", python, "--cache-dir", python.parent / "cache"]
    return run(*command, *options, file.name, at=file.parent, check=False)


def test_mypy_refuses_what_is_wrong_in_a_users_file_and_nothing_else(installed, tmp_path):
    file = Path(shutil.copy(ROOT / "tests" / "cases" / "typed.py", tmp_path / "user.py"))
    lines = file.read_text(encoding="utf-8").splitlines()
    said = checked(installed, file, "--strict", "--untyped-calls-exclude=pyro")  # Pyro's own types have gaps
    refused = {int(at) for at in re.findall(r"^user\.py:(\d+): error", said, re.MULTILINE)}
    assert refused == {i for i, line in enumerate(lines, 1) if line.endswith("# wrong")}, said
    assert 'Unexpected keyword argument "component" for "GMM"' in said
    assert 'Unexpected keyword argument "restart" for "EM"' in said


def test_mypy_has_nothing_to_say_of_the_readme(installed, tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    file = tmp_path / "readme.py"
    file.write_text("\n\n".join(blocks), encoding="utf-8")
    said = checked(installed, file, "--disable-error-code=import-untyped")  # scikit-learn has no types
    assert said.startswith("Success"), said
