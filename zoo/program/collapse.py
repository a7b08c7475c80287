"""Which latents can be integrated out of a program's log joint given the others: seen in its structure, held to values.

Candidates are latents whose own distribution and whose children are of families that go together. What is claimed of
them is then the whole of it: at several values of the others, near and far out, the gradient of the log joint has to be
at random places what `Conditional` reads off a few.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from zoo.program.conjugate_conditional import Conditional, Layout, Probes
from zoo.program.conjugate_forms import FORMS, Form
from zoo.program.program import Program
from zoo.program.view import View
from zoo.replay.evaluate import Values
from zoo.replay.sites import Site

NORMAL = ("Normal", "MultivariateNormal", "LowRankMultivariateNormal")
BY_NORMAL = (*NORMAL, "LogNormal")  # what may have a Normal latent as its location
DENSE = 32  # Normal entries that meet all others: a gradient for each of them at every step
TOGETHER = 8  # entries of a group that meet each other
SPREADS = (0.3, -0.3, 1.0, -1.0, 2.5, -2.5)  # of the other latents, unconstrained
TIMES = (1.0, 30.0, 1000.0)  # posterior standard deviations that noise behind Normal entries is moved by
FAR = 1e4  # and how far it is moved on both sides of zero
EXACT = 1e-7  # relative to what is added up, for a gradient to be the one that was said
CELLS = 5_000_000  # entries of data at which gradients are looked at
ALL_COULD = "nothing would be left to draw"  # why latents stay that could all be integrated out
FEWEST = 4  # of the values of the others at which densities are numbers


@dataclass(frozen=True)
class Plan:
    """What is integrated out, and why the rest is not.

    Attributes
    ----------
    layout
        Where the collapsed latents stand; None if there are none.
    stays
        Latent that stays -> why, in a few words.
    """

    layout: Layout | None = None
    stays: dict[str, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Sites that are integrated out."""
        return () if self.layout is None else self.layout.names


def plan(program: Program, kept: Collection[str] = ()) -> Plan:
    """Find the latents of a program to integrate out, none of those `kept` among them.

    What was found is noted in the program's plans, so that the question is asked once.
    """
    shapes = tuple(program.site_shape(s) for s in program.latents)
    key = f"collapse {sorted(kept)} {shapes} {_weighted(program)}"
    if key not in program.plans:
        program.plans[key] = _plan(program, kept)
    found = program.plans[key]
    assert isinstance(found, Plan)
    return found


def plan_again(view: Program, stays: dict[str, str], kept: Collection[str]) -> Plan:
    """Find latents to integrate out of a density that is an integral over Normal ones already, and why others stay.

    A variance that Normal latents and data share is one: given it all is Normal, and it has a closed form then.
    """
    chosen: list[Site] = []
    layout = None
    for site in view.latents:
        if site.name in kept or site.family in NORMAL or _unfit(view, site) or _fed(view, site, chosen):
            continue
        more = None if len(chosen) + 1 == len(view.latents) else layout_of(view, [*chosen, site])
        if more is not None:
            chosen, layout = [*chosen, site], more
    gone = {s.name for s in chosen}
    return Plan(layout, {n: why for n, why in stays.items() if n not in gone})


def _plan(program: Program, kept: Collection[str]) -> Plan:
    stays = {s.name: "it is named by the guide" for s in program.latents if s.name in kept}
    stays |= {s.name: why for s in program.latents if s.name not in stays and (why := _unfit(program, s))}
    candidates = [s for s in reversed(program.latents) if s.name not in stays]  # what feeds others comes last
    candidates.sort(key=lambda s: -math.prod(program.site_shape(s)))
    while candidates:
        feeding = {s.name: child for s in candidates if (child := _fed(program, s, candidates))}
        if not feeding:
            layout, failed = _largest(program, candidates)
            if not failed:
                break
            stays |= failed
        stays |= {name: f"it feeds {child}, which stays" for name, child in feeding.items()}
        candidates = [s for s in candidates if s.name not in stays]
    if not candidates:
        return Plan(None, stays)
    if len(candidates) == len(program.latents):
        return Plan(None, dict.fromkeys((s.name for s in candidates), ALL_COULD))
    return Plan(layout, stays)


