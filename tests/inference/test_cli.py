"""The command line: every command does its work, and every mistake is one line and exit code 2."""

from __future__ import annotations

import importlib.metadata
import io
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import zoo
from inference import MAP, Fit, cli, compare, fit
from inference.runtime.written import model_of, models_of
from tests.cases.spread import spread
from zoo import catalogue, datasets

ROOT = Path(__file__).parents[2]
MODELS = '''
import pyro
import pyro.distributions as dist
import zoo
from zoo import Binary, Real


class Coin(zoo.Model):
    """A coin of one's own.

    It says more in its card.
    """

    flips = Binary("toss")
    a: float = 1.0
    b: float = 1.0

    def forward(self, flips):
        heads = pyro.sample("heads", dist.Beta(self.a, self.b))
        with pyro.plate("toss", len(flips)):
            pyro.sample("flips", dist.Bernoulli(heads), obs=flips)


@zoo.model(x=Real("row"))
def centre(x, *, width: float):
    mu = pyro.sample("mu", dist.Normal(0.0, width))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x)


SOMETHING = 3


def coins():
    return Coin()
'''


class Ran:
    """What one run of the command line printed, and its exit code."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run the command line in this process, from an empty folder."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["zoo", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        printed = capsys.readouterr()
        return Ran(code, printed.out, printed.err)

    return command


@pytest.fixture
def files(tmp_path):
    """Models and data of a user's own in the folder the command line runs from."""
    (tmp_path / "my_models.py").write_text(MODELS)
    table = pd.DataFrame({"flips": [1, 0, 1, 1, 1], "times": [1, 2, 1, 0, 1]})
    table[["flips"]].to_csv(tmp_path / "flips.csv", index=False)
    table.to_csv(tmp_path / "weighted.csv", index=False)
    table[["flips"]].to_parquet(tmp_path / "flips.parquet")
    np.save(tmp_path / "flips.npy", table["flips"].to_numpy())
    return tmp_path


# -- list, show, explain ---------------------------------------------------------------------------------------


def test_list_names_everything(run):
    ran = run("list")
    assert ran.code == 0
    assert ran.err == ""
    lines = ran.out.splitlines()
    for name, entry in {**catalogue.entries("model"), **catalogue.entries("guide")}.items():
        assert any(line.split()[:1] == [name] and entry.summary in line for line in lines)
    for name in catalogue.entries("method"):
        assert any(line.split()[:1] == [name.lower()] for line in lines)
    for name in datasets.names():
        assert any(line.split()[:1] == [name] and datasets.info(name).title in line for line in lines)


@pytest.mark.parametrize("name", zoo.models())
def test_show_prints_the_card(run, name):
    ran = run("show", name)
    assert ran.code == 0
    card = textwrap.dedent(getattr(zoo, name).__doc__.partition("\n")[2]).strip()
    assert card in ran.out
    for setting in getattr(zoo, name).hyperparameters:
        assert re.search(rf"^  {setting}: ", ran.out, re.MULTILINE)
    for field in getattr(zoo, name).fields:
        assert re.search(rf"^  {field}: ", ran.out, re.MULTILINE)


def test_show_prints_the_card_of_ones_own(run, files):
    ran = run("show", "my_models.py:Coin")
    assert ran.code == 0
    assert "It says more in its card." in ran.out
    assert "flips: Binary('toss')" in ran.out
    assert "default 1.0" in ran.out
    assert "required" in run("show", "my_models.py:centre").out


def test_show_tells_a_guide_from_a_method_of_the_same_name(run):
    ran = run("show", "laplace")
    assert ran.code == 0
    for said in ("guide Laplace(", "method Laplace(", "While it climbs", "restarts"):
        assert said in ran.out


@pytest.mark.parametrize("name", ["gmm", "GMM", "bayesian_gmm", "bayesian-gmm", "beta_bernoulli"])
def test_names_may_be_written_as_one_likes(run, name):
    assert run("show", name).code == 0


