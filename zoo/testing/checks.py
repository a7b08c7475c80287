"""What all checks share: how they fail, how they are run, and what they compare."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor

Check = Callable[[], str | None]  # raises where something is wrong; returns why it does not apply, if it does not


class CheckError(AssertionError):
    """Something that must hold does not; the message says what was expected and what is the case.

    Examples
    --------
    >>> from zoo.testing import CheckError
    >>> issubclass(CheckError, AssertionError)
    True
    """


def require(holds: bool, message: str) -> None:
    """Raise `CheckError` with this message unless something holds."""
    if not holds:
        raise CheckError(message)


Numbers = Tensor | np.ndarray | float


def require_close(actual: Numbers, expected: Numbers, what: str, tolerance: float = 1e-9) -> None:
    """Raise unless two tensors have the same shape and agree to a relative and absolute tolerance.

    Raises
    ------
    CheckError
        With the entry that differs most.
    """
    a, b = (torch.as_tensor(v if isinstance(v, Tensor) else np.array(v)).detach().double() for v in (actual, expected))
    require(a.shape == b.shape, f"{what}: expected shape {tuple(b.shape)}, not {tuple(a.shape)}")
    away = torch.where(a == b, 0.0, (a - b).abs() - tolerance * (1 + b.abs()))  # infinities may agree, NaN never does
    if bool((away <= 0).all()):
        return
    at = int(away.nan_to_num(math.inf).argmax())
    where = f" at entry {np.unravel_index(at, tuple(a.shape))}" if a.ndim else ""
    raise CheckError(f"{what}: expected {float(b.flatten()[at]):.10g}, not {float(a.flatten()[at]):.10g}{where}")


def require_mean(draws: Tensor, expected: float, what: str, errors: float = 5.0) -> None:
    """Raise unless the mean of independent draws is what it should be, within so many standard errors.

    Five standard errors are passed by chance once in two million times.

    Raises
    ------
    CheckError
        With the mean, its error and the distance between them.
    """
    draws = draws.detach().double()
    mean, error = float(draws.mean()), float(draws.std()) / math.sqrt(len(draws))
    require(math.isfinite(mean), f"{what}: some draws are not finite")
    limit = errors * error + 1e-9 * (1 + abs(expected))
    require(
        abs(mean - expected) <= limit,
        f"{what}: expected {expected:.6g}, but {len(draws)} draws have mean {mean:.6g} with standard error {error:.2g}",
    )


@contextmanager
def nothing_global_changes() -> Iterator[None]:
    """Check that what happens inside leaves random states, Pyro's parameters and torch's defaults as they were.

    Raises
    ------
    CheckError
        Naming what has changed.

    Examples
    --------
    >>> with nothing_global_changes():
    ...     torch.zeros(3).sum()
    tensor(0.)
    """
    legacy = np.random.get_state()
    try:
        with pyro.get_param_store().scope(), torch.random.fork_rng(devices=[]):
            np.random.random_sample()  # to a state that nobody who seeds would be in
            torch.rand(())
            pyro.param("of_the_user", torch.tensor([1.0, 2.0]))
            before = _state()
            yield
            for what, value in _state().items():
                same = torch.equal(value, before[what]) if isinstance(value, Tensor) else value == before[what]
                changed = (
                    "has changed" if isinstance(value, Tensor) else f"was {before[what]} before and is {value} now"
                )
                require(same, f"{what} {changed}")
            store = pyro.get_param_store()
            require(set(store.keys()) == {"of_the_user"}, f"Pyro's parameter store now holds {sorted(store.keys())}")
            same = torch.equal(store["of_the_user"], torch.tensor([1.0, 2.0]))
            require(same, "a parameter of the user's own has changed")
    finally:
        np.random.set_state(legacy)


def _state() -> dict[str, Any]:
    return {
        "torch's global random state": torch.get_rng_state(),
        "NumPy's global random state": torch.tensor(np.random.get_state(legacy=False)["state"]["key"].astype(np.int64)),
        "torch's default dtype": torch.get_default_dtype(),
        "torch's gradient mode": torch.is_grad_enabled(),
        "torch's number of threads": torch.get_num_threads(),
    }


def without(checks: Mapping[str, Check], skip: Iterable[str]) -> dict[str, Check]:
    """Leave out the checks of these names, or with names of these patterns ("* storage").

    Raises
    ------
    CheckError
        If there is no such check.
    """
    for pattern in skip:
        require(
            any(fnmatchcase(n, pattern) for n in checks), f"no check is called {pattern!r}; there are {list(checks)}"
        )
    return {n: c for n, c in checks.items() if not any(fnmatchcase(n, pattern) for pattern in skip)}


def run(title: str, checks: Mapping[str, Check]) -> dict[str, str]:
    """Run all checks; say of each that it holds or why it does not apply.

    Raises
    ------
    CheckError
        With every check that fails, one a line, from the first one's own error.
    """
    said: dict[str, str] = {}
    failed: dict[str, Exception] = {}
    for name, check in checks.items():
        try:
            said[name] = check() or "holds"
        except Exception as error:  # a model, guide or method of the user's own may raise anything
            failed[name] = error
    if failed:
        lines = [f"{n}: {e if isinstance(e, CheckError) else f'{type(e).__name__}: {e}'}" for n, e in failed.items()]
        text = "\n".join(lines).replace("\n", "\n  ")
        raise CheckError(f"{title} fails {len(failed)} of {len(checks)} checks:\n  {text}") from next(
            iter(failed.values())
        )
    return said
