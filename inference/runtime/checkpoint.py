"""Files that hold the whole state of a run, so that a fit that was killed goes on as if nothing had happened."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from inference.runtime.processes import ALONE, Processes
from inference.runtime.settings import settings_of
from inference.runtime.tensor_folder import TensorFolder
from inference.runtime.whole import whole_file
from zoo.data.data import Data
from zoo.data.stream import File
from zoo.declare.model import Model
from zoo.errors import FitError

FORMAT = 2
CHECKPOINT = frozenset({"checkpoint", "checkpoint_every"})  # the settings of methods that write them


@dataclass(frozen=True)
class State:
    """All that the next step of something depends on.

    Attributes
    ----------
    tensors
        By name.
    numbers
        All else, as JSON.
    """

    tensors: TensorFolder
    numbers: dict[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """A file with the state of a fit, whatever that is made of.

    Attributes
    ----------
    path
        The file.
    identity
        Digest of model, data, settings and seed: a file of another fit is refused.
    every
        Steps between two writes; of a schedule, rounded to whole windows, at whose ends the noise of the next begins.
    processes
        Those that fit together, of which the first one writes.

    Raises
    ------
    FitError
        If there is no folder to write it to.
    """

    path: Path
    identity: str
    every: int = 1
    processes: Processes = ALONE

    def __post_init__(self) -> None:
        """Look for the folder before the work begins, not after it."""
        folder = self.path.absolute().parent
        if not folder.is_dir():
            raise FitError(f"checkpoint {self.path}: there is no folder {folder}; make it, or give another path")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise FitError(f"checkpoint {self.path}: files cannot be written to {folder}; give another path")

    def due(self, taken: int, window: int) -> bool:
        """Whether it is time to write, at the end of a window of so many steps."""
        return taken // window % max(1, self.every // window) == 0

    def save(self, state: State) -> None:
        """Write a state: all at once or not at all, so that a fit may be killed while it writes."""
        if self.processes.rank:
            return
        told = {"format": FORMAT, "identity": self.identity, "numbers": state.numbers}
        tensors = {n: t.detach().contiguous().cpu() for n, t in state.tensors.items()}
        with whole_file(self.path) as new:
            save_file(tensors, new, {"state": json.dumps(told)})

    def load(self) -> State | None:
        """Read the state that was written, None if there is no file.

        Raises
        ------
        FitError
            If it is a folder or cannot be read, or is of another model, other data, other settings or another seed.
        """
        if self.path.is_dir():
            raise FitError(f"checkpoint {self.path} is a folder; give the name of a file in it")
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, "pt") as file:
                told = json.loads((file.metadata() or {}).get("state", "{}"))
                names = file.keys()
                tensors = TensorFolder({n: file.get_tensor(n) for n in names})
        except (OSError, SafetensorError, ValueError) as error:
            raise FitError(f"checkpoint {self.path} cannot be read ({error}); remove it to start afresh") from error
        if told.get("identity") != self.identity or told.get("format") != FORMAT:
            raise FitError(
                f"checkpoint {self.path} is of another fit (model, data, settings or seed differ); give another path, "
                "or remove the file to start afresh"
            )
        return State(tensors, told["numbers"])


def checkpoint_of(
    method: Any, model: Model, data: Data, processes: Processes = ALONE, *, apart: Collection[str] = ()
) -> Checkpoint | None:
    """Return the file that a method's setting `checkpoint` names, None where it names none.

    Parameters
    ----------
    method
        Whose settings `checkpoint` and, if it has that, `checkpoint_every` are.
    model, data
        What it is about to fit.
    processes
        Those that fit together.
    apart
        Settings that may be others when a fit goes on.
    """
    if method.checkpoint is None:
        return None
    every = getattr(method, "checkpoint_every", 1)
    return Checkpoint(Path(method.checkpoint), identity(method, model, [data], apart), every, processes)


def identity(method: Any, model: Model, data: Sequence[Data], apart: Collection[str] = ()) -> str:
    """Digest of all that makes a fit what it is: model, data, settings but those `apart`, and the state of the RNG.

    Of a file that is read in chunks, every byte counts.
    """
    settings = {n: repr(v) for n, v in settings_of(method).items() if n not in CHECKPOINT.union(apart)}
    told = hashlib.sha256(json.dumps([repr(model), settings], sort_keys=True).encode())
    weights = [d.weights for d in data if d.weights is not None]
    for value in [*(v for d in data for v in d.values.values()), *weights, torch.get_rng_state()]:
        told.update(value.detach().cpu().contiguous().numpy().tobytes())
    for stream in (d.stream for d in data if d.stream is not None):
        told.update(repr((type(stream).__name__, stream.chunk, stream.weights, stream.count)).encode())
        if isinstance(stream, File):
            with stream.path.open("rb") as file:
                told.update(hashlib.file_digest(file, "sha256").digest())
    return told.hexdigest()
