"""Fits that version 0.1.0 saved (format 4), one of each kind of q, load and say what they said then."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import zoo
from inference import EM, Fit
from inference.posterior.store import read_summary

FOLDER = Path(__file__).parents[2] / "data" / "fits_0_1_0"
ANSWERS = json.loads((FOLDER / "answers.json").read_text(encoding="utf-8"))

# Settings that 0.1.0 did not have, at their defaults.
SINCE = ("levels=None", "topology='ergodic'", "decoder='mlp'", "noise='pixel'", "network='mlp'", "family='diagonal'")


def close(now, then, dtype=torch.float64):
    """Equal up to rounding: the draws are the same, sums over them may be taken in another order.

    In single precision, in which networks are, another processor's sums differ by a few units of the last place.
    """
    rounding = 8 * torch.finfo(dtype).eps if dtype == torch.float32 else 1e-9
    np.testing.assert_allclose(np.nan_to_num(np.asarray(now, dtype=float)), then, rtol=rounding, atol=rounding)


def test_every_fit_has_its_answers():
    assert {p.parent.name for p in FOLDER.glob("*/fit.json")} == set(ANSWERS)


@pytest.mark.parametrize("name", ANSWERS)
def test_a_fit_of_0_1_0_says_what_it_said(name):
    found, then = Fit.load(FOLDER / name), ANSWERS[name]
    text = repr(found)
    for setting in SINCE:
        text = text.replace(f", {setting}", "")
    assert text == then["text"]
    dtype = found.program.dtype
    close(found.log_prob(), then["log_prob"], dtype)
    table = np.asarray(then["summary"])
    close(found.summary().iloc[:, : table.shape[1]], table, dtype)  # columns that came later stand on the right
    if "assign" in then:
        close(found.assign(), then["assign"], dtype)
    elif not found.program.locals:
        with pytest.raises(zoo.FitError):
            found.assign()


def test_the_summary_of_a_fit_of_0_1_0_is_read_without_its_model():
    text, table = read_summary(FOLDER / "hmm")
    assert text == ANSWERS["hmm"]["text"]
    close(table, ANSWERS["hmm"]["summary"])


def test_what_0_1_0_remembered_is_gone_on_from():
    """The fit of EM had been updated once, and was saved with the expected statistics of all rows."""
    found = Fit.load(FOLDER / "em")
    more = EM().update(found, found.generate(6, seed=1))
    assert more.memory is not None
    rows = {n: float(weight.sum()) for n, (weight, _) in more.memory.sums.items()}
    assert rows == pytest.approx(dict.fromkeys(rows, 36.0))  # 24, 6 and 6
