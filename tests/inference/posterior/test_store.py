"""A fit comes back from its folder as it was: in this process, in a new one, or with a clear error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
import xarray as xr

import zoo
from guides import Encoder
from inference import EM, MAP, SVI, Exact, Fit, fit
from inference.posterior.replicates import SIMULATED
from inference.runtime.sums import seal
from tests.cases.models import (
    FLIPS,
    SCHOOLS,
    BernoulliMixture,
    Colours,
    NonCentred,
    PoissonMixture,
    Rate,
    RegressionMixture,
    coin,
)
from tests.cases.spread import spread

ROOT = Path(__file__).parents[3]
RNG = np.random.default_rng(5)
GEYSER = zoo.datasets.load("faithful").iloc[:60]
SCHOOL_TABLE = pd.DataFrame(SCHOOLS, index=pd.Index(list("ABCDEFGH"), name="who"))
PIXELS = (RNG.random((30, 4)) < 0.4).astype(float)
PROFILES = pd.DataFrame(RNG.random((30, 3)) < 0.5, columns=["one", "two", "three"])
LABELS = pd.DataFrame({"colour": list("rgbrrgrrbr")})
LINES = pd.DataFrame(
    {"x": np.linspace(-1, 1, 30), "y": RNG.normal(size=30)}, index=pd.date_range("2021-03-01", periods=30)
)
SHORT = SVI(steps=25)

CASES = {
    "point": (zoo.GMM(components=2), GEYSER, "em", {}),
    "point of parameters, by gradient": (zoo.GMM(components=2, covariance="diag"), GEYSER, SHORT, {}),
    "point with priors": (zoo.BayesianGMM(components=2), GEYSER, EM(restarts=2), {}),
    "point, by gradient": (zoo.BayesianGMM(components=2), GEYSER, MAP(steps=25), {}),
    "point with locals": (NonCentred, SCHOOL_TABLE, MAP(steps=25), {}),
    "counts": (PoissonMixture(components=3), [1, 2, 3, 10, 12, 14, 30, 31], "em", {}),
    "profiles": (BernoulliMixture, PROFILES, "em", {}),
    "covariates and dates": (RegressionMixture, LINES, "em", {}),
    "Beta": (coin(a=2.5), FLIPS, "exact", {}),
    "Gamma": (Rate, [3, 0, 7], "exact", {}),
    "Dirichlet and labels": (Colours, LABELS, "exact", {}),
    "mean-field": (zoo.BayesianGMM(components=2, covariance="diag"), GEYSER, SHORT, {}),
    "mean-field with locals": (NonCentred(scale=7.0), SCHOOL_TABLE, SHORT, {}),
    "full rank": (zoo.BayesianGMM(components=2), GEYSER, SVI(guide="full_rank", steps=25), {}),
    "encoder": (zoo.VAE(latent=2, hidden=(5,)), PIXELS, SVI(guide=Encoder(hidden=(6,)), steps=25), {}),
    "gaussian encoder": (
        zoo.VAE(latent=1, hidden=(5,), likelihood="gaussian"),
        GEYSER,
        SVI(guide="encoder", steps=25),
        {},
    ),
    "weights": (zoo.GMM(components=2), GEYSER, "em", {"weights": np.arange(60) % 3}),
    "single precision": (zoo.BayesianGMM(components=2), GEYSER, SHORT, {"dtype": torch.float32}),
}
every = spread("name", CASES, part=0, of=2)


@cache
def fitted(name: str) -> Fit:
    model, data, method, options = CASES[name]
    return fit(model, data, method=method, seed=4, progress=False, **options)


class Saved(dict):
    """Folders of cases by name; a case is fitted and saved when it is asked for."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def __missing__(self, name: str) -> Path:
        self[name] = fitted(name).save(self.folder / f"case {len(self)}")
        return self[name]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return Saved(tmp_path_factory.mktemp("fits"))


def new_rows(found: Fit):
    """Two rows like those fitted, but not among them."""
    return found.generate(2, seed=8)


def answers(found: Fit) -> dict[str, np.ndarray]:
    """What a fit says, as arrays whose bytes can be compared."""
    new = new_rows(found)
    said = {
        "log_prob": found.log_prob(samples=100).to_numpy(),
        "log_prob of new": found.log_prob(new, samples=100).to_numpy(),
        "log_prob error": np.array(found.log_prob(new, samples=100).attrs["mcse"]),
        "summary": found.summary().to_numpy(dtype=float),
        "generate": pd.DataFrame(new).to_numpy().astype(str),
    }
    if any(found.program.row in s.plates for s in found.program.enumerated):
        said |= {"assign": found.assign().to_numpy(), "assign of new": found.assign(new).to_numpy()}
    for variable, values in found.predict(draws=3)["posterior_predictive"].data_vars.items():
        said[f"predict {variable}"] = values.to_numpy()
    if not found.is_point:
        said |= {f"sample {n}": v.to_numpy() for n, v in found.sample(3).data_vars.items()}
    return said


