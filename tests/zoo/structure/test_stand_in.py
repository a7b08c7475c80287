"""Structure of large data is learned from few rows, and is the one that all rows show."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import zoo
from inference import EM, fit
from tests.cases.models import ZOO_CASES
from zoo.data.bind import bind
from zoo.program.prepare import as_model, prepare
from zoo.structure import stand_in, structure

ROWS = 300
RNG = np.random.default_rng(0)


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(stand_in, "MANY", ROWS - 1)
    monkeypatch.setattr(stand_in, "FEW", 80)


class Largest(TorchDispatchMode):
    """Notes how many bytes the largest tensor has that is made."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor):
            self.bytes = max(self.bytes, made.untyped_storage().nbytes())
        return made


def described(found):
    sites = {
        n: (s.role, s.family, s.plates, s.shape, s.field, s.observes, s.cardinality, s.symbols, s.by_state)
        for n, s in found.sites.items()
    }
    args = {
        (n, k): (p.kind, p.sites, p.index, p.data, p.by, pytest.approx(p.scale, rel=1e-9))
        for n, s in found.sites.items()
        for k, p in s.args.items()
    }
    return sites, args, found.plates, found.ties, found.not_drawn, found.improper, found.completed, found.parted


QUICK = [("GMM", 0), ("HierarchicalRegression", 0), ("HiddenMarkov", 0), ("FactorAnalysis", 1), ("ItemResponse", 0)]
ALL = [(n, i) for n, cases in ZOO_CASES.items() for i, _ in enumerate(cases) if (n, i) not in QUICK]


@pytest.mark.parametrize(
    ("name", "case"), [*QUICK, *(pytest.param(*c, marks=pytest.mark.slow, id=f"{c[0]}-{c[1]}") for c in ALL)]
)
def test_few_rows_show_what_all_show(name, case, few, monkeypatch):
    model, data = ZOO_CASES[name][case]
    bound = bind(as_model(model), data)
    if not bound.row or getattr(model, "lengths", None):
        pytest.skip("its rows cannot be repeated")
    bound = bound.take(torch.arange(ROWS) % len(bound))
    torch.manual_seed(0)
    some = prepare(model, bound).structure
    monkeypatch.setattr(structure, "standing_for_all", lambda _: None)
    torch.manual_seed(0)
    assert described(some) == described(prepare(model, bound).structure)


@zoo.model(x=zoo.Real("row"), group=zoo.Category("row"))
def of_groups(x, group):
    groups = int(group.max()) + 1
    with pyro.plate("group", groups):
        height = pyro.sample("height", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(height[group], 1.0), obs=x)


@zoo.model(x=zoo.Real("row"))
def of_all(x):
    centre = pyro.param("centre", x.mean())
    offset = pyro.param("offset", torch.zeros(len(x)))
    with pyro.plate("row", ROWS):
        pyro.sample("x", dist.Normal(centre + offset, 1.0), obs=x)


@zoo.model(x=zoo.Real("row"))
def counted(x):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mean * len(x), 1.0), obs=x)


def test_rare_groups_are_among_the_few(few):
    codes = np.zeros(ROWS, int)
    codes[[7, 111]] = 1, 2
    found = prepare(of_groups, {"x": RNG.normal(size=ROWS), "group": codes}).structure
    assert found.sites["height"].shape == (3,)
    assert found.sites["x"].args["loc"].by == "group"
    assert len(found.example_rows) < ROWS


def test_what_is_made_of_all_rows_is_seen_on_all(few):
    x = RNG.normal(size=ROWS)
    found = prepare(of_all, x).sites
    assert found["offset"].shape == (ROWS,)
    assert float(found["centre"].initial) == pytest.approx(x.mean(), rel=1e-12)


def test_the_number_of_rows_is_no_constant(few):
    assert prepare(counted, RNG.normal(size=ROWS)).sites["x"].args["loc"].entrywise


def test_no_covariance_of_each_row_is_laid_out():
    rows, columns = 20_000, 60
    x = RNG.normal(size=(rows, columns))
    with Largest() as largest:
        prepare(zoo.GMM(components=2), x)
    assert largest.bytes < rows * columns * columns * 8 / 8


@pytest.mark.slow
@pytest.mark.parametrize(
    "model", [zoo.GMM(components=2), zoo.FactorAnalysis(factors=1), zoo.HiddenMarkov(components=2)], ids=repr
)
def test_fits_are_the_same(model, few, monkeypatch):
    x = RNG.normal(size=(ROWS, 3)) @ RNG.normal(size=(3, 3)) + 8.0 * (np.arange(ROWS)[:, None] % 7 < 3)
    some = fit(model, x, method=EM(tolerance=1e-9), seed=0, progress=False)
    monkeypatch.setattr(structure, "standing_for_all", lambda _: None)
    whole = fit(model, x, method=EM(tolerance=1e-9), seed=0, progress=False)
    assert some.objective.value == pytest.approx(whole.objective.value, rel=1e-7)
