"""Programs of few numbers written out: every operation against torch's own, and what is left to the other compiler."""

import math

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from inference.compiled.compile import compiler, pays, work
from inference.compiled.straight_line import LARGEST, straight_line

needs_compiler = pytest.mark.skipif(not compiler(), reason="there is no C++ compiler")
EDGES = torch.tensor([0.3, -0.7, 2.5, 0.0, -3.0, 1e-300, 40.0, -40.0, math.inf, -math.inf, math.nan, 1.0]).double()
AT = torch.tensor([2, 0, 2])
FUNCTIONS = {
    "entries": lambda x: [
        f(x)
        for f in (
            torch.exp,
            torch.expm1,
            torch.log,
            torch.log1p,
            torch.sqrt,
            torch.abs,
            torch.sgn,
            torch.tanh,
            torch.sin,
            torch.cos,
            torch.atan,
            torch.erf,
            torch.lgamma,
            torch.digamma,
            torch.sigmoid,
            torch.square,
            torch.neg,
            torch.reciprocal,
            torch.rsqrt,
            torch.nn.functional.softplus,
        )
    ],
    "pairs": lambda x: [x + 2 * x.flip(0), x - x[0], 1 - x, x * x[1], x / x[2], 3 / x, x**2, x**-1.5, x.pow(3.0), 2**x],
    "truth": lambda x: [
        torch.where(x > x[0], x, -x),
        torch.where((x >= 0) & ~(x == 1) | (x < -5), 1.0, x),
        x.clamp(-1.0, 2.0),
        torch.maximum(x, x.flip(0)),
        torch.minimum(x, x.flip(0)),
        x.masked_fill(x <= 0, 7.0),
        torch.xlogy(x, x.abs()),
    ],
    "places": lambda x: [
        x.reshape(3, 4).T,
        x.reshape(3, 4)[AT],
        x.reshape(3, 4)[:, AT],
        x.reshape(3, 4)[1:, ::2],
        x[-2:],
        x[3],
        x.reshape(2, 2, 3).permute(2, 0, 1),
        x[:3].expand(2, 3),
        x[:4].reshape(2, 2).diagonal(),
        torch.stack([x, -x], -1),
        torch.cat([x[:2], x[5:]]),
        x.new_zeros(3).index_add(0, AT, x[:3]),
        x.reshape(3, 4).split([1, 3], 1)[1],
        x[:9].reshape(3, 3).tril(-1),
        x.new_zeros(5).index_put((AT,), x[:3]),
        x.unsqueeze(1).squeeze(-1),
    ],
    "sums": lambda x: [
        x[:8].sum(),
        x[:8].reshape(2, 4).sum(1, keepdim=True),
        x[:8].reshape(2, 2, 2).sum((0, 2)),
        x[:2] @ x[2:4],
        x[:4].reshape(2, 2) @ x[4:8].reshape(2, 2),
        x[:4].reshape(2, 2) @ x[:2],
        x[:8].reshape(2, 2, 2).matmul(x[:2]),
    ],
}


def recorded(function, x):
    """The operations of a function, as a module."""
    return make_fx(function)(x)


@needs_compiler
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_operation_is_torchs(name):
    """Near and far, at infinities and where there is no number."""
    function = FUNCTIONS[name]
    line = straight_line(recorded(function, EDGES), [EDGES], compiler())
    assert line is not None
    for found, expected in zip(line(EDGES), function(EDGES), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-300, equal_nan=True)


@needs_compiler
def test_gradients_are_written_out():
    """What autograd leaves of slices and gathers becomes sums of what is not zero."""

    def value(x):
        a = x[:2, None] * x[None, :2] + torch.eye(2, dtype=x.dtype) * x[2].exp()
        return (a[0, 0] * a[1, 1] - a[0, 1] ** 2).log() + x[AT].sum()

    x = torch.tensor([0.4, -1.2, 0.7], dtype=torch.float64)
    both = torch.func.grad_and_value(value)
    line = straight_line(recorded(both, x), [x], compiler())
    assert line is not None
    for found, expected in zip(line(2 * x), both(2 * x), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: [x.expand(LARGEST + 1, 3).sum(0)],
        lambda x: [torch.special.bessel_j0(x)],
        lambda x: [x.float()],
        lambda x: [x.argsort()],
        lambda x: [x + torch.rand_like(x)],
    ],
    ids=["many numbers", "an operation that is not known", "single precision", "whole numbers", "random numbers"],
)
def test_what_is_left_to_the_other_compiler(function):
    """Many numbers, other operations and types."""
    x = torch.tensor([0.4, -1.2, 0.7], dtype=torch.float64)
    assert straight_line(recorded(function, x), [x], compiler()) is None


def test_few_numbers_pay_sooner():
    """A program that is written out is compiled in a fraction of the time."""
    few, many = (work(lambda x: (x.exp() * 2).sum(), (torch.ones(n, dtype=torch.float64),)) for n in (3, LARGEST + 1))
    assert few.few
    assert not many.few
    assert pays(few, 40_000)
    assert not pays(many, 40_000)
