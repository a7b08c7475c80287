"""Bayesian networks as models: tables of conditional probabilities declared as Pyro sites, one for each variable."""

from __future__ import annotations

import gzip
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import zoo


class Node(NamedTuple):
    """One variable: its parents, p(states | parents) with the states last, and their names."""

    parents: tuple[str, ...]
    table: Tensor
    states: tuple[str, ...]


Network = dict[str, Node]


def declared(network: Network, *, cases: bool) -> zoo.Model:
    """Declare a network as a model: one case in plain sites, or a case in each row of a plate."""

    def forward(self: zoo.Model, **fields: Tensor) -> None:
        values: dict[str, Any] = {}

        def story() -> None:
            for name, (parents, table, _) in network.items():
                probs = table[tuple(values[p] for p in parents)] if parents else table
                values[name] = pyro.sample(name, dist.Categorical(probs), obs=fields[name])

        if cases:
            with pyro.plate("case", len(next(iter(fields.values())))):
                story()
        else:
            story()

    dims = ("case",) if cases else ()
    fields = {name: zoo.Category(*dims, levels=len(node.states)) for name, node in network.items()}
    body = {"__doc__": "A Bayesian network.", "__module__": __name__, "forward": forward, **fields}
    made: zoo.Model = type("Declared", (zoo.Model,), body)()
    return made


def drawn(network: Network, rng: np.random.Generator) -> dict[str, int]:
    """Draw one case."""
    case: dict[str, int] = {}
    for name, (parents, table, states) in network.items():
        case[name] = int(rng.choice(len(states), p=table[tuple(case[p] for p in parents)].numpy()))
    return case


def log_joint(network: Network, case: dict[str, int]) -> float:
    """log p(case), every variable given."""
    return sum(
        float(table[(*(case[p] for p in parents), case[name])].log()) for name, (parents, table, _) in network.items()
    )


def full_joint(network: Network) -> np.ndarray:
    """p of every configuration, a dimension for each variable; for small networks only."""
    names, joint = list(network), np.ones(1)
    for name, (parents, table, _) in network.items():
        given = [*parents, name]
        shape = [len(network[n].states) if n in given else 1 for n in names]
        order = sorted(range(len(given)), key=lambda i: names.index(given[i]))
        joint = joint * table.numpy().transpose(order).reshape(shape)
    return joint


def pgmpy_network(name: str) -> tuple[Network, Any]:
    """A network that pgmpy carries, its tables made to sum to 1 (files are rounded), and pgmpy's elimination on it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import networkx
        import pgmpy
        from pgmpy.inference import VariableElimination
        from pgmpy.readwrite import BIFReader

        path = Path(pgmpy.__file__).parent / "utils" / "example_models" / f"{name}.bif.gz"
        model = BIFReader(string=gzip.decompress(path.read_bytes()).decode()).get_model()
    network = {}
    for node in networkx.topological_sort(model):
        cpd = model.get_cpds(node)
        cpd.normalize()
        table = cpd.get_values().reshape(cpd.variable_card, *(int(c) for c in cpd.cardinality[1:]))
        states = tuple(cpd.state_names[node])
        network[node] = Node(tuple(cpd.variables[1:]), torch.tensor(np.moveaxis(table, 0, -1).copy()), states)
    return network, VariableElimination(model)


def highest(network: Network, seen: dict[str, int]) -> float:
    """log p of the most probable configuration that agrees with what was seen, by maxima of small tables."""
    with np.errstate(divide="ignore"):
        factors = [([*node.parents, name], np.log(node.table.numpy())) for name, node in network.items()]
    for i, (names, table) in enumerate(factors):
        for name in (n for n in list(names) if n in seen):
            table = table.take(seen[name], names.index(name))
            names = [n for n in names if n != name]
        factors[i] = names, table
    left = [n for n in network if n not in seen]
    while left:
        name = min(left, key=lambda n: len({m for names, _ in factors if n in names for m in names}))
        left.remove(name)
        held = [f for f in factors if name in f[0]]
        union = [*dict.fromkeys(n for names, _ in held for n in names if n != name), name]
        joined = np.zeros(())
        for names, table in held:
            order = sorted(range(len(names)), key=lambda i: union.index(names[i]))
            shape = [table.shape[names.index(n)] if n in names else 1 for n in union]
            joined = joined + table.transpose(order).reshape(shape)
        factors = [f for f in factors if name not in f[0]] + [(union[:-1], joined.max(-1))]
    return float(sum(table for _, table in factors))


def asia() -> Network:
    """Chest clinic (Lauritzen and Spiegelhalter 1988), states no and yes; `either` is a matter of logic, 0 or 1."""

    def binary(parents: tuple[str, ...], yes: Any) -> Node:
        yes = torch.tensor(yes, dtype=torch.float64)
        return Node(parents, torch.stack([1 - yes, yes], -1), ("no", "yes"))

    return {
        "asia": binary((), 0.01),
        "smoke": binary((), 0.5),
        "tub": binary(("asia",), [0.01, 0.05]),
        "lung": binary(("smoke",), [0.01, 0.1]),
        "bronc": binary(("smoke",), [0.3, 0.6]),
        "either": binary(("lung", "tub"), [[0.0, 1.0], [1.0, 1.0]]),
        "xray": binary(("either",), [0.05, 0.98]),
        "dysp": binary(("bronc", "either"), [[0.1, 0.7], [0.8, 0.9]]),
    }
