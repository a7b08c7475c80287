"""A run of a model at values of one's choice, and what such runs vary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from zoo.data.data import Data
from zoo.declare.model import Model
from zoo.replay.evaluate import Values
from zoo.structure.discover import Discover, run

FAR = ((30.0, 5.0), (1e4, 8.0))  # how far out real values are at least, and unconstrained coordinates of others


@dataclass(frozen=True)
class Source:
    """One thing that an argument may depend on: a latent or parameter, a network, or a data field."""

    kind: Literal["site", "network", "data"]
    name: str


@dataclass(frozen=True)
class Check:
    """A run with everything changed at once, the values of latents and parameters in it, and the data it saw."""

    trace: Any
    values: Values
    data: Data


@dataclass(frozen=True)
class Runner:
    """Runs a model under enumeration with values, network weights and data of one's choice.

    Attributes
    ----------
    model, networks, priors
        The model, its network weights, and distributions that replace its own at some sites.
    first_dim
        Rightmost dimension that no plate takes: enumeration dimensions begin there.
    shapes
        Of the values of latents in a run without enumeration.
    completed
        Observed site whose missing cells are summed over as a latent's -> its field.
    """

    model: Model
    networks: Values
    priors: dict[str, Any]
    first_dim: int
    shapes: Mapping[str, tuple[int, ...]]
    completed: Mapping[str, str] = field(default_factory=dict)

    def __call__(
        self,
        data: Data,
        values: Values | None = None,
        *,
        networks: Values | None = None,
        spread: float = 1.0,
        fixed: Values | None = None,
    ) -> tuple[Any, Discover]:
        """Return the trace, and the messenger that gave the sites their values."""
        messenger = Discover(self.priors, values, spread, fixed, self.shapes, self.completed)
        return run(self.model, data, networks or self.networks, messenger, self.first_dim), messenger

    def drawn(self, data: Data, values: Values, states: Values) -> Any:
        """Return the trace of a run without enumeration, at these states."""
        messenger = Discover(self.priors, values, fixed=states, completed=self.completed)
        return run(self.model, data, self.networks, messenger, None)

    def check(self, data: Data, spread: float = 1.0, values: Values | None = None) -> Check:
        """Run with other values everywhere, `spread` standard deviations wide, or with these."""
        trace, messenger = self(data, values, spread=spread)
        return Check(trace, messenger.values, data)
