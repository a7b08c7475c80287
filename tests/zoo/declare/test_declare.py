"""Declaring models: fields, hyperparameters, the decorator, networks, and what a model may refine."""

from __future__ import annotations

import copy
import importlib.util
import inspect
import pickle
from typing import Annotated, ClassVar, Literal

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pydantic import Field as Limits
from pydantic import PositiveInt
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import Tensor, nn
from torch import distributions as td

import zoo
from guides import Encoder
from inference import EM, MAP, SVI, Exact, fit
from tests.cases.models import FLIPS, ROWS, SCHOOLS
from zoo import Binary, Category, Count, DataError, ModelError, Positive, Real, UnitInterval, UnknownNameError, ZooError
from zoo.declare.fields import Field
from zoo.declare.model import has_networks
from zoo.program.prepare import prepare
from zoo.program.program import Program
from zoo.replay.random import reseed

AS_PRINTED = '''
import pyro, pyro.distributions as dist
import zoo
from zoo import Binary, Positive, Real

class EightSchools(zoo.Model):
    """Treatment effects of coaching programmes in eight schools (Rubin 1981)."""
    effect = Real("school")                 # data: support and named dimensions
    error = Positive("school")
    scale: float = 5.0                      # hyperparameter

    def forward(self, effect, error):
        mu = pyro.sample("mu", dist.Normal(0.0, self.scale))
        tau = pyro.sample("tau", dist.HalfCauchy(self.scale))
        with pyro.plate("school", len(effect)):
            theta = pyro.sample("theta", dist.Normal(mu, tau))
            pyro.sample("effect", dist.Normal(theta, error), obs=effect)

@zoo.model(flips=Binary("toss"))
def coin(flips, *, a: float = 1.0, b: float = 1.0):
    heads = pyro.sample("heads", dist.Beta(a, b))
    with pyro.plate("toss", len(flips)):
        pyro.sample("flips", dist.Bernoulli(heads), obs=flips)
'''


def prepared(model, data, seed=0, **settings):
    reseed(seed)
    return prepare(model, data, **settings)


