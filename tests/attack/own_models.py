"""Models of one's own in which something is wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch.distributions import constraints

import zoo
from inference import fit
from tests.attack.attempt import Attempt
from tests.attack.subjects import QUICK

X = np.random.default_rng(0).normal(2.0, 1.0, 12)


def named(name: str) -> Callable[[Any], None]:
    """A latent of some name."""

    def story(x: Any) -> None:
        mu = pyro.sample(name, dist.Normal(0.0, 10.0))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)

    return story


def told(before: Callable[[Any], Any]) -> Callable[[Any], None]:
    """A location with something done to it before the data are observed."""

    def story(x: Any) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        mu = before(mu)
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)

    return story


def observed(family: Callable[[Any, Any], Any]) -> Callable[[Any], None]:
    """Data observed by some distribution."""

    def story(x: Any) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        with pyro.plate("row", len(x)):
            pyro.sample("x", family(mu, x), obs=x)

    return story


def sequential(x: Any) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    for i in pyro.plate("row", len(x)):
        pyro.sample(f"x_{i}", dist.Normal(mu, 1.0), obs=x[i])


def sequential_latents(x: Any) -> None:
    for i in pyro.plate("row", len(x)):
        z = pyro.sample(f"z_{i}", dist.Normal(0.0, 1.0))
        pyro.sample(f"x_{i}", dist.Normal(z, 1.0), obs=x[i])


def noise_unregistered(x: Any) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu + 0.1 * torch.randn(()), 1.0), obs=x)


def numpy_noise(x: Any) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu + 0.1 * float(np.random.rand()), 1.0), obs=x)


def drawn_without_name(x: Any) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    z = dist.Normal(0.0, 1.0).sample((len(x),))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu + z, 1.0), obs=x)


def dropout(x: Any) -> None:
    mu = pyro.sample("mu", dist.Normal(torch.zeros(5), 10.0).to_event(1))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(torch.nn.functional.dropout(mu, 0.5).sum(), 1.0), obs=x)


def counted(x: Any, calls: list[int] = [0]) -> None:  # noqa: B006  what is attacked is a density that remembers
    calls[0] += 1
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu, 1.0 + 0.01 * (calls[0] % 7)), obs=x)


def in_place(x: Any) -> None:
    mu = pyro.sample("mu", dist.Normal(torch.zeros(3), 10.0).to_event(1))
    mu[0] = 0.0
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu.sum(), 1.0), obs=x)


def in_place_sum(x: Any) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    mu += 1.0
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x)


def data_in_place(x: Any) -> None:
    x += 1.0
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x)


def unbounded(x: Any) -> None:
    mu = pyro.param("mu", torch.zeros(()))
    scale = pyro.param("scale", torch.ones(()), constraint=constraints.positive)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(x + 0 * mu, scale), obs=x)


def unbounded_latent(x: Any) -> None:
    scale = pyro.sample("scale", dist.HalfCauchy(1.0))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(x, scale), obs=x)


def unbounded_mean(x: Any) -> None:
    a = pyro.param("a", torch.zeros(()))
    pyro.factor("climb", a)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)


def twice(x: Any) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    mu = pyro.sample("mu", dist.Normal(mu, 1.0))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x)


def no_plate(x: Any) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    pyro.sample("x", dist.Normal(mu, 1.0), obs=x)


def nothing_observed(x: Any) -> None:
    pyro.sample("mu", dist.Normal(0.0, 1.0))


def empty(x: Any) -> None:
    return


def wrong_size(x: Any) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("row", 5):
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x)


def other_observed(x: Any) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(x)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=torch.zeros(len(x)))


def branches(x: Any) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    name = "a" if mu > 0 else "c"
    z = pyro.sample(name, dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu + z, 1.0), obs=x)


def improper(x: Any) -> None:
    mu = pyro.sample("mu", dist.ImproperUniform(constraints.real, (), ()))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x)


def raises(error: Callable[[], BaseException]) -> Callable[[Any], None]:
    """A story that fails."""

    def story(x: Any) -> None:
        raise error()

    return story


def leaves(x: Any) -> None:
    sys.exit(3)


def deep(x: Any) -> None:
    deep(x)


MODELS: dict[str, tuple[Callable[[Any], None], tuple[str, ...], bool]] = {
    **{
        f"a latent called {name!r}": (named(name), (name.replace("(", r"\(") or "name",), refuse)
        for name, refuse in {
            "chain": True,
            "draw": True,
            "a/b": True,
            "sample": True,
            "row": True,
            "x": True,
            "": True,
            ".": True,
            "log_likelihood": False,
            "mu.sub": False,
            "naïve": False,
            "a b": False,
            "_x": False,
            "self": False,
            "class": False,
            "a:b": False,
            "lp": False,
            "mu[0]": False,
        }.items()
    },
    "sequential plates": (sequential, ("plate", "x_0", r"\bx\b"), True),
    "sequential latents": (sequential_latents, ("plate", "z_0", r"\bx\b"), True),
    "noise that is no site": (noise_unregistered, ("random|differ|again", r"'x'"), True),
    "noise of NumPy": (numpy_noise, ("random|differ|again", r"'x'"), True),
    "a draw that is no site": (drawn_without_name, ("random|differ|again", r"'x'"), True),
    "dropout": (dropout, ("random|differ|again", r"'x'"), True),
    "a density that counts its calls": (counted, ("random|differ|again", r"'x'"), True),
    "a latent changed in place": (in_place, ("in place|mu",), False),
    "a latent added to in place": (in_place_sum, ("in place|mu",), False),
    "data changed in place": (data_in_place, ("in place|x",), False),
    "a likelihood without bound": (unbounded, ("scale|bound|x",), True),
    "a posterior without bound": (unbounded_latent, ("scale|bound|x",), False),
    "a factor without bound": (unbounded_mean, ("climb|bound|'a'",), True),
    "a site twice": (twice, ("mu",), True),
    "no plate": (no_plate, ("plate", r"\bx\b"), False),
    "nothing observed": (nothing_observed, (r"\bx\b", "observe"), True),
    "no sites": (empty, (r"\bx\b", "observe", "site"), True),
    "a plate of another size": (wrong_size, ("row", "plate"), True),
    "another field observed": (other_observed, (r"\bx\b", r"\by\b"), False),
    "a story that branches": (branches, ("'a'|'c'", "mu"), True),
    "an improper prior": (improper, ("mu", "improper"), False),
    "SystemExit": (leaves, ("SystemExit|exit|Story",), True),
    "endless recursion": (deep, ("recursion|Recursion",), True),
    **{
        f"{type(e()).__name__} in the story": (raises(e), (type(e()).__name__, "wrong"), True)
        for e in (
            lambda: KeyError("wrong"),
            lambda: RuntimeError("wrong"),
            lambda: ZeroDivisionError("wrong"),
            lambda: AssertionError("wrong"),
            lambda: StopIteration("wrong"),
            lambda: MemoryError("wrong"),
            lambda: GeneratorExit("wrong"),
            lambda: Exception(),
            lambda: NotImplementedError("wrong"),
        )
    },
    "an unnormalized scale": (observed(lambda mu, x: dist.Normal(mu, -1.0)), ("scale", "x"), True),
    "a scale of zero": (observed(lambda mu, x: dist.Normal(mu, 0.0 * mu.abs())), ("scale", "x"), True),
    "a scale of NaN": (observed(lambda mu, x: dist.Normal(mu, float("nan"))), ("scale", "x"), True),
    "the data as location": (observed(lambda mu, x: dist.Normal(x + mu, 1.0)), ("x",), False),
    "a word as distribution": (observed(lambda mu, x: "normal"), ("x|distribution|Normal|normal",), True),
    "None as distribution": (observed(lambda mu, x: None), ("x|distribution|None",), True),
    "torch's own distribution": (
        observed(lambda mu, x: torch.distributions.Normal(mu, 1.0)),
        ("x|distribution",),
        False,
    ),
    "NumPy of a latent": (
        told(lambda mu: torch.as_tensor(np.sin(mu.detach().numpy()))),
        ("mu", "x", "gradient"),
        False,
    ),
    "a float of a latent": (told(lambda mu: float(mu)), ("mu", "x", "gradient"), False),
    "a detached latent": (told(lambda mu: mu.detach()), ("mu", "x", "gradient"), False),
    "a rounded latent": (told(lambda mu: mu.round()), ("mu", "x", "gradient"), False),
    "a latent divided by zero": (told(lambda mu: mu / 0.0), ("x", "loc"), True),
    "a root of a latent": (told(lambda mu: mu.sqrt()), ("x", "loc"), False),
    "a None in place of a latent": (told(lambda mu: None), ("x|None",), True),
    "a shape of (1,)": (told(lambda mu: mu[None]), ("x", "shape"), False),
    "a shape of (7,)": (told(lambda mu: mu * torch.ones(7)), ("x", "shape", "row"), True),
    "single precision": (told(lambda mu: mu.float()), ("x",), False),
    "complex": (told(lambda mu: mu * 1j), ("x",), True),
}


def attempts() -> Iterator[Attempt]:
    """Each model by each method."""
    for label, (story, words, refuse) in MODELS.items():
        for method in QUICK:
            yield Attempt(
                "own models",
                f"{label}, by {method}",
                lambda story=story, method=method: _told(
                    fit(_model(story), X, method=QUICK[method], seed=0, progress=False), story
                ),
                (*words, "no parameters|has no latents|not conjugate|legal|closed form|exact needs"),
                refuse=refuse,
            )


def _model(story: Callable[[Any], None]) -> type[zoo.Model]:
    class Story(zoo.Model):
        x = zoo.Real("row")

        def forward(self, x: Any) -> None:
            story(x)

    return Story


def _told(found: Any, story: Any) -> Any:
    """A climb without bound is told of as a warning of the fit."""
    if story in (unbounded, unbounded_mean) and not found.converged:
        raise zoo.FitError(f"without bound: {found.reason}")
    return found
