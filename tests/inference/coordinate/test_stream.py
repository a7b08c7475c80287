"""Rows read in chunks, shared among processes, or that come later: the answer is that of all rows at once."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import constraints

import zoo
from inference import CAVI, EM, Exact, Fit, fit
from zoo import DataError, MethodError, Real
from zoo.data.stream import SAMPLE, File
from zoo.replay.random import reseed

COLUMNS = list("abc")
CENTERS = np.array([[0.0, 0.0, 0.0], [6.0, 0.0, 3.0], [-5.0, 7.0, 1.0]])


def clusters(n=3000, seed=0):
    rng = np.random.default_rng(seed)
    return CENTERS[rng.integers(3, size=n)] + rng.normal(size=(n, 3))


@pytest.fixture(scope="module")
def rows():
    return clusters()


@pytest.fixture(scope="module")
def files(rows, tmp_path_factory):
    """The same rows in every format."""
    folder = tmp_path_factory.mktemp("rows")
    table = pd.DataFrame(rows, columns=COLUMNS)
    np.save(folder / "rows.npy", rows)
    table.to_parquet(folder / "rows.parquet")
    table.to_csv(folder / "rows.csv", index=False)
    table.assign(w=np.arange(len(table)) % 3).to_parquet(folder / "weighted.parquet")
    return folder


class Lines(zoo.Model):
    """A mixture of lines with priors on nothing: its statistics are taken about a fit to the first rows."""

    a = Real("row")
    b = Real("row")

    def forward(self, a, b):
        weights = pyro.param("weights", torch.ones(2) / 2, constraint=constraints.simplex)
        intercept = pyro.param("intercept", torch.tensor([-1.0, 1.0]))
        slope = pyro.param("slope", torch.tensor([-1.0, 1.0]))
        noise = pyro.param("noise", torch.ones(2), constraint=constraints.positive)
        with pyro.plate("row", len(a)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("b", dist.Normal(intercept[z] + slope[z] * a, noise[z]), obs=b)


def lines(n, seed=0):
    rng = np.random.default_rng(seed)
    a, z = rng.normal(size=n), rng.integers(2, size=n)
    return {"a": a, "b": np.where(z, 2 + 3 * a, -2 - a) + 0.3 * rng.normal(size=n)}


def same(one: Fit, other: Fit, **tolerance):
    assert one.objective.value == pytest.approx(other.objective.value, **(tolerance or {"rel": 1e-9}))
    for name, value in one.points.items():
        order, theirs = value.reshape(-1).sort().values, other.points[name].reshape(-1).sort().values
        torch.testing.assert_close(order, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["npy", "parquet", "csv"])
def test_a_file_in_chunks_gives_the_answer_of_all_rows(kind, rows, files):
    streamed = fit(zoo.GMM(3), zoo.stream(files / f"rows.{kind}", chunk=700), method=EM(tolerance=1e-9), seed=0)
    same(streamed, fit(zoo.GMM(3), rows, method=EM(tolerance=1e-9), seed=0))
    assert streamed.converged
    assert "3000 rows were read part by part" in streamed.warnings[0]


@pytest.mark.parametrize("chunk", [*(pytest.param(c, marks=pytest.mark.slow) for c in (1, 7)), 2999, 3000, 100_000])
def test_the_size_of_chunks_does_not_matter(chunk, files):
    settings = {"method": EM(max_steps=1 if chunk == 1 else 3), "seed": 0}
    one, other = (fit(zoo.GMM(2), zoo.stream(files / "rows.npy", chunk=c), **settings) for c in (500, chunk))
    # Chunks decide which random numbers the sample takes: a file as short as this is its own sample, in its own order.
    assert one.trace["value"].to_numpy() == pytest.approx(other.trace["value"].to_numpy(), rel=1e-10)


@pytest.mark.parametrize("method", [EM(hard=True), CAVI(), EM(max_steps=5)], ids=repr)
def test_other_methods_read_files_too(method, rows, files):
    model = zoo.BayesianGMM(3) if isinstance(method, CAVI) else zoo.GMM(3)
    streamed = fit(model, zoo.stream(files / "rows.npy", chunk=400), method=method, seed=0)
    whole = fit(model, rows, method=method, seed=0)
    assert streamed.trace["value"].to_numpy() == pytest.approx(whole.trace["value"].to_numpy(), rel=1e-9)


def test_exact_reads_files(tmp_path):
    counts = np.random.default_rng(1).poisson(3, size=2000)
    np.save(tmp_path / "counts.npy", counts)
    streamed = fit(zoo.GammaPoisson(b=1.0), zoo.stream(tmp_path / "counts.npy", chunk=99), method=Exact(), seed=0)
    whole = fit(zoo.GammaPoisson(b=1.0), counts, method=Exact(), seed=0)
    assert streamed.objective.kind == "log_evidence"
    assert streamed.objective.value == pytest.approx(whole.objective.value, rel=1e-10)
    mine, theirs = (q.approximation.distributions["rate"] for q in (streamed, whole))
    assert mine.mean == pytest.approx(float(theirs.mean), rel=1e-12)


@pytest.mark.slow
def test_stepwise_em_reads_files(rows, files):
    whole = fit(zoo.GMM(3), rows, method=EM(), seed=0)
    method = EM(batch_size=500, max_steps=40)
    streamed = fit(zoo.GMM(3), zoo.stream(files / "rows.npy", chunk=500), method=method, seed=0)
    # A gap in log likelihood of half the number of parameters is the size of the error of the estimate itself.
    assert whole.objective.value - streamed.objective.value < 0.5 * 29
    torch.testing.assert_close(
        streamed.points["means"].sort(0).values, whole.points["means"].sort(0).values, atol=0.2, rtol=0
    )


@pytest.mark.slow
def test_a_column_of_weights(files, rows):
    streamed = fit(
        zoo.GMM(3), zoo.stream(files / "weighted.parquet", chunk=450, weights="w"), method=EM(tolerance=1e-9), seed=0
    )
    repeated = np.repeat(rows, np.arange(len(rows)) % 3, axis=0)
    same(streamed, fit(zoo.GMM(3), repeated, method=EM(tolerance=1e-9), seed=0))


@pytest.mark.slow
def test_a_chunk_without_weight_counts_nothing(tmp_path, rows):
    weights = np.where(np.arange(len(rows)) // 450 == 2, 0.0, 1.0)
    table = pd.DataFrame(rows, columns=[f"x{i}" for i in range(rows.shape[1])])
    table.assign(w=weights).to_parquet(tmp_path / "rows.parquet")
    file = zoo.stream(tmp_path / "rows.parquet", chunk=450, weights="w")
    whole = fit(zoo.GMM(3), rows[weights > 0], method=EM(tolerance=1e-9), seed=0)
    same(fit(zoo.GMM(3), file, method=EM(tolerance=1e-9), seed=0), whole)


def test_a_site_with_arguments_of_its_own_in_every_row_is_refused(tmp_path):
    class Measured(zoo.Model):
        x = Real("row")
        error = zoo.Positive("row")

        def forward(self, x, error):
            mean = pyro.param("mean", torch.zeros(2))
            with pyro.plate("row", len(x)):
                z = pyro.sample("z", dist.Categorical(torch.ones(2) / 2))
                pyro.sample("x", dist.Normal(mean[z], error), obs=x)

    path = tmp_path / "rows.parquet"
    pd.DataFrame({"x": [1.0, 2.0, 4.0], "error": [1.0, 0.5, 2.0]}).to_parquet(path)
    with pytest.raises(MethodError, match="'x'"):
        fit(Measured(), zoo.stream(path), method="em", seed=0)


def test_a_sample_of_a_long_file_is_even(tmp_path):
    """Every row has the same chance of being in the sample, wherever it stands."""
    path = tmp_path / "long.npy"
    np.save(path, np.arange(400_000.0))
    reseed(0)
    sample, rows = File(path, chunk=30_000).sample()
    assert rows == 400_000
    assert SAMPLE / 2 < len(sample) <= 2 * SAMPLE
    shares = np.histogram(sample, bins=8, range=(0, rows))[0]
    expected = len(sample) / 8
    assert np.abs(shares - expected).max() < 5 * np.sqrt(expected)
    assert (np.diff(sample) > 0).all()


def test_what_is_asked_without_rows_is_answered_for_the_sample(files, rows):
    found = fit(zoo.GMM(3), zoo.stream(files / "rows.parquet", chunk=1000), method="em", seed=0)
    assert len(found.assign()) == len(found.program.data)
    assert found.assign(pd.DataFrame(rows[:5], columns=COLUMNS)).shape == (5, 3)


def test_a_streamed_fit_is_saved_and_loaded(files, rows, tmp_path):
    found = fit(zoo.GMM(3), zoo.stream(files / "rows.npy", chunk=1000), method="em", seed=0)
    again = Fit.load(found.save(tmp_path / "saved"))
    np.testing.assert_array_equal(again.assign(rows[:9]), found.assign(rows[:9]))


# -- errors ------------------------------------------------------------------------------------------------------------


def test_errors_name_the_file_and_the_remedy(tmp_path, files):
    with pytest.raises(DataError, match="no such file"):
        zoo.stream(tmp_path / "nothing.npy")
    with pytest.raises(DataError, match="a stream reads Parquet, CSV, TSV"):
        zoo.stream(tmp_path / "rows.xlsx")
    for chunk in (0, -1, 2.5, True):
        with pytest.raises(DataError, match="chunk"):
            zoo.stream(files / "rows.npy", chunk=chunk)
    with pytest.raises(DataError, match="column"):
        zoo.stream(files / "rows.npy", weights="w")
    with pytest.raises(DataError, match="column of its file"):
        fit(zoo.GMM(3), zoo.stream(files / "rows.npy"), method="em", weights=np.ones(3000))
    with pytest.raises(MethodError, match="in memory"):
        fit(zoo.BayesianGMM(3), zoo.stream(files / "rows.npy"), method="nuts")
    broken = tmp_path / "broken.parquet"
    broken.write_bytes((files / "rows.parquet").read_bytes()[:500])
    with pytest.raises(DataError, match="truncated"):
        fit(zoo.GMM(3), zoo.stream(broken), method="em")
    np.save(tmp_path / "empty.npy", np.empty((0, 3)))
    with pytest.raises(DataError, match="no rows"):
        fit(zoo.GMM(3), zoo.stream(tmp_path / "empty.npy"), method="em")


def test_a_bad_row_far_into_the_file_is_found(tmp_path, rows):
    worse = rows.copy()
    worse[2500, 1] = np.inf
    np.save(tmp_path / "worse.npy", worse)
    with pytest.raises(DataError, match="finite"):
        fit(zoo.GMM(3), zoo.stream(tmp_path / "worse.npy", chunk=500), method="em", seed=0)


def test_a_stream_is_for_fit_only(files):
    found = fit(zoo.GMM(3), zoo.stream(files / "rows.npy"), method="em", seed=0)
    with pytest.raises(DataError, match="give the rows"):
        found.assign(zoo.stream(files / "rows.npy"))


# -- more rows later ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [zoo.GMM(3), zoo.GMM(3, "tied"), zoo.BayesianGMM(3)], ids=repr)
def test_em_goes_on_with_more_rows(model, rows):
    """The statistics of the first half stay as the first fit left them: near the answer of all rows, not equal."""
    first = fit(model, rows[:1500], method=EM(), seed=0)
    second = EM().update(first, rows[1500:])
    whole = fit(model, rows, method=EM(), seed=0)

    def means(found):
        return {**found.points, **found.approximation.values}["means"].sort(0).values

    far = (means(first) - means(whole)).abs().max()
    near = (means(second) - means(whole)).abs().max()
    assert near < 0.2 * far
    assert list(second.trace["step"]) == sorted(set(second.trace["step"]))


def test_no_row_is_forgotten_in_many_small_updates(rows):
    parts = np.array_split(rows, 6)
    found = fit(zoo.GMM(3), parts[0], method=EM(), seed=0)
    for part in parts[1:]:
        found = EM().update(found, part)
    assert float(found.memory.sums["x"][0].sum()) == pytest.approx(len(rows), rel=1e-9)
    whole = fit(zoo.GMM(3), rows, method=EM(), seed=0)
    torch.testing.assert_close(
        found.points["means"].sort(0).values, whole.points["means"].sort(0).values, atol=0.02, rtol=0
    )


@pytest.mark.slow
def test_updating_from_a_saved_fit_is_updating_from_the_fit(rows, tmp_path):
    for model, data in (
        (zoo.GMM(3), [rows[:999], rows[999:1999], rows[1999:]]),
        (Lines(), [lines(90, s) for s in range(3)]),
    ):
        found = EM().update(fit(model, data[0], method=EM(), seed=0), data[1])
        again = Fit.load(found.save(tmp_path / type(model).__name__), model=type(model))
        one, other = (EM().update(f, data[2]) for f in (found, again))
        assert one.objective == other.objective
        assert all(torch.equal(other.points[name], value) for name, value in one.points.items())


def test_updates_that_cannot_be_made_say_why(rows):
    with pytest.raises(MethodError, match="continues a fit of EM"):
        EM().update(fit(zoo.BayesianGMM(2), rows[:50], method=CAVI(), seed=0), rows[:50])
    with pytest.raises(MethodError, match="conjugate posterior"):
        CAVI().update(fit(zoo.BayesianGMM(2), rows[:50], method=EM(), seed=0), rows[:50])


# -- several processes -------------------------------------------------------------------------------------------------

SCRIPT = """
import sys
import numpy as np, torch.distributed as processes
import zoo
from inference import CAVI, EM, fit

