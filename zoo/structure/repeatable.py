"""Whether a story is a density: the same number whenever it is told at the same values, of names that can be kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zoo.data.data import Data
from zoo.errors import ModelError
from zoo.replay.chain import MarkovChain
from zoo.replay.evaluate import Values, is_deterministic, is_plate
from zoo.replay.gaussian_chain import LinearGaussianChain
from zoo.replay.sites import base_distribution
from zoo.structure.discover import is_enumerated, sample_sites
from zoo.structure.probes import log_prob_of
from zoo.structure.runner import Runner

DRAWS = ("chain", "draw", "sample")  # dimensions of draws in ArviZ
MORE = 16  # runs of a model that draws what is no site
CLOSE = 1e-6  # sums over rows may be taken in another order


def check_names(plain: Any, row: str) -> None:
    """Raise if a site or plate cannot be called what it is, or if rows are gone through one by one.

    Raises
    ------
    ModelError
        Naming it, and what to do.
    """
    for name, node in plain.nodes.items():
        if node["type"] not in ("sample", "param"):
            continue
        what = "plate" if is_plate(node) else "parameter" if node["type"] == "param" else "site"
        if name in DRAWS:
            raise ModelError(f"{what} {name!r}: ArviZ uses this name for its own dimensions; call it something else")
        if "/" in name or not name.strip(" ."):
            raise ModelError(
                f"{what} {name!r}: draws are written to groups of files under this name, so it needs a letter and no "
                "slash; call it something else"
            )
        alone = next((f.name for f in node.get("cond_indep_stack", ()) if not f.vectorized and f.name == row), None)
        if alone is not None and not is_plate(node):
            raise ModelError(
                f"site {name!r} is one of as many as there are rows: the plate {row!r} is gone through row by row; "
                f"write `with pyro.plate({row!r}, ...):` in place of `for ... in`, and one site for all rows"
            )


def check_repeatable(runner: Runner, data: Data, values: Values) -> None:
    """Raise if runs at the same values differ: something is random that is no site, or remembers earlier runs.

    Raises
    ------
    ModelError
        Naming the first site whose log density differs.
    """
    before = torch.get_rng_state()
    first, _ = runner(data, values)
    if is_drawn_anew(first, values):
        return
    draws = not torch.equal(before, torch.get_rng_state())
    for _ in range(MORE if draws else 1):  # what is drawn may be the same a few times
        _compare(first, runner(data, values)[0], values)


def is_drawn_anew(trace: Any, values: Values) -> bool:
    """Whether a run draws a discrete latent that no method takes, so that runs at the same values differ."""
    sites = sample_sites(trace)
    return any(not (n["is_observed"] or is_enumerated(n["infer"]) or name in values) for name, n in sites)


def _compare(first: Any, second: Any, values: Values) -> None:
    for name, node in sample_sites(first):
        chain = isinstance(base_distribution(node["fn"]), MarkovChain | LinearGaussianChain)
        if is_deterministic(node) or chain or name not in second.nodes:
            continue
        if node["is_observed"] or name in values:
            one, two = (log_prob_of(name, trace.nodes[name]) for trace in (first, second))
            if one.is_complex():
                raise ModelError(f"site {name!r} has a complex log density; let its arguments be real")
            if not _same(one, two):
                raise ModelError(
                    f"site {name!r} has another log density in each run at the same values, so that it is none: "
                    "something in the model is random without being a site (torch.randn, .sample(), dropout), or "
                    "remembers earlier runs; make it a pyro.sample site, or draw it once, in setup"
                )


def _same(one: Tensor, two: Tensor) -> bool:
    return one.shape == two.shape and torch.allclose(one, two, rtol=CLOSE, atol=CLOSE, equal_nan=True)
