"""The command line's questions to saved fits: the numbers of Python's, as tables for other programs."""

import io
import json
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import zoo
from inference import Fit, fit
from tests.cases.spread import spread
from tests.inference.test_cli import run as run  # a fixture

FILES = {
    ".csv": pd.read_csv,
    ".tsv": lambda f: pd.read_csv(f, sep="\t"),
    ".parquet": pd.read_parquet,
    ".json": pd.read_json,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved mixture of Old Faithful."""
    fitted = fit(zoo.GMM(components=2), zoo.datasets.load("faithful"), method="em", seed=0, progress=False)
    return fitted.save(tmp_path_factory.mktemp("saved") / "fit")


def table(ran, **options):
    assert (ran.code, ran.err) == (0, "")
    return pd.read_csv(io.StringIO(ran.out), index_col=0, **options)


@pytest.mark.slow
def test_answers_are_those_of_python(run, folder, tmp_path):
    fitted, new = Fit.load(folder), tmp_path / "new.csv"
    zoo.datasets.load("faithful").head(4).to_csv(new, index=False)
    rows = pd.read_csv(new)
    assert np.allclose(table(run("assign", folder, new)), fitted.assign(rows))
    assert np.allclose(table(run("log-prob", folder, new))["log_prob"], fitted.log_prob(rows))
    assert len(table(run("assign", folder))) == 272
    drawn = table(run("generate", folder, 5, "--seed", 3))
    assert np.allclose(drawn, fitted.generate(5, seed=3))
    assert list(drawn.columns) == ["eruptions", "waiting"]
    predicted = table(run("predict", folder, new, "--draws", 50))
    assert list(predicted.columns)[:4] == ["x[0]", "x[0]_sd", "x[0]_5%", "x[0]_95%"]
    holes = tmp_path / "holes.csv"
    holes.write_text("eruptions,waiting\n3.1,\n1.8,54\n")
    assert np.allclose(table(run("impute", folder, holes, "--mean")), fitted.impute(pd.read_csv(holes), mean=True))


@pytest.mark.parametrize("kind", FILES)
def test_tables_are_written(run, folder, tmp_path, kind):
    out = tmp_path / f"states{kind}"
    ran = run("assign", folder, "--out", out)
    assert (ran.code, ran.out) == (0, f"saved to {out}\n")
    assert FILES[kind](out)[["0", "1"]].sum(axis=1).to_numpy() == pytest.approx(1.0)


def test_what_cannot_be_says_why(run, folder, tmp_path):
    for arguments, text in {
        ("assign", tmp_path / "nothing"): "does not hold a saved fit",
        ("assign", folder, "--out", "states.doc"): "tables are written as .csv, .tsv, .parquet, .json files",
        ("assign", folder, "--out", tmp_path / "no" / "states.csv"): "there is no folder",
        ("encode", folder): "no continuous latent of each row",
        ("generate", folder, 0): "Input should be greater than or equal to 1",
    }.items():
        ran = run(*arguments)
        assert (ran.code, ran.out) == (2, "")
        assert text in ran.err


COIN = ("BetaBernoulli", "-")
# Every command that answers with numbers -> the keys of its answer, and of a row of each table in it.
SCHEMA = {
    ("list",): {
        "models": "name summary",
        "guides": "name summary",
        "methods": "name summary",
        "datasets": "name summary",
    },
    ("show", "GMM"): {"cards": "kind name text fields settings"},
    ("show", "laplace"): {"cards": "kind name text settings"},
    ("explain", *COIN): {
        "model": "",
        "sites": "site role distribution plates shape",
        "data": "data field shape",
        "methods": "method legal text",
    },
    ("summary", "FIT"): {"fits": ""},
    ("assign", "FIT"): {"rows": "row 0 1"},
    ("log-prob", "FIT"): {"rows": "row log_prob"},
    ("generate", "FIT", 3): {"rows": "row eruptions waiting"},
    ("impute", "FIT"): {"rows": "row eruptions waiting"},
    ("predict", "FIT", "--draws", 5): {
        "rows": " ".join(["row", *(f"x[{j}]{what}" for j in (0, 1) for what in ("", "_sd", "_5%", "_95%"))])
    },
    ("check", *COIN): {"model": "", "ok": "", "checks": "what passed text site"},
    ("evidence", *COIN, "-m", "exact"): {
        "table": "name model method kind log_evidence error khat note",
        "bayes_factors": "",
        "explained": "",
    },
    ("calibrate", *COIN, "-m", "exact", "-n", 5): {
        "about": "",
        "verdict": "",
        "alarm": "",
        "failures": "",
        "table": "name p_value adjusted holds_50 holds_90 reading",
    },
}
LONG = {
    ("encode", "CODES"): {"rows": "row z[0] z_sd[0]"},
    ("check", "FIT"): {"misfits": "", "conflicts": "", "notes": "", "table": "", "prior": "", "sensitivity": ""},
}


def keys_of(run, monkeypatch, command, folders):
    """The keys of a command's answer as JSON, and of the rows of the tables in it."""
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"flips\n1\n0\n1\n1\n")))
    ran = run(*(folders.get(part, part) for part in command), "--json")
    said = json.loads(ran.out)
    assert (ran.code, ran.err) == (int(bool(said.get("misfits"))), "")
    assert said.pop("schema") == 1
    return {k: " ".join(v[0]) if isinstance(v, list) and v and isinstance(v[0], dict) else "" for k, v in said.items()}


