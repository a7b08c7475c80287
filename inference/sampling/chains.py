"""Samplers: what runs the Markov chains of `NUTS` on a log density with its gradient."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, cast

import numpy as np
import pyarrow
import torch
from pyro.infer.mcmc import NUTS as PyroKernel
from torch import Tensor

from inference.runtime.interruption import ask
from inference.runtime.monitor import Monitor
from inference.sampling.unconstrained import Target
from zoo.errors import FitError

ROWS = 200  # of the trace, at most
FEWEST = 100  # draws that a chain has made, for a run that is interrupted to be a result


@dataclass(frozen=True)
class SamplerSettings:
    """Length of the chains and what steers them, as in `NUTS`."""

    warmup: int
    draws: int
    max_tree_depth: int
    target_accept: float
    correlated: bool


@dataclass
class Chains:
    """Draws of several chains, as unconstrained vectors.

    Attributes
    ----------
    u
        Shape (chains, draws, size).
    stats
        diverging, tree_depth, energy, step_size, acceptance_rate, n_steps and lp (the log density in unconstrained
        space), each (chains, draws). Energies are up to a constant of each chain: some samplers count the metric's log
        determinant in.
    sampler
        Name of the sampler.
    gradients
        How often the gradient was evaluated.
    trace
        After so many draws of each chain, warm-up included: seconds, and the mean log density of all chains.
    """

    u: np.ndarray
    stats: dict[str, np.ndarray]
    sampler: str
    gradients: int
    trace: list[tuple[int, float, float]]


class Clock:
    """Notes when each draw was made, chain after chain, and moves the progress bar."""

    def __init__(self, chains: int, length: int, monitor: Monitor, target: Target) -> None:
        self.times: list[float] = []
        self.monitor, self.target = monitor, target
        self.every = max(1, chains * length // ROWS)

    def tick(self) -> None:
        """Note one draw."""
        self.times.append(time.perf_counter() - self.monitor.began)
        if len(self.times) % self.every == 0:
            self.monitor.record(len(self.times), self.target.latest)

    def trace(self, lp: np.ndarray) -> list[tuple[int, float, float]]:
        """Rows of the trace from the log density of each draw, (chains, warmup + draws)."""
        reached = np.resize(self.times, lp.shape)[-1]  # when the last chain made it
        every = max(1, lp.shape[1] // ROWS)
        return [(i + 1, float(reached[i]), float(lp[:, i].mean())) for i in range(every - 1, lp.shape[1], every)]


def run(target: Target, starts: np.ndarray, settings: SamplerSettings, monitor: Monitor) -> Chains:
    """Run one chain from each of `starts` (chains, size): by nutpie if it is installed, else by Pyro's NUTS."""
    runner: Callable[..., Chains] = run_nutpie if find_spec("nutpie") else run_pyro
    return runner(target, starts, settings, monitor)


def run_nutpie(target: Target, starts: np.ndarray, settings: SamplerSettings, monitor: Monitor) -> Chains:
    """Run the chains by nutpie (Seyboldt et al.), whose metric comes from draws and gradients of the warm-up."""
    import nutpie
    from nutpie.compiled_pyfunc import from_pyfunc

    chains, size = starts.shape
    clock = Clock(chains, settings.warmup + settings.draws, monitor, target)
    waiting = iter(np.concatenate([starts] * 100))  # a chain that cannot begin at its start tries another

    def expand(*_: int) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
        def kept(x: np.ndarray) -> dict[str, np.ndarray]:
            clock.tick()
            return {"u": x}

        return kept

    model = from_pyfunc(
        size, lambda: target, expand, ["float64"], [(size,)], ["u"], make_initial_point_fn=lambda _: next(waiting)
    )
    # Before 0.16.9, which Python 3.11 does not get, nutpie has another word for it.
    known = "adaptation" in inspect.signature(nutpie.sample).parameters
    low_rank: dict[str, Any] = {"adaptation": "low_rank"} if known else {"low_rank_modified_mass_matrix": True}
    # One after the other: Pyro's handlers belong to the process, and compiled gradients wait for the interpreter.
    running = nutpie.sample(
        model,
        draws=settings.draws,
        tune=settings.warmup,
        chains=chains,
        cores=1,
        seed=int(torch.randint(2**31, ())),
        progress_bar=False,
        **(low_rank if settings.correlated else {}),
        return_raw_trace=True,
        blocking=False,
        maxdepth=settings.max_tree_depth,
        target_accept=settings.target_accept,
    )
    try:
        raw = running.wait()
    except KeyboardInterrupt:
        if not ask():
            raise
        raw = running.abort()
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        raise FitError(f"nuts: nutpie stopped: {reason}") from error
    finally:
        if not running.is_finished:
            running.cancel()
    drawn, said = raw.get_arrow_trace()
    drawn, said = _whole(drawn, said, settings)
    u = np.stack([pyarrow.array(d.column("u")).flatten().to_numpy().reshape(-1, size) for d in drawn])

    def stat(name: str) -> np.ndarray:
        return np.stack([pyarrow.array(s.column(name)).to_numpy(zero_copy_only=False) for s in said])

    names = {
        "diverging": "diverging",
        "tree_depth": "depth",
        "energy": "energy",
        "step_size": "step_size_bar",
        "acceptance_rate": "mean_tree_accept",
        "n_steps": "n_steps",
        "lp": "logp",
    }
    lp = stat("logp")
    stats = {ours: stat(theirs)[:, settings.warmup :] for ours, theirs in names.items()}
    stats |= {n: stats[n].astype(np.int64) for n in ("tree_depth", "n_steps")}
    name = f"nutpie {version('nutpie')}"
    return Chains(u[:, settings.warmup :], stats, name, target.calls, clock.trace(lp))


