"""What ties rows to one another, and what keeps data from being drawn site after site: seen by changing some rows.

Given the globals rows are independent if the log density of each moves with its own data and local latents only. Half
of the rows are changed, and the log densities of the other half compared; then another half.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from pyro.distributions import Unit
from torch import Tensor

from zoo.errors import ZooError
from zoo.replay.evaluate import Values, is_deterministic
from zoo.replay.sites import Tie, base_distribution
from zoo.structure.ancestral import drawn_in_turn
from zoo.structure.discover import is_enumerated, made_up, sample_sites
from zoo.structure.plates import frames_of
from zoo.structure.probes import Probes, arguments, log_prob_of, other_data_of
from zoo.structure.runner import Runner, Source
from zoo.structure.together import FEW, apart

RAW = (
    "the distribution of site {!r} reads field {!r}, which the model itself explains (a lagged value, for example), so "
    "that what was observed would be taken for what is drawn. Let the model read what pyro.sample returns; or draw "
    "forward from `sample(n)`, row after row, in a loop of your own; or give past values as a field of their own, and "
    "draws are one step ahead"
)


def find_ties(runner: Runner, probes: Probes) -> tuple[Tie, ...]:
    """Find what ties rows to one another: one tie for each kind and site.

    Parameters
    ----------
    runner, probes
        That runs the model, and what runs have shown.
    """
    data, base = probes.data, probes.base
    if not data.row or len(data) < 2:
        return ()
    locals_ = [n for n in probes.values if _row_dim(base.nodes.get(n), data.row) is not None]
    found: dict[tuple[str, str], Tie] = {}
    before = {n: log_prob_of(n, node) for n, node in _weighed(base)}
    touched = _touched(probes, locals_)
    groups = apart(touched) if len(locals_) >= FEW else [[n] for n in locals_]
    for some in _halves(len(data)):
        changes = _changes(runner, probes, groups, some) if locals_ else []
        for kind, sources, run in (*changes, *_data_changes(runner, probes, some)):
            for name, node in _weighed(run):
                if name not in before or (kind, name) in found or (kind == "local" and name in sources):
                    continue
                where = _row_dim(node, data.row)
                if _moves(before[name], log_prob_of(name, node), where, some):
                    outside = where is None and kind == "data"
                    source = next((s for s in sources if name in touched.get(s, ())), sources[0])
                    found.setdefault((kind, name), Tie("whole" if outside else kind, name, source))
    counting = [Tie("count", n, data.row) for n in _counting(runner, probes) if ("whole", n) not in found]
    return (*found.values(), *counting)


def _counting(runner: Runner, probes: Probes) -> Iterator[str]:
    """Yield the factors outside the plate of rows that move with the number of rows, as -n log Z does."""
    base, data = probes.base, probes.data
    factors = [n for n, node in _weighed(base) if isinstance(base_distribution(node["fn"]), Unit)]
    factors = [n for n in factors if _row_dim(base.nodes[n], data.row) is None]
    if not factors:
        return
    globals_ = {n: v for n, v in probes.values.items() if _row_dim(base.nodes.get(n), data.row) is None}
    try:
        run = runner(data.take(torch.arange((len(data) + 1) // 2)), globals_)[0]
    except ZooError:  # half of these data do not fit the model
        return
    yield from (
        n
        for n in factors
        if n in run.nodes and not torch.equal(log_prob_of(n, base.nodes[n]), log_prob_of(n, run.nodes[n]))
    )


def not_drawn(runner: Runner, probes: Probes, ties: Sequence[Tie]) -> tuple[str, tuple[str, ...]]:
    """Say why new data cannot be drawn from the sites, empty if they can; and which fields have to be drawn in turn.

    The sites are run on other data while observed sites keep their values: what moves reads a field that the model
    explains, and not what was drawn for it. Within a row that is an autoregressive density, if its entries have an
    order: each is drawn given those before it.
    """
    base, data = probes.base, probes.data
    counting = {t.site for t in ties if t.kind == "count"}
    for name, node in _weighed(base):
        if isinstance(base_distribution(node["fn"]), Unit) and (_weighs_rows(probes, name) or name in counting):
            return (
                f"site {name!r} is a pyro.factor: it says how well data or local latents fit, but not how to draw "
                "them. Observe the data at a site with a distribution"
            ), ()
    observed = {n: node["value"] for n, node in _weighed(base) if node["is_observed"]}
    explained = sorted({s.name for n in observed for s in probes.made_from.get(n, ()) if s.kind == "data"})
    suspects = {
        n
        for (n, _), sources in probes.sources.items()
        if any(Source("data", f) in sources for f in explained) and _is_drawn(base.nodes[n], data.row)
    }
    moved: dict[tuple[str, str], None] = {}  # which site reads which field, in the order that it was seen
    for field in explained if suspects else ():
        for other in other_data_of(runner.model, data, field):
            try:
                run = runner(other, probes.values, fixed=observed)[0]
            except ZooError:  # these made-up data do not fit the model
                continue
            for name in (n for n in suspects if n in run.nodes):
                first, then = arguments(base.nodes[name]), arguments(run.nodes[name])
                if any(k not in then or not torch.equal(v, then[k]) for k, v in first.items()):
                    moved[name, field] = None
    if not moved:
        return "", ()
    names, fields = (tuple(dict.fromkeys(part)) for part in zip(*moved, strict=True))
    if not ties and drawn_in_turn(runner, probes, fields, names):
        return "", fields
    return RAW.format(*next(iter(moved))), ()


def _weighs_rows(probes: Probes, name: str) -> bool:
    """Whether a factor counts for each row, or depends on data, local latents or discrete ones."""
    base, row = probes.base, probes.data.row
    if _row_dim(base.nodes[name], row) is not None:  # what it reads is the same in all rows, as where they are cut off
        return True
    if any(base.nodes[name]["infer"].get("_dim_to_symbol", {}).get(_enum_dim(n)) for _, n in sample_sites(base)):
        return True
    sources = {s for (n, _), on in probes.sources.items() if n == name for s in on}
    return any(s.kind == "data" or _row_dim(base.nodes.get(s.name), row) is not None for s in sources)


def _enum_dim(node: Any) -> int:
    return int(node["infer"].get("_enumerate_dim", 0)) if is_enumerated(node["infer"]) else 0


def _is_drawn(node: Any, row: str) -> bool:
    """Whether a site is drawn anew with each data set: all but global latents and parameters."""
    if is_deterministic(node):
        return False
    return bool(node["is_observed"]) or is_enumerated(node["infer"]) or _row_dim(node, row) is not None


def _weighed(trace: Any) -> Iterator[tuple[str, Any]]:
    """Yield the sites that have a log density."""
    return ((n, node) for n, node in sample_sites(trace) if not is_deterministic(node))


def _row_dim(node: Any, row: str) -> int | None:
    """Dimension of the rows in a site's log density, counted from the right; None for a site outside their plate."""
    if node is None or node["type"] != "sample":
        return None
    return next((f.dim for f in frames_of(node) if f.name == row), None)


