"""The path from prior to posterior: draws of the prior, and the densities between the two."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from inference.compiled.compile import Compile, Lowered, lower
from inference.sampling.factors import evaluated
from zoo.errors import ModelError
from zoo.program.flat_density import Density
from zoo.program.program import Program
from zoo.replay.evaluate import Values, many, model_context

Evaluated = tuple[Tensor, Tensor, Tensor]  # log prior, log joint, gradient of the tempered density


class Tempered:
    """log p_b(u) = (1 - b) log p_0(u) + b log p_1(u), from the prior at b = 0 to the posterior at b = 1.

    p_0 is the prior of the continuous latents and p_1 the joint density with the data, both as densities of the
    unconstrained vector u, enumerated sites summed out, so that p_b = p_0(u) p(x | u)^b.

    Parameters
    ----------
    program
        The program; every latent has a prior that can be drawn.
    particles, chunk
        How many vectors there will be, and how many are evaluated in one vectorized call.
    how, calls
        Whether to compile, and how many evaluations are to be expected.
    """

    def __init__(self, program: Program, particles: int, chunk: int, how: Compile, calls: int) -> None:
        self.program, self.density = program, Density(program)
        self.chunk = min(particles, chunk)
        self.calls = 0
        example = self._vector(self.chunk), torch.zeros((), dtype=program.dtype, device=program.device)
        self.lowered = self._lower(example, how, calls * -(-particles // self.chunk))

    def _vector(self, count: int) -> Tensor:
        return torch.zeros(count, self.density.size, dtype=self.program.dtype, device=self.program.device)

    def _lower(self, example: tuple[Tensor, Tensor], how: Compile, calls: int) -> Lowered:
        self._by_half = self._together
        try:
            return lower(self._together, example, self.program, how, calls)
        except RuntimeError:  # control flow that depends on values: evaluated vector by vector
            self._by_half = self._one_by_one
            return Lowered(self._one_by_one, False)

    def log_densities(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """log p_0 and log p_1 at one vector (size,)."""
        globals_, locals_ = self.density.split(u)
        values, jacobian = self.density.view.constrain_globals(globals_)
        local, row_jacobian = self.density.view.constrain_locals(locals_)
        prior, joint = self.program.prior_and_joint({**values, **local})
        moved = jacobian + row_jacobian.sum()
        return prior + moved, joint + moved

    def _together(self, u: Tensor, temperature: Tensor) -> Evaluated:
        """Both log densities of vectors (chunk, size), and the gradient of the tempered one."""
        with torch.enable_grad():
            leaf = u.detach().requires_grad_()
            prior, joint = torch.vmap(self.log_densities)(leaf)
            # Not (1 - b) prior + b joint: where that rounds, a prior of -1e300 would swallow the data at b = 1.
            (gradient,) = torch.autograd.grad((prior + temperature * (joint - prior)).sum(), leaf)
        return prior.detach(), joint.detach(), gradient

    def _one_by_one(self, u: Tensor, temperature: Tensor) -> Evaluated:
        parts = [self._one(vector, temperature) for vector in u]
        prior, joint, gradient = (torch.stack(part) for part in zip(*parts, strict=True))
        return prior, joint, gradient

    def _one(self, u: Tensor, temperature: Tensor) -> Evaluated:
        with torch.enable_grad():
            leaf = u.detach().requires_grad_()
            try:
                prior, joint = self.log_densities(leaf)
                (gradient,) = torch.autograd.grad(prior + temperature * (joint - prior), leaf)
            except RuntimeError as error:
                if "linalg" not in str(error):
                    raise
                impossible = u.new_full((), -math.inf)
                return impossible, impossible, torch.zeros_like(u)
        return prior.detach(), joint.detach(), gradient

    def _evaluate(self, u: Tensor, temperature: Tensor) -> Evaluated:
        """Evaluate together; by halves, down to single vectors, where not only a Cholesky factorization fails."""
        evaluate = self.lowered if len(u) == self.chunk else self._by_half
        try:
            found: Evaluated = evaluated(evaluate, u, temperature)
        except RuntimeError as error:
            if "linalg" not in str(error):
                raise
            if len(u) == 1:
                return self._one_by_one(u, temperature)
            halves = [self._evaluate(part, temperature) for part in u.split(-(-len(u) // 2))]
            prior, joint, gradient = (torch.cat(part) for part in zip(*halves, strict=True))
            return prior, joint, gradient
        return found

    def __call__(self, u: Tensor, temperature: float) -> Evaluated:
        """log p_0 (count,), log p_1 (count,) and the tempered gradient (count, size) at vectors (count, size).

        What is not a number has log p_1 = -inf and the gradient 0.
        """
        self.calls += 1
        at = torch.as_tensor(temperature, dtype=u.dtype, device=u.device)
        parts = []
        for piece in u.split(self.chunk):
            short = self.chunk - len(piece)  # a compiled function takes whole chunks only
            whole = torch.cat([piece, piece[-1:].expand(short, -1)]) if short else piece
            found = self._evaluate(whole, at)
            parts.append(tuple(part[: len(piece)] for part in found))
        prior, joint, gradient = (torch.cat(part) for part in zip(*parts, strict=True))
        good = prior.isfinite() & joint.isfinite() & gradient.isfinite().all(1)
        return (
            torch.where(good, prior, torch.zeros_like(prior)),
            torch.where(good, joint, torch.full_like(joint, -math.inf)),
            torch.where(good[:, None], gradient, torch.zeros_like(gradient)),
        )


def no_prior_draws(program: Program) -> str | None:
    """Return the reason why there are no draws of a prior to begin with, None if there are."""
    weights = program.data.weights
    if program.locals and weights is not None and bool((weights != 1).any()):
        return (
            f"each row has a latent {program.locals[0].name!r} of its own, of which a weight cannot make two; repeat "
            "the rows instead of weighting them"
        )
    try:
        with torch.random.fork_rng(devices=[]), singular_draws():
            program.simulate({}, observed=False)
    except ModelError as error:
        remedy = "" if program.structure.improper else "; give the site a proper prior"
        return f"it begins with draws of the prior, and {error}{remedy}"
    return None


@contextmanager
def singular_draws() -> Iterator[None]:
    """Torch warns of singular draws of a wide Wishart; they are draws like others, with no density."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def prior_draws(density: Density, count: int, chunk: int) -> Tensor:
    """Draw all continuous latents from the prior, as unconstrained vectors (count, size), `chunk` in a call."""
    program = density.program
    names = [s.name for s in program.latents]

    def one(given: Values) -> Values:
        seen = program.simulate({n: given[n] for n in given if n}, observed=False)
        return {n: seen[n] for n in names}

    with torch.no_grad(), singular_draws():
        drawn = _roots(program, count)
        if len(drawn) < len(names):
            drawn = _drawn(one, {"": torch.zeros(count), **drawn}, count, chunk)
        vectors: Tensor = many(density.unconstrain, drawn, count, count)
    return vectors


def _roots(program: Program, count: int) -> Values:
    """Draws of the latents that depend on no other site, in one call of each distribution: site -> (count, ...)."""
    roots = [s for s in program.latents if not any(p.sites or p.index for p in s.args.values())]
    roots = [s for s in roots if s.name not in program.priors]
    seen = program.simulate({}, observed=False)
    laws = program.replay({n: seen[n] for n, s in program.sites.items() if s.latent}, densities=False).distributions
    drawn: Values = {}
    for site in roots:
        if tuple(laws[site.name].shape()) == program.site_shape(site):
            with model_context(program.dtype, program.device):
                drawn[site.name] = laws[site.name].sample((count,))
    return drawn


def _drawn(one: Callable[[Values], Values], given: Values, count: int, chunk: int) -> Values:
    try:
        drawn: Values = torch.vmap(one, randomness="different", chunk_size=chunk)(given)
    except (RuntimeError, ModelError):  # some distributions cannot be drawn from in a vectorized call
        parts = [one({n: v[i] for n, v in given.items()}) for i in range(count)]
        drawn = {n: torch.stack([part[n] for part in parts]) for n in parts[0]}
    return drawn
