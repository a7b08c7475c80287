"""The house stays in order: imports run one way, every class is documented, a new file is enough."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import textwrap
import tomllib
from functools import cache
from pathlib import Path

import pytest

import guides
import inference
import zoo
from guides import Guide
from inference import Method
from tests.cases.models import ZOO_CASES
from zoo import Model, catalogue
from zoo.program.prepare import prepare

ROOT = Path(__file__).parent.parent
PACKAGES = {"zoo": zoo, "guides": guides, "inference": inference}
ALLOWED = {"zoo": {"zoo"}, "guides": {"zoo", "guides"}, "inference": {"zoo", "guides", "inference"}}
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
every_file = pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def checking(node: ast.stmt) -> bool:
    """Whether a statement is `if TYPE_CHECKING:`."""
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def targets(node: ast.stmt) -> set[str]:
    """Return the modules that an import statement names."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        return {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return set()


def imports(path: Path) -> set[str]:
    """Every module a file imports, anywhere in it."""
    return {target for node in ast.walk(tree(path)) for target in targets(node)}


def imports_at_once(path: Path) -> set[str]:
    """Return what is imported when the file is: not inside functions, and not for type checkers only."""
    found: set[str] = set()
    waiting: list[ast.stmt] = list(tree(path).body)
    while waiting:
        node = waiting.pop()
        if checking(node):
            waiting += node.orelse
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found |= targets(node)
            waiting += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
    return found


# -- imports ---------------------------------------------------------------------------------------------------


@every_file
def test_imports_run_one_way(path):
    """zoo <- guides <- inference, in functions and for type checkers too."""
    package = path.relative_to(ROOT).parts[0]
    used = {target.partition(".")[0] for target in imports(path)} & set(PACKAGES)
    assert used <= ALLOWED[package]


@every_file
def test_no_module_is_named_in_a_string_to_get_around_that(path):
    """A literal in import_module would be a back arrow that the test above cannot see."""
    package = path.relative_to(ROOT).parts[0]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            for argument in node.args:
                if isinstance(argument, ast.Constant):
                    assert str(argument.value).partition(".")[0] in ALLOWED[package]


def test_declaring_knows_no_model():
    declare = {module_name(p) for p in FILES if "declare" in p.parts}
    free = declare | {"zoo", "zoo.catalogue", "zoo.errors", "zoo.datasets"}
    for path in FILES:
        if module_name(path) in declare:
            used = {t for t in imports(path) if t.partition(".")[0] == "zoo" and t in MODULES}
            assert used <= free, path


MODULES = {module_name(path): path for path in FILES}


def test_nothing_imports_in_a_circle():
    arrows = {}
    for name, path in MODULES.items():
        found = {t for t in imports_at_once(path) if t in MODULES and t != name}
        arrows[name] = {t for t in found if not name.startswith(t + ".")}  # a package comes with its modules
    done: set[str] = set()
    while len(done) < len(arrows):
        ready = {name for name, to in arrows.items() if name not in done and to <= done}
        assert ready, f"in a circle: { {n: sorted(to - done) for n, to in arrows.items() if n not in done} }"
        done |= ready


def test_methods_do_not_know_each_other_s_front_ends():
    """Families and methods are below results, comparisons, reports and the command line."""
    above = {
        "inference.posterior.fit",
        "inference.comparison",
        "inference.report",
        "inference.posterior.store",
        "inference.cli",
    }
    below = {"inference.conjugate", *(e.module for e in catalogue.entries("method").values())}
    for name, path in MODULES.items():
        if any(name == b or name.startswith(b + ".") for b in below):
            assert not imports_at_once(path) & above, name


@every_file
def test_one_module_imports_arviz(path):
    used = {t for t in imports(path) if t.partition(".")[0].startswith("arviz")}
    assert bool(used) == (path == ROOT / "inference" / "diagnostics" / "arviz.py")


@every_file
def test_nobody_clears_the_param_store_or_unpickles(path):
    text = path.read_text(encoding="utf-8")
    names = {ast.unparse(n.func) for n in ast.walk(tree(path)) if isinstance(n, ast.Call)}
    assert "clear_param_store" not in text
    assert not {n for n in names if re.search(r"get_param_store\(\)\.(clear|load|set_state)", n)}
    assert not {n for n in names if n in ("torch.load", "torch.save", "eval", "exec", "print")}
    assert not {
        t for t in imports(path) if t.partition(".")[0] in ("pickle", "dill", "cloudpickle", "joblib", "marshal")
    }
    assert "allow_pickle=True" not in text