def test_explain_says_what_is_legal(run):
    ran = run("explain", "BetaBernoulli", "coin")
    assert ran.code == 0
    assert ran.out.strip() == zoo.explain("BetaBernoulli", "coin")
    assert re.search(r"^exact +yes$", ran.out, re.MULTILINE)
    assert re.search(r"^em +no: nothing to enumerate", ran.out, re.MULTILINE)


def test_explain_takes_hyperparameters(run):
    assert "components=3" in run("explain", "GMM", "faithful", "--set", "components=3").out


# -- fit, compare, summary -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_fit_prints_and_saves(run, tmp_path):
    ran = run("fit", "GMM", "faithful", "--method", "em", "--set", "components=2", "--seed", 3, "--out", "run")
    assert ran.code == 0
    assert ran.err == ""
    direct = fit(zoo.GMM(components=2), "faithful", method="em", seed=3)
    assert f"log_likelihood {direct.objective.value:.4f}" in ran.out
    assert "means[1, waiting]" in ran.out
    assert "seed 3" in ran.out
    saved = Fit.load(tmp_path / "run")
    assert saved.objective == direct.objective
    assert "run" in ran.out.splitlines()[-1]


@pytest.mark.parametrize("data", ["flips.csv", "flips.parquet", "flips.npy"])
def test_fit_takes_models_and_data_of_ones_own(run, files, data):
    ran = run("fit", "my_models.py:Coin", data, "-m", "exact", "--set", "a=2", "--set", "b=0.5", "--seed", 0)
    assert ran.code == 0, ran.err
    assert "Coin(a=2.0, b=0.5)" in ran.out
    direct = fit(zoo.BetaBernoulli(a=2, b=0.5), [1, 0, 1, 1, 1], method="exact", seed=0)
    assert f"log_evidence {direct.objective.value:.4f}" in ran.out


def test_the_file_of_a_model_may_be_anywhere(run, files, tmp_path, monkeypatch):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep" / "er")
    for place in (f"{files}/my_models.py:Coin", "../../my_models.py:Coin"):
        assert run("show", place).code == 0


@pytest.mark.parametrize("guide", ["mean_field", "full_rank", "point", "MeanField"])
def test_fit_takes_a_guide_and_settings(run, guide):
    ran = run(
        "fit", "BetaBernoulli", "coin", "-m", "svi", "-g", guide, "--option", "steps=20", "--seed", 1, "--out", "x"
    )
    assert ran.code == 0, ran.err
    saved = Fit.load("x")
    assert type(saved.method.guide).__name__.lower() == guide.replace("_", "").lower()
    assert saved.method.steps == 20
    assert saved.seed == 1


@pytest.mark.slow
def test_settings_are_literals_or_text(run):
    ran = run("fit", "GMM", "faithful", "-m", "em", "--set", "covariance=tied", "--set", "components=3", "--out", "x")
    assert ran.code == 0, ran.err
    assert Fit.load("x").model.settings == {"components": 3, "covariance": "tied"}


@pytest.mark.slow
def test_the_seed_fixes_what_is_printed(run):
    def printed(seed: int) -> str:
        ran = run("fit", "BetaBernoulli", "coin", "-m", "svi", "--option", "steps=20", "--seed", seed)
        return re.sub(r"\(\d+\.\d+ s, seed \d+\)", "", ran.out)

    assert printed(1) == printed(1)
    assert printed(1) != printed(2)


def test_a_drawn_seed_is_reported(run):
    first, second = (re.search(r"seed (\d+)", run("fit", "GMM", "faithful", "-m", "em").out) for _ in range(2))
    assert first[1] != second[1]


def test_fit_takes_weights(run, files):
    ran = run("fit", "my_models.py:Coin", "weighted.csv", "-m", "exact", "--weights", "times", "--seed", 0)
    assert ran.code == 0, ran.err
    direct = fit(zoo.BetaBernoulli(), [1, 0, 0, 1, 1], method="exact", seed=0)
    assert f"log_evidence {direct.objective.value:.4f}" in ran.out


