"""Which random numbers each question to a fit draws from."""

from __future__ import annotations

from enum import IntEnum


class Stream(IntEnum):
    """Which random numbers a question draws from: its seed is the fit's plus its number.

    Each question has the same answer whatever was asked before it. The numbers are part of what a seed promises: with
    another number a fit that is saved would give other draws.
    """

    KEPT_DRAWS = 0
    LOG_LIKELIHOOD = 1
    ASSIGN = 2
    LOG_PROB = 3
    GENERATE = 4
    PREDICT = 5
    SAMPLE = 6
    MORE_DRAWS = 7
    GROUPS = 8
    IMPUTE = 9
    PREDICTIVE = 10
    PRIOR = 11
    CHECK = 12
    BOOTSTRAP = 13
    NEW_GROUPS = 14
    ENCODE = 15
    ANNEAL = 16
