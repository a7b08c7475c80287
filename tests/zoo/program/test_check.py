"""`zoo.check`: each fault of a model is found where it is, with its site and a remedy, and a sound model passes."""

from __future__ import annotations

import inspect

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from typer.testing import CliRunner

import zoo
from inference.cli import app
from tests.cases.models import FLIPS, coin
from zoo import Real

Y = np.random.default_rng(0).normal(size=6)


def check(function, data=Y, **fields):
    """Check a story of one column."""
    return zoo.check(zoo.model(**fields or {"y": Real("row")})(function), data)


def no_plate(y):
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(m, 1.0).expand([len(y)]), obs=y)


def plate_of_another_name(y):
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(m, 1.0), obs=y)


def plate_of_another_length(y):
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    with pyro.plate("row", 5):
        pyro.sample("y", dist.Normal(m, 1.0), obs=y[:5])


def outside_the_support(y):
    rate = pyro.sample("rate", dist.Gamma(1.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Poisson(rate), obs=y)


def of_another_shape(y):
    m = pyro.sample("m", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(m, 1.0).to_event(1), obs=y)


def by_numpy(y):
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(torch.as_tensor(np.exp(m)), 1.0), obs=y)


def by_if(y):
    with pyro.plate("row", len(y)):
        z = pyro.sample("z", dist.Bernoulli(0.5))
        pyro.sample("y", dist.Normal(1.0 if z == 1 else 0.0, 1.0), obs=y)


def coupled_states(y):
    with pyro.plate("row", len(y)):
        z = pyro.sample("z", dist.Bernoulli(0.5))
        pyro.sample("y", dist.Normal(z.cumsum(-1), 1.0), obs=y)


def negative_scale(y):
    s = pyro.sample("s", dist.Normal(-10.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(0.0, s), obs=y)


def detached(y):
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(m.detach(), 1.0), obs=y)


def rounded(y):
    m = pyro.param("m", torch.tensor(0.3))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal((1e6 * m).round() / 1e6, 1.0), obs=y)


def no_gradient(y):
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(torch.where(y > 100, (m - m).sqrt(), m), 1.0), obs=y)


def idle_parameter(y):
    pyro.param("width", torch.tensor(1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(pyro.sample("m", dist.Normal(0.0, 1.0)), 1.0), obs=y)


def nothing_observed(y):
    pyro.sample("m", dist.Normal(0.0, 1.0))


FAULTS = [
    (no_plate, "plates", "y", "put the site inside"),
    (plate_of_another_name, "plates", "y", "pyro.plate('row', ...)"),
    (plate_of_another_length, "plates", "y", "pyro.plate('row', len(data))"),
    (outside_the_support, "support", "y", "correct the data or the model"),
    (of_another_shape, "shapes", "y", "cannot take values of shape"),
    (by_numpy, "torch", "row", "torch.exp in place of np.exp"),
    (by_if, "forward", "z", "torch.where(z == 1, a, b)"),
    (coupled_states, "structure", "y", "zoo.MarkovChain"),
    (negative_scale, "density", "y", "sigmoid or exp"),
    (detached, "structure", "m", "differentiable functions"),
    (rounded, "gradient", "m", "rounding"),
    (no_gradient, "gradient", "m", "both its branches"),
    (idle_parameter, "gradient", "width", "take it out"),
    (nothing_observed, "forward", "", "obs=..."),
]


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")
@pytest.mark.parametrize(("story", "what", "site", "remedy"), FAULTS, ids=lambda v: getattr(v, "__name__", ""))
def test_a_fault_is_found_where_it_is(story, what, site, remedy):
    found = check(story)
    (tick,) = found.failed
    assert not found.ok
    assert (tick.what, tick.site) == (what, site)
    assert remedy in tick.text
    text = str(found)
    assert f"✗ {what}" in text
    assert all(f"✓ {t.what}" in text for t in found.ticks if t.passed)
    assert "1 check failed" in text


def test_every_site_with_a_fault_is_named():
    def twice(a, b):
        with pyro.plate("row", len(a)):
            pyro.sample("a", dist.Beta(1.0, 1.0), obs=a)
            pyro.sample("b", dist.Poisson(1.0), obs=b)

    found = check(twice, {"a": Y, "b": Y}, a=Real("row"), b=Real("row"))
    assert [tick.site for tick in found.failed] == ["a", "b"]
    assert "2 checks failed" in str(found)


def test_what_does_not_come_to_be_looked_at_is_said():
    found = check(by_if)
    later = [tick.what for tick in found.ticks if tick.passed is None]
    assert later[0] == "plates"
    assert f"- {', '.join(later)}: not looked at" in str(found)


def test_data_that_do_not_fit_are_a_fault_and_no_error():
    assert zoo.check(zoo.GMM(), {"z": Y}).failed[0].what == "data"
    assert "did you mean 'GMM'" in str(zoo.check("GM", Y))
    assert zoo.check(zoo.GMM(), ["a", "b"]).failed[0].site == "x"


@pytest.mark.parametrize(("model", "data"), [("GMM", "faithful"), (coin, FLIPS), ("HiddenMarkov", Y)])
def test_sound_models_pass(model, data):
    found = zoo.check(model, data)
    assert found.ok, str(found)
    assert not found.failed
    assert str(found).endswith("ok")
    assert "<pre>" in found._repr_html_()


def test_nothing_global_changes():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    zoo.check(coin, FLIPS)
    assert torch.equal(before, torch.get_rng_state())
    assert not len(pyro.get_param_store())


def unset(y):
    if len(y) > 100:
        mean = 0.0
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def no_key(y):
    {}["width"]


def too_far(y):
    [0.0][3]


def no_such_argument(y):
    dist.Normal(center=0.0)


def no_matching_shapes(y):
    y + torch.zeros(4)


@pytest.mark.parametrize(
    ("story", "kind"),
    [
        (unset, "UnboundLocalError"),
        (no_key, "KeyError"),
        (too_far, "IndexError"),
        (no_such_argument, "TypeError"),
        (no_matching_shapes, "RuntimeError"),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_an_error_in_forward_is_shown_with_its_line(story, kind):
    lines, first = inspect.getsourcelines(story)
    text = check(story).failed[0].text
    assert f"in {__file__}, line {first + len(lines) - 1}, `{lines[-1].strip()}`" in text
    assert f"{kind}: " in text


def test_of_a_call_the_line_is_that_inside_it():
    def helper(y):
        return y + y.nowhere

    def calls(y):
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(helper(y), 1.0), obs=y)

    with pytest.raises(zoo.ModelError, match=r"line \d+, `return y \+ y.nowhere.*`: AttributeError: "):
        zoo.explain(zoo.model(y=Real("row"))(calls), Y)


def test_on_the_command_line(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import pyro, pyro.distributions as dist, zoo\n\n\nclass Mine(zoo.Model):\n    x = zoo.Real('row', 'f')\n\n"
        "    def forward(self, x):\n        pyro.sample('x', dist.Normal(mean, 1.0), obs=x)\n"
    )
    ran = CliRunner().invoke(app, ["check", f"{tmp_path / 'mine.py'}:Mine", "faithful"])
    assert ran.exit_code == 1
    assert "line 8, `pyro.sample('x', dist.Normal(mean, 1.0), obs=x)`: NameError: name 'mean'" in ran.output
    good = CliRunner().invoke(app, ["check", "BetaBernoulli", "coin"])
    assert good.exit_code == 0, good.output
    assert good.output.rstrip().endswith("ok")