@every_file
def test_nobody_seeds_or_draws_from_the_global_generators(path):
    """Randomness is torch's, inside `seeded`; loading restores it likewise."""
    names = {ast.unparse(n.func) for n in ast.walk(tree(path)) if isinstance(n, ast.Call)}
    assert not {n for n in names if re.fullmatch(r"(np|numpy)\.random\..*|random\.(seed|random|choice)", n)}
    seeds = {n for n in names if re.fullmatch(r"(torch|pyro)\.(?!Generator).*(manual_seed|set_rng_seed)", n)}
    if seeds:
        assert "fork_rng" in path.read_text(encoding="utf-8")


DISTRIBUTIONS = {"pyro": "pyro-ppl", "arviz_stats": "arviz-stats", "sklearn": None}


def test_every_import_is_a_declared_dependency():
    """Or an extra's; not scikit-learn, an oracle for tests, which the packages must not need."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {n: found for n, found in project["optional-dependencies"].items() if n != "dev"}
    wanted = [*project["dependencies"], *(d for found in extras.values() for d in found)]
    declared = {re.match(r"[A-Za-z0-9_.-]+", d)[0].lower() for d in wanted}
    for path in FILES:
        for target in imports(path):
            top = target.partition(".")[0]
            if top not in PACKAGES and top not in sys.stdlib_module_names:
                assert (DISTRIBUTIONS.get(top, top) or "").lower() in declared, f"{path}: {top}"


# -- documentation ---------------------------------------------------------------------------------------------


def documented(body: list[ast.stmt], prefix: str = "") -> list[tuple[str, str | None]]:
    """Public classes, functions and methods with their docstrings."""
    found: list[tuple[str, str | None]] = []
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            overload = any(ast.unparse(d).endswith("overload") for d in node.decorator_list)
            found += [] if overload else [(prefix + node.name, ast.get_docstring(node))]
            if isinstance(node, ast.ClassDef):
                found += documented(node.body, f"{prefix}{node.name}.")
    return found


@every_file
def test_everything_public_has_a_docstring(path):
    assert ast.get_docstring(tree(path))
    for name, docstring in documented(tree(path).body):
        assert docstring, name


@pytest.mark.parametrize("name", zoo.models())
def test_a_models_docstring_is_its_card(name):
    card = inspect.getdoc(getattr(zoo, name))
    for section in ("Generative story", "Methods:", "Limits:", "Parameters\n---"):
        assert section in card
    for method in re.findall(r"``(\w+)``", card.partition("Methods:")[2].partition("Limits:")[0]):
        catalogue.find("method", method)
    parameters = card.partition("Parameters\n")[2]
    for setting in getattr(zoo, name).hyperparameters:
        assert re.search(rf"^(\w+, )*{setting}(, \w+)*$", parameters, re.MULTILINE), setting


def test_every_model_of_the_zoo_has_test_data():
    assert set(ZOO_CASES) == set(zoo.models())


@pytest.mark.parametrize("name", zoo.models())
def test_a_card_names_every_site(name):
    card = inspect.getdoc(getattr(zoo, name))
    for model, data in ZOO_CASES[name]:
        program = prepare(model, data)
        for site in program.sites.values():
            assert f"``{site.name}``" in card
        for network in {n.partition(".")[0] for n in program.networks}:
            assert f"``{network}``" in card


@pytest.mark.parametrize("name", zoo.models())
def test_a_card_claims_only_legal_methods(name):
    """The methods named first are legal with some guide; those not named at all need not be."""
    card = inspect.getdoc(getattr(zoo, name))
    claimed = re.findall(r"``([a-z]+)``", card.partition("Methods:")[2].partition("Limits:")[0])
    assert claimed
    for model, data in ZOO_CASES[name]:
        program = prepare(model, data)
        for method in claimed:
            assert catalogue.find("method", method)().why_not(program) is None


# -- registers -------------------------------------------------------------------------------------------------

KINDS = {"model": (zoo, Model), "guide": (guides, Guide), "method": (inference, Method)}


@pytest.mark.parametrize("kind", KINDS)
def test_the_catalogue_finds_every_class(kind):
    package, root = KINDS[kind]
    modules = [importlib.import_module(f"{package.__name__}.{m.name}") for m in pkgutil.iter_modules(package.__path__)]
    defined = {
        name: value
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, root) and value.__module__ == module.__name__
    }
    public = {n for n, v in defined.items() if v is not root and not n.startswith("_") and not inspect.isabstract(v)}
    assert set(catalogue.entries(kind)) == public
    for name, entry in catalogue.entries(kind).items():
        assert entry.load() is defined[name]
        assert getattr(package, name) is defined[name]
        assert entry.summary


@pytest.mark.parametrize("kind", KINDS)
def test_what_ships_is_exported(kind):
    package, _ = KINDS[kind]
    assert set(catalogue.entries(kind)) <= set(package.__all__)
    assert set(package.__all__) <= set(dir(package))
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        package.nonsense  # noqa: B018


def test_importing_a_package_is_cheap():
    """Names are imported when first used, so that the command line can answer at once."""
    code = "import sys, zoo, guides, inference; print('torch' in sys.modules or 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


NEW = {
    "zoo/pebbles.py": '''
        """Pebbles."""
        import pyro
        import pyro.distributions as dist
        from zoo.declare.fields import Positive
        from zoo.declare.model import Model

        class Pebbles(Model):
            """Weights of pebbles."""
            weight = Positive("pebble")

            def forward(self, weight):
                rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
                with pyro.plate("pebble", len(weight)):
                    pyro.sample("weight", dist.Exponential(rate), obs=weight)
    ''',
    "guides/wide.py": '''
        """Wide."""
        from dataclasses import dataclass
        from guides.mean_field import MeanField

        @dataclass(frozen=True)
        class Wide(MeanField):
            """A guide that calls itself wide."""
    ''',
    "inference/methods/brief.py": '''
        """Brief."""
        from dataclasses import dataclass
        from inference.svi import SVI

        @dataclass(frozen=True)
        class Brief(SVI):
            """SVI of few steps."""
            steps: int = 10
    ''',
}
USE = """
    import zoo, guides, inference
    from inference.cli import app
    assert "Pebbles" in zoo.models() and "Pebbles" in dir(zoo) and zoo.Pebbles
    assert guides.Wide() == guides.Wide() and inference.Brief().steps == 10
    found = inference.fit("pebbles", [1.0, 2.0], method=inference.Brief(guide="wide"), seed=0)
    assert found.steps == 10 and type(found.method.guide) is guides.Wide
    assert found.summary().index.tolist() == ["rate"]
    assert inference.fit("Pebbles", [1.0, 2.0], method="brief", seed=0).steps == 10
    found.save("fit")
    assert inference.Fit.load("fit").log_prob().equals(found.log_prob())
    text = zoo.explain("Pebbles", [1.0, 2.0])
    assert "brief" in text
    try:
        inference.fit("Pebbles", [1.0, 2.0], method="em")
    except zoo.MethodError as error:
        assert "brief" in str(error)
    print(inference.__file__)
    app(["list"], standalone_mode=False)
"""


def test_a_new_model_guide_or_method_is_one_new_file(tmp_path):
    """In a copy of the packages: no edit elsewhere, and Python, explain, errors and the command line know it."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file, text in NEW.items():
        (tmp_path / file).write_text(textwrap.dedent(text).lstrip(), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(USE)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert Path(lines[0]).is_relative_to(tmp_path)
    for name in ("Pebbles", "Wide", "brief"):
        assert any(line.split()[:1] == [name] for line in lines)


# -- packaging -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("package", PACKAGES)
def test_types_are_shipped(package):
    assert (ROOT / package / "py.typed").is_file()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "py.typed" in project["tool"]["setuptools"]["package-data"]["*"]


def test_the_version_is_said_once_the_same():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == zoo.__version__
    assert project["name"] == "latentzoo"


def test_every_folder_of_code_is_a_package():
    for path in FILES:
        assert (path.parent / "__init__.py").is_file()