@pytest.fixture(scope="module", params=["", "from __future__ import annotations\n"], ids=["plain", "annotations"])
def user(request, tmp_path_factory):
    """A user's own file with the two models that the documents print, as a module."""
    path = tmp_path_factory.mktemp("user") / "my_models.py"
    path.write_text(request.param + AS_PRINTED, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("my_models", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# -- as printed -------------------------------------------------------------------------------------------------------


def test_eight_schools_as_printed(user):
    model = user.EightSchools()
    assert repr(model) == "EightSchools(scale=5.0)"
    assert {n: repr(f) for n, f in model.fields.items()} == {"effect": "Real('school')", "error": "Positive('school')"}
    program = prepared(model, pd.DataFrame(SCHOOLS))
    values = {"mu": torch.tensor(4.0).double(), "tau": torch.tensor(3.0).double(), "theta": torch.arange(8.0).double()}
    effect, error = torch.tensor(SCHOOLS["effect"]).double(), torch.tensor(SCHOOLS["error"]).double()
    expected = td.Normal(0.0, 5.0).log_prob(values["mu"]) + td.HalfCauchy(5.0).log_prob(values["tau"])
    expected = expected + td.Normal(4.0, 3.0).log_prob(values["theta"]).sum()
    expected = expected + td.Normal(values["theta"], error).log_prob(effect).sum()
    assert float(program.log_joint(values).total()) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.slow
def test_eight_schools_as_printed_is_fitted(user):
    result = fit(user.EightSchools(scale=2.0), pd.DataFrame(SCHOOLS), method=SVI(steps=20), seed=0)
    assert repr(result.model) == "EightSchools(scale=2.0)"
    assert result.posterior["posterior"]["theta"].dims == ("chain", "draw", "school")


def test_coin_as_printed(user):
    result = fit(user.coin(), {"flips": FLIPS}, method="exact", seed=0)
    found = result.approximation.distributions["heads"]
    assert (float(found.concentration1), float(found.concentration0)) == (6.0, 6.0)
    assert result.objective.value == pytest.approx(-7.927324, abs=1e-6)
    assert repr(user.coin(a=2.0)) == "coin(a=2.0, b=1.0)"
    assert user.coin.__name__ == "coin"
    assert issubclass(user.coin, zoo.Model)


# -- hyperparameters --------------------------------------------------------------------------------------------------


class Settings(zoo.Model):
    """One hyperparameter of each type."""

    x = Real("row")
    size: int = 3
    rate: float = 0.5
    flag: bool = False
    name: str = "a"
    kind: Literal["one", "two"] = "one"
    widths: tuple[PositiveInt, ...] = (4,)
    limited: Annotated[float, Limits(gt=0, lt=1)] = 0.5
    maybe: float | None = None

    def forward(self, x):
        mu = pyro.param("mu", torch.tensor(self.rate))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)


def test_defaults_and_overrides():
    model = Settings()
    assert (model.size, model.rate, model.kind, model.widths, model.maybe) == (3, 0.5, "one", (4,), None)
    model = Settings(size=5, kind="two", widths=[2, 3], maybe=1)
    assert (model.size, model.kind, model.widths, model.maybe) == (5, "two", (2, 3), 1.0)
    assert model.settings["size"] == 5
    assert Settings(7).size == 7
    assert Settings().size == 3


def test_repr_shows_every_hyperparameter_as_it_would_be_written():
    shown = repr(Settings(size=5, name="b"))
    assert shown == (
        "Settings(size=5, rate=0.5, flag=False, name='b', kind='one', widths=(4,), limited=0.5, maybe=None)"
    )
    assert repr(eval(shown)) == shown
    assert repr(zoo.GMM(components=3)) == "GMM(components=3, covariance='full')"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"rate": 3}, 3.0),
        ({"rate": np.float32(0.25)}, 0.25),
        ({"rate": np.array(2.0)}, 2.0),
        ({"size": np.int64(4)}, 4),
        ({"size": 4.0}, 4),
        ({"flag": np.bool_(True)}, True),
        ({"maybe": None}, None),
    ],
    ids=str,
)
def test_values_are_taken_as_their_type(given, kept):
    (name,) = given
    value = getattr(Settings(**given), name)
    assert value == kept
    assert type(value) is type(kept)


@pytest.mark.parametrize(
    "given",
    [
        {"size": "three"},
        {"size": 2.5},
        {"size": True},
        {"size": None},
        {"size": [3]},
        {"rate": "high"},
        {"rate": False},
        {"rate": None},
        {"flag": "perhaps"},
        {"name": 3},
        {"kind": "three"},
        {"widths": (0,)},
        {"widths": 64},
        {"widths": ("wide",)},
        {"limited": 1.0},
        {"limited": float("nan")},
        {"maybe": "no"},
    ],
    ids=str,
)
def test_values_of_the_wrong_type_or_range_are_refused(given):
    ((name, value),) = given.items()
    with pytest.raises(ModelError) as caught:
        Settings(**given)
    assert f"Settings: {name}={value!r} is not valid: " in str(caught.value)


@pytest.mark.parametrize(
    ("model", "given"),
    [
        ("GMM", {"components": 0}),
        ("GMM", {"components": -1}),
        ("GMM", {"components": 2.5}),
        ("GMM", {"components": True}),
        ("GMM", {"covariance": "ful"}),
        ("BayesianGMM", {"concentration": 0.0}),
        ("BayesianGMM", {"covariance": "tied"}),
        ("BayesianGMM", {"shrinkage": -0.1}),
        ("BayesianGMM", {"df": 0.0}),
        ("BetaBernoulli", {"a": 0.0}),
        ("BetaBernoulli", {"b": -1.0}),
        ("BetaBernoulli", {"a": float("nan")}),
        ("VAE", {"latent": 0}),
        ("VAE", {"hidden": (128, 0)}),
        ("VAE", {"likelihood": "poisson"}),
        ("VAE", {"total_count": 0}),
    ],
    ids=str,
)
def test_the_zoo_checks_its_hyperparameters(model, given):
    (name,) = given
    with pytest.raises(ModelError, match=f"{model}: {name}="):
        getattr(zoo, model)(**given)


