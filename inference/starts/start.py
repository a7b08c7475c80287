"""Where a method starts: values, a first guess of the enumerated sites, and the size of a natural step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from guides.start import Start
from inference.conjugate import EStep, closed_form
from inference.conjugate.incomplete import guessed
from inference.coordinate.ascent import State
from inference.starts.near_mode import at_mode
from inference.starts.relaxed import settled
from zoo.data.missing import missing_features
from zoo.errors import MethodError, ZooError
from zoo.initial import kmeans
from zoo.program.program import Program
from zoo.replay.evaluate import Values
from zoo.replay.sites import Site

SPREAD = 2.0  # natural units that further starts are away from the first
PROBES = 16  # random probes of the Hessian's diagonal where there are more coordinates than that


def first_marginals(program: Program, proposed: Values, *, random: bool = False) -> Values | None:
    """Guess which state each row is in: by k-means++ on the rows, or at random.

    A symmetric start (every component alike) is a stationary point of EM, so models without an `initial` method
    start from a clustering of their rows. States that are not one per row can be guessed at random only, which is done
    where they are declared alike; None where there is nothing to guess.
    """
    # The model's proposal may be a clustering, which is not made twice. Where values are from its prior others are
    # drawn: a seed keeps the start that it has had since version 0.1.0.
    values = proposed if program.proposes else program.initial()
    random = random or (len(program.assigned) < len(program.enumerated) and _alike(program, values))
    if not program.enumerated or not (random or len(program.assigned) == len(program.enumerated)):
        return None
    log_probs = {n: torch.zeros_like(v) for n, v in program.log_probs(values).items()}
    for site in program.enumerated:
        states, name, plates, entries = site.cardinality, site.name, site.plate_dims, 1
        if site in program.assigned:
            # A chain's own factor is a table of its moves: what the guess says of rows goes with a site they feed.
            names = [n for n, v in log_probs.items() if _has_states(program, n, v, site)]
            if not names:
                continue
            name, home = names[0], program.sites[names[0]]
            plates = (home.plate_dims[home.plates.index(program.row)],)
            # Several entries of a row (plates of items inside it) share the guess.
            entries = log_probs[name].numel() // (states * len(program.data))
        if states == 1:
            continue
        factor = log_probs[name]
        axes = [factor.ndim + d for d in (site.enum_dim, *plates)]
        cells = [factor.shape[d] for d in axes[1:]]
        if random and site in program.assigned:
            labels = near_random_rows(program.data.features(), states)
        elif random:
            labels = torch.randint(states, cells, device=program.device)
        else:
            labels = kmeans(program.data.features(), states, missing=missing_features(program.data))
        soft = torch.full((states, *cells), 0.1 / states, dtype=factor.dtype, device=factor.device)
        soft.scatter_(0, labels[None], 0.9 + 0.1 / states)
        shape = [1] * factor.ndim
        for axis, size in zip(axes, soft.shape, strict=True):
            shape[axis] = size
        log_probs[name] = factor + soft.log().reshape(shape) / entries

    _, marginals = program.marginals(log_probs)
    return marginals


def near_random_rows(x: Tensor, states: int) -> Tensor:
    """Label each row by the nearest of a few rows drawn at random, columns standardized (Forgy 1965).

    Labels drawn for each row make components that are nearly alike, which EM takes for one and the same.
    """
    gaps = x - x.mean(0)
    scale = gaps.std(0, correction=0)
    gaps = gaps / torch.where(scale > 0, scale, torch.ones_like(scale))
    return torch.cdist(gaps, gaps[torch.randperm(len(x), device=x.device)[:states]]).argmin(1)


def _alike(program: Program, values: Values) -> bool:
    """Whether at these values every state explains the data as every other does."""
    fed = {(f.sites[0], len(f.index)) for s in program.observed for f in s.args.values() if f.index and f.sites}
    parts = [values[n].flatten(0, count - 1) for n, count in fed if values[n].ndim >= count]
    return bool(parts) and all(bool((p == p[:1]).all()) for p in parts)


def _has_states(program: Program, name: str, factor: Tensor, site: Site) -> bool:
    """Whether a log factor has a dimension of the states of a site, and one of rows."""
    home = program.sites[name]
    if program.row not in home.plates or (program.chained and name == site.name):
        return False
    at, row = factor.ndim + site.enum_dim, factor.ndim + home.plate_dims[home.plates.index(program.row)]
    states = at >= 0 and factor.shape[at] == site.cardinality
    return states and (name == site.name or (row >= 0 and factor.shape[row] == len(program.data)))


def start_state(
    program: Program,
    kind: str = "kmeans",
    *,
    given: Mapping[str, Any] | None = None,
    rounds: int = 1,
    improve: Callable[[Values, Values], Values] | None = None,
) -> State:
    """Where coordinate ascent starts: the model's own proposal, else updates from a guess of the enumerated sites.

    Parameters
    ----------
    kind
        "kmeans" or "random": how the guess is made.
    given
        Values that the user gives for some parameters or latents.
    rounds
        How many updates are made from the guess.
    improve
        What follows each update: a gradient step for what has no closed form.

    Raises
    ------
    MethodError
        If a given value is for no unknown, or has a wrong shape or is outside the support.
    """
    values = program.initial()
    chosen = {n: _given(program, n, v) for n, v in (given or {}).items()}
    if kind == "random" or not program.proposes:
        marginals = first_marginals(program, values, random=kind == "random")
        for _ in range(rounds if marginals is not None else 0):
            assert marginals is not None
            values = first_update(program, {**values, **chosen}, marginals)
            values = improve(values, marginals) if improve is not None else values
    values = {**values, **chosen}
    program.check(values)
    return State(values, {})


def _given(program: Program, name: str, value: Any) -> Tensor:
    """Check one value that a start was given."""
    site = program.sites.get(name)
    known = [s.name for s in (*program.parameters, *program.latents)]
    if site is None or name not in known:
        raise MethodError(f"start: {name!r} is no parameter or latent; there are {', '.join(known)}")
    try:
        made = torch.as_tensor(value, dtype=program.dtype, device=program.device)
    except (TypeError, ValueError, RuntimeError):
        raise MethodError(f"start: {name!r} must be numbers, not {value!r}") from None
    shape = program.site_shape(site)
    if tuple(made.shape) != shape:
        raise MethodError(f"start: {name!r} must have shape {shape}, not {tuple(made.shape)}")
    if not bool(made.isfinite().all()) or not bool(site.support.check(made).all()):
        raise MethodError(f"start: {name!r} is outside its support, {site.support}")
    return made


def starting_values(program: Program) -> Values:
    """Starting values for a method that climbs from a point: the model's own, improved by a clustering if it has none.

    For a mixture without an `initial` method, one closed-form update from a k-means++ clustering.
    """
    values = program.initial()
    if not program.enumerated or program.proposes:
        return values
    marginals = first_marginals(program, values)
    if marginals is None:
        return values
    better = first_update(program, values, marginals)
    try:
        program.check(better)
    except ZooError:
        return values
    return better


def first_update(program: Program, values: Values, marginals: Values) -> Values:
    """One closed-form update of every block from a guess of the enumerated sites."""
    plan = closed_form(program)
    with torch.no_grad():
        expected = EStep(plan, program, values, program.replay(values), marginals)
        expected.complete(guessed)
        for block in plan.blocks:
            values = {**values, **block.maximize(expected.at(values))}
    return values


def natural_start(program: Program, values: Values) -> Start:
    """Unconstrained starting point and, from the log joint's curvature there, the size of a natural step.

    The standard deviation of a Normal approximation, coordinate by coordinate, is 1 / sqrt(-d^2 log p / du^2); its
    absolute value also serves where the log joint is not concave.
    """
    view, theta = program.view, program.parameter_view
    u = view.unconstrain_globals(values).to(program.device, program.dtype).detach()
    v = (view.unconstrain_locals(values) if view.locals else u.new_zeros(len(program.data), 0)).detach()
    t = theta.unconstrain_globals(values).to(program.device, program.dtype).detach()
    networks = {n: values[n].detach() for n in program.networks}

    def log_joint(u: Tensor, v: Tensor, t: Tensor) -> Tensor:
        globals_, jacobian = view.constrain_globals(u)
        locals_, row_jacobian = view.constrain_locals(v)
        parameters, _ = theta.constrain_globals(t)
        terms = program.log_joint({**networks, **parameters, **globals_, **locals_})
        weights = program.data.weights
        rows = terms.rows + row_jacobian
        return terms.rest + jacobian + (rows if weights is None else weights * rows).sum()

    point = [p.clone().requires_grad_() for p in (u, v, t)]
    size = u.numel() + view.local_size + t.numel()
    gradient = torch.autograd.grad(
        log_joint(*point), point, create_graph=True, allow_unused=True, materialize_grads=True
    )
    curvature = [torch.zeros_like(p) for p in point]
    count = min(size, PROBES)
    for probe in range(count if any(g.requires_grad for g in gradient) else 0):
        signs = _one_hot(point, probe) if size <= PROBES else _random_signs(point)
        inner = torch.stack([(g * s).sum() for g, s in zip(gradient, signs, strict=True)]).sum()
        hvp = torch.autograd.grad(inner, point, retain_graph=True, allow_unused=True, materialize_grads=True)
        for total, h, s in zip(curvature, hvp, signs, strict=True):
            total += h * s if size <= PROBES else h * s / count
    return Start(u, v, t, *(_unit(c.detach()) for c in curvature))


def several_starts(program: Program, count: int) -> list[tuple[Start, Values]]:
    """Starting points for gradient ascent, with values of parameters and network weights.

    The first is where the model proposes; the others are some natural units away from where it proposes another time.
    """
    values = settled(program, starting_values(program))
    first = at_mode(program, natural_start(program, values))
    found = [(first, values)]
    for _ in range(1, count):
        other = settled(program, starting_values(program))
        at = (
            program.view.unconstrain_globals(other).to(first.globals),
            program.view.unconstrain_locals(other).to(first.locals) if program.view.locals else first.locals,
            program.parameter_view.unconstrain_globals(other).to(first.parameters),
        )
        units = first.global_unit, first.local_unit, first.parameter_unit
        u, v, t = (x + SPREAD * unit * torch.randn_like(x) for x, unit in zip(at, units, strict=True))
        found.append((Start(u, v, t, *units, first.factor), other))
    return found


def _one_hot(point: list[Tensor], which: int) -> list[Tensor]:
    """Pick one coordinate out of (globals, each row's locals, parameters), the same of every row."""
    signs = [torch.zeros_like(p) for p in point]
    for part in signs:
        width = part.shape[-1]
        if 0 <= which < width:
            part[..., which] = 1.0
        which -= width
    return signs


def _random_signs(point: list[Tensor]) -> list[Tensor]:
    return [torch.randint(0, 2, p.shape, device=p.device).to(p.dtype) * 2 - 1 for p in point]


def _unit(curvature: Tensor) -> Tensor:
    size = curvature.abs()
    good = size.isfinite() & (size > 1e-12)
    return torch.where(good, size.clamp(1e-12, 1e16).rsqrt(), torch.ones_like(size))
