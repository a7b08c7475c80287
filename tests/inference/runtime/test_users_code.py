"""What a user's own code does while a fit runs: errors name its line, warnings are shown once."""

import re
import warnings
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest

import zoo
from inference import compare, fit

ROWS = [1.0, 2.0]


class Mine(zoo.Model):
    """A level, whose code does what a test says."""

    x = zoo.Real("row")
    fails: str = ""

    def fail(self, where: str) -> None:
        if where == self.fails:
            raise OSError(f"no disk in {where}")

    def setup(self, x):
        self.left = 60
        self.fail("setup")

    def check(self, x):
        self.fail("check")

    def initial(self, x):
        self.fail("initial")
        return {}

    def forward(self, x):
        self.left -= 1
        if self.left < 0:
            self.fail("forward")
        warnings.warn("take tau for the scale", stacklevel=1)
        with warnings.catch_warnings():  # after which Python has forgotten what was shown
            warnings.simplefilter("ignore")
        level = pyro.sample("level", dist.Normal(0.0, 1.0))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Normal(level, 1.0), obs=x)


@pytest.mark.filterwarnings("ignore:take tau")
@pytest.mark.parametrize("where", ["setup", "check", "initial", "forward"])
def test_what_fails_after_it_was_traced_or_beside_forward_names_its_line(where):
    line = next(
        n
        for n, text in enumerate(Path(__file__).read_text(encoding="utf-8").splitlines(), 1)
        if "raise OSError" in text
    )
    said = rf"Mine: {where} failed, in {re.escape(__file__)}, line {line}, `raise OSError.*OSError: no disk in {where}$"
    with pytest.raises(zoo.ModelError, match=said) as raised:
        fit(Mine(fails=where), ROWS, method="svi", seed=0, progress=False)
    assert type(raised.value.__cause__) is OSError
    if where == "forward":
        table = compare(Mine(fails=where), ROWS, methods=["svi"], seed=0, progress=False)
        assert re.search(said, table.table.loc["svi", "note"])


@pytest.mark.slow
def test_a_function_for_progress_raises_what_it_raises():
    def stop(*told):
        raise EOFError("enough")

    with warnings.catch_warnings(action="ignore"), pytest.raises(EOFError, match=r"^enough$"):
        fit(Mine(), ROWS, method="svi", seed=0, progress=stop)


CALLS = {
    "fit": lambda: fit(Mine(), ROWS, method="exact", seed=0, progress=False),
    "compare": lambda: compare(Mine(), ROWS, methods=["exact", "map"], seed=0, progress=False),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_warning_is_shown_once(call):
    before = warnings.showwarning
    with pytest.warns(UserWarning, match="take tau") as shown:
        CALLS[call]()
    assert len(shown) == 1
    assert warnings.showwarning is before