@pytest.mark.slow
def test_fit_takes_columns_by_name(run):
    ran = run(
        "fit", "BayesianRegression", "faithful", "-m", "exact", "--columns", "x=eruptions", "--columns", "y=waiting"
    )
    assert ran.code == 0, ran.err
    geyser = zoo.datasets.load("faithful")
    direct = fit(zoo.BayesianRegression(), geyser, method="exact", columns={"x": "eruptions", "y": "waiting"}, seed=0)
    assert f"log_evidence {direct.objective.value:.4f}" in ran.out


def test_the_remedy_for_a_missing_column_is_an_option(run):
    asked = run("fit", "BayesianRegression", "faithful", "-m", "exact")
    assert asked.err.rstrip().endswith("or say which it is: --columns y=...")


def test_a_model_may_be_text(run, files):
    (files / "coin.toml").write_text('fields.x = "Binary(row)"\nsites.p = "Beta(1, 1)"\nsites.row.x = "Bernoulli(p)"\n')
    ran = run("fit", "coin.toml", "flips.csv", "-m", "exact", "--seed", 0)
    direct = fit(zoo.BetaBernoulli(), "flips.csv", method="exact", seed=0)
    assert f"log_evidence {direct.objective.value:.4f}" in ran.out
    (files / "coin.toml").write_text('fields.x = "Binary(row)"\nsites.p = "Beta(1, b)"\n')
    assert "coin.toml:2: sites.p: unknown name 'b'" in run("explain", "coin.toml", "flips.csv").err


@pytest.mark.slow
def test_data_may_come_from_standard_input(run, monkeypatch):
    text = zoo.datasets.load("faithful").to_csv(sep="&", index=False).encode()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text)))
    ran = run("fit", "GMM", "-", "-m", "em", "--separator", "&", "--seed", 3)
    direct = fit(zoo.GMM(components=2), "faithful", method="em", seed=3)
    assert f"log_likelihood {direct.objective.value:.4f}" in ran.out