def _unfit(program: Program, site: Site) -> str:
    """Why a latent is no candidate; empty if it is one."""
    if program.networks:
        return "the model has networks"
    if any(s.countable or s.role == "unsupported" for s in program.sites.values()):
        return "the model has discrete latents that are not summed out"
    if program.integrated is not None:
        return "the model has a chain of states that a filter integrates out"
    if sum(v.numel() for v in program.data.values.values()) > CELLS:
        return f"the data have more than {CELLS} entries"
    if program.dtype != torch.float64:
        return "numbers have single precision"
    if site.role == "local" and _weighted(program):
        return "rows have weights, each of which would repeat it"
    unit = (getattr(site.support, "lower_bound", None), getattr(site.support, "upper_bound", None)) == (0, 1)
    if site.family not in NORMAL and (_form(site) is None or (site.family == "Uniform" and not unit)):
        return f"its prior is {site.family}"
    for other in program.sites.values():
        mine = other is site or any(site.name in p.sites for p in other.args.values())
        if not mine or other.role == "deterministic":
            continue
        if other.role == "enumerated" or any(p.index for p in other.args.values()):
            return f"{'it' if other is site else other.name} goes with states that are summed out"
        if site.family in NORMAL and other.family not in (BY_NORMAL if other.role == "observed" else NORMAL):
            return f"{other.name} is {other.family} given it"
    return ""


def _weighted(program: Program) -> bool:
    """Whether some row counts for other than one."""
    return program.data.weights is not None and bool((program.data.weights != 1).any())


def _form(site: Site) -> Form | None:
    return next((form for form in FORMS if site.family in form.families), None)


def _fed(program: Program, site: Site, candidates: Sequence[Site]) -> str:
    """A latent that a candidate feeds and that is none itself; empty if there is none."""
    names = {s.name for s in candidates}
    fed = (s.name for s in program.latents if any(site.name in p.sites for p in s.args.values()))
    return next((name for name in fed if name not in names), "")


def _largest(program: Program, candidates: Sequence[Site]) -> tuple[Layout | None, dict[str, str]]:
    """A layout of all candidates; or, why some of them cannot be with those before them."""
    layout = layout_of(program, candidates)
    if layout is not None:
        return layout, {}
    chosen: list[Site] = []
    failed: dict[str, str] = {}
    for site in candidates:
        if layout_of(program, [*chosen, site]) is not None:
            chosen.append(site)
        elif math.prod(program.site_shape(site)) > DENSE:
            failed[site.name] = f"it has no closed form in which at most {DENSE} entries meet all others"
        elif chosen and layout_of(program, [site]) is not None:
            failed[site.name] = f"jointly with {', '.join(s.name for s in chosen)} it has no closed form"
        else:
            failed[site.name] = "given the others it has no closed form"
    return None, failed


def layout_of(program: Program, sites: Sequence[Site]) -> Layout | None:
    """The cheapest layout of these sites that holds; None if there is none."""
    return next((layout for layout in _layouts(program, sites) if holds(program, layout)), None)


def _layouts(program: Program, sites: Sequence[Site]) -> list[Layout]:
    """Ways in which entries may meet, those with the fewest gradients first."""
    shapes = [program.site_shape(s) for s in sites]
    ends = torch.tensor([math.prod(shape) for shape in shapes]).cumsum(0).tolist()
    at = {
        s.name: torch.arange(end - math.prod(shape), end, device=program.device).reshape(shape)
        for s, shape, end in zip(sites, shapes, ends, strict=True)
    }
    forms = {s.name: form for s in sites if s.family not in NORMAL and (form := _form(s)) is not None}
    normal = {n: where for n, where in at.items() if n not in forms}
    names = tuple(s.name for s in sites)
    found: list[tuple[int, Layout]] = []
    for inside in _groupings(normal):
        groups = torch.cat([*inside.values()], 1) if inside else torch.empty(0, 0, dtype=torch.long)
        outside = [where.reshape(-1) for n, where in normal.items() if n not in inside]
        dense = torch.cat(outside) if outside else torch.empty(0, dtype=torch.long)
        if groups.shape[1] <= TOGETHER and len(dense) <= DENSE:
            groups, dense = groups.to(program.device), dense.to(program.device)
            layout = Layout(names, tuple(shapes), groups, dense, forms)
            found.append((groups.shape[1] + len(dense), layout))
    return [layout for _, layout in sorted(found, key=lambda pair: pair[0])]


