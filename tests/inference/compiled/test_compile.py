"""Compiled programs: the same numbers as eager ones, when to compile, and what happens where it cannot be done."""

from __future__ import annotations

import os

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

import inference.approximations.rows
import inference.compiled.compile
import zoo
from guides import Encoder, Flow, MeanField, Point
from inference import MAP, SVI, fit
from inference.approximations.rows import pointwise
from inference.compiled.compile import has_compiler, lower, lower_gradient
from inference.compiled.constants import fold_constants
from inference.compiled.kept import FOLDER
from inference.compiled.record import recorded
from inference.compiled.small_first import LARGE, small_first
from inference.compiled.small_matrices import LARGEST, WRITTEN_OUT
from inference.compiled.worth import pays, work
from inference.starts.natural import several_starts
from inference.variational.batches import Batches
from inference.variational.bound import Bound
from inference.variational.optimize import Climb
from inference.variational.schedule import Schedule
from tests.cases.models import FLIPS, SCHOOLS, ZOO_CASES, LinearFactors, NonCentred, RandomEffects, StudentMixture, coin
from zoo import Category, Real, catalogue
from zoo.program.flat_density import Density
from zoo.program.prepare import prepare
from zoo.replay.evaluate import model_context

NAMES = sorted(ZOO_CASES)
ROWS = np.random.default_rng(0).normal(1.0, 2.0, 12)


def prepared(model, data, **settings):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return prepare(model, data, dtype=torch.float64, device="cpu", **settings)