def test_a_prior_that_is_not_finite_is_refused_at_the_latest_with_the_data():
    with pytest.raises(ModelError, match="p"):
        prepared(zoo.BetaBernoulli(a=float("inf")), FLIPS).initial()


def test_unknown_hyperparameters_are_refused_with_the_nearest_name():
    with pytest.raises(UnknownNameError, match=r"hyperparameter of GMM 'component'; did you mean 'components'\?"):
        zoo.GMM(component=2)
    with pytest.raises(UnknownNameError, match=r"Known: .*rate.*size"):
        Settings(zzz=1)
    with pytest.raises(UnknownNameError, match="'x'"):
        Settings(x=[1.0])


def test_too_many_positional_values_are_refused():
    with pytest.raises(ModelError, match="takes 2 hyperparameters"):
        zoo.GMM(2, "full", 3)


def test_a_hyperparameter_without_default_must_be_given():
    class Needs(zoo.Model):
        x = Real("row")
        size: int

    with pytest.raises(ModelError, match="'size' has no default and must be given"):
        Needs()
    assert Needs(size=2).size == 2
    assert repr(Needs(size=2)) == "Needs(size=2)"


def test_tensors_and_local_types_are_hyperparameters_too():
    class Local:
        pass

    class Free(zoo.Model):
        x = Real("row")
        scale: Local | None = None
        center: Annotated[object, "a tensor"] = None

    model = Free(center=torch.zeros(2), scale=3)
    assert torch.equal(model.center, torch.zeros(2))
    assert model.scale == 3


def test_subclasses_inherit_fields_and_hyperparameters_and_may_change_them():
    class Wider(Settings):
        y = Count("row")
        size: int = 10
        extra: float = 1.0

    assert list(Wider.fields) == ["x", "y"]
    assert Wider().size == 10
    assert Wider(extra=2.0, rate=1.0).settings["extra"] == 2.0
    assert Settings().size == 3
    assert list(Settings.fields) == ["x"]
    assert "extra" not in Settings.hyperparameters


def test_a_default_given_to_a_subclass_without_annotation_is_used():
    class Bigger(Settings):
        size = 12

    assert Bigger().size == 12
    assert "size=12" in repr(Bigger())


def test_what_is_not_a_hyperparameter():
    class Parts(zoo.Model):
        x: Real = Real("row")
        constant: ClassVar[int] = 3
        center: Tensor
        net: nn.Module
        net2: nn.Linear
        _hidden: int = 1
        plain = 5
        rate: float = 1.0

    assert list(Parts.hyperparameters) == ["rate"]
    assert list(Parts.fields) == ["x"]
    assert repr(Parts()) == "Parts(rate=1.0)"


def test_changing_an_instance_changes_no_other():
    one, two = zoo.GMM(components=2), zoo.GMM(components=2)
    one.components = 5
    assert two.components == 2
    assert zoo.GMM().components == 2
    assert copy.deepcopy(one).components == 5


# -- the decorator ----------------------------------------------------------------------------------------------------


def test_the_decorator_keeps_name_and_docstring():
    @zoo.model(x=Real("row"))
    def story(x, *, scale: float = 2.0, needed: int):
        """Tell a story."""

    assert (story.__name__, inspect.getdoc(story), story.__module__) == ("story", "Tell a story.", __name__)
    assert list(story.hyperparameters) == ["scale", "needed"]
    with pytest.raises(ModelError, match="'needed' has no default"):
        story()
    with pytest.raises(ModelError, match="scale='x' is not valid"):
        story(scale="x", needed=1)
    with pytest.raises(UnknownNameError, match="did you mean 'scale'"):
        story(scales=1.0, needed=1)


