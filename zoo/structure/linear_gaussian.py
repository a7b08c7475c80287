"""Whether what is observed of a chain of continuous states is linear-Gaussian in them, seen by running the model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.errors import ModelError
from zoo.replay.evaluate import Values, is_deterministic
from zoo.replay.gaussian_chain import LinearGaussianChain
from zoo.replay.sites import Site, Tie, base_distribution, views
from zoo.structure.discover import made_up, sample_sites
from zoo.structure.probes import Probes
from zoo.structure.runner import Runner

TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3}  # relative, of what rounding explains
FAR = 1e3  # how much further out states are, once
NORMALS = ("Normal", "MultivariateNormal")
OTHERWISE = (
    "Only a Normal (or MultivariateNormal) whose location is affine in the row's state can be, so that the chain is "
    "integrated out. Write such states with pyro.markov or as a Normal of non-centred steps, or use MarkovChain for "
    "discrete states"
)


def integrated_sources(name: str, probes: Probes) -> tuple[str, ...]:
    """Chains of continuous states that a site depends on."""
    on = {s.name for (n, _), sources in probes.sources.items() if n == name for s in sources if s.kind == "site"}
    return tuple(n for n in _chains(probes.base) if n in on)


def check_linear_gaussian(runner: Runner, probes: Probes, sites: Mapping[str, Site]) -> None:
    """Check all that depends on a `LinearGaussianChain`.

    Raises
    ------
    ModelError
        Naming the site, how it depends on the chain, and what can be done.
    """
    chains = _chains(probes.base)
    for chain in chains:
        index = sorted({n for parent in sites[chain].args.values() for n in parent.index})
        if index:
            raise ModelError(_switching(chain, chain, index[0]))
        for other in integrated_sources(chain, probes):
            raise ModelError(
                f"site {chain!r}: the arguments of a LinearGaussianChain cannot depend on the states {other!r} of "
                "another; put both in one state vector"
            )
    children = [n for n in sites if n not in chains and integrated_sources(n, probes)]
    for name in children:
        _check_child(probes.base.nodes[name], sites[name], integrated_sources(name, probes)[0])
    for chain in chains:
        if not any(chain in integrated_sources(n, probes) for n in children if sites[n].role == "observed"):
            raise ModelError(
                f"site {chain!r}: nothing observed depends on its states; leave it out, or observe some of it"
            )
    observed = [n for n in children if sites[n].role == "observed"]
    for zero, a, b, both in _quadruples(runner, probes, chains):
        for name in observed:
            _check_affine(name, chains[0], *(views(run.nodes[name]["fn"]) for run in (zero, a, b, both)))


def check_own_rows(sites: Mapping[str, Site], ties: Iterable[Tie]) -> None:
    """Raise if what is observed in a row depends on the states of other rows.

    Raises
    ------
    ModelError
        Naming the site and the chain.
    """
    for tie in ties:
        if tie.kind == "local" and tie.source in sites and sites[tie.source].role == "integrated":
            raise ModelError(
                f"site {tie.site!r} depends in a row on the states {tie.source!r} of other rows; put what it needs of "
                "earlier rows into the state vector (its lags), so that each row sees its own state only"
            )


def _chains(trace: Any) -> list[str]:
    nodes = sample_sites(trace)
    return [n for n, node in nodes if isinstance(base_distribution(node["fn"]), LinearGaussianChain)]


def _switching(site: str, chain: str, index: str) -> str:
    return (
        f"site {site!r} depends on the discrete {index!r}, and its chain {chain!r} is continuous: with a state that "
        "switches, the posterior of the chain is a mixture of as many Normals as there are paths of "
        f"{index!r}, which doubles or more with every row. Make {index!r} known (a field), let it switch nothing that "
        "the chain depends on, or give the chain's values discrete levels and use MarkovChain"
    )


def _check_child(node: Any, site: Site, chain: str) -> None:
    """Check what kind of site depends on a chain."""
    if is_deterministic(node):
        return
    name, family = site.name, site.family
    if site.role != "observed":
        raise ModelError(
            f"site {name!r} is a latent that depends on the states {chain!r}, and is not observed. {OTHERWISE}"
        )
    fn = node["fn"]
    while type(fn).__name__ in ("Independent", "ExpandedDistribution"):
        fn = fn.base_dist
    if type(fn).__name__ not in NORMALS:
        raise ModelError(f"site {name!r} is a {family} that depends on the states {chain!r}. {OTHERWISE}")
    if node["mask"] is not None or not bool(torch.as_tensor(node["scale"] == 1).all()):
        raise ModelError(
            f"site {name!r} depends on the states {chain!r} and is masked or scaled; give cells that are not there as "
            "NaN"
        )
    index = sorted({n for parent in site.args.values() for n in parent.index})
    if index:
        raise ModelError(_switching(name, chain, index[0]))


def _quadruples(runner: Runner, probes: Probes, chains: list[str]) -> Iterator[tuple[Any, Any, Any, Any]]:
    """Runs with the states at 0, a, b and a + b, everything else as it was: near zero, far out, and at other values."""
    if not chains:
        return
    others = [c.values for c in probes.checks if c.data is probes.data][:2]
    for scale, rest in ((1.0, probes.values), (FAR, probes.values), *((1.0, v) for v in others)):
        found: list[Values] = [{}, {}, {}, {}]
        for name in chains:
            shape = tuple(probes.values[name].shape)
            support = probes.messenger.supports[name]
            a, b = (scale * made_up(support, shape, name) for _ in range(2))
            for values, value in zip(found, (torch.zeros_like(a), a, b, a + b), strict=True):
                values[name] = value
        runs = [runner(probes.data, {**rest, **values})[0] for values in found]
        yield runs[0], runs[1], runs[2], runs[3]


def _check_affine(name: str, chain: str, *runs: Mapping[str, Tensor]) -> None:
    """Raise if the location is not affine in the states, or another argument moves with them."""
    zero, a, b, both = (run["loc"] for run in runs)
    size = max(float(v.detach().abs().max()) for v in (zero, a, b, both))
    if not all(v.shape == zero.shape for v in (a, b, both)):
        raise ModelError(f"site {name!r}: the shape of its location changes with the states {chain!r}")
    if not float((both - a - b + zero).abs().max()) <= TOLERANCE[zero.dtype] * size:
        raise ModelError(f"site {name!r}: its location is no affine function of the states {chain!r}. {OTHERWISE}")
    for key, value in runs[0].items():
        if key != "loc" and not all(torch.equal(value, run[key]) for run in runs[1:]):
            raise ModelError(f"site {name!r}: its argument {key} depends on the states {chain!r}. {OTHERWISE}")
