"""How far location-scale latents are best centred: by what the data say of each, against what its own prior does."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from inference.sampling.paths import climb
from inference.sampling.unconstrained import centre_of
from inference.starts.natural import natural_start
from inference.variational.fixed_draws import FixedDraws
from zoo.program.flat_density import Density
from zoo.program.program import Program
from zoo.program.recentred import Recentred, fitting, location_scale
from zoo.replay.evaluate import Values
from zoo.replay.sites import Site, base_distribution

DRAWS = 8  # that stay the same
STEPS, FLAT, HISTORY = 100, 3e-2, 20  # of the climb of their ELBO
PROBES = 4  # for each draw: random signs for the diagonal of the curvature; exact where entries do not meet


def recentred(program: Program, values: Values) -> tuple[Program, Values, int]:
    """The program in coordinates that suit its location-scale latents, values in these, and gradients taken.

    For a latent z ~ Normal(m, s^2) of which the rest of the model says as much as an observation with precision I, the
    degree of centring that leaves least dependence between w and (m, s) is l = s^2 I / (1 + s^2 I) (Papaspiliopoulos,
    Roberts and Sköld 2003, section 3): noise where nothing is said of z, z itself where all is. l is the mean, entry by
    entry, over draws of a mean-field Normal over the noise, where there are no funnels of the prior, at the maximum of
    the ELBO over these draws (`inference.variational.fixed_draws`). Any degrees give the same posterior; these ones
    make it easier to follow.

    Parameters
    ----------
    program
        The program.
    values
        Starting values of all latents.
    """
    sites = location_scale(program)
    if sites:
        sites = fitting(sites, program.replay(values, densities=False))
    if not sites:
        return program, values, 0
    noise = Recentred(program, {s.name: torch.zeros_like(values[s.name]) for s in sites})
    density = Density(noise)
    centre, unit = (torch.from_numpy(t) for t in centre_of(natural_start(noise, noise.coordinates(values))))
    fixed, factor = FixedDraws(density, DRAWS, False, centre), torch.diag(unit)

    def bound(eta: np.ndarray) -> tuple[float, np.ndarray]:
        value, pairs = fixed.slopes(centre, factor, torch.from_numpy(eta))
        return float(value), pairs.mean(0).numpy()

    nothing = np.zeros(2 * density.size)
    mean, log_scale = torch.from_numpy(climb(bound, nothing, nothing + 1, STEPS, FLAT, HISTORY).end).chunk(2)
    by_draw = []
    for z in fixed.noise:
        with torch.no_grad():
            u = (centre + unit * (mean + log_scale.exp() * z)).to(density.like)
            at = noise.replay(density.constrain(u), densities=False).seen
        by_draw.append(degrees(program, sites, {s.name: at[s.name].detach() for s in program.latents}))
    average = {s.name: torch.stack([each[s.name] for each in by_draw]).mean(0) for s in sites}
    found = Recentred(program, average)
    return found, found.coordinates(values), fixed.calls + 2 * PROBES * DRAWS


def degrees(program: Program, sites: list[Site], values: Values) -> Values:
    """l = s^2 I / (1 + s^2 I) of each entry of these sites, at values of all latents as they are declared."""
    distributions = program.replay(values, densities=False).distributions
    precision = {n: -v for n, v in _curvature(program, sites, values).items()}
    found: Values = {}
    for site in sites:
        fn, value = distributions[site.name], values[site.name]
        scale = base_distribution(fn).scale.detach()
        own = -_second(fn, value)  # of the prior; that of a Normal is 1 / s^2
        said = scale.square() * (precision[site.name] - own).clamp_min(0)
        degree = said / (1 + said)
        found[site.name] = torch.where(degree.isfinite(), degree, torch.zeros_like(degree)).expand(value.shape).clone()
    return found


def _curvature(program: Program, sites: list[Site], values: Values) -> Values:
    """Diagonal of the log joint's second derivatives by the entries of some sites, by random signs s: mean s (H s)."""
    names = [s.name for s in sites]
    leaves = [values[n].detach().clone().requires_grad_() for n in names]
    with torch.enable_grad():
        total = program.log_joint({**values, **dict(zip(names, leaves, strict=True))}).total(program.data.weights)
        slopes = torch.autograd.grad(total, leaves, create_graph=True)
        sums = {n: torch.zeros_like(values[n]) for n in names}
        for _ in range(PROBES):
            signs = [torch.randint(0, 2, v.shape, device=v.device).to(v) * 2 - 1 for v in leaves]
            inner = torch.stack([(g * s).sum() for g, s in zip(slopes, signs, strict=True)]).sum()
            products = torch.autograd.grad(inner, leaves, retain_graph=True, materialize_grads=True, allow_unused=True)
            for name, sign, product in zip(names, signs, products, strict=True):
                sums[name] += sign * product.detach() / PROBES
    return sums


def _second(fn: object, value: Tensor) -> Tensor:
    """Second derivative of a location-scale density's logarithm by each entry of the value."""
    with torch.enable_grad():
        leaf = value.detach().clone().requires_grad_()
        (slope,) = torch.autograd.grad(base_distribution(fn).log_prob(leaf).sum(), leaf, create_graph=True)
        if not slope.requires_grad:
            return torch.zeros_like(value)
        (second,) = torch.autograd.grad(slope.sum(), leaf)
    return second.detach()
