"""A report says what its fit says, escapes what is a user's, and needs nothing outside its file."""

from __future__ import annotations

import base64
import io
import re
from functools import cache
from html import escape, unescape

import matplotlib as mpl
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch

import zoo
from inference import compare, fit
from inference.posterior.described import digest, summary_of
from inference.report import report
from inference.reporting.page import Section, html
from zoo.program.prepare import prepare

GEYSER = zoo.datasets.load("faithful")
EVIL = "<script>alert('&')</script>"


@cache
def fitted():
    return fit(zoo.GMM(components=2), GEYSER.rename(columns={"waiting": EVIL}), method="em", seed=4)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return fitted().report(tmp_path_factory.mktemp("report") / "new" / "gmm.html").read_text(encoding="utf-8")


def test_a_report_has_all_of_its_parts(text):
    found = fitted()
    heads = re.findall(r"<h2>(.*?)</h2>", text)
    assert heads == [
        "Model",
        "Structure and legal methods",
        "Data",
        *(f"em: {part}" for part in ("method", "convergence", "verdict", "summary", "components")),
        "How to reproduce",
    ]
    shown = unescape(text)
    for said in (zoo.GMM.__doc__.splitlines()[0], repr(found.model), repr(found.method), found.reason, found.verdict):
        assert said in shown
    assert f"{found.objective.value:.4f}" in text
    assert "seed=4" in text
    assert "torch 2" in text
    for label in found.summary().index:
        assert escape(label, quote=False) in text


def test_what_is_a_users_is_escaped(text):
    assert "<script" not in text
    assert escape(EVIL, quote=False) in text


def test_a_report_needs_nothing_else(text):
    sources = re.findall(r'(?:src|href)="(.*?)"', text)
    assert len(sources) == 2
    for source in sources:
        kind, _, png = source.partition(",")
        assert kind == "data:image/png;base64"
        assert min(mpl.image.imread(io.BytesIO(base64.b64decode(png))).shape[:2]) > 100
    assert "http" not in re.sub(r"<pre>.*?</pre>", "", text, flags=re.DOTALL)


def test_long_tables_say_that_they_are_cut():
    made = html("t", [Section("s", tables=[pd.DataFrame({"a": range(1234)})])])
    assert "The first 200 of 1234 rows are shown." in made
    assert made.count("<tr") == 201


def test_data_are_described_without_missing_cells():
    gaps = GEYSER.mask(np.column_stack([np.zeros(272, bool), np.arange(272) < 71]))
    table = summary_of(prepare(zoo.GMM(components=2), gaps).data)
    assert list(table.index) == ["x[eruptions]", "x[waiting]"]
    expected = gaps.agg(["count", "mean", "std", "min", "max"]).T
    np.testing.assert_allclose(table[["n", "mean", "sd", "min", "max"]], expected, rtol=1e-12)
    assert table["missing"].tolist() == [0, 71]


def test_the_digest_is_about_the_data():
    program = prepare("BetaBernoulli", [1, 0, 1])
    assert digest(program.data) == digest(prepare("BetaBernoulli", [1, 0, 1]).data)
    assert digest(program.data) != digest(prepare("BetaBernoulli", [1, 1, 0]).data)


@pytest.mark.slow
def test_a_saved_comparison_is_reported_again(tmp_path):
    made = compare("BetaBernoulli", [1, 0, 1, 1], methods={"closed form": "exact", "a<b": "em"}, seed=0)
    place = made.save(tmp_path)
    first = (place / "report.html").read_text(encoding="utf-8")
    assert report(place) == place / "report.html"
    assert (place / "report.html").read_text(encoding="utf-8") == first
    assert "a&lt;b: did not run" in first
    assert str(made) in unescape(first)
    assert made.report(tmp_path.parent / "other.html").read_text(encoding="utf-8") == first
    made.save(place)


@pytest.mark.slow
def test_a_saved_fit_is_reported(tmp_path):
    place = fit("BetaBernoulli", [1, 0, 1, 1], method="exact", seed=0).save(tmp_path)
    assert "exact: verdict" in report(place).read_text(encoding="utf-8")


def test_a_report_on_nothing_is_an_error_of_the_zoo(tmp_path):
    with pytest.raises(zoo.DataError, match="no saved fit or comparison"):
        report(tmp_path)
    (tmp_path / "comparison.json").write_text("[]")
    with pytest.raises(zoo.DataError, match="damaged"):
        report(tmp_path)


def test_notebooks_show_what_is_printed():
    found = fitted()
    shown = unescape(re.sub(r"<[^>]*>", "", found._repr_html_()))
    assert all(line.strip() in shown for line in repr(found).splitlines())
    said = zoo.explain(zoo.GMM(components=2), GEYSER)
    assert unescape(said._repr_html_()) == f"<pre>{said}</pre>"
    card = zoo.GMM(components=2)._repr_html_()
    assert unescape(card).startswith("<h4>GMM(components=2, covariance='full')</h4>\n<p>Gaussian mixture")
    assert "<li>x: Real(" in unescape(card)


class Hostile(zoo.Model):
    """Its <b>card</b>."""

    x = zoo.Category("row", "item")
    mark: str = "<u>"

    def forward(self, x):
        """Draw categories with names from the data."""
        p = pyro.sample("p", dist.Dirichlet(torch.ones(4)))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Categorical(p.expand(2, 4)).to_event(1), obs=x)


def test_nothing_of_data_or_names_is_markup_in_a_notebook():
    rows = pd.DataFrame({"<b>a": ["<s>u", "v", "v"], "c": ["w", "<s>z", "w"]})
    fitted = fit(Hostile(), rows, method="map", seed=0, progress=False)
    checked = zoo.check(Hostile(), rows)
    compared = compare(Hostile(), rows, methods={"<s>label": "map"}, seed=0, progress=False)
    for shown in (fitted, fitted.model, zoo.explain(Hostile(), rows), checked, compared):
        assert not re.search(r"<(b|i|s|u)>", shown._repr_html_()), shown
