"""What a caller has switched on stays out of fits and of the questions to them, and stays on."""

import contextlib

import numpy as np
import pyro
import pytest
import torch
from pyro.poutine.runtime import _PYRO_STACK

import zoo
from inference import EM, Laplace, fit


@contextlib.contextmanager
def default(set_it, get_it, value):
    before = get_it()
    set_it(value)
    try:
        yield
    finally:
        set_it(before)


SURROUNDINGS = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "default of bfloat16": lambda: default(torch.set_default_dtype, torch.get_default_dtype, torch.bfloat16),
    "default of float64": lambda: default(torch.set_default_dtype, torch.get_default_dtype, torch.float64),
    "default of a device": lambda: default(torch.set_default_device, torch.get_default_device, "meta"),
    "errstate": lambda: np.errstate(all="raise"),
    "trace": pyro.poutine.trace,
    "mask": lambda: pyro.poutine.mask(mask=False),
    "scale": lambda: pyro.poutine.scale(scale=2.0),
    "plate": lambda: pyro.plate("outside", 3),
}


def answers(around=contextlib.nullcontext):
    x = np.random.default_rng(0).normal([[-3.0, 1.0], [2.0, 5.0]], 1.0, (20, 2, 2)).reshape(40, 2)
    given = []
    asked = ((zoo.GMM(components=2), EM(restarts=1), x), (zoo.NormalNormal(), Laplace(), x[:, 0]))
    for model, method, rows in asked:
        with around():
            result = fit(model, rows, method=method, seed=0, progress=False)
            density = result.log_prob(rows[:3])
            handlers, precision = len(_PYRO_STACK), torch.get_default_dtype()
        given += [result.objective.value, density.to_numpy()]
    return given, handlers, precision


@pytest.fixture(scope="module")
def plain():
    return answers()[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", SURROUNDINGS)
def test_surroundings_change_nothing_and_are_left_as_they_were(name, plain):
    given, handlers, precision = answers(SURROUNDINGS[name])
    for found, expected in zip(given, plain, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert handlers == (name in ("trace", "mask", "scale", "plate"))
    assert (precision == torch.bfloat16) == (name == "default of bfloat16")


@pytest.mark.parametrize(
    ("tensor", "said"),
    [(torch.ones(4, 2, device="meta"), "meta device"), (torch.ones(4, 2, dtype=torch.complex64), "complex64")],
)
def test_tensors_without_numbers_are_refused(tensor, said):
    with pytest.raises(zoo.DataError, match=said):
        fit(zoo.GMM(components=2), tensor, method="em", progress=False)
