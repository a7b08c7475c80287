"""A program with conjugate latents integrated out, for methods that climb or sample densities."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from zoo.data.data import Data
from zoo.program.collapse import NORMAL, Plan, joint_given, made_up, plan, plan_again
from zoo.program.conjugate_conditional import Conditional, Probes
from zoo.program.find_sufficient import sufficient
from zoo.program.program import Program
from zoo.program.sufficient import Sufficient
from zoo.program.terms import Terms, sum_of
from zoo.program.view import View
from zoo.replay.evaluate import Values, many

MARGINAL = "all sites, integrated"  # what the one log density is called
ROUNDS = 2  # Newton steps to the reference: the second takes out what the first leaves by rounding


class Collapsed(Program):
    """log m(phi) = log of the integral of exp(log p(x, c, phi)) over c: the program of the latents phi that are left.

    Its latents are those that stay; what they are worth is the marginal log density, all rows of it in one number. What
    is said of sites, rows and simulation is that of the whole program, which needs values of all latents.

    Parameters
    ----------
    whole
        The program; one that is an integral itself, if what is found is to be integrated out of that.
    found
        What to integrate out.
    """

    def __init__(self, whole: Program, found: Plan) -> None:
        assert found.layout is not None
        self.__dict__.update(whole.__dict__)
        self._whole, self.found, self.layout = whole, found, found.layout
        self.plans: dict[str, object] = {}
        self.views = {}
        self.latents, self.locals, self.globals = (
            [s for s in sites if s.name not in found.names] for sites in (whole.latents, whole.locals, whole.globals)
        )
        self._probes = self._referred()
        self._points = self._probes.points()
        self._sufficient = self._summed()

    def _summed(self) -> Sufficient | None:
        """What data say of the collapsed latents in few numbers, if they do."""
        generator = torch.Generator().manual_seed(1)
        return sufficient(self._whole, self._probes, self._general, lambda s: made_up(self, self.latents, s, generator))

    def _referred(self) -> Probes:
        """Probes about where the collapsed latents are, given others in the middle of things."""
        like = torch.empty(0, dtype=self.dtype, device=self.device)
        view, theta = View(self.latents, self.row), self.parameter_view
        middle = {
            **view.constrain_globals(like.new_zeros(view.global_size))[0],
            **view.constrain_locals(like.new_zeros(len(self.data), view.local_size))[0],
            **theta.constrain_globals(like.new_zeros(theta.global_size))[0],
        }
        probes, joint = Probes.blank(self.layout, like), joint_given(self._whole, self.layout, middle)
        with torch.no_grad():
            for _ in range(ROUNDS):
                moved = probes.moved_to(Conditional.of(joint, probes, probes.points()))
                if not bool(moved.centre.isfinite().all()):  # nothing is known there; any reference is right
                    break
                probes = moved
        # The noise behind what others scale is at zero: elsewhere a value would go far from the data as they grow.
        return probes.at_zero([n for n in self.layout.names if n not in self.layout.forms and self._scaled(n)])

    def _scaled(self, name: str) -> bool:
        """Whether other latents may scale what a latent adds: by its own prior, or where both enter one parameter."""
        if any(p.sites for p in self.sites[name].args.values()):
            return True
        stay = {s.name for s in self.latents}
        return any(name in p.sites and stay & set(p.sites) for s in self.sites.values() for p in s.args.values())

    @property
    def whole(self) -> Program:
        """The program with all its latents."""
        return self._whole.whole if isinstance(self._whole, Collapsed) else self._whole

    @property
    def collapsed(self) -> tuple[str, ...]:
        """Latents that are integrated out."""
        return (*self._whole.collapsed, *self.found.names)

    @property
    def stays(self) -> dict[str, str]:
        """Latent that stays -> why."""
        return self.found.stays

    @property
    def chained(self) -> bool:
        """Rows depend on each other through what is integrated out."""
        return True

    @property
    def tied(self) -> str:
        """Why rows cannot be taken in parts."""
        return f"{', '.join(self.collapsed)} are integrated out over all rows"

    @property
    def coupled(self) -> str:
        """Why a row has no density of its own."""
        return self.tied

    def rebind(self, data: Data, sizes: Mapping[str, int] | None = None) -> Program:
        """Return the same on other rows."""
        whole = self._whole.rebind(data, sizes)
        if len(data) != len(self.data):
            return collapsed(self.whole.rebind(data, sizes), [s.name for s in self.latents])
        other = Collapsed.__new__(Collapsed)
        other.__dict__.update(whole.__dict__)
        mine = ("found", "layout", "plans", "latents", "locals", "globals", "_probes", "_points")
        other.__dict__.update({name: self.__dict__[name] for name in mine})
        other._whole = whole
        same = data.weights is self.data.weights and all(v is self.data.values[n] for n, v in data.values.items())
        other._sufficient = self._sufficient if same else other._summed()
        return other

    def conditional(self, values: Values) -> Conditional:
        """The distribution of what is integrated out, given values of the rest."""
        known = self._sufficient
        return self._general(values) if known is None else known.conditional(values)

    def _general(self, values: Values) -> Conditional:
        """The same, read off gradients."""
        return Conditional.of(joint_given(self._whole, self.layout, values), self._probes, self._points)

    def log_probs(self, values: Values) -> Values:
        """Marginal log density of the latents that stay, in place of a log density for each site."""
        rest = {n: v for n, v in values.items() if n not in self.found.names}
        known = self._sufficient
        if known is None:
            return {MARGINAL: self._general(rest).log_marginal()}
        return {MARGINAL: known.log_marginal(rest)}

    def eliminate(self, log_probs: Values, *, hard: bool = False) -> Terms:
        """All of the marginal log density, weights of rows included, and nothing for each row."""
        if MARGINAL not in log_probs:
            return super().eliminate(log_probs, hard=hard)
        nothing = torch.zeros(len(self.data), dtype=self.dtype, device=self.device)  # once for all of many draws
        return Terms(log_probs[MARGINAL], nothing)

    def prior_and_joint(self, values: Values) -> tuple[Tensor, Tensor]:
        """Log density of the latents that stay by their priors, which what is integrated out does not enter; and m."""
        made = self._reference
        noise = {n: v for n, v in made.items() if self.sites[n].family in NORMAL}
        forms = {n: v for n, v in made.items() if n not in noise}
        by_site = self.whole.replay({**values, **forms}, noise=noise).log_probs
        return self.log_prior(by_site).total(), self.log_joint(values).total()

    @property
    def _reference(self) -> Values:
        """Where all that is integrated out is referred to: noise of Normal latents, values of others."""
        inner = self._whole._reference if isinstance(self._whole, Collapsed) else {}
        return {**inner, **self.layout.values(self._probes.centre)}

    def deterministic(self, values: Values) -> Values:
        """Values of `pyro.deterministic` sites, where what is integrated out has values; else none."""
        return self.whole.deterministic(values) if all(n in values for n in self.collapsed) else {}

    def initial(self) -> Values:
        """Starting values of all latents, those that are integrated out included."""
        return self.whole.initial()

    def complete(self, values: Values, count: int, chunk: int) -> tuple[Values, Tensor]:
        """Draw what was integrated out, jointly and exactly, once for each of `count` values of the rest.

        Returns
        -------
        tuple
            Site -> draws (count, ...), and log p(c | phi, data) of each, (count,).
        """
        layout = self.layout
        rest = {n: v for n, v in values.items() if n not in self.collapsed}
        normal = [n for n in layout.names if n not in layout.forms]
        size, program = layout.groups.numel() + len(layout.dense), self.whole
        if self._sufficient is not None and not any(s.name in normal for s in program.locals):
            program = self._sufficient.program  # few rows make the same values

        def known(given: Values) -> tuple[Tensor, ...]:
            conditional = self.conditional({n: v for n, v in given.items() if n})
            c, log_p = conditional.normal_draw(given[""])
            return c, log_p, *(part for name in layout.forms for part in conditional.natural[name])

        def made(given: Values) -> tuple[Tensor, ...]:
            noise = {n: given[f"noise {n}"] for n in normal}
            others = {n: v for n, v in given.items() if n in self.sites}
            replay = program.replay(others, densities=False, noise=noise)
            return *(replay.seen[n] for n in normal), sum_of(v.sum() for v in replay.volume.values())

        with torch.no_grad():
            noise = torch.randn(count, size, dtype=self.dtype, device=self.device)
            c, log_p, *natural = many(known, {**rest, "": noise}, count, chunk)
            drawn: Values = {}
            for name, form in layout.forms.items():
                own, natural = tuple(natural[: form.count]), natural[form.count :]
                entries = form.draw(own)
                log_p = log_p + torch.vmap(form.log_prob)(own, entries).sum(-1)
                drawn[name] = entries.reshape(count, *layout.shapes[layout.names.index(name)])
            if normal:
                behind = {f"noise {n}": v for n, v in layout.values(c).items() if n in normal}
                *parts, volume = many(made, {**rest, **drawn, **behind}, count, chunk)
                drawn, log_p = {**drawn, **dict(zip(normal, parts, strict=True))}, log_p - volume
            if isinstance(self._whole, Collapsed):
                inner, log_inner = self._whole.complete({**rest, **drawn}, count, chunk)
                drawn, log_p = {**inner, **drawn}, log_p + log_inner
            return drawn, log_p


def collapsed(program: Program, kept: Collection[str] = ()) -> Program:
    """Return the program with all that can be integrated out, but for latents `kept`; itself if that is nothing."""
    if isinstance(program, Collapsed):
        return program
    names = tuple(sorted(kept))
    if names not in program.views:
        program.views[names] = _stages(program, names)
    return program.views[names]


def _stages(program: Program, kept: Collection[str]) -> Program:
    """All that goes at once, and what goes then."""
    found = plan(program, kept)
    if found.layout is None:
        return program
    first = Collapsed(program, found)
    again = plan_again(first, found.stays, kept)
    return first if again.layout is None else Collapsed(first, again)
