"""Checks of a guide on a model: what it builds, its density and its gradients, and then SVI with it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from functools import cached_property, partial

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from guides.guide import Guide
from guides.variational import Draw, Noise, Variational
from inference.methods.svi import SVI
from inference.runtime.settings import settings_of
from inference.starts.natural import natural_start
from zoo.data.bind import Source
from zoo.declare.model import Model
from zoo.program.prepare import prepare
from zoo.program.program import Program
from zoo.replay.random import reseed
from zoo.testing.checks import Check, require, require_close, require_mean, run, without
from zoo.testing.methods import method_checks
from zoo.testing.small import for_guides, run_on_each

DRAWS = 2000  # behind a comparison with their density
SLOPES = 40  # draws behind a comparison of gradients
IMPLICIT = 1e-2  # error of torch's implicit gradients of Gamma and Dirichlet draws, relative
AWAY = 0.1  # how far parameters are moved from where the guide starts, where many things are zero


class GuideChecks:
    """One guide on one model and its rows."""

    def __init__(self, guide: Guide, model: Model, data: Source) -> None:
        self.guide, self.model, self.data = guide, model, data

    @cached_property
    def program(self) -> Program:
        """The program in double precision."""
        with torch.random.fork_rng(devices=[]):
            reseed(0)
            return prepare(self.model, self.data, device="cpu", dtype=torch.float64)

    @cached_property
    def refused(self) -> str | None:
        """Why the guide does not fit the program, if it does not."""
        why = self.guide.why_not(self.program)
        return None if why is None else f"does not fit: {why}"

    @cached_property
    def q(self) -> Variational:
        """What the guide builds, its parameters moved a little at random."""
        with torch.random.fork_rng(devices=[]):
            reseed(0)
            q = self.guide.build(self.program, natural_start(self.program, self.program.initial()))
            q = q.to(self.program.dtype)
            with torch.no_grad():
                for parameter in q.parameters():
                    parameter.add_(AWAY * torch.randn_like(parameter))
        return q

    def noise(self, *sizes: int, seed: int = 1) -> Noise:
        """Noise behind draws, the same for the same seed."""
        with torch.random.fork_rng(devices=[]):
            reseed(seed)
            return self.q.noise(self.program.data, *sizes)

    def draw(self, noise: Noise, seed: int = 5) -> Draw:
        """Draw with this noise; what has no gradient may draw from the generator besides."""
        with torch.random.fork_rng(devices=[]):
            reseed(seed)
            return self.q.draw(self.program.data, None, noise)

    @cached_property
    def many(self) -> tuple[Tensor, Tensor]:
        """Coordinates (draws, all) and log q (draws,) of many draws."""
        first, second = self.noise(DRAWS)
        found: tuple[Tensor, Tensor]

        def one(noise: Noise) -> tuple[Tensor, Tensor]:
            drawn = self.q.draw(self.program.data, None, noise)
            return torch.cat([drawn.globals, drawn.locals.reshape(-1)]), drawn.log_q + drawn.log_q_rows.sum()

        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            reseed(5)
            try:
                found = torch.vmap(one, randomness="different")((first, second))
            except RuntimeError:  # control flow that depends on values
                each = [one((a, b)) for a, b in zip(first, second, strict=True)]
                found = (torch.stack([u for u, _ in each]), torch.stack([log_q for _, log_q in each]))
        return found

    @property
    def random(self) -> bool:
        """Whether q has a density: it is not a point, and nothing in it is a count."""
        return not (self.guide.still or self.q.scored or self.many[0].std(0).min() < 1e-12)

    # -- checks ------------------------------------------------------------------------------------------------

    def settings(self) -> str | None:
        """A guide is a frozen dataclass of settings: equal settings are equal guides, and it shows what they are."""
        require(
            type(self.guide)(**settings_of(self.guide)) == self.guide,
            f"{self.guide!r} differs from one with the same settings",
        )
        require(" at 0x" not in repr(self.guide), f"it shows an address and not its settings: {self.guide!r}")
        return None

    def shapes(self) -> str | None:
        """A draw has a coordinate for every latent, and log q is one number, and one for each row."""
        drawn, view, rows = self.draw(self.noise()), self.program.view, len(self.program.data)
        expected = {
            "globals": (view.global_size,), "locals": (rows, view.local_size), "log_q": (), "log_q_rows": (rows,)
        }  # fmt: skip
        for name, shape in expected.items():
            value = getattr(drawn, name)
            require(tuple(value.shape) == shape, f"{name} of a draw has shape {tuple(value.shape)}, not {shape}")
            require(bool(value.isfinite().all()), f"{name} of a draw is not finite")
        return None

    def repetition(self) -> str | None:
        """A draw is a function of its noise: the same each time, and another for other noise."""
        first, second = (self.draw(self.noise(), 5 if self.q.scored else seed) for seed in (6, 7))
        require_close(first.globals, second.globals, "globals drawn twice with the same noise", 0.0)
        require_close(first.locals, second.locals, "locals drawn twice with the same noise", 0.0)
        require_close(first.log_q, second.log_q, "log q of the same draw", 0.0)
        if not self.guide.still:
            other = self.draw(self.noise(seed=2))
            same = torch.equal(first.globals, other.globals) and torch.equal(first.locals, other.locals)
            require(not same, "other noise gives the same draw, although the guide is no point")
        return None

    def density(self) -> str | None:
        """exp(log q) is the density of the draws: E_q[r(u) / q(u)] = 1, with r a Normal inside of q."""
        if not self.random:
            return "q has no density"
        u, log_q = self.many
        half = DRAWS // 2
        covariance = torch.cov(u[:half].T).reshape(u.shape[1], u.shape[1])
        inside = MultivariateNormal(u[:half].mean(0), covariance / 2)
        ratios = (inside.log_prob(u[half:]) - log_q[half:]).exp()
        require_mean(ratios, 1.0, "mean of r(u) / q(u) over draws u of q, for a density r")
        return None

    def gradients(self) -> str | None:
        """Gradients of a draw are those of finite differences, those of log q on average over draws.

        log q may hold its parameters fixed ("sticking the landing"), which changes its gradient but not the mean of
        it: E_q[d/dt log q_t(u)] = 0 at fixed u.
        """
        if self.q.scored:
            return "some draws have no gradient"
        names = [n for n, p in self.q.named_parameters() if p.requires_grad]
        if not names:
            return "nothing in q can be trained"
        at = {n: p.detach() for n, p in self.q.named_parameters() if n in names}
        with torch.random.fork_rng(devices=[]):
            reseed(3)
            way = {n: torch.randn_like(p) for n, p in at.items()}
            weigh = torch.randn(self.many[0].shape[1], dtype=self.program.dtype)

        def along(step: Tensor | float, noise: Noise) -> Tensor:
            moved = {n: p + step * way[n] for n, p in at.items()}
            drawn = torch.func.functional_call(self.q, moved, ("draw", self.program.data, None, noise))
            u = torch.cat([drawn.globals, drawn.locals.reshape(-1)])
            return torch.stack([(weigh * u).sum(), drawn.log_q + drawn.log_q_rows.sum()])

        slopes, differences = [], []
        first, second = self.noise(SLOPES)
        for noise in zip(first, second, strict=True):
            zero = torch.zeros((), dtype=self.program.dtype, requires_grad=True)
            with torch.enable_grad():
                pair = along(zero, noise)
                each = [
                    torch.autograd.grad(v, zero, retain_graph=True, allow_unused=True)[0] if v.requires_grad else None
                    for v in pair
                ]
            slopes.append(torch.stack([torch.zeros_like(zero) if g is None else g for g in each]))
            with torch.no_grad():
                differences.append((along(1e-5, noise) - along(-1e-5, noise)) / 2e-5)
        actual, expected = torch.stack(slopes), torch.stack(differences)
        require_close(
            actual[:, 0], expected[:, 0], "slope of a draw along a random direction of q's parameters", IMPLICIT
        )
        if self.random:
            require_mean(actual[:, 1] - expected[:, 1], 0.0, "gradient of log q minus that of finite differences", 6)
        return None


NAMES = ("settings", "shapes", "repetition", "density", "gradients")


def guide_checks(guide: Guide, model: Model, data: Source, *, steps: int = 60) -> dict[str, Check]:
    """Return the checks of `check_guide` by name, to be called one by one.

    Returns
    -------
    dict
        Name -> function without arguments that raises `CheckError` where the guide fails, and returns None, or the
        reason why the check does not apply.

    Examples
    --------
    >>> from guides.mean_field import MeanField
    >>> from zoo.beta_bernoulli import BetaBernoulli
    >>> guide_checks(MeanField(), BetaBernoulli(), [1, 0, 1])["density"]()
    """
    made = GuideChecks(guide, copy.deepcopy(model), data)
    checks: dict[str, Check] = {name: partial(_where_it_fits, made, name) for name in NAMES}
    svi = method_checks(SVI(guide=guide, steps=steps, compile=False), model, data)
    return {**checks, **{f"svi {name}": check for name, check in svi.items()}}


def _where_it_fits(made: GuideChecks, name: str) -> str | None:
    if made.refused and name != "settings":
        return made.refused
    check: Callable[[], str | None] = getattr(made, name)
    return check()


def check_guide(
    guide: Guide,
    model: Model | None = None,
    data: Source | None = None,
    *,
    steps: int = 60,
    skip: Iterable[str] = (),
) -> dict[str, str]:
    """Check that a guide keeps what the library promises of every guide.

    What it builds has a coordinate for every latent; draws are functions of their noise; log q is their density; the
    gradients of both are those of finite differences; and `SVI` with it keeps the promises of `check_method`.

    Parameters
    ----------
    guide
        A guide of your own.
    model, data
        What it is a guide for; None for a few small models, of which it must fit one.
    steps
        Of SVI.
    skip
        Names of checks to leave out, or patterns of names: what is known not to hold.

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
    >>> from guides import MeanField
    >>> from zoo.testing import check_guide
    >>> check_guide(MeanField(), zoo.BetaBernoulli(), [1, 0, 1])["density"]
    'holds'
    """
    if model is not None and data is not None:
        return run(f"{guide!r} on {model!r}", without(guide_checks(guide, model, data, steps=steps), skip))
    require(model is None, "give the data of the model, too")
    said = run_on_each(for_guides(), repr(guide), partial(guide_checks, guide, steps=steps), skip)
    holds = [name for name, s in said.items() if s == "holds" and not name.endswith(": settings")]
    require(bool(holds), f"{guide!r} fits none of the small models; give a model and its data")
    return said
