"""Files that hold the whole state of a climb, so that a fit that was killed goes on as if nothing had happened."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from inference.variational.optimize import Climb
from zoo.errors import FitError

FORMAT = 1
KINDS = ("leaves", "means", "best")


@dataclass(frozen=True)
class Keeper:
    """Writes and reads the state of a climb.

    Attributes
    ----------
    path
        The file.
    identity
        Digest of model, data, settings and seed: a file of another fit is refused.
    every
        Steps between two writes, rounded to whole windows of the schedule, at whose ends the noise of the next begins.
    """

    path: Path
    identity: str
    every: int

    def save(self, climb: Climb, window: int) -> None:
        """Write, if it is time to, everything that the next step depends on: all at once or not at all."""
        if climb.taken // window % max(1, self.every // window):
            return
        tensors = {f"{kind}.{i}": t for kind in KINDS for i, t in enumerate(getattr(climb, kind))}
        for i, leaf in enumerate(climb.leaves):
            for name, value in climb.optimizer.state.get(leaf, {}).items():
                tensors[f"optimizer.{i}.{name}"] = torch.as_tensor(value)
        tensors["rng"] = torch.get_rng_state()
        if climb.leaves[0].is_cuda:
            tensors["rng.cuda"] = torch.cuda.get_rng_state()
        told = {
            "format": FORMAT,
            "identity": self.identity,
            "schedules": [s.state() for s in climb.schedules],
            "traces": [m.rows for m in climb.monitors],
            "averaged": climb.averaged,
            "broken": climb.broken,
            "taken": climb.taken,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        plain = {n: t.detach().contiguous().cpu() for n, t in tensors.items()}
        save_file(plain, temporary, {"state": json.dumps(told)})
        os.replace(temporary, self.path)

    def load(self, climb: Climb) -> None:
        """Put a climb where the file says, if there is one.

        Raises
        ------
        FitError
            If it is a folder or cannot be read, or is of another model, other data, other settings or another seed.
        """
        if self.path.is_dir():
            raise FitError(f"checkpoint {self.path} is a folder; give the name of a file in it")
        if not self.path.exists():
            return
        try:
            with safe_open(self.path, "pt") as file:
                told = json.loads((file.metadata() or {}).get("state", "{}"))
                tensors: dict[str, Tensor] = {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118 - no dict
        except (OSError, SafetensorError, ValueError) as error:
            raise FitError(f"checkpoint {self.path} cannot be read ({error}); remove it to start afresh") from error
        if told.get("identity") != self.identity or told.get("format") != FORMAT:
            raise FitError(
                f"checkpoint {self.path} is of another fit (model, data, settings or seed differ); give another path, "
                "or remove the file to start afresh"
            )
        with torch.no_grad():
            for kind in KINDS:
                for i, t in enumerate(getattr(climb, kind)):
                    t.copy_(tensors[f"{kind}.{i}"])
        device = climb.leaves[0].device
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, which, key = name.split(".", 2)
                climb.optimizer.state[climb.leaves[int(which)]][key] = value.to(device)
        torch.set_rng_state(tensors["rng"])
        if "rng.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["rng.cuda"])
        for schedule, state in zip(climb.schedules, told["schedules"], strict=True):
            schedule.restore(state)
        for monitor, rows in zip(climb.monitors, told["traces"], strict=True):
            monitor.resume([(int(step), float(seconds), float(value)) for step, seconds, value in rows])
        climb.averaged, climb.broken, climb.taken = told["averaged"], told["broken"], told["taken"]
