"""Amortized guide with a classifier: from data row to a discrete latent, and from both to the continuous ones."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from pydantic import NonNegativeFloat
from torch import Tensor, nn

from guides.amortized import FAMILIES, Conditional
from guides.encoder import Encoder
from guides.rows_in import RowsIn
from guides.start import Start
from guides.variational import LOG_2PI, Draw, Noise, Pushforward, Variational
from zoo.data.data import Data
from zoo.program.conditional import by_state
from zoo.program.program import Program


@dataclass(frozen=True, repr=False)
class ClassifyingEncoder(Encoder):
    """q(y_i | x_i) q(locals_i | x_i, y_i): a classifier of a row's discrete latent, and an encoder that is told it.

    Both are networks. The locals are drawn in every state k at once, and the states averaged over (Kingma et al. 2014,
    model M2; with y_i missing in all rows, the mixture of Dilokthanakul et al. 2016)::

        L_i = sum_k q(k | x_i) E[log p(x_i, z_ik, k) - log q(z_ik | x_i, k) - log q(k | x_i)] <= log p(x_i)

    A label that is known is a q(y_i | x_i) that is known; the classifier also climbs `alpha` log q(y_i | x_i) there,
    which is in no bound that is shown. Where few rows have labels, give them weights, or they are rarely seen. `assign`
    has q(y_i | x_i), in which known labels are known.

    Parameters
    ----------
    hidden
        Widths of the hidden layers of ``network="mlp"``.
    globals
        Guide for the global latents, where there are any.
    network
        From rows to features, as of `Encoder`: one for the classifier and one for the locals, to which the state is
        added. Neither is shown the label.
    family
        Of q of the locals given row and state, as of `Encoder`.
    alpha
        Weight of the classifier's log likelihood of known labels; 0 for the bound alone.

    Examples
    --------
    >>> import numpy as np
    >>> import zoo
    >>> from guides import ClassifyingEncoder
    >>> from inference import SVI, fit
    >>> rows = {"x": np.eye(4)[np.arange(40) % 4], "label": np.where(np.arange(40) < 8, np.arange(40) % 2, -1)}
    >>> method = SVI(guide=ClassifyingEncoder(hidden=(16,)), steps=50)
    >>> result = fit(zoo.SemiSupervisedVAE(latent=1, hidden=(8,)), rows, method=method, seed=0)
    >>> result.assign().shape
    (40, 2)
    """

    alpha: NonNegativeFloat = 1.0

    def why_not(self, program: Program) -> str | None:
        # Refuse models whose local latents have no discrete latent of the row beside them
        if (reason := super().why_not(program)) is not None:
            return reason
        found = {by_state(program, site) for site in program.locals}
        if len(found) > 1 or not all(found) or not program.one_state_per_row:
            return f"{type(self).__name__} needs local latents beside one discrete latent of their row; use Encoder()"
        return None

    def build(self, program: Program, start: Start) -> Variational:
        # Make q with untrained networks
        label = program.enumerated[0]
        fields = [f for site, f in program.structure.completed.items() if site == label.name]
        shown = without(program.data, fields)
        rows, judged = (RowsIn(shown, self.network, self.hidden) for _ in range(2))
        local = Classified(rows, judged, start, FAMILIES[self.family], label.cardinality, fields)
        return ClassifiedVariational(self._build_globals(program, start).over_globals, local, self.alpha)


def without(data: Data, fields: list[str]) -> Data:
    """The data without some fields."""
    return replace(
        data,
        values={n: v for n, v in data.values.items() if n not in fields},
        dims={n: v for n, v in data.dims.items() if n not in fields},
        missing={n: v for n, v in data.missing.items() if n not in fields},
    )


class Classified(Pushforward):
    """q of each row's state and of its locals in every state, in natural units about the start.

    Parameters
    ----------
    rows, judged
        The networks of the locals and of the state.
    start
        Where locals start; the mean over the rows counts, and of the units the geometric one.
    family
        The family of the locals given features.
    states
        How many there are.
    hidden_fields
        What the networks are not shown.
    """

    amortized = True
    start: Tensor
    unit: Tensor

    def __init__(
        self,
        rows: RowsIn,
        judged: RowsIn,
        start: Start,
        family: type[Conditional],
        states: int,
        hidden_fields: list[str],
    ) -> None:
        super().__init__()
        self.register_buffer("start", start.locals.mean(0))
        self.register_buffer("unit", start.local_unit.log().mean(0).exp())
        self.states, self.hidden_fields = states, hidden_fields
        self.rows, self.judged = rows, judged
        # A layer that is told the state, so that features and state meet in more than a sum.
        self.mixed = nn.Linear(rows.outputs + states, rows.outputs)
        self.family = family(rows.outputs, int(start.locals.shape[1]))
        self.last = nn.Linear(judged.outputs, states)
        for made in (self.mixed, self.family, self.last):
            made.to(start.locals.device, start.locals.dtype)

    def noise_shape(self, rows: int) -> tuple[int, ...]:
        """A number for each coordinate in each state, and one that picks the state."""
        return rows, self.states, len(self.start) + 1

    def log_share(self, data: Data) -> Tensor:
        """log q(k | x_i), (states, rows)."""
        scores: Tensor = self.last(self.judged(without(data, self.hidden_fields)))
        return scores.log_softmax(-1).mT

    def _numbers(self, data: Data) -> Tensor:
        """What q of every row in every state is made of, (states, rows, numbers)."""
        weight, count = self.mixed.weight, self.rows.outputs
        features = nn.functional.linear(self.rows(without(data, self.hidden_fields)), weight[:, :count])
        told = features + (weight[:, count:].mT + self.mixed.bias)[:, None]
        return self.family.numbers(torch.tanh(told))

    def in_each(self, data: Data, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draw every row in every state, (states, rows, L), and log q given the state, (states, rows)."""
        numbers = self._numbers(data)
        at, _ = self.family(numbers, noise[..., :-1].movedim(1, 0))
        return self.start + self.unit * at, self._log_q(numbers, at)

    def draw(self, data: Data, rows: Tensor | None, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draw a state of each row and the locals in it, (rows, L); log q is that of the mixture, (rows,)."""
        share, numbers = self.log_share(data), self._numbers(data)
        level = torch.special.ndtr(noise[:, 0, -1])
        pick = (level > share.exp().cumsum(0)[:-1]).sum(0)  # (rows,)
        every, _ = self.family(numbers, noise[..., :-1].movedim(1, 0))
        at = every.gather(0, pick[None, :, None].expand(1, -1, every.shape[-1]))  # (1, rows, L)
        return self.start + self.unit * at[0], (share.detach() + self._log_q(numbers, at.expand_as(every))).logsumexp(0)

    def _log_q(self, numbers: Tensor, at: Tensor) -> Tensor:
        """log q of locals in each state, (states, rows), everything held fixed but them."""
        noise, log_det = self.family.held(numbers, at)
        found: Tensor = -(0.5 * (LOG_2PI + noise.square()) + self.unit.log()).sum(-1) - log_det
        return found


class ClassifiedVariational(Variational):
    """q(globals) prod_i q(y_i) q(locals_i | y_i)."""

    over_locals: Classified
    states = classifies = True

    def __init__(self, over_globals: Pushforward, over_locals: Classified, alpha: float) -> None:
        super().__init__(over_globals, over_locals)
        self.alpha = alpha

    def log_share(self, data: Data) -> Tensor:
        """log q(y_i = k | x_i), (states, rows)."""
        return self.over_locals.log_share(data)

    def in_states(self, data: Data, noise: Tensor) -> Tensor:
        """The locals of each row in every state, (states, rows, L)."""
        return self.over_locals.in_each(data, noise)[0]

    def draw_states(self, data: Data, rows: Tensor | None, noise: Noise) -> Draw:
        """Draw the globals, and the locals of each row in every state: (states, rows, L), log q (states, rows)."""
        u, log_q = self.over_globals.draw(data, None, noise[0])
        v, log_q_rows = self.over_locals.in_each(data, noise[1])
        return Draw(u, v, log_q.sum(), log_q_rows, share=self.log_share(data))