def _groupings(normal: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Which sites may have entries in groups that do not meet: site -> positions (groups, entries of a group)."""
    yield {}
    lengths = {n for where in normal.values() for n in (*where.shape, where.numel()) if n > 1}
    for length in sorted(lengths, reverse=True):
        along = {name: rows for name, where in normal.items() if (rows := _along(where, length)) is not None}
        yield along
        if len(along) > 1:
            yield from ({name: rows} for name, rows in along.items())


def _along(where: Tensor, length: int) -> Tensor | None:
    """Positions of a site's entries as (length, others): all of them, or along its first axis of that length."""
    if where.numel() == length:
        return where.reshape(-1, 1)
    axis = next((i for i, n in enumerate(where.shape) if n == length), None)
    return None if axis is None else where.movedim(axis, 0).reshape(length, -1)


def joint_given(program: Program, layout: Layout, values: Values) -> Callable[[Values], Tensor]:
    """The log joint as a function of what is collapsed: noise behind Normal latents, values of others."""
    if program.collapsed:  # latents that are integrated out of a density that is an integral already; none is Normal
        return lambda c: program.log_joint({**values, **c}).total(program.data.weights)

    def joint(c: Values) -> Tensor:
        noise = {n: v for n, v in c.items() if n not in layout.forms}
        replay = program.replay({**values, **{n: c[n] for n in layout.forms}}, noise=noise)
        return program.eliminate(replay.log_probs).total(program.data.weights)

    return joint


def holds(program: Program, layout: Layout) -> bool:
    """Whether gradients of the log joint are everywhere what `Conditional` makes of a few."""
    generator = torch.Generator().manual_seed(0)
    like = torch.empty(0, dtype=program.dtype, device=program.device)
    rest = [s for s in program.latents if s.name not in layout.names]
    good = 0
    for spread in SPREADS:
        values = made_up(program, rest, spread, generator)
        try:
            found = _agrees(program, layout, values, generator, like)
        except (RuntimeError, ValueError):  # no density there, or none that can be differentiated like this
            continue
        if found is False:
            return False
        good += found is True
    return good >= FEWEST


def _agrees(program: Program, layout: Layout, values: Values, generator: torch.Generator, like: Tensor) -> bool | None:
    """Whether it is so at one value of the others; None where the density is no number."""
    joint = joint_given(program, layout, values)
    probes = Probes.blank(layout, like)
    conditional = Conditional.of(joint, probes, probes.points())
    probes = probes.moved_to(conditional)
    conditional = Conditional.of(joint, probes, probes.points())
    points = _anywhere(probes, generator)
    actual = torch.vmap(torch.func.grad(lambda c: joint(layout.values(c))))(points)
    told, size = torch.vmap(conditional.gradient)(points)
    if not bool(actual.isfinite().all() and told.isfinite().all()):
        return None
    for i, name in enumerate(layout.names):
        off, scale = ((t.split(layout.sizes, -1)[i]) for t in (actual - told, size))
        if name in layout.forms:
            form, at = layout.forms[name], layout.of_form(points, name)
            both = [form.tangent(layout.of_form(t, name), at) * at for t in (actual, told)]
            off, scale = both[0] - both[1], both[0].abs() + both[1].abs()
        if not bool((off.abs() <= EXACT * scale.abs().amax()).all()):
            return False
    return True


def _anywhere(probes: Probes, generator: torch.Generator) -> Tensor:
    """Values of all collapsed latents: near, far out, on the other side of zero, (points, D)."""
    layout, centre, step = probes.layout, probes.centre, probes.step
    noise = torch.randn(len(TIMES) + 2, layout.size, generator=generator, dtype=centre.dtype).to(centre.device)
    points = torch.stack([centre + times * step * z for times, z in zip(TIMES, noise, strict=False)])
    points = torch.cat([points, -2.0 * points[:1], FAR * noise[-2:]])
    parts = list(points.split(layout.sizes, -1))
    for i, name in enumerate(layout.names):
        if name in layout.forms:
            uniform = torch.rand(points.shape, generator=generator, dtype=centre.dtype).to(centre.device)
            parts[i] = layout.forms[name].spread(layout.of_form(uniform, name)).reshape(len(points), -1)
    return torch.cat(parts, -1)


def made_up(program: Program, rest: Sequence[Site], spread: float, generator: torch.Generator) -> Values:
    """Values of the latents that stay and of parameters, unconstrained ones that far from zero."""

    def noise(*shape: int) -> Tensor:
        made = spread + 0.5 * spread * torch.randn(*shape, generator=generator, dtype=program.dtype)
        return made.to(program.device)

    view, theta = View(rest, program.row), program.parameter_view
    return {
        **view.constrain_globals(noise(view.global_size))[0],
        **view.constrain_locals(noise(len(program.data), view.local_size))[0],
        **theta.constrain_globals(noise(theta.global_size))[0],
    }