def test_fields_reach_the_function_by_name_in_any_order():
    seen = []

    @zoo.model(y=Real("row"), x=Real("row"))
    def swapped(x, y, *, mu: float = 0.0):
        seen.append((sorted(x.tolist()), sorted(y.tolist()), mu))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    prepared(swapped(mu=3.0), {"x": [1.0, 2.0], "y": [3.0, 4.0]})
    assert ([1.0, 2.0], [3.0, 4.0], 3.0) in seen  # besides runs with one field moved
    assert {mu for _, _, mu in seen} == {3.0}


@pytest.mark.parametrize("value", [3, "row", Real], ids=["number", "string", "class"])
def test_the_decorator_takes_fields_only(value):
    with pytest.raises(ModelError, match=r"x=.* must be a field, for example x=Real\('row'\)"):
        zoo.model(x=value)


def test_the_arguments_of_a_decorated_function_are_its_fields():
    def story(x, scale=1.0):
        pass

    with pytest.raises(
        ModelError, match=r"story: the arguments before '\*' must be the data fields \['x'\], not \['scale', 'x'\]"
    ):
        zoo.model(x=Real("row"))(story)
    with pytest.raises(ModelError, match=r"must be the data fields \['x', 'y'\], not \['x'\]"):

        @zoo.model(x=Real("row"), y=Real("row"))
        def lacking(x):
            pass


@pytest.mark.parametrize("story", [lambda x, *more: None, lambda x, **more: None], ids=["*more", "**more"])
def test_a_decorated_function_names_its_arguments(story):
    """Whatever is caught by a star would silently be nothing."""
    with pytest.raises(ModelError, match="more"):
        zoo.model(x=Real("row"))(story)


# -- fields -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Real, Positive, UnitInterval, Count, Binary, Category])
def test_every_field_kind_has_a_support_and_shows_itself(kind):
    field = kind("row", "feature")
    assert field.dims == ("row", "feature")
    assert repr(field) == f"{kind.__name__}('row', 'feature')"
    assert isinstance(field, Field)
    assert bool(kind.support.check(torch.tensor(1)))
    assert kind.describes


@pytest.mark.parametrize("dims", [("a row",), (3,), ("row", "row"), ("",), (None,)], ids=str)
def test_dimensions_are_names_that_differ(dims):
    with pytest.raises(ModelError, match="dimension"):
        Real(*dims)


# -- the zoo and models of one's own ----------------------------------------------------------------------------------


def test_models_lists_the_zoo():
    assert zoo.models() == sorted(zoo.models())
    assert set(zoo.models()) >= {"BayesianGMM", "BetaBernoulli", "GMM", "VAE"}
    for name in zoo.models():
        model = getattr(zoo, name)
        assert issubclass(model, zoo.Model)
        assert name in dir(zoo)
        assert model.fields
        assert "Generative story" in model.__doc__


def test_listing_does_not_include_what_a_user_declares():
    class Mine(zoo.Model):
        x = Real("row")

    assert "Mine" not in zoo.models()
    assert "Model" not in zoo.models()


def test_a_model_of_the_zoo_is_found_by_name_whatever_its_case():
    by_name = fit("beta-bernoulli", FLIPS, method="exact", seed=0)
    assert type(by_name.model).__name__ == "BetaBernoulli"
    with pytest.raises(UnknownNameError, match="did you mean 'BetaBernoulli'"):
        fit("BetaBernouli", FLIPS, method="exact")
    with pytest.raises(AttributeError, match="NoSuchModel"):
        _ = zoo.NoSuchModel


@pytest.mark.parametrize("model", [None, 3, nn.Linear(1, 1), Settings.forward], ids=["None", "3", "module", "function"])
def test_what_is_no_model_is_refused(model):
    with pytest.raises(UnknownNameError, match="expected a model"):
        fit(model, [1.0], method="map")


def test_every_error_is_a_value_error():
    for error in (DataError, ModelError, zoo.MethodError, zoo.FitError, UnknownNameError):
        assert issubclass(error, ZooError)
    assert issubclass(ZooError, ValueError)


