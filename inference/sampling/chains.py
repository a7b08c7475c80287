"""What runs the Markov chains of `NUTS` on a log density with its gradient: nutpie, one chain after the other."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import pyarrow
import torch

from inference.runtime.checkpoint import Checkpoint, State
from inference.runtime.interruption import asked, listening
from inference.runtime.monitor import Monitor
from inference.runtime.tensor_folder import TensorFolder
from inference.sampling.unconstrained import Target
from zoo.errors import FitError

ROWS = 200  # of the trace, at most
FEWEST = 100  # draws that the first chain has made, for a run that is interrupted to be a result
PATIENCE = 0.2  # seconds between looks at whether the run is to end
STATS = {  # as they are called in ArviZ, and by nutpie
    "diverging": "diverging",
    "tree_depth": "depth",
    "energy": "energy",
    "step_size": "step_size_bar",
    "acceptance_rate": "mean_tree_accept",
    "n_steps": "n_steps",
    "lp": "logp",
}


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
        space), each (chains, draws). Energies are up to a constant of each chain: the metric's log determinant is
        counted in.
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


@dataclass(frozen=True)
class Chain:
    """One chain, its warm-up included.

    Attributes
    ----------
    arrays
        "u" (draws, size), the statistics (draws,), and when each draw was made, "seconds" (draws,).
    gradients
        How often the gradient was evaluated.
    """

    arrays: dict[str, np.ndarray]
    gradients: int

    def __len__(self) -> int:
        """How many draws it has."""
        return len(self.arrays["u"])


class Clock:
    """Notes when each draw of a chain was made, and moves the progress bar.

    Parameters
    ----------
    monitor, target
        What is moved, and what is sampled.
    made
        Draws of the chains before.
    length
        Of all chains.
    """

    def __init__(self, monitor: Monitor, target: Target, made: int, length: int) -> None:
        self.times: list[float] = []
        self.monitor, self.target, self.made = monitor, target, made
        self.every = max(1, length // ROWS)

    def tick(self) -> None:
        """Note one draw."""
        self.times.append(time.perf_counter() - self.monitor.began)
        if (self.made + len(self.times)) % self.every == 0:
            self.monitor.record(self.made + len(self.times), self.target.latest)


def run(
    target: Target, starts: np.ndarray, settings: SamplerSettings, monitor: Monitor, file: Checkpoint | None = None
) -> Chains:
    """Run one chain from each of `starts` (chains, size), each with random numbers of its own.

    Parameters
    ----------
    target, settings
        What is sampled, and how.
    starts
        Where each chain begins.
    monitor
        Shows the draws made.
    file
        Where each chain is written when it is complete; those that are there are not run again.

    Raises
    ------
    FitError
        If the sampler breaks down.
    KeyboardInterrupt
        At Ctrl-C before there are draws.
    """
    seeds: list[int] = torch.randint(2**31, (len(starts),)).tolist()
    chains = [] if file is None or (saved := file.load()) is None else chains_of(saved)
    target.calls += sum(chain.gradients for chain in chains)
    length = settings.warmup + settings.draws
    with listening():
        for i in range(len(chains), len(starts)):
            clock = Clock(monitor, target, i * length, len(starts) * length)
            chain = run_nutpie(target, np.roll(starts, -i, 0), seeds[i], settings, clock)
            if len(chain) == length or (not chains and len(chain) >= settings.warmup + FEWEST):
                chains.append(chain)
            if file is not None and len(chain) == length:
                file.save(state_of(chains))
            if asked():
                break
    if not chains:
        raise KeyboardInterrupt(f"before the first {FEWEST} draws of the first chain")
    whole = {n: np.stack([chain.arrays[n] for chain in chains]) for n in chains[0].arrays}
    every = max(1, len(chains[0]) // ROWS)
    trace = [
        (i + 1, float(whole["seconds"][-1, i]), float(whole["lp"][:, i].mean()))
        for i in range(every - 1, len(chains[0]), every)
    ]
    kept = {n: values[:, settings.warmup :] for n, values in whole.items()}
    return Chains(kept["u"], {n: kept[n] for n in STATS}, f"nutpie {version('nutpie')}", target.calls, trace)


def run_nutpie(
    target: Target,
    starts: np.ndarray,
    seed: int,
    settings: SamplerSettings,
    clock: Clock,
) -> Chain:
    """Run a chain by nutpie (Seyboldt et al.), whose metric comes from draws and gradients of the warm-up.

    Parameters
    ----------
    target, settings, clock
        What is sampled, how, and what tells of it.
    starts
        Where it begins, and where it does instead if the density there is not a number, (any, size).
    seed
        Of its random numbers.
    """
    import nutpie
    from nutpie.compiled_pyfunc import from_pyfunc

    size, waiting, before = starts.shape[1], iter(np.concatenate([starts] * 100)), target.calls

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
    running = nutpie.sample(
        model,
        draws=settings.draws,
        tune=settings.warmup,
        chains=1,
        cores=1,
        seed=seed,
        progress_bar=False,
        **(low_rank if settings.correlated else {}),
        return_raw_trace=True,
        blocking=False,
        maxdepth=settings.max_tree_depth,
        target_accept=settings.target_accept,
    )
    raw = None
    try:
        while raw is None:
            try:
                raw = running.abort() if asked() else running.wait(timeout=PATIENCE)
            except TimeoutError:
                continue
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        raise FitError(f"nuts: nutpie stopped: {reason}") from error
    finally:
        if raw is None:
            running.cancel()
    (drawn,), (said,) = raw.get_arrow_trace()
    u = pyarrow.array(drawn.column("u")).flatten().to_numpy().reshape(-1, size)
    arrays = {n: pyarrow.array(said.column(theirs)).to_numpy(zero_copy_only=False) for n, theirs in STATS.items()}
    arrays |= {n: arrays[n].astype(np.int64) for n in ("tree_depth", "n_steps")}
    arrays |= {"u": u, "seconds": np.array(clock.times[: len(u)])}
    return Chain({n: values[: len(u)] for n, values in arrays.items()}, target.calls - before)


def state_of(chains: list[Chain]) -> State:
    """Chains that are complete, as a file holds them."""
    tensors = TensorFolder()
    for i, chain in enumerate(chains):
        tensors.add(str(i), {n: torch.from_numpy(values.copy()) for n, values in chain.arrays.items()})
    return State(tensors, {"gradients": [chain.gradients for chain in chains]})


def chains_of(state: State) -> list[Chain]:
    """Make chains again from what `state_of` returned."""
    return [
        Chain({n: t.numpy() for n, t in state.tensors.folder(str(i)).items()}, gradients)
        for i, gradients in enumerate(state.numbers["gradients"])
    ]
