"""Checks of a model: its density, simulation and starts, and then every method that is legal for it."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import fields, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.distributions import transform_to

from inference.method import Method
from zoo import catalogue
from zoo.data.bind import Source
from zoo.declare.model import Model
from zoo.program.explain import legality
from zoo.program.prepare import prepare
from zoo.program.program import Program
from zoo.replay.evaluate import Values
from zoo.replay.random import reseed
from zoo.testing.brute_force import MOST, assignments, count
from zoo.testing.checks import Check, require, require_close, require_mean, run, without
from zoo.testing.methods import method_checks

QUICK = {
    **{"steps": 20, "max_steps": 20},
    **{"paths": 2, "draws": 10, "chains": 2, "warmup": 5, "max_tree_depth": 2, "compile": False},
    **{"populations": 4, "moves": 3},
}
SIMULATED = 1000  # rows
STEP = 1e-3  # of finite differences, along a random direction of all unknowns
LARGEST = 4  # rows looked at one by one


def quick_methods() -> dict[str, Method]:
    """Return every registered method, with settings that make it short: enough to see that it keeps its promises.

    Examples
    --------
    >>> quick_methods()["em"].max_steps
    20
    """
    found = {}
    for name, entry in catalogue.entries("method").items():
        with entry.guarded():
            method: Any = entry.load()
            found[name.lower()] = method(**{f.name: QUICK[f.name] for f in fields(method) if f.name in QUICK})
    return found


class ModelChecks:
    """One model on some rows: what its checks share is made when it is first asked for."""

    def __init__(self, model: Model, data: Source) -> None:
        self.model, self.data = model, data

    @cached_property
    def program(self) -> Program:
        """The program in double precision, whatever the model has."""
        with torch.random.fork_rng(devices=[]):
            reseed(0)
            return prepare(self.model, self.data, device="cpu", dtype=torch.float64)

    @cached_property
    def as_fitted(self) -> Program:
        """The program in the model's own precision, as methods see it."""
        with torch.random.fork_rng(devices=[]):
            reseed(0)
            return prepare(self.model, self.data, device="cpu")

    @cached_property
    def values(self) -> Values:
        """Values somewhere in the supports; network weights are the model's own."""
        return self.somewhere(1)

    def somewhere(self, seed: int) -> Values:
        """Return random values of everything unknown."""
        program = self.program
        values = {n: p.detach() for n, p in program.model.named_parameters() if n in program.networks}
        with torch.random.fork_rng(devices=[]):
            reseed(seed)
            for site in (*program.parameters, *program.latents):
                if site.countable:
                    values[site.name] = torch.randint(4, site.shape).to(program.dtype)
                else:
                    draw = transform_to(site.support)(torch.randn(site.shape, dtype=program.dtype))
                    values[site.name] = draw.detach()
        return values

    def local(self, values: Values, rows: Tensor) -> Values:
        """Return the values with local latents of these rows only."""
        program, here = self.program, dict(values)
        for site in program.locals:
            axis = site.batch_dim + site.plate_dims[site.plates.index(program.row)]
            here[site.name] = values[site.name].index_select(axis, rows)
        return here

    def few_rows(self) -> Tensor | None:
        """As many rows, from the first, as brute force can sum over; None if that is not one."""
        program = self.program
        if program.chained or not program.row:
            return torch.arange(len(program.data)) if count(program, len(program.data)) <= MOST else None
        rows = [n for n in range(1, len(program.data) + 1) if count(program, n) <= MOST]
        return torch.arange(rows[-1]) if rows else None

    def apart(self) -> str | None:
        """Say why rows have no density of their own, if they have none."""
        program = self.program
        if not program.row:
            return "the data have no rows"
        if program.chained:
            return program.tied
        return f"rows share the discrete latent {program.shared[0].name!r}" if program.shared else None

    # -- checks ------------------------------------------------------------------------------------------------

    def density(self) -> str | None:
        """The log joint is a number, the same each time."""
        first, second = (float(self.program.log_joint(self.values).total()) for _ in range(2))
        require(first == second, f"the log joint of the same values was {first} and then {second}: is it random?")
        require(math.isfinite(first), f"the log joint is {first} at values inside the supports")
        return None

    def enumeration(self) -> str | None:
        """Discrete latents and chains are summed out: the log joint is that over every assignment, or path."""
        program, rows = self.program, self.few_rows()
        if program.integrated is not None:
            return self._paths()
        if rows is None:
            return "too many assignments to go through"
        if program.data.missing:
            return "values are missing"
        for seed in (1, 2):
            here = program.rebind(program.data.take(rows)) if len(rows) < len(program.data) else program
            values = self.local(self.somewhere(seed), rows)
            each, joint = assignments(program, values, here.data.values)
            plain = replace(here.data, weights=None)
            terms = here.rebind(plain).log_joint(values)
            require_close(terms.total(), joint.logsumexp(0), f"log joint summed over {len(each)} assignments")
            self._responsibilities(here.rebind(plain), values, each, (joint - joint.logsumexp(0)).exp())
        return None

    def _paths(self) -> str | None:
        """Chains of continuous states are integrated out: log p(x, h) is quadratic in them.

        log int exp f(h) dh = f(0) + g^T L^-1 g / 2 + n log(2 pi) / 2 - log|L| / 2, g and -L the derivatives of f at 0.
        """
        program = self.program
        assert program.integrated is not None
        zero = program.integrated.states(len(program.data), program.dtype, program.device)
        sizes, shapes = [z.numel() for z in zero.values()], [z.shape for z in zero.values()]
        plain = program.rebind(replace(program.data, weights=None))
        for seed in (1, 2):
            values = self.somewhere(seed)

            def joint(h: Tensor, values: Values = values) -> Tensor:
                parts = zip(zero, h.split(sizes), shapes, strict=True)
                return plain.log_joint({**values, **{n: p.reshape(s) for n, p, s in parts}}).total()

            h = torch.zeros(sum(sizes), dtype=program.dtype, device=program.device, requires_grad=True)
            with torch.enable_grad():
                height = joint(h)
                (slope,) = torch.autograd.grad(height, h, create_graph=True)
                rows = [torch.autograd.grad(s, h, retain_graph=True)[0] for s in slope]
            precision, slope = -torch.stack(rows), slope.detach()
            root, failed = torch.linalg.cholesky_ex(precision)
            if int(failed):
                return "some states have no noise of their own, so that paths have no density"
            white = torch.linalg.solve_triangular(root, slope[:, None], upper=False)
            volume = 0.5 * len(h) * math.log(2 * math.pi) - root.diagonal().log().sum()
            expected = height.detach() + 0.5 * white.square().sum() + volume
            require_close(
                plain.log_joint(values).total(), expected, "log joint integrated over all paths of the states"
            )
        return None

    def _responsibilities(self, program: Program, values: Values, each: list[Values], probability: Tensor) -> None:
        for name, found in program.responsibilities(values).items():
            site, expected = program.sites[name], torch.zeros_like(found)
            for weight, one in zip(probability, each, strict=True):
                state = one[name] if site.event_dim == 0 else one[name].argmax(-1)
                expected += weight * torch.nn.functional.one_hot(state.long().flatten(), found.shape[1])
            require_close(found, expected, f"responsibilities of {name!r}, against every assignment")

    def rows(self) -> str | None:
        """A row adds its own log density, whatever the others are, and in any order."""
        why = self.apart()
        if why:
            return why
        program, values = self.program, self.values
        terms = program.log_joint(values)
        size = len(program.data)
        order = torch.tensor([0, *reversed(range(size))])
        other = program.rebind(program.data.take(order)).log_joint(self.local(values, order))
        require_close(other.rows, terms.rows[order], "log density of rows in another order, the first one twice")
        require_close(other.rest, terms.rest, "what the log joint has besides rows, with the rows in another order")
        for i in range(min(size, LARGEST)):
            at = torch.tensor([i])
            alone = program.rebind(program.data.take(at)).log_joint(self.local(values, at))
            require_close(alone.rows[0], terms.rows[i], f"log density of row {i} without the other rows")
        return None

    def weights(self) -> str | None:
        """An integer weight is so many repetitions of the row."""
        why = self.apart()
        if why:
            return why
        program, values = self.program, self.values
        times = torch.tensor([2, 0, 1, 3])[torch.arange(len(program.data)) % 4]
        plain = replace(program.data, weights=None)
        again = torch.arange(len(times)).repeat_interleave(times)
        heavy = program.rebind(replace(plain, weights=times.to(program.dtype)))
        long = program.rebind(plain.take(again))
        expected = long.log_joint(self.local(values, again)).total()
        actual = heavy.log_joint(values).total(heavy.data.weights)
        require_close(actual, expected, "log joint of rows with weights 2, 0, 1, 3, against those rows repeated")
        for name, found in heavy.responsibilities(values).items():
            without = program.rebind(plain).responsibilities(values)[name]
            require_close(found, without, f"responsibilities of {name!r} with weights, against those without")
        return None

    def starts(self) -> str | None:
        """Starting values have the right shapes, are inside their supports, and have a density and a gradient."""
        program = self.program
        with torch.random.fork_rng(devices=[]):
            reseed(0)
            values = program.initial()
        for site in (*program.latents, *program.parameters):
            value, expected = values[site.name], program.site_shape(site)
            require(tuple(value.shape) == expected, f"start of {site.name!r}: shape {tuple(value.shape)}")
            require(bool(site.support.check(value).all()), f"start of {site.name!r} is outside {site.support}")
        total = float(program.log_joint(values).total())
        require(math.isfinite(total), f"the log joint is {total} at the start")
        return None

    def gradient(self) -> str | None:
        """The gradient of the log joint is that of finite differences: nothing is detached or rounded on the way."""
        program, names = self.program, [s.name for s in (*self.program.latents, *self.program.parameters)]
        names = [n for n in names if not program.sites[n].countable]
        if not names:
            return "nothing continuous is unknown"
        to = {n: transform_to(program.sites[n].support) for n in names}
        at = {n: to[n].inv(self.values[n]).detach() for n in names}
        with torch.random.fork_rng(devices=[]):
            reseed(2)
            way = {n: torch.randn_like(u) for n, u in at.items()}

        def along(step: Tensor) -> Tensor:
            moved = {n: to[n](u + step * way[n]) for n, u in at.items()}
            return program.log_joint({**self.values, **moved}).total(program.data.weights)

        with torch.enable_grad():
            zero = torch.zeros((), dtype=program.dtype, requires_grad=True)
            value = along(zero)
            require(value.requires_grad, "the log joint does not depend on any latent or parameter by a gradient")
            (slope,) = torch.autograd.grad(value, zero)
        step = torch.tensor(1e-5, dtype=program.dtype)
        with torch.no_grad():
            expected = (along(step) - along(-step)) / (2 * step)
        require_close(slope, expected, "slope of the log joint along a random direction", 1e-4)
        return None

    def coordinates(self) -> str | None:
        """Latents and parameters go to flat real vectors and back."""
        program = self.program
        if any(s.countable for s in program.latents):
            return "some latents are counts"
        for view in (program.view, program.parameter_view):
            back, _ = view.constrain_globals(view.unconstrain_globals(self.values))
            if view.locals:
                back.update(view.constrain_locals(view.unconstrain_locals(self.values))[0])
            for name, value in back.items():
                require_close(value, self.values[name], f"{name!r} taken to real coordinates and back", 1e-7)
        return None

    def simulation(self) -> str | None:
        """What is simulated has the shapes and supports of the sites, and keeps what is given."""
        program = self.program
        locals_ = {s.name for s in program.locals}
        given = {n: v for n, v in self.values.items() if n not in locals_}
        with torch.random.fork_rng(devices=[]):
            reseed(3)
            drawn = program.simulate(given)
        for name, site in program.sites.items():
            if site.role in ("parameter", "deterministic"):
                continue
            value = drawn[name]
            if name in given:
                require(torch.equal(value, given[name]), f"simulation changes {name!r}, whose value is given")
                continue
            expected = program.site_shape(site)
            require(
                tuple(value.shape) == expected, f"simulated {name!r} has shape {tuple(value.shape)}, not {expected}"
            )
            require(bool(site.support.check(value).all()), f"simulated {name!r} is outside {site.support}")
        return None

    def simulated_density(self) -> str | None:
        """Rows are simulated from the density: slopes of their log density have mean zero over simulations.

        E_x[l'] = 0 and E_x[l'^2 + l''] = 0 for l(t) = log p(x | u(t)), along a random direction of everything global
        (Bartlett's identities).
        """
        program = self.program
        unknown = [s for s in (*program.globals, *program.parameters) if not s.countable]
        fed = {n for s in program.sites.values() for parent in s.args.values() for n in parent.data}
        observed = {s.field: s.name for s in program.observed if s.field}
        if (
            not unknown
            or not program.row
            or self.apart()
            or set(observed) & fed
            or len(observed) < len(program.observed)
        ):
            return "what is observed is not one field a site, given what is global"
        if any(s.family in ("Uniform", "Pareto") for s in program.sites.values()) or program.data.missing:
            return "supports depend on values, or values are missing"
        to = {s.name: transform_to(s.support) for s in unknown}
        at = {n: to[n].inv(self.values[n]).detach() for n in to}
        again = torch.arange(len(program.data)).repeat(-(-SIMULATED // len(program.data)))
        plain = replace(program.data.take(again), weights=None)
        given = {n: v for n, v in self.values.items() if n not in {s.name for s in program.locals}}
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            reseed(4)
            way = {n: torch.randn_like(u) for n, u in at.items()}
            drawn = program.rebind(plain).simulate(given)
            values = {**plain.values, **{f: drawn[n] for f, n in observed.items()}}
            here = program.rebind(replace(plain, values=values))
            known = {**given, **{s.name: drawn[s.name] for s in program.locals}}
            up, there, down = (
                here.log_joint({**known, **{n: to[n](u + h * way[n]) for n, u in at.items()}}).rows
                for h in (STEP, 0.0, -STEP)
            )
        slopes, bends = (up - down) / (2 * STEP), (up - 2 * there + down) / STEP**2
        require_mean(slopes, 0.0, "slope of the log density of simulated rows", errors=6)
        require_mean(slopes.square() + bends, 0.0, "squared slope plus curvature, of simulated rows", errors=6)
        return None

    def legality(self) -> str | None:
        """Some method is legal, and every other says why it is not."""
        said = legality(self.program)
        require(None in said.values(), f"no method is legal: {said}")
        for name, why in said.items():
            require(why is None or len(why) > 10, f"{name} is not legal, and says no more than {why!r}")
        return None


NAMES = {
    **{n: n for n in ("density", "enumeration", "rows", "weights", "starts", "gradient", "coordinates", "simulation")},
    "simulated density": "simulated_density",
    "legality": "legality",
}


def model_checks(model: Model, data: Source, *, methods: Iterable[Method] | None = None) -> dict[str, Check]:
    """Return the checks of `check_model` by name, to be called one by one.

    Parameters
    ----------
    model, data, methods
        As in `check_model`.

    Returns
    -------
    dict
        Name -> function without arguments that raises `CheckError` where the model fails, and returns None, or the
        reason why the check does not apply.

    Examples
    --------
    >>> from zoo.beta_bernoulli import BetaBernoulli
    >>> model_checks(BetaBernoulli(), [1, 0, 1], methods=[])["rows"]()
    """
    made = ModelChecks(copy.deepcopy(model), data)
    checks: dict[str, Check] = {name: getattr(made, verb) for name, verb in NAMES.items()}
    for method in quick_methods().values() if methods is None else methods:
        each = method_checks(method, model, data, program=lambda: made.as_fitted)
        checks.update({f"{type(method).__name__.lower()} {name}": check for name, check in each.items()})
    return checks


def check_model(
    model: Model, data: Source, *, methods: Iterable[Method] | None = None, skip: Iterable[str] = ()
) -> dict[str, str]:
    """Check that a model keeps what the library promises of every model, on a few rows of data.

    The log joint with discrete latents summed out is that of brute force; rows add densities of their own, in any
    order, by their weights; starts, gradients and simulation agree with the density; and each legal method keeps the
    promises of `check_method`.

    Parameters
    ----------
    model
        A model of your own.
    data
        A few rows: two to ten, so that every assignment of discrete latents can be gone through.
    methods
        Which to try; None for all there are, in short.
    skip
        Names of checks to leave out, or patterns of names ("* storage"): what is known not to hold.

    Returns
    -------
    dict
        Check -> "holds", or why it does not apply.

    Raises
    ------
    CheckError
        An `AssertionError` that names each check that fails, what was expected and what is the case.

    Examples
    --------
    >>> import zoo
    >>> from zoo.testing import check_model
    >>> check_model(zoo.BetaBernoulli(), [1, 0, 1], methods=[])["enumeration"]
    'holds'
    """
    return run(f"{model!r}", without(model_checks(model, data, methods=methods), skip))
