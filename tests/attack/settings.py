"""Hyperparameters that no model can have."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from tests.attack.attempt import Attempt
from tests.attack.subjects import methods_of, subjects, tried

VALUES: dict[str, Any] = {
    "scalar tensor": torch.tensor(2.0),
    "NaN tensor": torch.tensor(float("nan")),
    "tensor of three": torch.ones(3),
    "tensor with gradient": torch.tensor(1.5, requires_grad=True),
    "bfloat16": torch.tensor(2.0, dtype=torch.bfloat16),
    "list": [1, 2],
    "empty list": [],
    "nested list": [[1]],
    "array": np.ones(2),
    "NaN": float("nan"),
    "NumPy NaN": np.float64("nan"),
    "inf": float("inf"),
    "minus one": -1,
    "zero": 0,
    "half": 0.5,
    "tiny": 1e-300,
    "huge": 10**9,
    "beyond floats": 10**400,
    "1e300": 1e300,
    "word": "nonsense",
    "number as text": "2",
    "None": None,
    "dict": {},
    "bytes": b"2",
    "complex": 1j,
    "decimal": Decimal("1.5"),
    "fraction": Fraction(1, 2),
    "bool": True,
    "object": object(),
    "class": int,
    "function": len,
    "set": {1},
    "path": Path("x"),
    "series": pd.Series([1.0]),
    "timestamp": pd.Timestamp("2020-01-01"),
}


def attempts() -> Iterator[Attempt]:
    """Each hyperparameter of each model of the zoo, at each of the values; what is accepted is fitted."""
    for model, (cls, _, _) in subjects().items():
        for name in cls.hyperparameters:
            for label, value in VALUES.items():
                yield Attempt(
                    "hyperparameters",
                    f"{model}({name}={label})",
                    lambda model=model, name=name, value=value: tried(model, methods_of(model)[0], **{name: value}),
                    (name, "rows?", "memory"),
                )
