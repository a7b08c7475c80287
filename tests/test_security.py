"""What SECURITY.md promises: data, saved fits and declarations run no code, and take no more memory than they are."""

import gzip
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import openpyxl
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from typer.testing import CliRunner

import zoo
from inference import Fit, check, fit
from inference.cli import app
from inference.options import visible
from inference.posterior.store import read_summary
from inference.report import report
from inference.runtime.sums import seal
from zoo.frames import bounded
from zoo.frames.read import read

ROOT = Path(__file__).parents[1]
SCRIPT, IMAGE = "<script>alert(1)</script>", "<img src=x onerror=alert(2)>$x_{"


class Touch:
    """Pickled, it makes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def trap(tmp_path):
    path = tmp_path / "trapped"
    yield path
    assert not path.exists(), "code ran"


# -- data --------------------------------------------------------------------------------------------------------------


def _header(shape):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return file.getvalue()


def _zipped(path, name, content, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as parts:
        parts.writestr(name, content)


def _entities(path, entities, value):
    book = openpyxl.Workbook()
    book.active.append(["a"])
    book.active.append([1])
    book.save(path)
    with zipfile.ZipFile(path) as parts:
        content = {name: parts.read(name).decode() for name in parts.namelist()}
    sheet = "xl/worksheets/sheet1.xml"
    content[sheet] = f"<!DOCTYPE x [{entities}]>" + content[sheet].replace("<v>1</v>", f"<v>{value}</v>")
    with zipfile.ZipFile(path, "w") as parts:
        for name, text in content.items():
            parts.writestr(name, text)


LAUGHS = '<!ENTITY a "aaaaaaaaaa">' + "".join(
    f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
OBJECTS = {
    "o.npy": lambda path, evil: np.save(path, np.array([evil], dtype=object)),
    "o.npz": lambda path, evil: np.savez(path, x=np.array([evil], dtype=object)),
    "p.npy": lambda path, evil: path.write_bytes(pickle.dumps(evil)),
    "p.npz": lambda path, evil: path.write_bytes(pickle.dumps(evil)),
    "p.csv": lambda path, evil: path.write_bytes(pickle.dumps(evil)),
    "t.pt": torch.save,
    "p.pkl": lambda path, evil: path.write_bytes(pickle.dumps(evil)),
    "m.parquet": lambda path, evil: pa.parquet.write_table(
        pa.table({"a": [1.0]}).replace_schema_metadata({b"pandas": pickle.dumps(evil)}), path
    ),
}


@pytest.mark.parametrize("name", OBJECTS)
def test_no_data_file_is_unpickled(name, tmp_path, trap):
    path, evil = tmp_path / name, Touch(trap)
    OBJECTS[name](*((evil, path) if name == "t.pt" else (path, evil)))
    with pytest.raises(zoo.DataError):
        read(path)
    if name.endswith((".npy", ".parquet")):
        with pytest.raises(zoo.DataError):
            list(zoo.stream(path).frames())


LARGE = {
    "h.npy": lambda path: path.write_bytes(_header((10**12,)) + bytes(64)),
    "h.npz": lambda path: _zipped(path, "x.npy", _header((10**12,)) + bytes(64)),
    "b.npz": lambda path: _zipped(path, "x.npy", bytes(1 << 22), zipfile.ZIP_DEFLATED),
    "b.xlsx": lambda path: _zipped(path, "xl/a.xml", bytes(1 << 22), zipfile.ZIP_DEFLATED),
    "b.csv.gz": lambda path: path.write_bytes(gzip.compress(b"a,b\n" + b"1,1\n" * (1 << 20))),
    "b.feather": lambda path: pd.DataFrame({"a": np.zeros(1 << 19)}).to_feather(path, compression="zstd"),
    "l.xlsx": lambda path: _entities(path, LAUGHS, "&i;"),
    "x.xlsx": lambda path: _entities(path, '<!ENTITY a SYSTEM "file:///etc/passwd">', "&a;"),
}


@pytest.mark.parametrize("name", LARGE)
def test_no_data_file_becomes_much_more_than_it_is(name, tmp_path, monkeypatch):
    monkeypatch.setattr(bounded, "PLAIN", 1 << 20)
    LARGE[name](tmp_path / name)
    with pytest.raises(zoo.DataError, match=r"becomes more than 1 MiB|too short|amplification|undefined entity"):
        read(tmp_path / name)


def test_what_shrinks_as_tables_do_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(bounded, "PLAIN", 1 << 10)
    table = pd.DataFrame({"a": np.random.default_rng(0).poisson(1.0, 2000), "b": 1.5})
    for name, write in {
        "a.csv.gz": lambda path: table.to_csv(path, index=False),
        "a.feather": table.to_feather,
        "a.parquet": table.to_parquet,
        "a.xlsx": lambda path: table.to_excel(path, index=False),
    }.items():
        write(tmp_path / name)
        pd.testing.assert_frame_equal(read(tmp_path / name), table)
    np.savez_compressed(tmp_path / "a.npz", x=table.to_numpy())
    assert np.array_equal(read(tmp_path / "a.npz"), table.to_numpy())


def test_a_table_larger_than_memory_is_refused_before_it_is_read():
    with pytest.raises(zoo.DataError, match=r"need \d+ GiB, and this machine has \d+; read them in chunks"):
        bounded.check_rows(10**12, 2)


# -- saved fits --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return fit(zoo.BetaBernoulli(), [0, 1, 1], method="exact", seed=0).save(tmp_path_factory.mktemp("saved") / "fit")


@pytest.fixture
def edited(saved, tmp_path):
    def make(change):
        folder = Path(shutil.copytree(saved, tmp_path / "edited"))
        described = json.loads((folder / "fit.json").read_text())
        change(described)
        (folder / "fit.json").write_text(json.dumps(described))
        seal(folder)
        return folder

    return make


def _at(module, name, file=None):
    return {"module": module, "name": name, "file": file}


POPEN = {"name": "x", "import": _at("subprocess", "Popen"), "settings": {"args": ["mkdir", "TRAP"]}}
RUNS = {
    "a file": lambda d, file: d["model"].update(_at("evil", "Evil", file)),
    "a module of Python": lambda d, file: d["model"].update(_at("antigravity", "x")),
    "a class as the model": lambda d, file: d["model"].update({**_at("subprocess", "Popen"), **POPEN}),
    "a class as the method": lambda d, file: d.update(method=POPEN),
    "a class as the guide": lambda d, file: d["model"]["settings"].update(
        a={"guide": "x", "settings": POPEN["settings"], "import": POPEN["import"]}
    ),
    "a function as a setting": lambda d, file: d["model"]["settings"].update(a={"import": _at("shutil", "rmtree")}),
    "the library's runner of files": lambda d, file: d.update(
        method={
            "name": "x",
            "import": _at("inference.runtime.model_files", "import_file"),
            "settings": {"path": file, "name": "z"},
        }
    ),
    "what a module has imported": lambda d, file: d["model"]["settings"].update(
        a={"import": _at("zoo.frames.read", "gzip.open")}
    ),
    "an approximation": lambda d, file: d.update(approximation={"kind": "zz", "import": _at("evil", "Evil", file)}),
}


@pytest.mark.parametrize("what", RUNS)
def test_no_code_that_a_saved_fit_names_is_run(what, edited, tmp_path, trap, monkeypatch):
    (tmp_path / "evil.py").write_text(f"import os\nos.mkdir({str(trap)!r})\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(zoo.ModelError, match="loading a fit runs no code that it names"):
        Fit.load(edited(lambda described: RUNS[what](described, str(tmp_path / "evil.py"))))
    assert not {"evil", "antigravity"} & set(sys.modules)


def test_a_file_that_this_user_fitted_is_run_again_only_as_it_was(tmp_path, monkeypatch):
    """Its sum is noted when a fit is saved; what the command line or the program has run counts as well."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    text = (
        "import pyro, pyro.distributions as dist, zoo\n"
        "class Mine(zoo.Model):\n"
        "    x = zoo.Real('row')\n"
        "    def forward(self, x):\n"
        "        mu = pyro.sample('mu', dist.Normal(0.0, 1.0))\n"
        "        with pyro.plate('row', len(x)):\n"
        "            pyro.sample('x', dist.Normal(mu, 1.0), obs=x)\n"
    )
    (tmp_path / "mine.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    import mine

    folder = fit(mine.Mine(), [0.5], method="exact", seed=0).save(tmp_path / "fit")
    monkeypatch.delitem(sys.modules, "mine")
    assert type(Fit.load(folder).model).__name__ == "Mine"
    monkeypatch.delitem(sys.modules, "mine")
    (tmp_path / "mine.py").write_text(text + "print('other')\n")
    with pytest.raises(zoo.ModelError, match=r"Import mine first \(zoo --code .*mine.py"):
        Fit.load(folder)
    assert type(Fit.load(folder, model=mine.Mine).model).__name__ == "Mine"
    said = CliRunner().invoke(app, ["--code", str(tmp_path / "mine.py"), "log-prob", str(folder)])
    assert said.exit_code == 0, said.output
    monkeypatch.delitem(sys.modules, "mine")


def test_a_saved_fit_names_no_file_outside(saved, tmp_path):
    """Sums of files with a path are damage; a fit that is a link to elsewhere is replaced, and elsewhere is not."""
    for name in ("../../x", "/etc/passwd", "a\\b", "\x1b[2J"):
        folder = Path(shutil.copytree(saved, tmp_path / "sums", dirs_exist_ok=True))
        with (folder / "SHA256SUMS").open("a") as sums:
            sums.write(f"{'0' * 64}  {name}\n")
        with pytest.raises(zoo.DataError, match="is damaged in line 5"):
            Fit.load(folder)
    folder, other = Path(shutil.copytree(saved, tmp_path / "linked")), tmp_path / "other.json"
    shutil.copy(saved / "fit.json", other)
    before = other.read_bytes()
    (folder / "fit.json").unlink()
    (folder / "fit.json").symlink_to(other)
    Fit.load(saved).save(folder)
    assert other.read_bytes() == before
    assert not (folder / "fit.json").is_symlink()


@pytest.mark.parametrize("place", ["../saved", "/tmp", ".", ".."])
def test_a_comparison_names_no_folder_outside(place, tmp_path):
    (tmp_path / "comparison.json").write_text(json.dumps({"text": "", "errors": {}, "fits": {"a": place}}))
    seal(tmp_path)
    with pytest.raises(zoo.DataError):
        report(tmp_path)


def _virtual(group, other):
    layout = h5py.VirtualLayout((3,), "f8")
    layout[:] = h5py.VirtualSource(str(other), "x", (3,))
    group.create_virtual_dataset("zz", layout)


LINKS = {
    "a link to a file": lambda group, other: group.__setitem__("zz", h5py.ExternalLink(str(other), "x")),
    "a link to a name": lambda group, other: group.__setitem__("zz", h5py.SoftLink("/posterior")),
    "a loop": lambda group, other: group.__setitem__("zz", group.parent),
    "numbers elsewhere": lambda group, other: group.create_dataset("zz", (10,), "u1", external=[(str(other), 0, 10)]),
    "a window on a file": _virtual,
    "more than there is": lambda group, other: group.create_dataset(
        "zz", (10**12,), "f8", chunks=(10**6,), compression="gzip"
    ),
}


@pytest.mark.parametrize("what", LINKS)
def test_draws_are_of_their_own_file(what, saved, tmp_path):
    with h5py.File(tmp_path / "other.nc", "w") as file:
        file["x"] = np.arange(3.0)
    folder = Path(shutil.copytree(saved, tmp_path / "copy"))
    with h5py.File(folder / "posterior.nc", "a") as file:
        LINKS[what](file["posterior"], tmp_path / "other.nc")
    seal(folder)
    with pytest.raises(zoo.DataError, match=r"link to elsewhere|in another file|deep|does not hold"):
        read_summary(folder)


# -- declarations ------------------------------------------------------------------------------------------------------

DECLARED = '[fields]\nx = "Real(row)"\n[sites]\nmu = "Normal(sum({}), 1)"\n[sites.row]\nx = "Normal(mu, 1)"\n'
TEXTS = {
    "deep.toml": "a = " + "[" * 100_000,
    "dotted.toml": "a" + ".a" * 10_000 + " = 1",
    "deep_sites.toml": "[sites" + ".row" * 3000 + ']\nx = "Normal(0, 1)"\n',
    "digits.toml": "a = " + "9" * 5000,
    "long.toml": 'doc = "' + "x" * (1 << 19) + '"',
    "deep.yaml": "a: " + "{a: " * 5000,
    "digits.yaml": "a: " + "9" * 5000,
    "laughs.yaml": 'a: &a ["lol"]\n'
    + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcd", "bcde", strict=True)),
    "self.yaml": "&a {name: *a}",
    "object.yaml": 'name: !!python/object/apply:os.mkdir ["TRAP"]',
    "key.yaml": "? !!python/name:os.mkdir x\n: 1",
    "minus.toml": DECLARED.format("-" * 1900 + "1"),
    "attribute.toml": DECLARED.format("().__class__"),
    "call.toml": DECLARED.format("__import__('os')"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_declaration_runs_nothing_and_is_bounded(name, tmp_path, trap):
    (tmp_path / name).write_text(TEXTS[name].replace("TRAP", str(trap)))
    with pytest.raises(zoo.ZooError, match=name.replace(".", r"\.")):
        zoo.read_model(tmp_path / name)


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("full(1000000000000, 0)", "would make 1000000000000 numbers"),
        ("eye(60000)", "would make 3600000000 numbers"),
        ("zeros(100000, 1) + zeros(1, 100000)", "would make 10000000000 numbers"),
        ("zeros(40000, 1) @ zeros(1, 40000)", "would make 1600000000 numbers"),
        ("stack(zeros(9000000), zeros(9000000))", "would make 18000000 numbers"),
        ("9 ** 9 ** 9 ** 9", "OverflowError"),
    ],
)
def test_an_expression_makes_no_more_than_a_model_needs(part, said, tmp_path):
    (tmp_path / "m.toml").write_text(DECLARED.format(part))
    with pytest.raises(zoo.ModelError, match=rf"m\.toml:4: sites\.mu.*{said}"):
        fit(zoo.read_model(tmp_path / "m.toml")(), [0.1], method="map", seed=0)


@pytest.mark.parametrize("size", ["10 ** 9", "0", "-1"])
def test_a_plate_has_a_size_that_a_model_needs(size, tmp_path):
    (tmp_path / "m.toml").write_text(
        f'[fields]\nx = "Real(row)"\n[plates]\nk = "{size}"\n[sites.k]\nmu = "Normal(0, 1)"\n'
        '[sites.row]\nx = "Normal(0, 1)"\n'
    )
    with pytest.raises(zoo.ModelError, match=r"m\.toml:4: plates\.k.*a plate has 1 to"):
        fit(zoo.read_model(tmp_path / "m.toml")(), [0.1], method="map", seed=0)


# -- what is shown -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_pages_escape_all_that_came_from_data(tmp_path):
    rng = np.random.default_rng(0)
    labels = pd.Index([f"{SCRIPT}{i}" for i in range(40)], name=SCRIPT)
    numbers = pd.DataFrame({SCRIPT: rng.normal(size=40), IMAGE: rng.normal(size=40)}, index=labels)
    levels = pd.DataFrame({"y": rng.choice([SCRIPT, IMAGE], 40), SCRIPT: rng.choice([IMAGE, "b"], 40)})
    mixture = fit(zoo.GMM(components=2), numbers, method="em", seed=0)
    classes = fit(zoo.LatentClass(components=2), levels, method="em", seed=0)
    pages = {
        "mixture": mixture.report(tmp_path / "mixture.html").read_text(),
        "classes": classes.report(tmp_path / "classes.html").read_text(),
        "explained": zoo.explain(mixture.model, numbers)._repr_html_(),
        "model": mixture.model._repr_html_(),
        **{f"fit {i}": found._repr_html_() for i, found in enumerate((mixture, classes))},
        **{f"checked {i}": check(found, seed=0)._repr_html_() for i, found in enumerate((mixture, classes))},
    }
    for name, page in pages.items():
        assert not {"<script>", "<img src=x"} & {part for part in ("<script>", "<img src=x") if part in page}, name
    assert "&lt;script&gt;" in pages["mixture"]


@pytest.mark.slow
def test_names_do_not_steer_a_terminal(tmp_path):
    (tmp_path / "-rf.csv").write_text("a\x1b[2J\x1b]0;x\x07,b\n1,2\n3,4\n5,6\n2,2\n1,1\n0,9\n")

    def command(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", "zoo", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert "\x1b" not in done.stdout + done.stderr
        return done

    assert "names that begin with - go after --" in command("explain", "GMM", "-rf.csv").stderr
    fitted = command("fit", "GMM", "-m", "em", "--set", "components=1", "--seed", "0", "--", "-rf.csv")
    assert fitted.returncode == 0, fitted.stderr
    assert r"means[0, a\x1b[2J\x1b]0;x\x07]" in fitted.stdout


def test_control_characters_are_written_out():
    assert visible("a\x1b[2J\x9b1m\r\u202eb\n\tc") == r"a\x1b[2J\x9b1m\r" + "\\u202eb\n\tc"
