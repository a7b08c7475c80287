"""The house stays in order: what is forbidden is not done, every class is documented, a new file is enough."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

import guides
import inference
import zoo
from guides import Guide
from inference import Method
from tests.cases.documented import docstring
from tests.cases.models import ZOO_CASES
from tests.cases.sources import FILES, ROOT, imports, module_name, tree
from tests.cases.spread import spread
from zoo import Model, catalogue
from zoo.program.explain import legality
from zoo.program.prepare import prepare

PACKAGES = {"zoo": zoo, "guides": guides, "inference": inference}

# -- rules -----------------------------------------------------------------------------------------------------

Rule = Callable[[Path], Iterator[tuple[int, str]]]


def nowhere(rule: Rule) -> None:
    """Fail if a rule is broken in any file, with all the places."""
    places = [f"{path.relative_to(ROOT)}:{line}: {what}" for path in FILES for line, what in rule(path)]
    assert not places, "\n".join(places)


@cache
def calls(path: Path) -> list[tuple[int, str]]:
    """Line and name of everything that is called by a name."""
    called = (n for n in ast.walk(tree(path)) if isinstance(n, ast.Call))
    return [(n.lineno, ast.unparse(n.func)) for n in called if isinstance(n.func, ast.Name | ast.Attribute)]


def lines_with(path: Path, word: str) -> Iterator[tuple[int, str]]:
    text = path.read_text(encoding="utf-8").splitlines()
    return ((number, word) for number, line in enumerate(text, 1) if word in line)


@pytest.mark.slow
def test_one_module_imports_arviz():
    def elsewhere(path):
        if path != ROOT / "inference" / "diagnostics" / "arviz.py":
            yield from ((line, t) for line, t in imports(path) if t.partition(".")[0].startswith("arviz"))

    nowhere(elsewhere)
    assert any(t.startswith("arviz") for _, t in imports(ROOT / "inference" / "diagnostics" / "arviz.py"))


@pytest.mark.slow
def test_nobody_clears_the_param_store():
    def clears(path):
        yield from lines_with(path, "clear_param_store")
        for line, name in calls(path):
            if re.search(r"get_param_store\(\)\.(clear|load|set_state)", name):
                yield line, name

    nowhere(clears)


@pytest.mark.slow
def test_nobody_unpickles():
    def unpickles(path):
        yield from lines_with(path, "allow_pickle=True")
        yield from ((line, n) for line, n in calls(path) if n in ("torch.load", "torch.save"))
        for line, target in imports(path):
            if target.partition(".")[0] in ("pickle", "dill", "cloudpickle", "joblib", "marshal"):
                yield line, target

    nowhere(unpickles)


def test_nobody_prints_or_runs_text():
    """What a user reads goes through the command line's console; text is never code."""
    nowhere(lambda path: ((line, n) for line, n in calls(path) if n in ("print", "eval", "exec")))


def test_nobody_seeds_or_draws_from_the_global_generators():
    """Randomness is torch's, inside `seeded`; loading restores it likewise. A check watches the generators."""

    def seeds(path):
        if path in (ROOT / "zoo" / "testing" / "checks.py", ROOT / "zoo" / "replay" / "random.py"):
            return
        forked = "fork_rng" in path.read_text(encoding="utf-8")
        for line, name in calls(path):
            if re.fullmatch(r"(np|numpy)\.random\..*|random\.(seed|random|choice)", name):
                yield line, name
            if not forked and re.fullmatch(r"reseed|(torch|pyro)\.(?!Generator).*(manual_seed|set_rng_seed)", name):
                yield line, f"{name} without fork_rng"

    nowhere(seeds)


DISTRIBUTIONS = {
    "pyro": "pyro-ppl",
    "PIL": "pillow",
    "arviz_base": "arviz-base",
    "arviz_stats": "arviz-stats",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}


def test_every_import_is_a_declared_dependency():
    """Or an extra's."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {n: needed for n, needed in project["optional-dependencies"].items() if n != "dev"}
    wanted = [*project["dependencies"], *(d for needed in extras.values() for d in needed)]
    declared = {re.match(r"[A-Za-z0-9_.-]+", d)[0].lower() for d in wanted}

    def undeclared(path):
        for line, target in imports(path):
            top = target.partition(".")[0]
            ours = top in PACKAGES or top in sys.stdlib_module_names
            if not ours and (DISTRIBUTIONS.get(top, top) or "").lower() not in declared:
                yield line, top

    nowhere(undeclared)


# -- documentation ---------------------------------------------------------------------------------------------


def documented(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[int, str, str | None]]:
    """Public classes, functions and methods with their lines and docstrings."""
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            if not any(ast.unparse(d).endswith("overload") for d in node.decorator_list):
                yield node.lineno, prefix + node.name, ast.get_docstring(node)
            if isinstance(node, ast.ClassDef):
                yield from documented(node.body, f"{prefix}{node.name}.")


def inherits(path: Path, name: str) -> bool:
    """Whether a member without a docstring overrides one of ours that has one."""
    owner, _, member = name.rpartition(".")
    return bool(owner) and bool(docstring(getattr(importlib.import_module(module_name(path)), owner), member))


def test_everything_public_has_a_docstring():
    def bare(path):
        if not ast.get_docstring(tree(path)):
            yield 1, "the module"
        found = ((line, name) for line, name, said in documented(tree(path).body) if not said)
        yield from ((line, name) for line, name in found if not inherits(path, name))

    nowhere(bare)


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


@cache
def programs_of(name):
    return [prepare(model, data) for model, data in ZOO_CASES[name]]


@spread("name", zoo.models(), part=0, of=4)
def test_a_card_names_every_site(name):
    card = inspect.getdoc(getattr(zoo, name))
    for program in programs_of(name):
        for site in program.sites.values():
            assert f"``{site.name}``" in card
        for network in {n.partition(".")[0] for n in program.networks}:
            assert f"``{network}``" in card


@spread("name", zoo.models(), part=2, of=4)
def test_a_card_names_the_legal_methods(name):
    """Those that are legal for one of its cases at least, and no others: a card cannot go stale."""
    card = inspect.getdoc(getattr(zoo, name))
    named = re.findall(r"``([a-z]+)``", card.partition("Methods:")[2].partition("Limits:")[0])
    verdicts = [legality(program) for program in programs_of(name)]
    assert set(named) == {method.lower() for legal in verdicts for method, why in legal.items() if why is None}


# -- registers -------------------------------------------------------------------------------------------------

KINDS = {"model": (zoo, Model), "guide": (guides, Guide), "method": (inference, Method)}


@pytest.mark.parametrize("kind", KINDS)
def test_the_catalogue_finds_every_class(kind):
    package, root = KINDS[kind]
    home = importlib.import_module(catalogue.KINDS[kind][0])
    modules = [importlib.import_module(f"{home.__name__}.{m.name}") for m in pkgutil.iter_modules(home.__path__)]
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