processes.init_process_group("gloo")
rows, folder = np.load(sys.argv[1]), sys.argv[2]
cases = {
    "gmm": lambda d: fit(zoo.GMM(3), rows, method=EM(max_steps=6, distributed=d), seed=0),
    "tied": lambda d: fit(zoo.GMM(3, "tied"), rows, method=EM(max_steps=6, distributed=d), seed=0),
    "restarts": lambda d: fit(zoo.GMM(3), rows, method=EM(max_steps=6, restarts=3, distributed=d), seed=0),
    "weighted": lambda d: fit(
        zoo.GMM(3), rows, method=EM(max_steps=6, distributed=d), weights=np.arange(len(rows)) % 3, seed=0
    ),
    "cavi": lambda d: fit(zoo.BayesianGMM(3), rows, method=CAVI(max_steps=6, distributed=d), seed=0),
    "file": lambda d: fit(
        zoo.GMM(3), zoo.stream(sys.argv[1], chunk=333), method=EM(max_steps=6, distributed=d), seed=0
    ),
}
for name, run in cases.items():
    shared = run(True)
    if processes.get_rank() == 0:
        alone = run(False)
        worst = np.abs(shared.trace["value"] / alone.trace["value"] - 1).max()
        worst = max([worst, *(float((v - alone.points[n]).abs().max()) for n, v in shared.points.items())])
        print(name, len(alone.trace), worst, flush=True)
processes.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_give_the_answer_of_one(files, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"]
    done = subprocess.run(
        [*command, "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", script, files / "rows.npy", tmp_path],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line}
    assert set(found) == {"gmm", "tied", "restarts", "weighted", "cavi", "file"}
    for name, (steps, worst) in found.items():
        assert int(steps) >= 3, name
        assert float(worst) < 1e-10, (name, worst)


def test_processes_have_to_be_started(rows):
    with pytest.raises(MethodError, match="torchrun"):
        fit(zoo.GMM(3), rows, method=EM(distributed=True), seed=0)
