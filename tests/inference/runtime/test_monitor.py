"""Progress: a function of the user's, lines where there is no terminal, and nothing where none is asked for."""

import re
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import pytest

import zoo
from inference import SVI, fit
from inference.runtime import monitor as module
from inference.runtime import notebook
from inference.runtime.monitor import Monitor
from zoo.errors import MethodError


def test_a_function_is_told_each_record():
    told = []
    with Monitor("em", 5, show=lambda step, value, metrics: told.append((step, value, dict(metrics)))) as monitor:
        monitor.record(1, -3.0)
        monitor.record(2, -2.5)
    assert [(s, v, m["title"], m["total"]) for s, v, m in told] == [(1, -3.0, "em", 5), (2, -2.5, "em", 5)]
    assert [m["seconds"] for _, _, m in told] == list(monitor.trace.seconds)


def test_lines_are_written_where_there_is_no_terminal(capsys, monkeypatch):
    monkeypatch.setattr(module, "SECONDS", 0.0)
    with Monitor("nuts", 4000, show=True) as monitor:
        monitor.record(100, -31.25)
    with Monitor("nuts", 4000, show=False) as monitor:
        monitor.record(100, -31.25)
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert re.fullmatch(r"nuts: 100/4000, -31.25, \d+ s\n", err)


@pytest.mark.parametrize("progress", ["yes", 1, lambda step: None])
def test_what_cannot_be_told_is_refused(progress):
    with pytest.raises(MethodError, match=r"progress: expected True, False, or a function .*\(step, value, metrics\)"):
        Monitor("em", 5, show=progress)


def test_in_a_notebook_a_line_is_written_anew_and_stays_as_it_ends(capsys, monkeypatch):
    shown = []

    class Handle:
        def update(self, data, *, raw):
            shown.append(data)

    def display(data, *, raw, display_id):
        shown.append(data)
        return Handle()

    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(display=SimpleNamespace(display=display)))
    monkeypatch.setattr(module, "Console", partial(module.Console, force_jupyter=True))
    monkeypatch.setattr(notebook, "SOONEST", 0.0)
    with Monitor("<em>", 500, show=True) as monitor:
        monitor.record(7, -31.25)
        monitor.record(8, -31.125)  # too soon after the one before
    assert [d["text/plain"] for d in shown] == ["<em>: 7/500, -31.25, 0 s", "<em>: 8/500, -31.125, 0 s, ended"]
    assert 'value="500" max="500"' in shown[-1]["text/html"]
    assert "&lt;em&gt;" in shown[-1]["text/html"]
    assert capsys.readouterr() == ("", "")


def test_short_runs_write_nothing(capsys):
    with Monitor("em", 100, show=True) as monitor:
        monitor.record(1, -3.0)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "method",
    ["em", *(pytest.param(m, marks=pytest.mark.slow) for m in (SVI(steps=300), "nuts"))],
    ids=["em", "svi", "nuts"],
)
def test_every_method_tells_the_function_of_the_call(faithful, method):
    told = []
    fit(zoo.BayesianGMM(components=2), faithful, method=method, seed=0, progress=lambda *args: told.append(args))
    assert told
    assert all(step <= metrics["total"] for step, _, metrics in told)


@pytest.mark.slow
def test_nothing_asks_for_widgets_in_a_notebook():
    """As tqdm does, which Pyro imports, where ipywidgets is not installed."""
    kernel = "import sys, types\nclass Shell: config = {'IPKernelApp': {}}\n"
    kernel += "sys.modules['IPython'] = types.SimpleNamespace(get_ipython=Shell, version_info=(9,))\n"
    kernel += "sys.modules['ipykernel.zmqshell'], sys.modules['ipywidgets'] = types.ModuleType('zmqshell'), None\n"
    for first in ("import zoo; zoo.GMM", "from inference import fit"):
        ran = subprocess.run(
            [sys.executable, "-c", kernel + first + "\nassert 'tqdm.autonotebook' in sys.modules"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        assert "IProgress" not in ran.stderr
