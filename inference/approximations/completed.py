"""q over all latents where some were integrated out: its own draws of the rest, and exact draws of these given them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from inference.approximations import approximation
from inference.approximations.approximation import Approximation
from inference.approximations.corrected import Corrected
from inference.approximations.rows import chunk_for
from inference.approximations.sampled import Sampled
from inference.runtime.tensor_folder import TensorFolder
from zoo.program.collapse import ALL_COULD, plan
from zoo.program.collapsed import Collapsed, collapsed
from zoo.program.program import Program
from zoo.replay.evaluate import Values

Collapse = Literal["auto", False]


@dataclass
class Completed(Approximation):
    """q(phi) p(c | phi, x): q of the latents phi that are left, and the exact conditional of those integrated out.

    Attributes
    ----------
    q
        Of the program in which c is integrated out.
    left
        The latents phi.
    """

    q: Approximation
    left: tuple[str, ...]
    kind = "completed"

    def __post_init__(self) -> None:
        """Take over what q is."""
        self.exact, self.chains = self.q.exact, self.q.chains
        self.stats: Mapping[str, Any] = self.q.stats

    @property
    def kept(self) -> int | None:
        """How many draws q consists of."""
        return self.q.kept

    def draw(self, program: Program, count: int) -> tuple[Values, Tensor]:
        """Draw from q, then what was integrated out; log q of all."""
        view = collapsed(program, self.left)
        values, log_q = self.q.draw(view, count)
        values, log_c = completion(view, values, count)
        return values, log_q + log_c

    def describe(self) -> dict[str, Any]:
        """Return what q is, and of what."""
        return {"q": approximation.describe(self.q), "left": list(self.left)}

    def tensors(self) -> dict[str, Tensor]:
        """Return those of q."""
        tensors = TensorFolder()
        tensors.add("q", self.q.tensors())
        return tensors

    @classmethod
    def read(cls, described: Mapping[str, Any], tensors: dict[str, Tensor], program: Program) -> Completed:
        """Make it again."""
        left = tuple(described["left"])
        view = collapsed(program, left)
        return cls(approximation.read(described["q"], TensorFolder(tensors).folder("q"), view), left)


def completion(view: Program, values: Values, count: int) -> tuple[Values, Tensor]:
    """Add draws of what was integrated out to `count` draws of the rest, and log p(c | phi, x) of each, (count,)."""
    assert isinstance(view, Collapsed)
    drawn, log_c = view.complete(values, count, chunk_for(view))
    both = {**values, **drawn}
    return {s.name: both[s.name].contiguous() for s in view.whole.latents}, log_c


def all_latents(view: Program, values: Values, count: int) -> tuple[Program, Values, Tensor]:
    """Return the whole program of a view, `count` draws with those of what was integrated out, and log p of these."""
    if not isinstance(view, Collapsed):
        return view, values, torch.zeros(count, dtype=view.dtype, device=view.device)
    return view.whole, *completion(view, values, count)


def completed(view: Program, q: Approximation) -> Approximation:
    """Return q over all latents of the program for a q over those of a view of it; q itself if nothing is left out."""
    if not isinstance(view, Collapsed):
        return q
    if isinstance(q, Corrected):
        values, log_c = completion(view, q.values, len(q.log_p))
        inner = completed(view, q.uncorrected)
        return replace(q, uncorrected=inner, values=values, log_p=q.log_p + log_c, log_q=q.log_q + log_c)
    if isinstance(q, Sampled):
        values, log_c = completion(view, q.values, len(q.log_p))
        return replace(q, values=values, log_p=q.log_p + log_c)
    return Completed(q, tuple(s.name for s in view.latents))


def view_of(program: Program, collapse: Collapse, kept: Collection[str] = ()) -> Program:
    """Return the program with conjugate latents integrated out, if that is asked for and there are any; or itself."""
    return collapsed(program, kept) if collapse == "auto" else program


def with_exact_draws(program: Program, collapse: Collapse) -> str:
    """Say what is summed and integrated out, and drawn exactly afterwards; empty if nothing is."""
    summed, gone = ", ".join(s.name for s in program.enumerated), integrated(program, collapse)
    said = [f"{summed} summed out"] if summed else []
    if not said:
        return gone
    return gone.replace("with ", f"with {said[0]} and ", 1) if gone else f"with {said[0]}, then drawn exactly"


def integrated(program: Program, collapse: Collapse, kept: Collection[str] = ()) -> str:
    """Say what is integrated out, and why the other latents stay; empty if nothing is."""
    view = view_of(program, collapse, kept)
    chains = [s.name for s in program.integrated.chains] if program.integrated else []
    if not view.collapsed and not chains:
        could = collapse == "auto" and {*plan(program, kept).stays.values()} == {ALL_COULD}
        return f"with nothing integrated out: all latents could be, and {ALL_COULD}" if could else ""
    stays = "".join(f"; {n} stays: {why}" for n, why in view.stays.items()) if isinstance(view, Collapsed) else ""
    return f"with {', '.join((*view.collapsed, *chains))} integrated out, then drawn exactly{stays}"