@pytest.mark.slow
def test_compare_prints_and_saves(run, tmp_path):
    ran = run("compare", "BayesianGMM", "faithful", "--methods", "em, exact,map", "--seed", 0, "--out", "runs/geyser")
    assert ran.code == 0, ran.err
    for text in ("objective", "elpd_loo", "log_posterior", "em", "map", "exact: exact is not legal for BayesianGMM"):
        assert text in ran.out
    place = tmp_path / "runs" / "geyser"
    assert list(pd.read_csv(place / "table.csv", index_col=0).index) == ["em", "exact", "map"]
    for name in ("traces.png", "mixtures.png"):
        assert (place / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    ran = run("summary", "runs/geyser")
    assert ran.code == 0, ran.err
    for text in ("== em", "== map", "precisions[0, eruptions, waiting]"):
        assert text in ran.out
    assert "== exact" not in ran.out


@pytest.mark.slow
def test_compare_takes_a_guide_for_svi(run):
    ran = run("compare", "BetaBernoulli", "coin", "-m", "exact,svi", "--guide", "point", "--seed", 0)
    assert ran.code == 0, ran.err
    assert re.search(r"^svi .*log_posterior", ran.out, re.MULTILINE)


COINS = "my_models.py:Coin,my_models.py:Coin(a=2, b=3.5)"


def compared(**options) -> list[str]:
    """What Python prints of the same comparison, but for seconds."""
    coins = [model_of("my_models.py:Coin", None), model_of("my_models.py:Coin", ["a=2", "b=3.5"])]
    return timeless(str(compare(coins, "flips.csv", methods=["exact"], seed=0, progress=False, **options)))


def timeless(text: str) -> list[str]:
    return [re.sub(r"\b\d+\.\d\d +(?=\d+ +(yes|no)$)", "", line).rstrip() for line in text.strip().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("written", "options"),
    [
        ((), {}),
        (("--holdout", "0.4"), {"holdout": 0.4}),
        (("--holdout", "1,3"), {"holdout": [1, 3]}),
        (("--folds", 5), {"folds": 5}),
    ],
    ids=["whole", "holdout", "positions", "folds"],
)
def test_several_models_are_compared_as_in_python(run, files, written, options):
    ran = run("compare", COINS, "flips.csv", "-m", "exact", "--seed", 0, *written)
    assert ran.code == 0, ran.err
    assert timeless(ran.out) == compared(**options)
    for label in ("Coin(a=1.0, b=1.0), exact", "Coin(a=2.0, b=3.5), exact"):
        assert label in ran.out
    assert ("held-out log density" in ran.out) == bool(options)


@pytest.mark.slow
def test_settings_for_all_models_and_those_of_one(run, files):
    one = run("compare", "my_models.py:Coin(a=2)", "flips.csv", "-m", "exact", "--set", "b=3.5", "--seed", 0)
    other = run(
        "compare", "my_models.py:Coin", "flips.csv", "-m", "exact", "--set", "a=2", "--set", "b=3.5", "--seed", 0
    )
    assert timeless(one.out) == timeless(other.out)
    assert one.code == 0
    made = models_of("GMM(components=1, covariance=diag), GMM(covariance='tied') ,BayesianGMM", ["components=3"])
    assert [type(m).__name__ for m in made] == ["GMM", "GMM", "BayesianGMM"]
    assert [m.settings["components"] for m in made] == [1, 3, 3]
    assert [m.settings["covariance"] for m in made] == ["diag", "tied", "full"]


@pytest.mark.slow
def test_what_is_compared_with_a_reference_says_how_far_it_is(run, files):
    """A saved fit, its draws in a file, and a summary in a file are the same truth."""
    made = run("fit", "my_models.py:Coin", "flips.csv", "-m", "exact", "--seed", 0, "--out", "truth")
    assert made.code == 0, made.err
    truth = Fit.load("truth")
    truth.summary().to_csv("summary.csv")
    truth.summary().rename_axis("parameter").reset_index().to_parquet("summary.parquet")
    found = set()
    for place in ("truth", "truth/posterior.nc", "summary.csv", "summary.parquet"):
        ran = run("compare", "my_models.py:Coin(a=2)", "flips.csv", "-m", "exact", "--seed", 0, "--reference", place)
        assert ran.code == 0, ran.err
        assert "distance to the reference, in its standard deviations" in ran.out
        row = next(line.split() for line in ran.out.splitlines() if line.startswith("exact") and "heads" in line)
        # Beta(6, 2) against Beta(5, 2), whose variance is 10 / (7^2 8), by 1000 draws each; a summary of them
        # says nothing of its own error.
        assert 0.02 < float(row[2]) < 0.06
        assert float(row[1]) == pytest.approx((6 / 8 - 5 / 7) / np.sqrt(10 / 392), abs=4 * np.sqrt(2 / 1000))
        found.add(row[1])
    assert len(found) == 1
    coin = model_of("my_models.py:Coin", ["a=2"])
    direct = compare(coin, "flips.csv", methods=["exact"], reference=truth, seed=0)
    ran = run("compare", "my_models.py:Coin(a=2)", "flips.csv", "-m", "exact", "--seed", 0, "--reference", "truth")
    assert timeless(ran.out)[:6] == timeless(str(direct))[:6]


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (("--holdout", "0.2", "--folds", 2), "--holdout and --folds .* give one of them"),
        (("--holdout", "2.0"), "--holdout takes a fraction of the rows between 0 and 1, such as 0.2"),
        (("--holdout", "some"), "--holdout takes a fraction .* not 'some'"),
        (("--holdout", "0,5"), "holdout must hold some positions from 0 to 4"),
        (("--holdout", "0.01"), "holdout=0.01 of 5 rows leaves none"),
        (("--folds", 1), "'--folds': Input should be greater than or equal to 2"),
        (("--folds", 6), "folds must be a whole number from 2 to the number of rows, 5; found 6"),
        (
            ("--reference", "nowhere"),
            "reference: nowhere: no such folder or file; give a folder that a fit was saved to",
        ),
        (("--reference", "no_fit"), "reference: no_fit: no saved fit, .*; give a folder that a fit was saved to"),
        (("--reference", "bad_fit"), "fit.json"),
        (("--reference", "taken"), "reference: taken: no saved fit"),
        (("--reference", "flips.csv"), "reference: a summary has columns mean and sd; found"),
        (("--reference", "empty.csv"), "reference: empty.csv cannot be read .* give a folder"),
        (("--reference", "cut.parquet"), "reference: cut.parquet cannot be read .* give a folder"),
        (("--reference", "draws.nc"), "reference: draws.nc cannot be read .* give a folder"),
        (("--reference", "many"), "reference: many holds several fits; give one of many/em, many/map"),
    ],
    ids=lambda v: " ".join(map(str, v)) if isinstance(v, tuple) else "",
)
def test_a_comparison_says_which_option_is_wrong(written, said, run, damaged):
    (damaged / "draws.nc").write_text("none")
    for name in ("em", "map"):
        (damaged / "many" / name).mkdir(parents=True)
        (damaged / "many" / name / "fit.json").write_text("{}")
    ran = run("compare", "my_models.py:Coin", "flips.csv", "-m", "exact", "--seed", 0, *written)
    assert ran.code == 2
    assert re.search(said, ran.err), ran.err


