"""The most probable configuration of all discrete latents jointly; along a chain, its most probable path."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from inference.approximations.rows import chunk_for
from inference.posterior.answer import Answer
from inference.posterior.assign import asked, entry_index, state_labels
from inference.posterior.streams import Stream
from zoo.data.bind import Source
from zoo.errors import FitError
from zoo.program.configurations import best_states, state_chunks
from zoo.program.program import Program
from zoo.replay.evaluate import Values, many
from zoo.replay.sites import Site


def most_probable(answer: Answer, new: Source | None = None, site: str | None = None) -> pd.DataFrame:
    """argmax_z p(z | x, theta) over all discrete latents and rows jointly; attrs["log_joint"] is log p(x, z) there.

    Raises
    ------
    FitError
        If the model has no discrete latent, or new rows have continuous latents of their own or share discrete ones.
    DataError
        If the data have probability 0.
    """
    program = answer.on(new)
    fresh = program is not answer.program
    sites = asked(program, site)
    if fresh and program.locals:
        raise FitError(f"new rows have no value of {program.locals[0].name!r}; call most_probable() without new rows")
    if fresh and program.shared:
        raise FitError(
            f"{program.shared[0].name!r} is shared by all fitted rows; call most_probable() without new rows"
        )
    with answer.running(Stream.ASSIGN):
        values = {**answer.points, **_latents(answer, program)}
        total, parts = 0.0, list[Values]()
        for part in state_chunks(program, values) if not program.locals else [program]:
            terms, positions = best_states(part, values)
            total += float(terms.total(part.data.weights))
            parts.append(positions)
    found = {
        s.name: torch.cat([p[s.name] for p in parts], s.plates.index(program.row))
        if len(parts) > 1
        else parts[0][s.name]
        for s in sites
    }
    alone = len(sites) == 1 or sites[0].plates
    index = entry_index(program, sites[0], found[sites[0].name].shape) if alone else pd.Index(["all"])
    frame = pd.DataFrame({s.name: _labelled(program, s, found[s.name]) for s in sites}, index=index)
    frame.attrs["log_joint"] = total
    return frame


def _latents(answer: Answer, program: Program) -> Values:
    """Values of the latents: the point, or the draw at which the most probable configuration is highest."""
    if answer.is_point:
        return {n: v[0] for n, v in answer.approximation.draw(answer.program, 1)[0].items()}
    draws = answer.draws.values if program.locals else answer.globals(answer.draw_count)
    if not draws:
        return {}

    def height(values: Values) -> Tensor:
        log_probs = program.log_probs({**answer.points, **values})
        return program.eliminate(log_probs, hard=True).total(program.data.weights)

    best = int(many(height, draws, answer.draw_count, chunk_for(program)).argmax())
    return {n: v[best] for n, v in draws.items()}


def _labelled(program: Program, site: Site, positions: Tensor) -> np.ndarray:
    """Positions of states as their labels."""
    labels = state_labels(program, site)
    at: np.ndarray = positions.reshape(-1).cpu().numpy()
    return at if isinstance(labels, range) else pd.Index(list(labels)).to_numpy()[at]