def test_a_model_without_forward_or_fields_says_so():
    class Silent(zoo.Model):
        x = Real("row")

    class Empty(zoo.Model):
        def forward(self):
            pass

    with pytest.raises(ModelError, match=r"Silent declares no forward"):
        prepared(Silent(), [1.0])
    with pytest.raises(DataError, match="Empty declares no data fields"):
        prepared(Empty(), [1.0])


# -- networks, buffers, parameters of the instance --------------------------------------------------------------------


class Decoder(zoo.Model):
    """A linear decoder made when the model is made."""

    x = Real("row", "feature")
    latent: PositiveInt = 1
    net: nn.Module

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self.net = nn.Linear(self.latent, 2)

    def forward(self, x):
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.latent), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.net(z), 1.0).to_event(1), obs=x)


def test_networks_made_in_init_belong_to_the_instance():
    reseed(0)
    one, two = Decoder(), Decoder(latent=2)
    assert has_networks(one)
    assert one.net.weight.shape == (2, 1)
    assert two.net.weight.shape == (2, 2)
    program = prepared(one, ROWS)
    assert program.networks == {"net.weight", "net.bias"}
    assert program.dtype == torch.float32
    assert [s.name for s in program.locals] == ["z"]


def test_fitting_trains_a_copy():
    reseed(0)
    model = Decoder()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    result = fit(model, ROWS, method=SVI(guide=Encoder(hidden=(4,)), steps=30, learning_rate=0.05), seed=0)
    for name, value in model.named_parameters():
        assert torch.equal(value, before[name])
        assert not torch.equal(result.points[name], before[name])
    assert list(pyro.get_param_store().keys()) == []


@pytest.mark.slow
def test_the_same_fit_whatever_was_fitted_before():
    reseed(0)
    model = Decoder()
    method = SVI(guide=Encoder(hidden=(4,)), steps=20)
    first = fit(model, ROWS, method=method, seed=3)
    fit(zoo.VAE(latent=1, likelihood="gaussian"), ROWS, method=method, seed=4)
    again = fit(model, ROWS, method=method, seed=3)
    assert first.objective.value == again.objective.value
    assert all(torch.equal(first.points[n], again.points[n]) for n in first.points)


def test_an_overridden_init_may_take_arguments_of_its_own():
    class Sized(zoo.Model):
        x = Real("row")
        scale: float = 1.0

        def __init__(self, size, **settings):
            super().__init__(**settings)
            self.size = size

        def forward(self, x):
            mu = pyro.sample("mu", dist.Normal(torch.zeros(self.size), self.scale).to_event(1))
            with pyro.plate("row", len(x)):
                pyro.sample("x", dist.Normal(mu.sum(), 1.0), obs=x)

    model = Sized(4, scale=2.0)
    assert repr(model) == "Sized(scale=2.0)"
    program = prepared(model, [1.0, 2.0])
    assert program.sites["mu"].shape == (4,)
    assert program.model.scale == 2.0


class Scaled(zoo.Model):
    """Buffers that depend on the data, declared by annotation."""

    x = Real("row", "feature")
    strength: float = 1.0
    center: Tensor
    spread: torch.Tensor

    def setup(self, x):
        self.register_buffer("center", x.mean(0))
        self.register_buffer("spread", x.std(0))
        self.labels = list(self.coords["feature"])

    def forward(self, x):
        mu = pyro.sample("mu", dist.Normal(self.center, self.strength * self.spread).to_event(1))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Normal(mu, self.spread).to_event(1), obs=x)


def test_buffers_are_set_up_once_on_a_copy_in_the_precision_of_the_fit():
    model = Scaled(strength=2.0)
    frame = pd.DataFrame(ROWS, columns=["a", "b"])
    assert repr(model) == "Scaled(strength=2.0)"
    program = prepared(model, frame)
    assert program.model.labels == ["a", "b"]
    assert program.model.center.dtype == torch.float64
    assert torch.allclose(program.model.center, torch.tensor(ROWS).double().mean(0))
    assert prepared(model, frame, dtype=torch.float32).model.center.dtype == torch.float32
    assert not hasattr(model, "center")
    half = program.rebind(program.data.take(torch.tensor([0, 1])))
    assert torch.equal(half.model.center, program.model.center)