@pytest.mark.parametrize("written", ["GMM(components=2", "GMM,", "(components=2)", "GMM(components)", "GMM(2)", ",GMM"])
def test_models_that_cannot_be_read_are_refused(written, run):
    ran = run("compare", written, "faithful", "-m", "em")
    assert ran.code == 2
    assert len(ran.err.strip().splitlines()) == 1
    assert re.search("MODEL takes a name, or several|takes NAME=VALUE", ran.err), ran.err


@pytest.mark.parametrize("command", [("fit", "--method"), ("compare", "--methods"), ("calibrate", "--method")])
@pytest.mark.parametrize("place", ["full", "full/notes.txt", "full/notes.txt/deeper", "locked/run"])
def test_a_folder_that_cannot_be_written_to_is_refused_before_the_fit(command, place, run, tmp_path, monkeypatch):
    def late(*arguments, **options):
        raise AssertionError("fitted first")

    for module, name in (("fitting", "fit"), ("comparison", "compare"), ("calibration", "calibrate")):
        monkeypatch.setattr(f"inference.{module}.{name}", late)
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "locked" and allowed(path, mode))
    (tmp_path / "full").mkdir()
    (tmp_path / "locked").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    name, option = command
    arguments = (name, "BetaBernoulli", "coin", option, "exact", "--out", place)
    if name == "calibrate" and place == "full":  # it goes on from what is there
        with pytest.raises(AssertionError, match="fitted first"):
            run(*arguments)
        return
    ran = run(*arguments)
    assert ran.code == 2
    assert len(ran.err.strip().splitlines()) == 1
    said = {"full": "full is not empty: it holds notes.txt", "locked/run": "locked cannot be written to"}
    assert said.get(place, "notes.txt is a file; give a folder to save to") in ran.err
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")) == ["full", "full/notes.txt", "locked"]


def test_summary_of_a_fit(run):
    made = run("fit", "BetaBernoulli", "coin", "-m", "exact", "--seed", 0, "--out", "x")
    again = run("summary", "x")
    assert again.code == 0
    assert again.out.strip() == made.out.partition("\nsaved to")[0].strip()


# -- outside this process --------------------------------------------------------------------------------------


