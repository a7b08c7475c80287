"""Many refits: in processes, a block of simulations at a time, written down as they are done."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inference.method import Method, Outcome
from inference.runtime.monitor import Monitor, Told
from inference.runtime.random import seeded
from inference.runtime.settings import describe, settings_of
from inference.runtime.threads import threads_for
from inference.runtime.whole import whole_file
from inference.simulated.quantities import Quantities
from inference.simulated.ranks import Ranks, Refit, ranked
from inference.simulated.truths import Truth, Truths
from zoo.errors import DataError, FitError, ZooError

BLOCK = 10  # simulations between two notes of how far it has come, where refits are one by one
STREAMS = ("truth", "refit", "ranks")  # of random numbers for each simulation


@dataclass(frozen=True)
class Refits:
    """Simulations, their refits and the ranks, each with random numbers of its own.

    Attributes
    ----------
    truths, method, quantities
        What is simulated, what refits it, and what is ranked.
    seed
        Simulation i has the same numbers whatever processes there are and whatever was done before.
    """

    truths: Truths
    method: Method
    quantities: Quantities
    seed: int

    @property
    def size(self) -> int:
        """How many simulations are refitted together, or noted together."""
        return max(BLOCK, self.method.together(self.truths.like))

    def run(self, count: int, *, processes: int, folder: Path | None, progress: Told | bool) -> list[Refit]:
        """Return what became of each of `count` simulations, from a folder what is there already."""
        blocks = [range(at, min(at + self.size, count)) for at in range(0, count, self.size)]
        notes = None if folder is None else Notes(folder, self._identity(count))
        done = {} if notes is None else {b.start: refits for b in blocks if (refits := notes.read(b)) is not None}
        left = [b for b in blocks if b.start not in done]
        with Monitor("calibrate", count, show=progress) as shown:
            for block, refits in self._each(left, processes):
                done[block.start] = refits
                if notes is not None:
                    notes.write(block, refits)
                shown.record(
                    sum(map(len, done.values())), float(sum(bool(r.failure) for v in done.values() for r in v))
                )
        return [refit for b in blocks for refit in done[b.start]]

    def _each(self, blocks: Sequence[range], processes: int) -> Iterator[tuple[range, list[Refit]]]:
        if processes < 2 or len(blocks) < 2 or not can_fork():
            for block in blocks:
                yield block, self.block(block)
            return
        # Children of this process have the traced program; nothing is sent to them but which simulations to do.
        _INHERITED[0] = self
        try:
            with warnings.catch_warnings():
                # Python 3.12 warns that threads of this process are not there in the children, who wait for none.
                warnings.simplefilter("ignore", DeprecationWarning)
                pool = ProcessPoolExecutor(min(processes, len(blocks)), get_context("fork"), _begin)
                waiting = {pool.submit(_block, b.start, b.stop): b for b in blocks}
            try:
                for future in as_completed(waiting):
                    yield waiting[future], future.result()
            except BrokenProcessPool:
                raise FitError(
                    "calibrate: a process that refits was ended from outside; is there memory enough?"
                ) from None
            finally:
                pool.shutdown(cancel_futures=True)
        finally:
            _INHERITED.clear()

    def block(self, which: range) -> list[Refit]:
        """Simulate, refit and rank some simulations."""
        truths: list[Truth] = []
        device = self.truths.program.device
        with threads_for(self.truths.program):
            for i in which:
                with seeded(self._seed(i, 0), device):
                    truths.append(self.truths.draw())
            outcomes: list[Outcome | ZooError] = []
            size = self.method.together(self.truths.like)
            for at in range(0, len(truths), size):
                with seeded(self._seed(which[at], 1), device):
                    outcomes += self.method.run_each([t.program for t in truths[at : at + size]])
            refits = []
            for i, truth, outcome in zip(which, truths, outcomes, strict=True):
                with seeded(self._seed(i, 2), device):
                    refits.append(self._ranked(truth, outcome))
        return refits

    def _ranked(self, truth: Truth, outcome: Outcome | ZooError) -> Refit:
        if isinstance(outcome, ZooError):
            return Refit({}, str(outcome))
        if outcome.approximation.point:
            name = type(self.method).__name__.lower()
            raise FitError(
                f"{name} gives a point estimate, which has no draws to rank; calibrate a method that has some"
            )
        try:
            return ranked(truth, outcome, self.quantities)
        except FitError as error:
            return Refit({}, str(error))

    def _seed(self, index: int, stream: int) -> int:
        """Seed of one of the streams of a simulation: as far apart as a digest makes them."""
        told = f"{self.seed}/{index}/{STREAMS[stream]}"
        return int.from_bytes(hashlib.sha256(told.encode()).digest()[:7], "big")

    def _identity(self, count: int) -> dict[str, Any]:
        """All that decides what a refit is, as JSON."""
        program, posterior = self.truths.program, self.truths.posterior
        told = hashlib.sha256()
        values = [*program.data.values.values(), *program.data.missing.values()]
        values += [] if posterior is None else posterior.draws.values.values()
        for value in values:
            told.update(value.detach().cpu().contiguous().numpy().tobytes())
        described = describe("method", self.method)
        return {
            "model": repr(program.model),
            "method": {**described, "settings": {n: repr(v) for n, v in settings_of(self.method).items()}},
            "data": told.hexdigest(),
            "quantities": self.quantities.names,
            "posterior": posterior is not None,
            "seed": self.seed,
            "block": self.size,
            "simulations": count,
        }


class Notes:
    """Refits in a folder, one file a block: an interrupted run goes on from there.

    Raises
    ------
    DataError
        If the folder holds another calibration.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self.folder = folder / "refits"
        self.folder.mkdir(parents=True, exist_ok=True)
        told = self.folder / "identity.json"
        identity = json.loads(json.dumps(identity))
        if not told.exists():
            _write(told, identity)
            return
        there = json.loads(told.read_text(encoding="utf-8"))
        differ = [n for n in identity if identity[n] != there.get(n) and n != "simulations"]
        if differ:
            raise DataError(
                f"{folder} holds refits of another calibration, whose {differ[0]} differs; give another folder, or "
                "the same model, method, data, quantities and seed to go on with it"
            )

    def _file(self, block: range) -> Path:
        return self.folder / f"{block.start:06d}-{block.stop:06d}.json"

    def read(self, block: range) -> list[Refit] | None:
        """Return the refits of a block, None if they are not there."""
        if not self._file(block).exists():
            return None
        saved = json.loads(self._file(block).read_text(encoding="utf-8"))
        return [Refit({n: np.asarray(v) for n, v in r["ranks"].items()}, r["failure"]) for r in saved]

    def write(self, block: range, refits: list[Refit]) -> None:
        """Note the refits of a block."""
        _write(self._file(block), [{"ranks": _lists(r.ranks), "failure": r.failure} for r in refits])


def _lists(ranks: Ranks) -> dict[str, Any]:
    return {n: v.tolist() for n, v in ranks.items()}


def _write(path: Path, content: Any) -> None:
    """Write JSON whole or not at all."""
    with whole_file(path) as new:
        new.write_text(json.dumps(content), encoding="utf-8")


_INHERITED: dict[int, Refits] = {}  # what a child process finds when it begins


def _begin() -> None:
    torch.set_num_threads(1)


def _block(start: int, stop: int) -> list[Refit]:
    return _INHERITED[0].block(range(start, stop))


def can_fork() -> bool:
    """Whether there can be child processes that have this one's memory: not on a GPU, whose state is not theirs."""
    return "fork" in get_all_start_methods() and not torch.cuda.is_available()


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