@pytest.mark.slow
def test_the_same_answers_in_a_new_process(saved, tmp_path):
    """Bit for bit: nothing of a fit lives outside its folder."""
    script = f"""
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        import numpy as np
        from inference import Fit
        from tests.inference.posterior.test_store import answers
        for number, folder in enumerate(sys.argv[2:]):
            np.savez(sys.argv[1] + f"/{{number}}.npz", **answers(Fit.load(folder)))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path), *(str(saved[name]) for name in CASES)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    different = []
    for number, name in enumerate(CASES):
        expected = answers(fitted(name))
        with np.load(tmp_path / f"{number}.npz") as got:
            assert set(got.files) == set(expected)
            different += [
                (name, key)
                for key, value in expected.items()
                if got[key].dtype != value.dtype or got[key].tobytes() != value.tobytes()
            ]
    assert not different


@pytest.mark.slow
@every
def test_everything_comes_back(name, saved):
    before, after = fitted(name), Fit.load(saved[name])
    assert after.objective == before.objective
    pd.testing.assert_frame_equal(after.trace, before.trace, check_exact=True)
    assert (after.converged, after.reason, after.steps) == (before.converged, before.reason, before.steps)
    assert after.warnings == before.warnings
    assert (after.seed, after.seconds) == (before.seed, before.seconds)
    assert repr(after) == repr(before)
    assert after.method == before.method
    assert after.model.settings == before.model.settings
    assert type(after.model) is type(before.model)
    assert after.program.dtype == before.program.dtype
    pd.testing.assert_frame_equal(after.summary(), before.summary(), check_exact=True)
    assert set(after.posterior.children) == set(before.posterior.children)
    for group in before.posterior.children:
        xr.testing.assert_identical(after.posterior[group].to_dataset(), before.posterior[group].to_dataset())
    first, second = after.log_prob(samples=100), before.log_prob(samples=100)
    pd.testing.assert_series_equal(first, second, check_exact=True, check_freq=False)
    assert first.attrs == second.attrs


@every
def test_loading_leaves_global_state_alone(name, saved):
    torch.manual_seed(1)
    before, dtype = torch.get_rng_state(), torch.get_default_dtype()
    Fit.load(saved[name])
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_default_dtype() == dtype


@pytest.mark.slow
@spread("name", CASES, part=1)
def test_a_loaded_fit_saves_to_the_same(name, saved, tmp_path):
    again = Fit.load(saved[name]).save(tmp_path / "again")
    assert (again / "fit.json").read_text() == (saved[name] / "fit.json").read_text()
    assert (again / "trace.csv").read_text() == (saved[name] / "trace.csv").read_text()
    first, second = (safetensors.torch.load_file(f / "tensors.safetensors") for f in (saved[name], again))
    assert set(first) == set(second)
    assert all(torch.equal(first[n], second[n]) for n in first)


@every
def test_nothing_is_pickled(name, saved):
    files = [p for p in saved[name].rglob("*") if p.is_file()]
    assert {p.name for p in files} == {"fit.json", "tensors.safetensors", "trace.csv", "posterior.nc", "SHA256SUMS"}
    json.loads((saved[name] / "fit.json").read_text())
    safetensors.torch.load_file(saved[name] / "tensors.safetensors")
    pd.read_csv(saved[name] / "trace.csv")
    assert (saved[name] / "posterior.nc").read_bytes()[:4] == b"\x89HDF"


@every
def test_the_netcdf_file_is_the_posterior(name, saved):
    tree = fitted(name).posterior
    with xr.open_datatree(saved[name] / "posterior.nc", engine="h5netcdf") as back:
        groups = set(back.children) - {"standard_error"}  # which `summary` puts beside a point
        assert groups == set(tree.children) - set(SIMULATED)  # which a loaded fit simulates again
        for group in groups:
            xr.testing.assert_equal(back[group].to_dataset(), tree[group].to_dataset())


def test_saving_again_replaces(tmp_path):
    fitted("encoder").save(tmp_path)
    with pytest.warns(UserWarning, match=r"took the place of another saved fit, which differed in its model.*VAE"):
        fitted("Beta").save(tmp_path)
    fitted("Beta").save(tmp_path)  # the same again, which nobody needs to be told
    assert repr(Fit.load(tmp_path)) == repr(fitted("Beta"))
    assert Fit.load(tmp_path).log_prob().equals(fitted("Beta").log_prob())


def test_save_returns_the_folder_and_makes_those_above(tmp_path):
    place = fitted("Beta").save(str(tmp_path / "a" / "b"))
    assert place == tmp_path / "a" / "b"
    assert isinstance(Fit.load(str(place)), Fit)


def test_saving_where_a_file_stands_is_an_error_of_the_zoo(tmp_path):
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(zoo.ZooError, match="taken"):
        fitted("Beta").save(tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "mine"


# -- models from elsewhere -------------------------------------------------------------------------------------

OWN = """
    import pyro
    import pyro.distributions as dist
    import zoo
    from zoo import Count

    class Emails(zoo.Model):
        '''Mails per day.'''
        mails = Count("day")
        shape: float = 2.0

        def forward(self, mails):
            rate = pyro.sample("rate", dist.Gamma(self.shape, 1.0))
            with pyro.plate("day", len(mails)):
                pyro.sample("mails", dist.Poisson(rate), obs=mails)