def python(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


@spread("command", [["fit", "--help"], ["--help"], ["list"], ["compare", "-h"], ["nonsense"]], part=0, of=4)
def test_what_needs_no_torch_does_not_wait_for_it(command, tmp_path):
    """With -X importtime, Python names every module it imports on standard error."""
    done = python("-X", "importtime", "-m", "inference.cli", *command, cwd=tmp_path)
    assert done.returncode == (2 if command == ["nonsense"] else 0)
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "inference" in imported
    assert not imported & {"torch", "pyro", "numpy", "pandas", "arviz", "matplotlib", "scipy", "xarray"}


@pytest.mark.slow
def test_a_mistake_ends_the_process_with_code_2(tmp_path):
    done = python("-m", "inference.cli", "fit", "GMN", "faithful", "-m", "em", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [done.stderr.strip()]
    assert "did you mean 'GMM'" in done.stderr
    shown = python("-m", "inference.cli", "fit", "GMN", "faithful", "-m", "em", "--debug", cwd=tmp_path)
    assert shown.returncode != 0
    assert "Traceback (most recent call last)" in shown.stderr
    assert "UnknownNameError" in shown.stderr


def test_the_console_command_is_this_one():
    try:
        points = importlib.metadata.distribution("latentzoo").entry_points
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("latentzoo is not installed, only on the path")
    assert {p.name: p.value for p in points}["zoo"] == "zoo.__main__:main"


def test_no_command_shows_the_help(run):
    ran = run()
    assert "Usage" in ran.out + ran.err
    assert "compare" in ran.out + ran.err


# -- mistakes --------------------------------------------------------------------------------------------------


@pytest.fixture
def damaged(files):
    """Files that are wrong in every way."""
    (files / "empty.csv").write_text("")
    (files / "header.csv").write_text("flips\n")
    (files / "ragged.csv").write_text("flips\n1\n0,1,1\n")
    (files / "words.csv").write_text("flips\n1\nyes\n")
    (files / "bytes.csv").write_bytes(b"\xff\xfe\x00\x81flips\n1\n")
    (files / "cut.parquet").write_bytes((files / "flips.parquet").read_bytes()[:-20])
    (files / "empty.parquet").write_bytes(b"")
    (files / "cut.npy").write_bytes((files / "flips.npy").read_bytes()[:-3])
    (files / "empty.npy").write_bytes(b"")
    (files / "text.npy").write_text("not an array")
    np.save(files / "objects.npy", np.array([{"a": 1}, None], dtype=object), allow_pickle=True)
    (files / "data.xlsx").write_bytes(b"PK")
    (files / "a_folder").mkdir()
    (files / "folder.csv").mkdir()
    (files / "syntax.py").write_text("class Coin(:\n    pass\n")
    (files / "raises.py").write_text("raise RuntimeError('on import\\nand on')\n")
    (files / "exits.py").write_text("import sys\nsys.exit(0)\n")
    (files / "missing.py").write_text("import a_module_that_is_not_there\n")
    (files / "empty.py").write_text("")
    (files / "wrong.py").write_text(MODELS.replace('pyro.plate("toss", len(flips))', 'pyro.plate("toss", 3)'))
    (files / "nan.py").write_text(MODELS.replace("dist.Bernoulli(heads)", "dist.Bernoulli(heads * float('nan'))"))
    (files / "taken").write_text("mine")
    (files / "no_fit").mkdir()
    (files / "bad_fit").mkdir()
    (files / "bad_fit" / "fit.json").write_text("{")
    return files


FIT = ("fit", "GMM", "faithful", "-m", "em")
COIN = ("fit", "my_models.py:Coin", "flips.csv", "-m", "exact")
MISTAKES = {
    # usage
    "no such command": ("nonsense",),
    "no arguments": ("fit",),
    "no data": ("fit", "GMM"),
    "no method": ("fit", "GMM", "faithful"),
    "no methods": ("compare", "GMM", "faithful"),
    "one argument too many": (*FIT, "more"),
    "no such option": (*FIT, "--nonsense", "1"),
    "option without value": (*FIT, "--seed"),
    "seed is a word": (*FIT, "--seed", "x"),
    "seed is negative": (*FIT, "--seed", "-1"),
    "seed is a fraction": (*FIT, "--seed", "1.5"),
    "seed is too large": (*FIT, "--seed", str(2**70)),
    # names
    "no such model": ("fit", "GMN", "faithful", "-m", "em"),
    "no such model to show": ("show", "nonsense"),
    "no such model to explain": ("explain", "nonsense", "coin"),
    "no such data": ("fit", "GMM", "faithfull", "-m", "em"),
    "no such method": ("fit", "GMM", "faithful", "-m", "emm"),
    "no such method to compare": ("compare", "GMM", "faithful", "-m", "em,emm"),
    "no method to compare": ("compare", "GMM", "faithful", "-m", ","),
    "no such guide": ("fit", "BetaBernoulli", "coin", "-m", "svi", "-g", "nonsense"),
    "a guide for em": (*FIT, "-g", "point"),
    "no such device": (*FIT, "--device", "nonsense"),
    "no such weights": (*FIT, "--weights", "nonsense"),
    "columns without field": (*FIT, "--columns", "eruptions"),
    "no such column": (*FIT, "--columns", "x=eruptions,nonsense"),
    # hyperparameters and settings
    "set without value": (*FIT, "--set", "components"),
    "set without name": (*FIT, "--set", "=3"),
    "no such hyperparameter": (*FIT, "--set", "component=2"),
    "hyperparameter of another type": (*FIT, "--set", "components=two"),
    "hyperparameter out of range": (*FIT, "--set", "components=0"),
    "hyperparameter is a fraction": (*FIT, "--set", "components=2.5"),
    "hyperparameter is no choice": (*FIT, "--set", "covariance=round"),
    "hyperparameter is missing": ("fit", "my_models.py:centre", "flips.csv", "-m", "exact"),
    "more components than rows": (*FIT, "--set", "components=1000"),
    "no such setting": (*FIT, "--option", "nonsense=1"),
    "setting out of range": (*FIT, "--option", "restarts=0"),
    "setting of another type": (*FIT, "--option", "tolerance=small"),
    # pairs
    "illegal method": ("fit", "BetaBernoulli", "coin", "-m", "em"),
    "illegal guide": ("fit", "BetaBernoulli", "coin", "-m", "svi", "-g", "encoder"),
    "values outside the support": ("fit", "BetaBernoulli", "galaxies", "-m", "exact"),
    "too many columns": ("fit", "BetaBernoulli", "faithful", "-m", "exact"),
    # data files
    "file is not there": (*COIN[:2], "nowhere.csv", *COIN[3:]),
    "file is empty": (*COIN[:2], "empty.csv", *COIN[3:]),
    "file has a header only": (*COIN[:2], "header.csv", *COIN[3:]),
    "file is ragged": (*COIN[:2], "ragged.csv", *COIN[3:]),
    "file has words": (*COIN[:2], "words.csv", *COIN[3:]),
    "file is no text": (*COIN[:2], "bytes.csv", *COIN[3:]),
    "parquet is cut": (*COIN[:2], "cut.parquet", *COIN[3:]),
    "parquet is empty": (*COIN[:2], "empty.parquet", *COIN[3:]),
    "npy is cut": (*COIN[:2], "cut.npy", *COIN[3:]),
    "npy is empty": (*COIN[:2], "empty.npy", *COIN[3:]),
    "npy is text": (*COIN[:2], "text.npy", *COIN[3:]),
    "npy holds objects": (*COIN[:2], "objects.npy", *COIN[3:]),
    "file of another kind": (*COIN[:2], "data.xlsx", *COIN[3:]),
    "data is a folder": (*COIN[:2], "a_folder", *COIN[3:]),
    "data is a folder called csv": (*COIN[:2], "folder.csv", *COIN[3:]),
    "data is empty text": (*COIN[:2], "", *COIN[3:]),
    # model files
    "model file is not there": ("show", "nowhere.py:Coin"),
    "model file without name": ("show", "my_models.py"),
    "model file with empty name": ("show", "my_models.py:"),
    "model is not in file": ("show", "my_models.py:Nonsense"),
    "model is a number": ("show", "my_models.py:SOMETHING"),
    "model is a function": ("show", "my_models.py:coins"),
    "model file is a folder": ("show", "a_folder:Coin"),
    "model file is no Python": ("show", "flips.csv:Coin"),
    "model file is empty": ("show", "empty.py:Coin"),
    "model file has a syntax error": ("show", "syntax.py:Coin"),
    "model file raises": ("show", "raises.py:Coin"),
    "model file exits": ("show", "exits.py:Coin"),
    "model file imports what is not there": ("show", "missing.py:Coin"),
    "model with a wrong plate": ("fit", "wrong.py:Coin", "flips.csv", "-m", "exact"),
    "model with a wrong plate, explained": ("explain", "wrong.py:Coin", "flips.csv"),
    "model that is no number": ("fit", "nan.py:Coin", "flips.csv", "-m", "svi"),
    # folders
    "summary of nothing": ("summary", "nowhere"),
    "summary of an empty folder": ("summary", "no_fit"),
    "summary of a file": ("summary", "taken"),
    "summary of a damaged fit": ("summary", "bad_fit"),
    "out is a file": (*COIN, "--out", "taken"),
    "out is in a file": (*COIN, "--out", "taken/more"),
    "out is standard output": (*COIN, "--out", "-"),
    "out of a comparison is a file": ("compare", "my_models.py:Coin", "flips.csv", "-m", "exact", "--out", "taken"),
}


@spread("mistake", MISTAKES, part=0, of=2)
def test_a_mistake_is_one_line_and_code_2(mistake, run, damaged):
    ran = run(*MISTAKES[mistake])
    assert ran.code == 2
    assert len(ran.err.strip().splitlines()) == 1, ran.err
    assert ran.err.startswith("error: ")
    assert "Traceback" not in ran.err
    if "out" not in mistake.split():
        assert ran.out == ""


@pytest.mark.parametrize(
    ("mistake", "named"),
    [
        ("no such model", "GMM"),
        ("no such data", "faithful"),
        ("no such method", "em"),
        ("no such option", "--nonsense"),
        ("no method", "--method"),
        ("no data", "DATA"),
        ("no such command", "nonsense"),
        ("no such hyperparameter", "components"),
        ("hyperparameter of another type", "components"),
        ("hyperparameter is missing", "width"),
        ("illegal method", "exact"),
        ("illegal guide", "MeanField"),
        ("file has words", "yes"),
        ("parquet is cut", "cut.parquet"),
        ("data is a folder", "a_folder"),
        ("model file has a syntax error", "syntax.py"),
        ("model file raises", "on import"),
        ("model is not in file", "Coin"),
        ("model with a wrong plate", "toss"),
        ("more components than rows", "272"),
        ("no such weights", "nonsense"),
        ("no such column", "nonsense"),
        ("summary of a damaged fit", "fit.json"),
    ],
)
def test_the_line_names_what_is_wrong(mistake, named, run, damaged):
    assert named in run(*MISTAKES[mistake]).err


@pytest.mark.parametrize("place", ["first", "last"])
def test_debug_shows_the_traceback(place, run):
    arguments = ["fit", "GMN", "faithful", "-m", "em"]
    with pytest.raises(zoo.UnknownNameError):
        run(*(["--debug", *arguments] if place == "first" else [*arguments, "--debug"]))


def test_an_error_leaves_nothing_behind(run, damaged):
    before = {p.name for p in damaged.iterdir()}
    run(*MISTAKES["illegal method"], "--out", "new")
    run(*MISTAKES["values outside the support"], "--out", "new")
    assert {p.name for p in damaged.iterdir()} == before


@pytest.mark.slow
def test_a_guide_for_no_method_is_refused():
    command = [
        sys.executable,
        "-m",
        "inference.cli",
        "compare",
        "coin.py:Coin",
        "coin",
        "--methods",
        "em",
        "-g",
        "point",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--guide is for svi" in done.stderr


def test_map_takes_point_guides_only():
    with pytest.raises(zoo.MethodError, match="use svi"):
        MAP(guide="mean_field")
    assert MAP(guide="point") == MAP()