@pytest.mark.slow
def test_parameters_and_priors_declared_as_attributes():
    class Attributes(zoo.Model):
        x = Real("row")

        def __init__(self, **settings):
            super().__init__(**settings)
            self.noise = PyroParam(torch.tensor(2.0), constraint=dist.constraints.positive)
            self.mu = PyroSample(dist.Normal(0.0, 10.0))

        def forward(self, x):
            mu = self.mu  # a PyroSample belongs to the plates it is first read in
            with pyro.plate("row", len(x)):
                pyro.sample("x", dist.Normal(mu, self.noise), obs=x)

    program = prepared(Attributes(), [1.0, 2.0, 6.0])
    assert {n: s.role for n, s in program.sites.items()} == {"noise": "parameter", "mu": "global", "x": "observed"}
    assert program.networks == frozenset()
    x = torch.tensor([1.0, 2.0, 6.0]).double()
    values = {"noise": torch.tensor(3.0).double(), "mu": torch.tensor(1.0).double()}
    expected = td.Normal(1.0, 3.0).log_prob(x).sum() + td.Normal(0.0, 10.0).log_prob(values["mu"])
    assert float(program.log_joint(values).total()) == pytest.approx(float(expected), rel=1e-6)
    result = fit(Attributes(), x, method=MAP(), seed=0)
    assert float(result.points["noise"]) == pytest.approx(float(x.std(correction=0)), rel=0.05)


def test_a_nested_pyro_module_is_part_of_the_model():
    class Inner(PyroModule):
        def __init__(self):
            super().__init__()
            self.loc = PyroParam(torch.tensor(0.5))

        def forward(self):
            return self.loc

    class Outer(zoo.Model):
        x = Real("row")

        def __init__(self, **settings):
            super().__init__(**settings)
            self.inner = Inner()

        def forward(self, x):
            with pyro.plate("row", len(x)):
                pyro.sample("x", dist.Normal(self.inner(), 1.0), obs=x)

    program = prepared(Outer(), [1.0, 2.0])
    assert [s.name for s in program.parameters] == ["inner.loc"]
    value = torch.tensor(1.5).double()
    expected = td.Normal(1.5, 1.0).log_prob(torch.tensor([1.0, 2.0])).sum()
    assert float(program.log_joint({"inner.loc": value}).total()) == pytest.approx(float(expected), rel=1e-6)


# -- optional methods -------------------------------------------------------------------------------------------------


def test_check_setup_and_initial_are_called_with_the_fields_by_name():
    calls = []

    class Told(zoo.Model):
        x = Real("row")
        y = Count("row")

        def check(self, x, y):
            calls.append(("check", x.shape, y.shape, list(self.coords["row"])))

        def setup(self, x, y):
            calls.append(("setup", x.dtype, y.dtype, list(self.coords["row"])))

        def initial(self, x, y):
            calls.append(("initial", x.dtype, y.dtype, list(self.coords["row"])))
            return {"mu": x.mean()}

        def forward(self, x, y):
            mu = pyro.param("mu", torch.tensor(0.0))
            with pyro.plate("row", len(x)):
                pyro.sample("x", dist.Normal(mu, 1.0), obs=x)

    frame = pd.DataFrame({"x": [1.0, 2.0], "y": [0, 1]}, index=["a", "b"])
    program = prepared(Told(), frame, dtype=torch.float32)
    assert [c[0] for c in calls] == ["check", "setup"]
    values = program.initial()
    assert values["mu"].dtype == torch.float32
    assert float(values["mu"]) == 1.5
    assert calls[0] == ("check", (2,), (2,), ["a", "b"])
    assert calls[1][3] == ["a", "b"]
    assert calls[2][:3] == ("initial", torch.float32, torch.float32)