def _whole(drawn: Any, said: Any, settings: SamplerSettings) -> tuple[list[Any], list[Any]]:
    """Return the chains that have all their draws, or the one that has most of a run that was interrupted before."""
    length = max(settings.warmup + min(settings.draws, FEWEST), *(d.num_rows for d in drawn))
    chains = [(d, s) for d, s in zip(drawn, said, strict=True) if d.num_rows == length]
    if not chains:
        raise KeyboardInterrupt(f"before the first {FEWEST} draws of the first chain")
    return [d for d, _ in chains], [s for _, s in chains]


class _Potential(torch.autograd.Function):
    """-log p whose gradient is the lowered one."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, target: Target) -> Tensor:
        value, gradient = target(u.detach().cpu().double().numpy())
        ctx.save_for_backward(torch.from_numpy(gradient).to(u))
        return -torch.as_tensor(value).to(u)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return -upstream * gradient, None


class _Kernel(PyroKernel):
    """Pyro's NUTS, which also says the energy that each trajectory has."""

    energy = float("nan")

    def _sample_r(self, name: str) -> Any:
        plain, mine = cast(Any, super()), cast(Any, self)
        drawn = plain._sample_r(name)
        self.energy = float(mine._kinetic_energy(drawn[1]) + mine._potential_energy_last)
        return drawn


def run_pyro(target: Target, starts: np.ndarray, settings: SamplerSettings, monitor: Monitor) -> Chains:
    """Run the chains by Pyro's NUTS, one after the other."""
    chains, size = starts.shape
    length = settings.warmup + settings.draws
    clock = Clock(chains, length, monitor, target)
    u, lp = np.empty((chains, length, size)), np.empty((chains, length))
    stats = {n: np.empty((chains, length)) for n in ("energy", "step_size", "acceptance_rate")}
    stats |= {n: np.zeros((chains, length), np.int64) for n in ("tree_depth", "n_steps")}
    diverging = np.zeros((chains, settings.draws), bool)
    make, potential = cast(Any, _Kernel), cast(Any, _Potential.apply)
    for chain, start in enumerate(starts):
        kernel = make(
            potential_fn=lambda params: potential(params["u"], target),
            target_accept_prob=settings.target_accept,
            max_tree_depth=settings.max_tree_depth,
            full_mass=settings.correlated,
        )
        state = {"u": torch.from_numpy(start)}
        kernel.initial_params = state
        kernel.setup(settings.warmup)
        accepted = 0.0
        for i in range(length):
            before = target.calls
            state = kernel.sample(state)
            n = i + 1 if i < settings.warmup else i + 1 - settings.warmup
            total = kernel._mean_accept_prob * n  # a running mean, of the warm-up and then of what follows
            stats["acceptance_rate"][chain, i] = total - (accepted if n > 1 else 0.0)
            accepted = total
            steps = target.calls - before
            u[chain, i], lp[chain, i] = state["u"].numpy(), -float(kernel._potential_energy_last)
            stats["energy"][chain, i], stats["step_size"][chain, i] = kernel.energy, kernel.step_size
            stats["n_steps"][chain, i], stats["tree_depth"][chain, i] = steps, int(steps).bit_length()
            clock.tick()
        diverging[chain, kernel.diagnostics()["divergences"]] = True
        kernel.cleanup()
    np.clip(stats["acceptance_rate"], 0.0, 1.0, out=stats["acceptance_rate"])
    kept = {n: v[:, settings.warmup :] for n, v in {**stats, "lp": lp}.items()}
    return Chains(
        u[:, settings.warmup :],
        {"diverging": diverging, **kept},
        f"Pyro's NUTS {version('pyro-ppl')}",
        target.calls,
        clock.trace(lp),
    )