def _halves(rows: int) -> Iterator[Tensor]:
    """Yield which rows to change, shape (rows,): every second one, pairs and halves, and what these leave."""
    at = torch.arange(rows)
    for some in (at % 2 == 0, at // 2 % 2 == 0, at < rows / 2):
        if bool(some.any()) and not bool(some.all()):
            yield some
            yield ~some


def _touched(probes: Probes, locals_: list[str]) -> dict[str, set[str]]:
    """Sites whose log density each local latent has a part in: itself, and those that depend on it."""
    found = {n: {n} for n in locals_}
    of_sites = [(name, on) for (name, _), on in probes.sources.items()]
    for name, on in (*of_sites, *probes.made_from.items()):
        for source in on:
            if source.kind == "site" and source.name in found:
                found[source.name].add(name)
    return found


def _changes(
    runner: Runner, probes: Probes, groups: list[list[str]], some: Tensor
) -> Iterator[tuple[Any, list[str], Any]]:
    """Yield runs in which local latents of a group, no two of which feed the same, have other values in some rows."""
    for group in groups:
        changed = {}
        for name in group:
            node, value = probes.base.nodes[name], probes.values[name]
            axis = value.ndim - node["fn"].event_dim + (_row_dim(node, probes.data.row) or 0)
            other = made_up(probes.messenger.supports[name], tuple(value.shape), name)
            if axis >= 0 and value.shape[axis] == len(some):
                changed[name] = _mixed(value, other, some, axis)
        try:
            if changed:
                yield "local", list(changed), runner(probes.data, {**probes.values, **changed})[0]
        except ZooError:
            continue


def _data_changes(runner: Runner, probes: Probes, some: Tensor) -> Iterator[tuple[Any, list[str], Any]]:
    """Yield runs in which one data field has other values in some rows."""
    data = probes.data
    read = {s.name for on in (*probes.sources.values(), *probes.made_from.values()) for s in on if s.kind == "data"}
    for name in (n for n in data.row_fields if n in read):
        value = data.values[name]
        if runner.model.fields[name].integer:  # in another order: there may be as many groups as occur
            changed = value.clone()
            changed[some] = value[some].roll(1, 0)
        else:
            changed = value.clone()
            changed[some] = value[torch.randint(len(value), (int(some.sum()),))]  # values that its site can have
            if torch.equal(changed, value):
                other = next(iter(other_data_of(runner.model, data, name))).values[name]
                changed = _mixed(value, other.to(value.dtype), some, 0)
        values: Values = {**data.values, name: changed}
        try:
            run = runner(replace(data, values=values), probes.values)[0]
            for site, node in _weighed(run):
                log_prob_of(site, node)
            yield "data", [name], run
        except ZooError:  # these made-up data do not fit the model
            continue


def _mixed(value: Tensor, other: Tensor, some: Tensor, axis: int) -> Tensor:
    """`other` in some rows, `value` in the rest."""
    shape = [1] * value.ndim
    shape[axis] = len(some)
    return torch.where(some.to(value.device).reshape(shape), other, value)


def _moves(before: Tensor, after: Tensor, dim: int | None, some: Tensor) -> bool:
    """Whether a log density moved in rows that were not changed; of a site outside their plate, whether it moved."""
    if before.shape != after.shape:
        return True
    moved = ~((before == after) | (before.isnan() & after.isnan()))
    if dim is None or moved.ndim < -dim or moved.shape[dim] != len(some):
        return bool(moved.any())
    return bool(moved.movedim(dim, -1)[..., ~some.to(moved.device)].any())