def test_what_check_refuses_is_the_users_error():
    class Picky(Settings):
        def check(self, x):
            if len(x) < 3:
                raise DataError("field 'x': 3 rows at least")

    with pytest.raises(DataError, match="3 rows at least"):
        fit(Picky(), [1.0, 2.0], method="map")
    prepared(Picky(), [1.0, 2.0, 3.0])


@pytest.mark.parametrize(("method", "group"), [(Exact(), "posterior"), (MAP(), "point_estimate")], ids=["exact", "map"])
def test_event_dimensions_are_named_by_dims(method, group):
    class Named(zoo.Model):
        x = Category("row")
        dims = {"p": ("level",)}  # noqa: RUF012

        def forward(self, x):
            p = pyro.sample("p", dist.Dirichlet(torch.ones(3)))
            with pyro.plate("row", len(x)):
                pyro.sample("x", dist.Categorical(p), obs=x)

    array = fit(Named(), [0, 1, 2, 1], method=method, seed=0).posterior[group]["p"]
    assert array.dims[-1] == "level"


def test_plates_and_dims_name_what_a_mixture_estimates():
    frame = pd.DataFrame(ROWS, columns=["eruptions", "waiting"])
    found = fit(zoo.BayesianGMM(components=2), frame, method=EM(max_steps=3), seed=0).posterior["point_estimate"]
    assert found["means"].dims == ("component", "feature")
    assert found["precisions"].dims == ("component", "feature", "feature_2")
    assert found["weights"].dims == ("component",)
    assert list(found["feature"].to_numpy()) == ["eruptions", "waiting"]
    assert list(found["feature_2"].to_numpy()) == ["eruptions", "waiting"]


def test_a_program_is_made_from_a_private_copy():
    model = zoo.BayesianGMM()
    program = prepared(model, ROWS)
    assert isinstance(program, Program)
    assert program.model is not model
    assert not hasattr(model, "center")
    assert model.coords == {}


def test_tensors_that_setup_keeps_are_in_the_precision_of_the_fit():
    class Shrunk(zoo.Model):
        x = Binary("row", "column")

        def setup(self, x):
            self.first = 1 + x.mean(0)

        def forward(self, x):
            p = pyro.sample("p", dist.Beta(self.first, 3 - self.first).to_event(1))
            with pyro.plate("row", len(x)):
                pyro.sample("x", dist.Bernoulli(p).to_event(1), obs=x)

    rows = np.array([[0, 1, 1], [1, 1, 0], [0, 1, 0], [0, 0, 0]])
    single, double = (fit(Shrunk(), rows, method=Exact(), dtype=d) for d in (torch.float32, torch.float64))
    assert single.program.model.first.dtype == torch.float32
    assert single.objective.value == pytest.approx(double.objective.value, rel=1e-5)


def test_supports_stay_themselves_in_copies_and_pickles():
    own = td.constraints.independent(td.constraints.positive, 1)
    for again in (copy.deepcopy, lambda support: pickle.loads(pickle.dumps(support))):
        assert again(td.constraints.positive_definite) is td.constraints.positive_definite
        assert again(own).base_constraint is td.constraints.positive
        assert again(td.constraints.greater_than(2.0)).lower_bound == 2.0


def test_a_module_that_a_model_is_given_is_its_network():
    class Line(zoo.Model):
        """A line by a network of one weight."""

        x, y = zoo.Real("row"), zoo.Real("row")
        network: nn.Module | None = None

        def forward(self, x, y):
            with pyro.plate("row", len(x)):
                pyro.sample("y", dist.Normal(self.network(x[:, None])[:, 0], 1.0), obs=y)

    given = nn.Linear(1, 1)
    x = np.linspace(-1, 1, 20)
    result = fit(
        Line(network=given), {"x": x, "y": 3 * x + 1}, method=SVI(steps=300, learning_rate=0.3, compile=False), seed=0
    )
    assert result.model.network.weight.item() == pytest.approx(3, abs=0.2)
    assert result.model.network.bias.item() == pytest.approx(1, abs=0.2)
    assert given.weight.item() < 2  # a copy is trained