def climb_of(program, guide, starts=1, draws=2, size=10**9):
    """A climb at its start, and the inputs of a step."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        bound = Bound(program, guide, several_starts(program, starts))
        climb = Climb(bound, [Schedule(100, 0.02) for _ in range(starts)], "Adam", {}, 10.0)
        return climb, climb.inputs(Batches(program.data, size, 0), 1 if bound.point else draws)


@pytest.fixture
def only_recorded(monkeypatch):
    """Inductor, which takes seconds, hands back what it is given: the operations as they were recorded."""
    monkeypatch.setattr(torch._inductor, "compile", lambda graph, inputs, options: graph)
    monkeypatch.setattr(inference.compiled.compile, "has_compiler", lambda: True)


def same(function, inputs, program):
    """Check that compiled and eager give the same numbers."""
    if not inference.compiled.compile.has_compiler():
        pytest.skip("there is no C++ compiler")
    lowered = lower(function, inputs, program, True, 1)
    assert lowered.compiled, lowered.note
    with model_context(program.dtype, program.device):  # as Inductor compiles: numbers made of integers have that type
        made = lowered(*inputs)
    for a, b in zip(made, function(*inputs), strict=True):
        assert torch.isfinite(a).all()
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8 * float(b.abs().max() if b.numel() else 1))


# -- the same numbers: compiling takes seconds each, so these run apart (pytest -m compiled), and models with the same
# -- operations are only recorded --------------------------------------------------------------------------------------

COMPILED = {"BayesianGMM": 0, "BayesianRegression": 0, "FactorAnalysis": 0, "HiddenMarkov": 4, "VAE": 0}  # which case


def guide_for(program):
    encodes = program.locals and not program.data.missing
    return Encoder(hidden=(4,)) if encodes else MeanField()


def step_of(model, data):
    program = prepared(model, data)
    climb, inputs = climb_of(program, guide_for(program))
    return climb.slope, inputs, program


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_step_of_every_model_is_the_same_recorded(name, only_recorded):
    same(*step_of(*ZOO_CASES[name][0]))


@pytest.mark.compiled
@pytest.mark.parametrize("name", COMPILED)
def test_a_step_is_the_same_compiled(name):
    same(*step_of(*ZOO_CASES[name][COMPILED[name]]))


def gradient_of(model, data):
    program = prepared(model, data)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        values = program.initial()
    density = Density(program, values)
    u = density.unconstrain(values)
    return density.gradient, (torch.stack([u, u + 0.1, u - 0.1]),), program


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_density_of_every_model_is_the_same_recorded(name, only_recorded):
    if not prepared(*ZOO_CASES[name][0]).latents:
        return  # nothing that a density would be over: its parameters are part of a step, above
    same(*gradient_of(*ZOO_CASES[name][0]))


@pytest.mark.compiled
@pytest.mark.parametrize("name", ["BayesianRegression", "PPCA"])
def test_a_density_is_the_same_compiled(name):
    same(*gradient_of(*ZOO_CASES[name][0]))


def rows_are_the_same(name, monkeypatch):
    """Check that compiled densities of rows are the eager ones."""
    program = prepared(*ZOO_CASES[name][0])
    if not program.row or program.data.missing:
        return  # there are no rows, or they differ in what is missing, and are evaluated as they are
    with torch.random.fork_rng():
        torch.manual_seed(0)
        draws = [program.initial() for _ in range(5)]
    latents = {s.name: torch.stack([d[s.name] for d in draws]) for s in program.latents}
    if not latents:
        return  # one evaluation is all there is
    points = {n: v for n, v in draws[0].items() if n not in latents}
    eager = pointwise(program, points, latents, None)
    monkeypatch.setattr(inference.approximations.rows, "FEWEST_CALLS", 1)
    monkeypatch.setattr(
        inference.approximations.rows, "chunk_for", lambda program: 2
    )  # two at a time, and one that is left
    monkeypatch.setattr(inference.compiled.compile, "pays", lambda found, calls: True)
    compiled = pointwise(program, points, latents, None)
    assert any(str(key).startswith("pointwise") for key in program.plans)
    torch.testing.assert_close(compiled, eager, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_densities_of_rows_of_every_model_are_the_same_recorded(name, only_recorded, monkeypatch):
    rows_are_the_same(name, monkeypatch)


@pytest.mark.compiled
@pytest.mark.skipif(not has_compiler(), reason="there is no C++ compiler")
@pytest.mark.parametrize("name", ["BayesianGMM", "VAE"])
def test_densities_of_rows_are_the_same_compiled(name, monkeypatch):
    rows_are_the_same(name, monkeypatch)


def small(name):
    """Each guide on a model with locals, or without where it needs that."""
    found = {"Flow": lambda: Flow(layers=1, hidden=(4,))}.get(name, catalogue.find("guide", name))
    for model, data in (
        (RandomEffects(), ROWS[:5]),
        (zoo.BayesianGMM(), "faithful"),
        (LinearFactors(), ROWS.reshape(3, 4)),
    ):
        program = prepared(model, data)
        try:
            guide = found()
        except TypeError:  # it needs settings, and is tried with them where it is tested
            return None
        if guide.why_not(program) is None:
            return program, guide
    return None


@pytest.mark.compiled
@pytest.mark.parametrize("name", sorted(catalogue.entries("guide")))
def test_a_step_of_every_guide_is_the_same_compiled(name):
    case = small(name)
    if case is None:
        pytest.skip(f"{name} has no default settings that fit a small model")
    program, guide = case
    climb, inputs = climb_of(program, guide)
    same(climb.slope, inputs, program)


@pytest.mark.compiled
def test_mini_batches_restarts_and_a_whole_fit_are_the_same_compiled():
    program = prepared(RandomEffects(), ROWS, weights=np.arange(12) % 3 + 1.0)
    climb, inputs = climb_of(program, MeanField(), starts=3, size=4)
    same(climb.slope, inputs, program)
    ends = [fit(coin, FLIPS, method=SVI(compile=how, steps=200), seed=0) for how in (True, False)]
    assert ends[0].objective.value == pytest.approx(ends[1].objective.value, abs=1e-6)
    assert not any("compile" in w for end in ends for w in end.warnings)


# -- whether to compile, and what if not -------------------------------------------------------------------------------


def test_it_pays_for_many_calls_only():
    program = prepared(coin, FLIPS)
    climb, inputs = climb_of(program, MeanField())
    found = work(climb.slope, inputs)
    assert 50 < found.operations < 2000
    assert not pays(found, 100)
    assert pays(found, 1_000_000)
    assert not lower(climb.slope, inputs, program, "auto", 100).compiled


def test_counting_leaves_randomness_alone():
    before = torch.get_rng_state()
    found = work(lambda x: (torch.randn(3) + x)[:2] * (torch.ones(5, 4) @ torch.ones(4, 2))[:1], (torch.ones(3),))
    assert found.operations == 8
    assert found.bytes == 4 * (3 + 3 + 20 + 8 + 2)  # the noise, the sum, two matrices of ones, the product
    assert torch.equal(before, torch.get_rng_state())


class Branching(zoo.Model):
    """A model whose control flow depends on a value."""

    x = zoo.Real("row")

    def forward(self, x):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        scale = 1.0 if mu > 0 else 2.0
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Normal(mu, scale), obs=x)


@pytest.mark.slow
def test_what_depends_on_values_falls_back_with_a_warning():
    found = fit(Branching(), ROWS, method=SVI(compile=True, steps=20), seed=0)
    assert any(w.startswith("not compiled") for w in found.warnings)
    quiet = fit(Branching(), ROWS, method=SVI(compile=False, steps=20), seed=0)
    assert not any("compile" in w for w in quiet.warnings)
    assert quiet.objective == found.objective


@pytest.mark.slow
def test_no_compiler_falls_back_with_a_warning(monkeypatch):
    monkeypatch.setattr(inference.compiled.compile, "COMPILERS", ("no-such-compiler",))
    monkeypatch.setenv("CXX", "")
    found = fit(coin, FLIPS, method=SVI(compile=True, steps=20), seed=0)
    assert any("no C++ compiler" in w for w in found.warnings)
    plain = fit(coin, FLIPS, method=SVI(compile=False, steps=20), seed=0)
    assert found.objective == plain.objective


@pytest.mark.parametrize("fault", ["unusable", "damaged"])
def test_a_cache_that_cannot_be_used_is_replaced(fault, monkeypatch, tmp_path):
    cache, used = FOLDER, []
    (tmp_path / "file").touch()
    monkeypatch.setenv(cache, str(tmp_path / ("file/no_folder" if fault == "unusable" else "folder")))

    def compiler(graph, inputs, options):
        used.append(os.environ[cache])
        if "zoo_compiled" not in used[-1]:
            raise RuntimeError("while loading") from OSError("file too short")
        return graph

    monkeypatch.setattr(torch._inductor, "compile", compiler)
    monkeypatch.setattr(inference.compiled.compile, "has_compiler", lambda: True)
    x = torch.linspace(0.0, 1.0, 200_000)
    lowered = lower(lambda x: (x.sin().sum(), x.cos()), (x,), prepared(coin, FLIPS), True, 100)
    assert lowered.compiled
    assert "own folder cannot be used" in lowered.note
    assert len(used) == (1 if fault == "unusable" else 2)
    assert os.environ[cache].startswith(str(tmp_path))
    torch.testing.assert_close(lowered(x)[0], x.sin().sum())


def test_a_climb_with_batches_foresees_the_steps_that_a_plateau_takes():
    schedule = Schedule(10_000, 0.05, epoch=390)
    step = 0
    while not schedule.finished:  # an objective that stands from the first step on
        step += 1
        schedule.record(step, 0.0)
    assert schedule.fewest == step


def test_a_factorization_that_breaks_down_at_the_example_is_left_to_the_steps():
    program = prepared(coin, FLIPS)

    def breaks(x):
        return torch.linalg.cholesky(-x)

    assert not lower(breaks, (torch.eye(2),), program, "auto", 100).compiled
    with pytest.raises(RuntimeError, match="linalg"):
        lower(breaks, (torch.eye(2),), program, "auto", 100)(torch.eye(2))


@pytest.mark.slow
def test_batches_with_missing_values_are_not_compiled():
    rows = ROWS.reshape(6, 2).copy()
    rows[0, 1] = np.nan
    found = fit(zoo.BayesianGMM(), rows, method=SVI(compile=True, steps=10, batch_size=3), seed=0)
    assert any("missing" in w and "not compiled" in w for w in found.warnings)


# -- small matrices ----------------------------------------------------------------------------------------------------

aten = torch.ops.aten
FACTOR = torch.tensor(np.random.default_rng(0).normal(size=(3, LARGEST, LARGEST))).tril()
FACTOR.diagonal(dim1=-2, dim2=-1).abs_().add_(0.5)
RIGHT = torch.tensor(np.random.default_rng(1).normal(size=(3, LARGEST, 2)))


@pytest.mark.parametrize("size", range(1, LARGEST + 1))
@pytest.mark.parametrize("upper", [False, True])
def test_factorizations_written_out_are_those_of_the_library(size, upper):
    lower_factor, right = FACTOR[:, :size, :size], RIGHT[:, :size]
    factor = lower_factor.mT if upper else lower_factor
    matrix = lower_factor @ lower_factor.mT
    cases = [
        (aten.linalg_cholesky_ex.default, (matrix,), {"upper": upper}),
        (aten.linalg_solve_triangular.default, (factor, right), {"upper": upper}),
        (aten.linalg_solve_triangular.default, (factor, right.mT), {"upper": upper, "left": False}),
        (aten.linalg_solve_triangular.default, (factor[:1], right), {"upper": upper, "unitriangular": True}),
        (aten.cholesky_solve.default, (right, factor), {"upper": upper}),
        (aten.cholesky_inverse.default, (factor,), {"upper": upper}),
        (aten.cumsum.default, (right, -1), {}),
        (aten.cumsum.default, (right, 0), {}),
    ]
    assert {op for op, _, _ in cases} == set(WRITTEN_OUT)
    for op, args, settings in cases:
        if op is aten.linalg_solve_triangular.default and len(args[0]) == 1:
            args = args[0].expand(3, -1, -1), args[1]
        torch.testing.assert_close(WRITTEN_OUT[op](*args, **settings), op(*args, **settings))


def test_large_matrices_are_left_to_the_library():
    assert WRITTEN_OUT[aten.linalg_cholesky_ex.default](torch.eye(LARGEST + 1)) is NotImplemented


@pytest.mark.parametrize("dtype", [torch.bool, torch.int32, torch.int64])
def test_running_counts_are_whole_numbers(dtype):
    """A running sum of marks is an index, in a recorded program as well."""

    def counted(x):
        return torch.zeros(3).scatter_add(0, x.cumsum(0), torch.ones(4))

    marks = torch.tensor([0, 1, 0, 1]).to(dtype)
    recorded = make_fx(counted, decomposition_table=WRITTEN_OUT)(marks)
    assert recorded(marks).tolist() == counted(marks).tolist() == [1.0, 2.0, 1.0]


def test_what_is_no_covariance_gives_nan():
    found, _ = WRITTEN_OUT[aten.linalg_cholesky_ex.default](torch.tensor([[1.0, 2.0], [2.0, 1.0]]))
    assert found.isnan().any()


@pytest.mark.compiled
def test_gradients_of_parameters_without_priors_are_the_same_compiled():
    program = prepared(StudentMixture(), ROWS)
    climb, inputs = climb_of(program, Point())
    same(climb.slope, inputs, program)
    assert not lower_gradient(Density(program, program.initial()), False, 10).compiled
    found = fit(StudentMixture(), ROWS, method=MAP(steps=30, compile=True), seed=0)
    assert np.isfinite(found.objective.value)


@zoo.model(y=Real("case"), group=Category("case"))
def grouped(y, group):
    """As many groups as there are in the data."""
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    with pyro.plate("groups", int(group.max()) + 1):
        a = pyro.sample("a", dist.Normal(0.0, scale))
    with pyro.plate("case", len(y)):
        pyro.sample("y", dist.Normal(a[group.long()], 1.0), obs=y)


def test_recorded_constants_keep_their_type(only_recorded):
    """A constant that the model makes of a number has the program's type, whatever torch's default is afterwards."""
    program = prepared(coin, FLIPS)
    nothing = torch.zeros(2).double()
    lowered = lower(lambda x: (x + torch.full((2,), 0.1), torch.arange(2)), (nothing,), program, True, 1)
    assert lowered.compiled, lowered.note
    assert torch.get_default_dtype() == torch.float32
    found, whole = lowered(nothing)
    assert found.tolist() == [0.1, 0.1]
    assert whole.dtype == torch.int64


def test_what_depends_on_data_alone_is_recorded(only_recorded):
    """A number of groups that the model reads off its data is the same at all values of its latents."""
    density = Density(prepare(grouped(), {"y": [0.1, 2.0, -1.0, 0.4], "group": [0, 2, 1, 2]}))
    lowered = lower_gradient(density, True, 1)
    assert lowered.compiled, lowered.note
    u = torch.linspace(-1, 1, density.size, dtype=torch.float64)
    for ours, theirs in zip(lowered(u), density.gradient(u), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-12)


def test_constants_are_folded_and_what_is_written_to_is_not():
    """Logarithms of factorials of the data are worked out once; a constant that is written to keeps its steps."""
    counts = torch.arange(5.0)
    graph = make_fx(lambda x: (x * counts - (counts + 1).lgamma()).sum())(torch.ones(()))
    before = graph(torch.tensor(2.0))
    fold_constants(graph)
    assert not any("lgamma" in str(node.target) for node in graph.graph.nodes)
    graph.recompile()
    assert graph(torch.tensor(2.0)) == before
    total = torch.zeros(())
    graph = make_fx(lambda x: total.add_(1.0) + (counts + 1).sum() * x)(torch.ones(()))
    nodes = len(graph.graph.nodes)
    fold_constants(graph)
    assert len(graph.graph.nodes) == nodes


def test_what_is_filled_is_folded_unless_it_is_written_to():
    """Zeros that are added to are made anew by each run; others, and what follows from them, are numbers."""

    def function(x: torch.Tensor) -> list[torch.Tensor]:
        total = torch.zeros(3)
        total[1:] += x
        low, high = (torch.zeros_like(total) + 2.0).split([1, 2])
        return [total.sum() + low.exp() * x + x * high.lgamma()]

    graph = recorded(function, [torch.ones(())], {})
    fold_constants(graph)
    graph.recompile()
    assert not any(name in str(node.target) for node in graph.graph.nodes for name in ("exp.", "lgamma", "split"))
    for x in (torch.tensor(0.5), torch.tensor(-3.0), torch.tensor(0.5)):
        assert torch.equal(graph(x)[0], function(x)[0])


@pytest.mark.slow
@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")
def test_no_program_is_built_to_try_the_processor(monkeypatch):
    """Inductor would build one for each vector extension, in seconds; the kernels are right without."""
    from torch._inductor import cpu_vec_isa

    def tried(*_):
        raise AssertionError("a program was built to try the processor")

    before = cpu_vec_isa.valid_vec_isa_list
    monkeypatch.setattr(cpu_vec_isa.VecISA, "check_build", tried)
    density = Density(prepared(NonCentred(), SCHOOLS))
    lowered = lower_gradient(density, True, 1)
    assert lowered.compiled, lowered.note
    assert cpu_vec_isa.valid_vec_isa_list is before
    u = torch.linspace(-1, 1, density.size, dtype=torch.float64)
    for ours, eager in zip(lowered(u), density.gradient(u), strict=True):
        torch.testing.assert_close(ours, eager)


def test_results_of_few_numbers_are_worked_out_before_the_loops_that_use_them():
    x, scale = torch.randn(LARGE, generator=torch.Generator().manual_seed(0)), torch.tensor(0.3)
    graph = recorded(lambda x, s: [x * s.exp().sqrt(), s.exp() + 1], [x, scale], {})
    small_first(graph)
    graph.recompile()
    kept = [n for n in graph.graph.nodes if n.target is torch.ops.aten.as_strided.default]
    assert [n.args[0].target for n in kept] == [torch.ops.aten.sqrt.default]
    assert torch.equal(graph(x, scale)[0], x * scale.exp().sqrt())
