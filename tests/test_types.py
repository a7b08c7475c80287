"""What a type checker, an editor and `help` see of the public names."""

from __future__ import annotations

import inspect
import pydoc
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import guides
import inference
import zoo
from tests.zoo.declare.test_declare import Scaled, Settings
from zoo import Binary, Real, catalogue, stubs

ROOT = Path(__file__).parent.parent
PACKAGES = {"model": zoo, "guide": guides, "method": inference}


def shown(what: object) -> list[str]:
    """The lines of `help`."""
    return pydoc.plain(pydoc.render_doc(what)).splitlines()


# -- stubs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PACKAGES)
def test_stubs_declare_what_there_is(kind):
    path, text = stubs.stub(kind)
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    missing, left = set(text.splitlines()) - set(lines), set(lines) - set(text.splitlines())
    assert lines == text.splitlines(), (
        f"{path.relative_to(ROOT)} lacks {sorted(missing)} and should not have {sorted(left)}; run: python -m zoo.stubs"
    )


@pytest.mark.parametrize("kind", PACKAGES)
def test_stubs_declare_every_exported_name_as_it_is_at_run_time(kind):
    package = PACKAGES[kind]
    space: dict[str, object] = {}
    exec(stubs.stub(kind)[1], space)
    public = {name for name in space if not name.startswith("__")}
    assert public == set(package.__all__) <= set(dir(package))
    for name in public:
        assert space[name] is getattr(package, name)


def test_a_new_file_changes_the_stub_and_the_command_writes_it(tmp_path):
    for package in ("zoo", "guides", "inference"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "guides" / "wide.py").write_text(
        "from guides.mean_field import MeanField\n\n\nclass Wide(MeanField):\n    pass\n", encoding="utf-8"
    )
    path = tmp_path / "guides" / "__init__.pyi"
    before = path.read_text(encoding="utf-8")
    command = [sys.executable, "-m", "zoo.stubs"]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": ""}, capture_output=True, text=True, check=True)
    assert done.stdout == f"wrote {path}\n"
    assert path.read_text(encoding="utf-8") == before + "from guides.wide import Wide as Wide\n"


