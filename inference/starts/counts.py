"""Where latent counts start: near the mode of their density, taken as a function of real numbers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from zoo.program.program import Program
from zoo.replay.bijections import lowest_count
from zoo.replay.evaluate import Values

ROUNDS = 30
SHORTEST = 2.0**-12  # part of a Newton step, before it is given up
NEAR = 0.25  # counts


def counts_near_mode(program: Program, values: Values) -> Values:
    """Move the counts among starting values by damped Newton steps, the other values held where they are.

    Log densities of counts are smooth functions of them (factorials are Gamma functions). From a median of the prior
    the score function takes thousands of small steps to data far away. Curvature is that along all counts of a site
    together, which is each one's own for counts of rows. Values are returned as they are where this finds nothing
    better.
    """
    sites = [s for s in program.latents if s.countable]
    if not sites:
        return values
    lowest = {s.name: float(lowest_count(s.support) or 0) for s in sites}
    counts = {s.name: values[s.name].to(program.dtype) for s in sites}
    best = _height(program, {**values, **counts})
    for _ in range(ROUNDS):
        try:
            steps = _newton(program, values, counts)
        except RuntimeError:  # no second derivative
            break
        part, moved = 1.0, counts
        while part > SHORTEST:
            moved = {n: torch.maximum(v + part * steps[n], torch.full_like(v, lowest[n])) for n, v in counts.items()}
            height = _height(program, {**values, **moved})
            if height > best:
                break
            part /= 2
        else:
            break
        far = max(float((moved[n] - counts[n]).abs().max()) for n in counts)
        counts, best = moved, height
        if far < NEAR:
            break
    moved_values = {**values, **{n: v.round() for n, v in counts.items()}}
    return moved_values if _height(program, moved_values) > _height(program, values) else values


def _height(program: Program, values: Values) -> float:
    """log p(x, z), minus infinity where it is no number."""
    with torch.no_grad():
        value = float(program.log_joint(values).total(program.data.weights))
    return value if math.isfinite(value) else -math.inf


def _newton(program: Program, values: Values, counts: Values) -> dict[str, Tensor]:
    """Gradient over the size of the curvature, in the shape of each site.

    The derivative of the sum of a site's gradients is a row sum of its Hessian: the diagonal where counts are
    independent, as those of rows are.
    """
    with torch.enable_grad():
        leaves = {n: v.detach().clone().requires_grad_() for n, v in counts.items()}
        value = program.log_joint({**values, **leaves}).total(program.data.weights)
        gradients = torch.autograd.grad(value, list(leaves.values()), create_graph=True, materialize_grads=True)
        steps = {}
        for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True):
            (curvature,) = torch.autograd.grad(gradient.sum(), leaf, retain_graph=True, materialize_grads=True)
            step = gradient.detach() / curvature.detach().abs().clamp_min(1e-8)
            reach = 10 * (leaf.detach() + 1)  # where a density is nearly straight its curvature promises too much
            steps[name] = torch.nan_to_num(torch.minimum(torch.maximum(step, -reach), reach))
        return steps