"""
RUN = """
    if __name__ == "__main__":
        import sys
        from inference import fit
        fit(Emails(shape=3.0), [4, 0, 2], method="exact", seed=0).save(sys.argv[1])
        print(repr(list(fit(Emails(shape=3.0), [4, 0, 2], method="exact", seed=0).log_prob())))
"""
FIT = """
    import sys
    from inference.cli import app
    for number, file in enumerate(sys.argv[1:]):
        command = ["fit", f"../{file}:Emails", "../mails.csv", "-m", "exact", "--out", f"../fit {number}"]
        app(command, standalone_mode=False)
"""
LOAD = """
    import sys
    from inference import Fit
    for folder in sys.argv[1:]:
        try:
            print(repr(list(Fit.load(folder).log_prob())))
        except Exception as error:
            print(type(error).__name__, str(error))
"""


def python(script: str, *arguments, cwd) -> subprocess.CompletedProcess[str]:
    """Run a script file or text in a new process, with the project on its path."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(
        [sys.executable, *(["-c", textwrap.dedent(script)] if "\n" in script else [script]), *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_models_of_a_users_files_are_found_by_their_path(tmp_path, subtests):
    """Saved by a script, where the model's module is __main__, or by the command line; loaded elsewhere."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    files = ["emails.py", "my-models.py", "test.py", "statistics.py"]  # the last two are names of Python's own modules
    for file in files:
        (tmp_path / file).write_text(textwrap.dedent(OWN))
    (tmp_path / "script.py").write_text(textwrap.dedent(OWN) + textwrap.dedent(RUN))
    pd.DataFrame({"mails": [4, 0, 2]}).to_csv(tmp_path / "mails.csv", index=False)
    by_script = python(str(tmp_path / "script.py"), tmp_path / "by script", cwd=elsewhere)
    assert by_script.returncode == 0, by_script.stderr
    by_command = python(FIT, *files, cwd=elsewhere)
    assert by_command.returncode == 0, by_command.stderr
    folders = [tmp_path / f"fit {i}" for i in range(len(files))]
    loaded = python(LOAD, tmp_path / "by script", *folders, cwd=elsewhere)
    assert loaded.returncode == 0, loaded.stderr
    first, *others = loaded.stdout.splitlines()
    with subtests.test("script"):  # running it again could do anything: the class is asked for
        assert first == by_script.stdout.strip() or "model=Emails" in first
    for file, line in zip(files, others, strict=True):
        with subtests.test(file):
            assert line.startswith("[-"), line


def test_a_model_that_cannot_be_found_is_asked_for(tmp_path):
    @zoo.model(flips=zoo.Binary("toss"))
    def local_coin(flips):
        import pyro
        import pyro.distributions as dist

        heads = pyro.sample("heads", dist.Beta(1.0, 1.0))
        with pyro.plate("toss", len(flips)):
            pyro.sample("flips", dist.Bernoulli(heads), obs=flips)

    before = fit(local_coin, FLIPS, method="exact", seed=0)
    before.save(tmp_path)
    with pytest.raises(zoo.ModelError, match=r"local_coin.*model="):
        Fit.load(tmp_path)
    for given in (local_coin, local_coin()):
        assert Fit.load(tmp_path, model=given).log_prob().equals(before.log_prob())


def test_another_model_does_not_fit_the_folder(saved):
    with pytest.raises(zoo.ZooError):
        Fit.load(saved["Beta"], model=Rate)
    with pytest.raises(zoo.ZooError):
        Fit.load(saved["Beta"], model=zoo.GMM)


# -- damage ----------------------------------------------------------------------------------------------------

FILES = ["fit.json", "tensors.safetensors", "trace.csv"]


@pytest.fixture
def folder(tmp_path):
    return fitted("mean-field").save(tmp_path / "fit")


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_named(folder, file):
    (folder / file).unlink()
    with pytest.raises(zoo.DataError, match=file):
        Fit.load(folder)


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.98], ids=["empty", "begun", "all but the end"])
@spread("file", FILES, part=0, of=2)
def test_a_truncated_file_is_named(folder, file, kept):
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(content[: int(kept * len(content))])
    with pytest.raises(zoo.DataError, match=file):
        Fit.load(folder)


@pytest.mark.parametrize("content", ["[]", "null", "3", '"fit"', "{}", '{"format": 1}', "\x00\x01", "{'a': 1}"])
def test_a_fit_that_says_something_else(folder, content):
    (folder / "fit.json").write_text(content)
    seal(folder)
    with pytest.raises(zoo.DataError, match="fit"):
        Fit.load(folder)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("format",), 999),
        (("model",), None),
        (("model", "settings"), {"colour": "red"}),
        (("model", "settings", "components"), "two"),
        (("data", "dtype"), "float99"),
        (("data", "row"), "nothing"),
        (("method", "name"), "Sorcery"),
        (("method", "settings"), {"steps": -1}),
        (("approximation",), {"kind": "unknown"}),
        (("approximation", "guide", "name"), "FullRank"),
        (("objective",), {"amount": 3}),
        (("seed",), "x"),
        (("data", "coords", "row", "labels"), [1, 2]),
    ],
    ids=lambda v: ".".join(v) if isinstance(v, tuple) else "",
)
def test_a_garbled_description_is_an_error_of_the_zoo(folder, path, value):
    described = json.loads((folder / "fit.json").read_text())
    at = described
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    (folder / "fit.json").write_text(json.dumps(described))
    seal(folder)
    with pytest.raises(zoo.ZooError):
        Fit.load(folder)


@pytest.mark.parametrize("change", ["another fit's", "one too few", "another shape"])
def test_tensors_that_do_not_belong(folder, change, saved):
    path = folder / "tensors.safetensors"
    tensors = safetensors.torch.load_file(path)
    if change == "another fit's":
        tensors = safetensors.torch.load_file(saved["Beta"] / "tensors.safetensors")
    else:
        name = next(n for n in sorted(tensors) if n.startswith("q."))
        del tensors[name]
        if change == "another shape":
            tensors[name] = torch.zeros(3, 5, 7)
    safetensors.torch.save_file(tensors, path)
    seal(folder)
    with pytest.raises(zoo.DataError):
        Fit.load(folder)


@pytest.mark.parametrize("place", ["nowhere", "", "a_file"])
def test_a_folder_that_holds_no_fit(tmp_path, place):
    (tmp_path / "a_file").write_text("x")
    with pytest.raises(zoo.DataError, match="saved fit"):
        Fit.load(tmp_path / place)


def test_the_netcdf_file_is_a_copy_for_others(folder):
    """Loading does not need it: the draws come again from the seed."""
    (folder / "posterior.nc").unlink()
    assert Fit.load(folder).summary().equals(fitted("mean-field").summary())


# -- going on from a loaded fit --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "more"),
    [("Beta", [1, 1, 0]), ("Gamma", [5, 2]), ("Dirichlet and labels", pd.DataFrame({"colour": ["b", "g"]}))],
)
def test_a_loaded_fit_can_be_updated(name, more, saved, tmp_path):
    direct = Exact().update(fitted(name), more)
    loaded = Exact().update(Fit.load(saved[name]), more)
    assert loaded.objective == direct.objective
    pd.testing.assert_frame_equal(loaded.summary(), direct.summary(), check_exact=True)
    first = loaded.save(tmp_path / "updated")  # its prior is not the model's own
    again = Exact().update(Fit.load(first), more)
    assert again.objective == Exact().update(direct, more).objective
    assert Fit.load(first).log_prob().equals(direct.log_prob())


def test_a_fit_that_is_not_exact_cannot_be_updated(saved):
    with pytest.raises(zoo.MethodError, match="Exact"):
        Exact().update(Fit.load(saved["point"]), GEYSER)
