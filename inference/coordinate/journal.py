"""Climbs that go on from a file: which they were, one after the other, and where the last one stood.

A run makes the same climbs in the same order whenever it is begun with the same seed. So what has been climbed is told
by its number: those that had come to their end are not climbed again, and the one that was under way goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from inference.coordinate.loop import Ascent, Journal, Way
from inference.runtime.checkpoint import Checkpoint, State
from inference.runtime.interruption import asked
from inference.runtime.packed import Packer, Unpacker
from inference.runtime.tensor_folder import TensorFolder

TOLD = ("history", "steps", "state", "hastened", "converged", "reason", "failure")  # of an ascent


class Climbs(Journal):
    """The climbs of a run in a file.

    Parameters
    ----------
    file
        Where they are written.
    """

    def __init__(self, file: Checkpoint) -> None:
        self.file = file
        saved = file.load()
        self.noted: list[State] = []
        for i, told in enumerate(saved.numbers["climbs"] if saved is not None else []):
            assert saved is not None
            self.noted.append(State(TensorFolder(saved.tensors.folder(str(i))), told))
        self.number = -1

    def begin(self, way: Way, ascents: Sequence[Ascent]) -> int:
        """Go to the next climb, and take it up where it was left; return how many steps it has taken."""
        self.number += 1
        if self.number == len(self.noted):
            return way.first
        saved = self.noted[self.number]
        told = Unpacker(saved.tensors).unpack(saved.numbers["packed"])
        for ascent, of in zip(ascents, told["ascents"], strict=True):
            for name in TOLD:
                setattr(ascent, name, of[name])
            ascent.monitor.resume(of["rows"])
        if told["way"] is not None:
            way.restore(told["way"])
        else:
            for ascent in ascents:
                ascent.expected = None if ascent.state is None else way.seen_at(ascent.state)
        random(told["random"])
        step: int = told["step"]
        return step

    def due(self, step: int, *, last: bool) -> bool:
        """Whether a climb is to be noted where it is, before a step; so it is before its last one."""
        return not asked() and (last or step % self.file.every == 0)

    def note(self, step: int, ascents: Sequence[Ascent], way: Way | None) -> None:
        """Write where a climb is; without its way, that it has come to its end."""
        if asked():  # an end that is none, where a run that is taken up again goes on
            return
        packer = Packer()
        told: list[dict[str, Any]] = [
            {**{n: getattr(ascent, n) for n in TOLD}, "rows": ascent.monitor.rows} for ascent in ascents
        ]
        packed = packer.pack(
            {
                "step": step,
                "ascents": told,
                "way": None if way is None else way.standing(),
                "random": random(),
            }
        )
        self.noted[self.number :] = [State(packer.tensors, {"packed": packed})]
        tensors = TensorFolder()
        for i, one in enumerate(self.noted):
            tensors.add(str(i), one.tensors)
        self.file.save(State(tensors, {"climbs": [one.numbers for one in self.noted]}))


def random(state: dict[str, torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
    """Return the state of the random numbers, after having put it back to one that was returned before."""
    if state is not None:
        torch.set_rng_state(state["cpu"])
        if "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"])
    cuda = {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {}
    return {"cpu": torch.get_rng_state(), **cuda}