@spread("command", SCHEMA, part=0, of=2, ids=lambda c: " ".join(map(str, c)))
def test_every_command_answers_as_json(run, monkeypatch, command, folder):
    found = keys_of(run, monkeypatch, command, {"FIT": folder})
    assert list(found) == list(SCHEMA[command])
    assert {k: found[k] for k, v in SCHEMA[command].items() if v} == {k: v for k, v in SCHEMA[command].items() if v}


@pytest.mark.slow
@pytest.mark.parametrize("command", LONG, ids=lambda c: " ".join(map(str, c)))
def test_every_long_command_answers_as_json(run, monkeypatch, command, folder, tmp_path):
    codes = fit(zoo.PPCA(factors=1), zoo.datasets.load("faithful"), method="em", seed=0, progress=False)
    found = keys_of(run, monkeypatch, command, {"FIT": folder, "CODES": codes.save(tmp_path / "codes")})
    assert list(found) == list(LONG[command])
    assert {k: found[k] for k, v in LONG[command].items() if v} == {k: v for k, v in LONG[command].items() if v}


def test_standard_output_is_a_place_and_json_goes_nowhere_else(run, folder, tmp_path):
    assert run("assign", folder, "--out", "-").out == run("assign", folder).out
    assert "--json is for standard output" in run("assign", folder, "--json", "--out", tmp_path / "a.json").err


@pytest.mark.slow
def test_fits_and_comparisons_are_json(run):
    ran = run("fit", "GMM", "faithful", "-m", "em", "--set", "components=2", "--seed", 0, "--json")
    said = json.loads(ran.out)
    assert list(said) == [
        *(
            "schema",
            "model",
            "method",
            "seed",
            "objective",
            "converged",
            "reason",
            "verdict",
            "warnings",
            "diagnostics",
        ),
        *("steps", "seconds", "summary"),
    ]
    assert said["objective"]["value"] == pytest.approx(-1130.264, abs=1e-3)
    assert said["summary"][0].keys() == {"name", "value", "se"}
    options = ("--option", "svi.steps=100", "--option", "em.max_steps=7", "-g", "mean_field", "-g", "full_rank")
    ran = run("compare", "BayesianGMM", "faithful", "-m", "em,svi", *options, "--seed", 0, "--json")
    rows = json.loads(ran.out)["table"]
    assert [r["name"] for r in rows] == ["em", "svi mean_field", "svi full_rank"]
    assert rows[0]["khat"] is None
    assert [r["steps"] for r in rows[1:]] == [100, 100]
    assert "method of --methods 'nuts'" in run("compare", "GMM", "faithful", "-m", "em", "--option", "nuts.draws=3").err


def test_without_a_command_help_is_shown(run):
    ran = run()
    assert (ran.code, ran.err) == (0, "")
    assert "Usage: zoo" in ran.out
    assert "Exit codes: 0 done" in ran.out
    assert run("--version").out.startswith("latentzoo ")
