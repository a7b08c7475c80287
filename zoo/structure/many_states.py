"""A run that lays the states of many sites side by side, ended before it fills the memory."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from zoo.elimination.eliminate import MOST_CELLS


class Bounded(TorchDispatchMode):
    """Raise where an operation makes a tensor of more than `MOST_CELLS` numbers.

    States multiply site by site (z1 + z2 + ... of 40 binary sites has 2^40 of them), so the first tensor that is too
    large is larger by one site's states only, and still fits.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and made.numel() > MOST_CELLS and made.untyped_storage().nbytes() > 8 * MOST_CELLS:
            raise RuntimeError(
                f"more than {MOST_CELLS:,} states of discrete latents side by side in one expression; let each density "
                "depend on fewer of them (in a loop by pyro.markov), or observe some"
            )
        return made


def many_states(trace: Any) -> bool:
    """Tell whether the discrete latents of a run without enumeration have more states together than a tensor may."""
    states = 1
    for node in trace.nodes.values():
        if node["type"] == "sample" and node["infer"].get("enumerate") == "parallel":
            states *= len(node["fn"].enumerate_support(expand=False))
            if states > MOST_CELLS:
                return True
    return False
