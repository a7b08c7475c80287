"""The groups posterior_predictive, prior and prior_predictive: data simulated from the posterior and from the prior."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import numpy as np
import torch

from inference.approximations.simulations import shapes, simulations, with_states
from inference.diagnostics.arviz import Group
from inference.diagnostics.deferred import Deferred
from inference.posterior.answer import Answer
from inference.posterior.observed import Observed
from inference.posterior.streams import Stream
from zoo.errors import ZooError
from zoo.program.smoothing import draw_chains
from zoo.replay.evaluate import Values

SIMULATED = ("posterior_predictive", "prior", "prior_predictive")
PRIOR_DRAWS = 1000
LARGEST = 20_000_000  # simulated numbers beyond which fewer draws are simulated: 160 MB


def predictive_groups(
    answer: Answer,
    observed: Observed,
    dims: Mapping[str, tuple[str, ...]],
    left_out: list[str],
    *,
    replicated: bool,
) -> dict[str, Group]:
    """Simulations, made when they are looked at. What there is none of, and why, is added to `left_out`.

    Data are `replicated` where draws of the latents are kept.
    """
    program = answer.program
    groups = {}
    if program.not_drawn:
        left_out.append(f"posterior_predictive and prior_predictive: {program.not_drawn}")
    if not replicated:
        left_out.append("posterior_predictive: draws of the latents are left out; see predict(draws=...)")
    try:
        with answer.running(Stream.PREDICTIVE):
            example = shapes(program, *answer.some(), [s.name for s in program.observed])
            if not program.not_drawn and replicated:
                groups["posterior_predictive"] = _predictive(answer, observed, example)
    except ZooError as error:
        left_out.append(f"posterior_predictive: {error}")
    if program.parameters or program.networks:
        left_out.append("prior and prior_predictive: there are parameters without a prior")
        return groups
    names = [s.name for s in program.sites.values() if s.latent or s.role == "deterministic"]
    try:
        with answer.running(Stream.PRIOR):
            example = shapes(program, program, {}, [*names, *(s.name for s in program.observed)])
            groups |= _prior(answer, observed, dims, example)
    except ZooError as error:
        left_out.append(f"prior and prior_predictive: {error}")
    return groups


def _predictive(answer: Answer, observed: Observed, example: Values) -> Group:
    """Data simulated at the kept draws: each stands where the latents it comes from stand in `posterior`.

    At every so many of them where all would be too many numbers. Discrete states that go with no latent are drawn from
    the model.
    """
    program, chains = answer.program, answer.approximation.chains
    each = answer.draw_count // chains
    step = min(each, max(1, -(-answer.draw_count * _size(example) // LARGEST)))
    kept = torch.arange(0, each, step)
    at = (torch.arange(chains)[:, None] * each + kept).flatten()
    names = list(example)

    @cache
    def simulated() -> Values:
        draws = {n: v[at.to(v.device)] for n, v in answer.draws.values.items()}
        with answer.running(Stream.PREDICTIVE):
            draws = with_states(program, answer.points, draws, len(at), local=True)
            draws = {**draws, **draw_chains(program, draws, answer.points, len(at))}
            return simulations(program, answer.points, draws, len(at), names)

    attrs = {"draws": f"every {step}th of {each} in each chain"} if step > 1 else {}
    variables = {n: _deferred(observed, n, v.shape, (chains, len(kept)), simulated) for n, v in example.items()}
    return Group(variables, observed.dims(), {**observed.coords(), "draw": kept.numpy()}, attrs)


def _prior(
    answer: Answer, observed: Observed, dims: Mapping[str, tuple[str, ...]], example: Values
) -> dict[str, Group]:
    """Draws of the latents from their prior, and data simulated from each."""
    program = answer.program
    count = max(1, min(PRIOR_DRAWS, LARGEST // max(1, _size(example))))
    names = list(example)

    @cache
    def simulated() -> Values:
        with answer.running(Stream.PRIOR):
            return simulations(program, answer.points, {}, count, names)

    def latent(name: str) -> Deferred:
        def values() -> np.ndarray:
            return simulated()[name].cpu().numpy()[None]

        array = example[name].cpu().numpy()
        return Deferred((1, count, *array.shape), array.dtype, values)

    sites = {s.name for s in program.observed}
    predictive = {n: _deferred(observed, n, v.shape, (1, count), simulated) for n, v in example.items() if n in sites}
    prior = {"prior": Group({n: latent(n) for n in example if n not in sites}, dims)}
    if program.not_drawn:
        return prior
    return {**prior, "prior_predictive": Group(predictive, observed.dims(), observed.coords())}


def _deferred(
    observed: Observed, name: str, shape: torch.Size, lead: tuple[int, int], simulated: Callable[[], Values]
) -> Deferred:
    """A site's simulations as ArviZ shows them."""
    example = observed.shown(name, np.zeros(tuple(shape)))

    def values() -> np.ndarray:
        drawn = simulated()[name].cpu().numpy()
        return observed.shown(name, drawn.reshape(*lead, *drawn.shape[1:]), 2)

    return Deferred((*lead, *example.shape), example.dtype, values)


def _size(example: Values) -> int:
    return sum(v.numel() for v in example.values())