def test_importing_lists_nothing_and_listing_imports_no_torch():
    code = """
        import sys, zoo, guides, inference
        from zoo import catalogue
        print(catalogue.entries.cache_info().misses, len(zoo.models()) == len(catalogue.entries("model")))
        assert set(inference.__all__) <= set(dir(inference)) and "MeanField" in dir(guides)
        from inference.cli import app
        app(["list"], standalone_mode=False)
        print("torch" in sys.modules or "numpy" in sys.modules)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert (lines[0], lines[-1]) == ("0 True", "False")


# -- catalogue --------------------------------------------------------------------------------------------------------


@pytest.fixture
def offered(tmp_path, monkeypatch):
    """The models in a package of these files."""
    monkeypatch.syspath_prepend(tmp_path)

    def entries(name: str, **files: str) -> dict[str, str]:
        (tmp_path / name).mkdir()
        for module, text in files.items():
            (tmp_path / name / f"{module}.py").write_text(text, encoding="utf-8")
        monkeypatch.setitem(catalogue.KINDS, name, (name, "Model"))
        return {n: e.module.rpartition(".")[2] for n, e in catalogue.entries(name).items()}

    return entries


def test_a_class_of_the_same_name_elsewhere_is_no_model(offered):
    found = offered(
        "package_a",
        a="class Line(Curve): pass\nclass Curve(Model): pass\nclass Noise: pass\nclass _Own(Model): pass",
        b="class Line(Shape): pass\nclass Shape: pass\nclass Curve(Shape): pass\nclass Noise(Model): pass",
        c="class Quiet(Noise): pass\nclass Loud(Missing): pass\n@zoo.model(x=Real('row'))\ndef coin(x): pass",
    )
    assert found == {"Line": "a", "Curve": "a", "Noise": "b", "Quiet": "c", "coin": "c"}


def test_two_models_of_one_name_are_refused(offered):
    with pytest.raises(zoo.ZooError, match=r"two package_bs are called Line, in package_b.a and package_b.b; rename"):
        offered("package_b", a="class Line(Model): pass", b="class Line(Model): pass")


# -- signatures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", zoo.models())
def test_the_signature_of_a_model_is_its_hyperparameters(name):
    cls = getattr(zoo, name)
    parameters = inspect.signature(cls).parameters
    assert {n: (p.annotation, p.default) for n, p in parameters.items()} == cls.hyperparameters
    assert all(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters.values())
    assert repr(cls(**{n: p.default for n, p in parameters.items()})) == repr(cls())


def test_signatures_as_they_are_shown():
    text = str(inspect.signature(zoo.BetaBernoulli)).replace("typing.", "")
    assert text == "(a: Annotated[float, Gt(gt=0)] = 1.0, b: Annotated[float, Gt(gt=0)] = 1.0)"
    assert str(inspect.signature(Scaled)) == "(strength: float = 1.0)"  # not its buffers, nor its data
    assert list(inspect.signature(Settings).parameters) == list(Settings.hyperparameters)


def test_the_signature_of_a_function_model():
    @zoo.model(flips=Binary("toss"))
    def coin(flips, *, a: float, b: float = 1.0):
        heads = pyro.sample("heads", dist.Beta(a, b))
        with pyro.plate("toss", len(flips)):
            pyro.sample("flips", dist.Bernoulli(heads), obs=flips)

    assert str(inspect.signature(coin)) == "(a: float, b: float = 1.0)"
    assert shown(coin)[3] == " |  coin(a: float, b: float = 1.0)"


def test_a_required_hyperparameter_after_others_is_keyword_only():
    class Late(zoo.Model):
        x = Real("row")
        scale: float = 1.0
        size: int
        df: float = 2.0

    assert str(inspect.signature(Late)) == "(scale: float = 1.0, *, size: int, df: float = 2.0)"


def test_the_signature_of_an_init_of_its_own():
    class Sized(zoo.Model):
        x = Real("row")
        scale: float = 1.0
        df: float = 2.0

        def __init__(self, size: int, df: float = 3.0, **settings: float) -> None:
            super().__init__(df=df, **settings)

    class Closed(zoo.Model):
        x = Real("row")
        scale: float = 1.0

        def __init__(self, size: int) -> None:
            super().__init__()

    def text(cls: type) -> str:
        return str(inspect.signature(cls)).replace("'", "")

    assert text(Sized) == "(size: int, df: float = 3.0, *, scale: float = 1.0)"
    assert text(Closed) == "(size: int)"
    assert "x" in inspect.signature(zoo.GMM().check).parameters
    assert "components" not in inspect.signature(zoo.GMM()).parameters  # calling an instance runs its story


# -- help and completion ----------------------------------------------------------------------------------------------


def is_card(text: list[str], what: object) -> bool:
    """Whether help says the signature first, then all of the docstring."""
    body, card = [line[4:].rstrip() for line in text[3:]], inspect.getdoc(what).splitlines()
    assert f"class {what.__name__}(" in text[2]
    assert body[0].startswith(f"{what.__name__}(")
    start = body.index("") + 1  # after a signature of one line or, from Python 3.13 on, of several
    return body[start : start + len(card)] == card


@pytest.mark.parametrize("name", zoo.models())
def test_help_shows_the_card_and_no_torch(name):
    text = shown(getattr(zoo, name))
    assert is_card(text, getattr(zoo, name))
    most = 185 + 30 * issubclass(getattr(zoo, name), zoo.Regression)  # from_formula, too; 40 are examples of hooks
    assert len(text) < most  # 1172 with all that modules have
    assert not [line for line in text if "inherited from torch" in line or "inherited from pyro" in line]


def test_help_is_short():
    assert len(shown(zoo.GMM)) < 150  # of which 40 are examples
    assert len(shown(zoo.Model)) < 150
    for what, most in ((inference.EM, 400), (guides.MeanField, 400), (inference.Fit, 1200)):  # two fifths are examples
        text = shown(what)
        assert is_card(text, what)
        assert len(text) < most


def test_a_class_completes_to_what_models_have_and_an_instance_to_all():
    class Net(zoo.Model):
        x = Real("row")
        width: int = 2

        def __init__(self, **settings: int) -> None:
            super().__init__(**settings)
            self.layer = nn.Linear(self.width, 1)

    assert {"x", "width", "forward", "check", "setup", "initial", "settings", "fields"} <= set(dir(Net))
    assert not {"parameters", "state_dict", "add_module"} & set(dir(Net))
    assert {*dir(Net), "layer", "parameters", "state_dict", "named_pyro_params"} <= set(dir(Net()))
    fitted = zoo.BayesianGMM()
    fitted.coords = {"feature": ["a"]}
    fitted.setup(torch.tensor([[0.0], [1.0], [3.0]]))
    assert {"center", "spread"} <= set(dir(fitted))
    assert isinstance(fitted.center, Tensor)
