"""Where gradient ascent starts in models whose posterior is smooth: at the mode, with the curvature there."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from guides.curvature import polish, triangular_of_inverse
from guides.start import Start
from inference.compiled.compile import lower_gradient
from inference.sampling.paths import climb
from inference.sampling.unconstrained import Target
from zoo.errors import FitError
from zoo.program.flat_density import Density
from zoo.program.program import Program

LARGEST = 64  # globals: the curvature takes a gradient for each
STEPS = 200


def at_mode(program: Program, start: Start) -> Start:
    """Return a start at the posterior mode of the globals, with the factor of the inverse curvature there.

    Coordinates of a regression whose covariates are far from zero are all but collinear; a start far from the mode, in
    units that ignore this, costs gradient ascent thousands of steps. The start is returned as it is where the model
    proposes one itself, where the mode may be degenerate (local latents: funnels; enumerated sites: components that
    collapse), and where L-BFGS does not come to a point with negative curvature.
    """
    plain = program.locals or program.enumerated or program.parameters or program.networks or program.proposes
    plain = plain or any(site.countable for site in program.latents)
    if plain or not 0 < start.globals.numel() <= LARGEST:
        return start
    density = Density(program)
    target = Target(lower_gradient(density, False, 1), program)
    origin, unit = (t.double().cpu().numpy() for t in (start.globals, start.global_unit))
    try:
        path = climb(target, origin, unit, STEPS)
        if not math.isfinite(path.value):
            return start
        mode, root, _ = polish(density, torch.from_numpy(path.end))
    except FitError:  # flat, a saddle, or no number there
        return start
    return replace(
        start,
        globals=mode.to(start.globals),
        global_unit=root.square().sum(1).rsqrt().to(start.globals),
        factor=triangular_of_inverse(root).to(start.globals),
    )
