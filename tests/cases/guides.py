"""What tests of guides share."""

from __future__ import annotations

import torch

from inference.starts.natural import natural_start
from zoo.program.prepare import prepare
from zoo.replay.random import reseed


def built(guide, model, data, shake=0.3):
    """A program, and a guide's q for it, shaken away from its start."""
    with torch.random.fork_rng():
        reseed(0)
        program = prepare(model, data, dtype=torch.float64, device="cpu")
        q = guide.build(program, natural_start(program, program.initial()))
        with torch.no_grad():
            for parameter in q.parameters():
                parameter += shake * torch.randn_like(parameter)
    return program, q


def flat(draw):
    """All coordinates of a draw as one vector, and its log q."""
    return torch.cat([draw.globals, draw.locals.reshape(-1)]), draw.log_q + draw.log_q_rows.sum()
