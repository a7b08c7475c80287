"""Files that hold the whole state of a climb, so that a fit that was killed goes on as if nothing had happened."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from inference.method import Method
from inference.runtime.settings import settings_of
from inference.runtime.tensor_folder import TensorFolder
from inference.runtime.whole import whole_file
from zoo.data.data import Data
from zoo.declare.model import Model
from zoo.errors import FitError

FORMAT = 2


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
        Steps between two writes, rounded to whole windows of a schedule, at whose ends the noise of the next begins.
    """

    path: Path
    identity: str
    every: int

    def due(self, taken: int, window: int) -> bool:
        """Whether it is time to write, at the end of a window of so many steps."""
        return taken // window % max(1, self.every // window) == 0

    def save(self, state: State) -> None:
        """Write a state: all at once or not at all, so that a fit may be killed while it writes."""
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


def identity(method: Method, model: Model, data: Sequence[Data], apart: Collection[str] = ()) -> str:
    """Digest of all that makes a fit what it is: model, data, settings but those `apart`, and the state of the RNG."""
    settings = {n: repr(v) for n, v in settings_of(method).items() if not n.startswith("checkpoint") and n not in apart}
    told = hashlib.sha256(json.dumps([repr(model), settings], sort_keys=True).encode())
    weights = [d.weights for d in data if d.weights is not None]
    for value in [*(v for d in data for v in d.values.values()), *weights, torch.get_rng_state()]:
        told.update(value.detach().cpu().contiguous().numpy().tobytes())
    return told.hexdigest()
