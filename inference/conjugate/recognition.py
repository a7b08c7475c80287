"""What the sites of a program were recognized as: their likelihoods, and what statistics are taken about."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from inference.conjugate.exponential_family import Likelihood
from inference.conjugate.linear import Coordinates, LinearLikelihood
from inference.conjugate.local_spread import local_spread, tight_axes
from zoo.constant_columns import FLOOR, units
from zoo.errors import MethodError
from zoo.program.program import Program
from zoo.replay.evaluate import Values
from zoo.replay.sites import ALTERNATIVES, Site

KNOWN = ("constant", "site", "indexed", "linear")  # kinds of arguments that need no run of the model


@dataclass(frozen=True)
class Frame:
    """What the first data decided, by site: what statistics are taken about, and what floors are relative to.

    Attributes
    ----------
    centers, spreads, locally
        As in `Recognition`.
    coordinates
        Those of linear predictors.
    axes
        As in `Recognition`.
    """

    centers: dict[str, Tensor]
    spreads: dict[str, Tensor]
    locally: dict[str, Tensor]
    coordinates: dict[str, Coordinates]
    axes: dict[str, Tensor] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """All numbers by what they are and of which site, to be saved."""
        numbers = {f"center {n}": v for n, v in self.centers.items()}
        numbers |= {f"spread {n}": v for n, v in self.spreads.items()}
        numbers |= {f"locally {n}": v for n, v in self.locally.items()}
        numbers |= {f"axes {n}": v for n, v in self.axes.items()}
        for name, c in self.coordinates.items():
            numbers |= {f"rotate {name}": c.rotate, f"start {name}": c.start}
        return numbers

    @classmethod
    def read(cls, tensors: dict[str, Tensor]) -> Frame:
        """Make it again from what `tensors` gave."""
        parts: dict[str, dict[str, Tensor]] = {
            n: {} for n in ("center", "spread", "locally", "axes", "rotate", "start")
        }
        for key, value in tensors.items():
            what, _, name = key.partition(" ")
            parts[what][name] = value
        coordinates = {n: Coordinates(r, parts["start"][n]) for n, r in parts["rotate"].items()}
        locally = {**parts["spread"], **parts["locally"]}
        return cls(parts["center"], parts["spread"], locally, coordinates, parts["axes"])


@dataclass
class Recognition:
    """What does not change from step to step.

    Attributes
    ----------
    program
        The fit's program.
    likelihoods
        Site -> its family, where its log density was seen to be that family's, neither scaled nor masked.
    collapsible
        Sites whose arguments are the same in all entries of their plates, so that statistics can be summed first.
    codes
        Enumerated site -> its states, laid out along its dimension, as indices.
    centers
        Observed site -> the mean of its data, that statistics are taken about.
    spreads
        Observed site -> the variance of its data.
    locally
        Observed site -> the variance among neighbours in its data, that floors are relative to.
    still
        Observed site -> which columns of its data do not vary.
    incomplete
        Sites that would have a likelihood here, were it not for missing values.
    weighed
        Observed sites that are masked or scaled.
    in_values
        Unknowns that observed values depend on, which have no closed form.
    """

    program: Program
    likelihoods: dict[str, Likelihood] = field(default_factory=dict)
    collapsible: set[str] = field(default_factory=set)
    codes: Values = field(default_factory=dict)
    centers: Values = field(default_factory=dict)
    spreads: Values = field(default_factory=dict)
    locally: Values = field(default_factory=dict)
    axes: Values = field(default_factory=dict)
    still: Values = field(default_factory=dict)
    incomplete: list[str] = field(default_factory=list)
    weighed: list[str] = field(default_factory=list)
    in_values: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Lay out states."""
        self.codes = {s.name: s.states.long() for s in self.program.enumerated if s.states is not None}

    def frame(self) -> Frame:
        """Return what these data decided."""
        linear = {n: f.coordinates for n, f in self.likelihoods.items() if isinstance(f, LinearLikelihood)}
        return Frame(dict(self.centers), dict(self.spreads), dict(self.locally), linear, dict(self.axes))

    def set_frame(self, frame: Frame) -> None:
        """Take statistics about what they were taken about before, and floors relative to what they were."""
        self.centers.update(frame.centers)
        self.spreads.update(frame.spreads)
        self.locally.update(frame.locally)
        self.axes.update(frame.axes)
        for name, coordinates in frame.coordinates.items():
            likelihood = self.likelihoods.get(name)
            if isinstance(likelihood, LinearLikelihood):
                likelihood.coordinates = coordinates

    def events_outside(self, site: Site) -> tuple[int, ...]:
        """Event dimensions of a site that are no part of its statistics: entries that are independent."""
        events = site.shape[len(site.shape) - site.event_dim :]
        return tuple(events[: site.event_dim - self.likelihoods[site.name].event_dim])

    def follows(self, site: Site) -> bool:
        """Whether every argument of a site is constant, or follows from the unknowns' values without a model run."""
        likelihood, kinds = self.likelihoods.get(site.name), {n: parent.kind for n, parent in site.args.items()}
        if likelihood is None:
            return all(kind == "constant" for kind in kinds.values())
        other = {n for names in likelihood.alternatives.values() for n in names}
        derived = {n for argument in likelihood.conjugate for n in parameterizations(argument)} - {
            *likelihood.conjugate
        }
        made = {likelihood.composes} if kinds.get(likelihood.composes) == "function" else set()
        read = [n for n in kinds if n not in other | derived | made]
        return all(any(kinds.get(n) in KNOWN for n in (a, *likelihood.alternatives.get(a, ()))) for a in read)

    def summed(self, program: Program) -> list[Site]:
        """Sites of the data plate whose statistics are sums over its rows.

        Raises
        ------
        MethodError
            If a site's rows cannot be summed first: its arguments vary by row, its statistics depend on unknowns, or
            it has no closed form.
        """
        found = []
        for site in program.sites.values():
            if program.row not in site.plates or site.role not in ("observed", "enumerated"):
                continue
            if site.name not in self.collapsible or site.name not in self.likelihoods:
                raise MethodError(f"rows in parts (a stream, several processes) need {self.lacks(site)}")
            found.append(site)
        return found

    def lacks(self, site: Site) -> str:
        """Say what a site lacks whose statistics cannot be summed over rows before the unknowns are known."""
        likelihood = self.likelihoods.get(site.name)
        if likelihood is None:
            return f"closed forms, and {site.name!r} ~ {site.family} has none"
        if not likelihood.summable:
            return f"sums over rows that do not depend on unknowns, and those of {site.name!r} ~ {site.family} do"
        return f"arguments that do not vary by row, and those of {site.name!r} do"

    def center_on(self, site: Site, value: Tensor) -> None:
        """Note the mean and the variance of a site's data, one number per column of an event; missing ones left out."""
        if not value.is_floating_point():
            return
        flat, cells = value.reshape(-1, *value.shape[value.ndim - site.event_dim :]), self.program.missing(site)
        anchor = flat[0]  # means of differences from a row lose no digits far from zero
        if cells is None:
            center = (flat - anchor).mean(0)
            spread = (flat - anchor - center).square().mean(0)
        else:
            seen = (~cells.missing).reshape(flat.shape).to(flat)
            share = seen / seen.sum(0).clamp_min(1)
            center = (share * (flat - anchor)).sum(0)
            spread = (share * (flat - anchor - center).square()).sum(0)
        if self.likelihoods[site.name].centered:
            self.centers[site.name] = anchor + center
        self.still[site.name] = spread <= 0
        self.spreads[site.name] = spread = units(spread)
        seen_only = flat if cells is None else torch.where(cells.missing.reshape(flat.shape), torch.nan, flat)
        self.locally[site.name] = local_spread(seen_only - anchor, spread, FLOOR)
        if cells is None and flat.ndim == 2 and not bool(self.still[site.name].any()):
            axes = tight_axes((flat - anchor - center) / spread.sqrt(), FLOOR)
            if axes is not None:
                self.axes[site.name] = axes

    def spread(self, site: Site, *, locally: bool = False) -> Tensor:
        """Variance of a site's data, or of neighbours in it, one number per column of an event; 1 where not known."""
        known = self.locally if locally else self.spreads
        if site.name in known:
            return known[site.name]
        shape = site.shape[len(site.shape) - site.event_dim :]
        return torch.ones(shape, dtype=self.program.dtype, device=self.program.device)


def parameterizations(argument: str) -> set[str]:
    """An argument, and others that say the same: the precision, variance and scale of a Normal."""
    return next((group for group in ALTERNATIVES if argument in group), {argument})
