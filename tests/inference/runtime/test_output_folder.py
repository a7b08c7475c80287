"""A run takes the place of an earlier one as a whole, and of nothing else."""

from __future__ import annotations

from functools import cache

import pytest

import zoo
from inference import compare, fit
from inference.posterior.fit import Fit

FLIPS = [1, 0, 1, 1]
FIT = ["SHA256SUMS", "fit.json", "posterior.nc", "tensors.safetensors", "trace.csv"]


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@cache
def fitted(seed=0):
    return fit("BetaBernoulli", FLIPS, method="exact", seed=seed)


@cache
def compared(*methods):
    return compare("BetaBernoulli", FLIPS, methods=list(methods), seed=0)


@pytest.mark.slow
def test_a_comparison_replaces_another(tmp_path):
    compared("exact", "map").save(tmp_path)
    compared("exact").save(tmp_path)
    assert {p.parent.name for p in tmp_path.glob("*/fit.json")} == {"exact"}
    assert files(tmp_path) == [
        "SHA256SUMS",
        "comparison.json",
        *(f"exact/{n}" for n in FIT),
        "report.html",
        "table.csv",
        "traces.png",
    ]


@pytest.mark.slow
def test_a_fit_replaces_a_comparison_and_the_other_way_round(tmp_path):
    compared("exact").save(tmp_path)
    with pytest.warns(UserWarning, match="took the place of a saved comparison"):
        fitted(3).save(tmp_path)
    assert files(tmp_path) == FIT
    assert Fit.load(tmp_path).seed == 3
    compared("exact").save(tmp_path)
    assert "fit.json" not in files(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("stranger", ["notes.txt", "exact/notes.txt", "more/tensors.safetensors"])
def test_a_folder_with_anything_else_is_refused_and_left_alone(stranger, tmp_path):
    if stranger != "notes.txt":
        compared("exact").save(tmp_path)
    path = tmp_path / stranger
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    before = files(tmp_path)
    for made in (compared("map"), fitted()):
        with pytest.raises(zoo.DataError, match=f"{path.name}.*another folder"):
            made.save(tmp_path)
    assert files(tmp_path) == before
    assert path.read_text() == "mine"


@pytest.mark.slow
def test_what_a_manifest_names_elsewhere_is_not_touched(tmp_path):
    fitted().save(tmp_path / "keep")
    place = compared("exact").save(tmp_path / "run")
    (place / "comparison.json").write_text('{"fits": {"a": "../keep", "exact": "exact"}}')
    compared("map").save(place)
    assert Fit.load(tmp_path / "keep").seed == 0
