"""The unknowns of conjugate families integrated out: of a new observation, and of all observations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from inference.conjugate.e_step import EStep
from inference.conjugate.family import Block, recognized
from zoo.errors import MethodError
from zoo.replay.sites import Parent, Site, base_distribution


def predictive(expected: EStep, site: Site) -> Any:
    """p(x' | x) of a new value of each entry of a site: its unknowns integrated out over their posterior.

    Rows under all states of the enumerated sites, as the site's log density is laid out. Entries are each
    given the data: several new values that share an unknown are dependent.

    Raises
    ------
    MethodError
        If the integral has no closed form.
    """
    likelihood = expected.plan.likelihoods.get(site.name)
    if likelihood is None:
        raise MethodError(f"site {site.name!r} ~ {site.family} is of no conjugate family")
    full = expected.replay.distributions[site.name]
    made = likelihood.predictive(base_distribution(full), lambda name: known(expected, site, name))
    events = full.event_dim - made.event_dim
    if events:
        made = made.expand(torch.broadcast_shapes(made.batch_shape, full.shape()[len(full.batch_shape) :][:events]))
    return made.to_event(events) if events else made


def known(expected: EStep, site: Site, name: str) -> dict[str, Tensor]:
    """What is known of an argument, beside the entries: its posterior's own arguments, or its "value"."""
    parent = site.args.get(name, Parent("constant"))
    if parent.kind == "linear":
        return _location(expected, site)
    belief = expected.beliefs.get(parent.sites[0]) if recognized(parent) else None
    if belief is None:
        return {"value": expected.argument(site, name, "real")["mean"]}
    _check_independent(expected, site, parent, name)
    found = {n: expected.place(parent, t) for n, t in belief.arguments(parent.sites[0]).items()}
    factor = torch.as_tensor(expected.factor(site, name), dtype=expected.program.dtype, device=expected.program.device)
    return _times(found, factor)


def _times(found: dict[str, Tensor], factor: Tensor) -> dict[str, Tensor]:
    """Arguments of the distribution of a constant times a Gamma, Normal or Wishart variable."""
    if bool((factor == 1).all()):
        return found
    if "rate" in found:
        return {**found, "rate": found["rate"] / factor}
    if "df" in found:
        return {**found, "scale_tril": found["scale_tril"] * factor.sqrt()}
    return {**found, "loc": factor * found["loc"], "scale": factor.abs() * found["scale"]}


def _location(expected: EStep, site: Site) -> dict[str, Tensor]:
    """What is known of the location of a linear predictor."""
    found = expected.plan.likelihoods[site.name].location(expected)
    assert found is not None
    if len(found) == 1:
        return {"value": found["mean"]}
    if torch.Size(site.shape[len(site.shape) - site.event_dim :]).numel() > 1:
        raise MethodError(f"the entries of one {site.name!r} share coefficients, so that they are dependent given data")
    if "quad" in found:
        return {"loc": found["mean"], "kappa": found["quad"].reciprocal()}
    return {"loc": found["mean"], "scale": found["var"].sqrt()}


def _check_independent(expected: EStep, site: Site, parent: Parent, name: str) -> None:
    """Raise if the entries of one event share an unknown."""
    likelihood = expected.plan.likelihoods[site.name]
    outer = site.event_dim - likelihood.joint
    events = site.shape[len(site.shape) - site.event_dim :][:outer]
    unknown = expected.program.sites[parent.sites[0]]
    own = {"probs": likelihood.inner[0], "loc": likelihood.joint, "precision_matrix": 2}.get(name, 0)
    value = expected.place(parent, expected.values[unknown.name])
    layout = (*[1] * outer, *value.shape[: value.ndim - own])
    if any(size > 1 and cell != size for size, cell in zip(events, layout[len(layout) - outer :], strict=True)):
        raise MethodError(
            f"the entries of one {site.name!r} share {unknown.name!r}, so that they are dependent given data"
        )


def log_marginal(expected: EStep, block: Block) -> Tensor:
    """log p(x | rest) of all that a block's unknowns feed, the unknowns integrated out.

    log p(x, u | rest) - log p(u | x, rest), the same at every u (Chib 1995, equation 5), at the posterior mean. Entries
    count by their weight, enumerated sites being at their probabilities.

    Raises
    ------
    MethodError
        If an unknown is a parameter without prior.
    """
    posterior = block.posterior(expected)
    if posterior is None:
        raise MethodError(f"{block.unknowns[0]!r} is a parameter without prior, which cannot be integrated out")
    values = {**expected.values, **posterior.mean()}
    program, total = expected.program, torch.zeros((), dtype=expected.program.dtype, device=expected.program.device)
    for name, density in program.replay(values).log_probs.items():
        site = program.sites[name]
        if name in block.unknowns or any(u in f.sites for f in site.args.values() for u in block.unknowns):
            weight = expected.weight(site)
            total = total + torch.where(weight == 0, 0.0, weight * density).sum()
    for name, density in posterior.log_prob(values).items():
        total = total - program.weigh(name, density)
    return total
