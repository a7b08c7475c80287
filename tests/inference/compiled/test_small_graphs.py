"""Graphs of small tensors in C give what torch gives; what is not known is left to Inductor."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from inference.compiled.compile import compiler, has_compiler
from inference.compiled.small_graphs import LARGEST, small_graph
from inference.compiled.worth import pays, work

pytestmark = pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")
A = torch.linspace(-1.5, 2.0, 12, dtype=torch.float64).reshape(3, 4)
ROWS = torch.tensor([2, 0, 1])

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


def with_gradients(functions):
    """The functions and their gradients, recorded."""

    def all_of(x):
        results = []
        for function in functions.values():
            with torch.enable_grad():
                leaf = x.detach().requires_grad_()
                value = function(leaf)
                results += [value.detach(), torch.autograd.grad(value.sum(), leaf)[0]]
        return results

    return make_fx(all_of)(A)


def spd(x):
    """A positive definite matrix."""
    return x @ x.mT + 3 * torch.eye(3, dtype=x.dtype)


EVERYTHING = {
    "entry by entry": lambda x: (
        (x.exp() + x.tanh() * x.sigmoid() - x.square().log1p() / (2 + x.cos())) * x.abs().sqrt()
    ),
    "special": lambda x: torch.lgamma(x.exp() + 0.1) + torch.erf(x),
    "links": lambda x: nn.functional.softplus(x) * nn.functional.logsigmoid(x),
    "powers": lambda x: x**2 + x**3 + x.exp() ** -0.5 + (x * x + 1) ** 1.7 + torch.rsqrt(x * x + 1),
    "conditions": lambda x: torch.where((x > 0) & (x < 1), x * x, -x) + x.clamp(-1.0, 1.0) + x.masked_fill(x < 0, 0.5),
    "sums": lambda x: x.sum(0) * x.sum(1, keepdim=True) + x.logsumexp(1, keepdim=True) + x.cumsum(1),
    "pieces": lambda x: torch.cat([x[:, 1:], x[:, :1] * 2], 1) * torch.stack([x[0], x[1], x[2].flip(0)]),
    "constant indices": lambda x: x[ROWS] * x[:, [0, 0, 3, 1]] + x.gather(1, torch.tensor([[0, 1, 1, 3]] * 3)),
    "products": lambda x: x @ x.mT @ x + torch.einsum("ij,kj->ik", x, x).diagonal()[:, None] + (x @ x[0])[:, None],
    "triangles": lambda x: (x @ x.mT).tril(-1) + (x @ x.mT).triu(1) * 2,
    "factors": lambda x: torch.linalg.cholesky(spd(x)).diagonal().log(),
    "solutions": lambda x: torch.linalg.solve_triangular(torch.linalg.cholesky(spd(x)), x, upper=False),
    "conversions": lambda x: x * (x > 0).double() + x * (x * 2).long(),
    "padding": lambda x: nn.functional.pad(x, (1, -2, 0, 1)).square(),
}


@pytest.mark.slow
def test_c_gives_what_torch_gives():
    graph = with_gradients(EVERYTHING)
    made = small_graph(graph, [A], compiler())
    assert made is not None
    for x in (A, A * -0.8 + 0.3):
        names = (f"{what} of {name}" for name in EVERYTHING for what in ("value", "gradient"))
        for name, found, expected in zip(names, made(x), graph(x), strict=True):
            torch.testing.assert_close(
                found, expected, rtol=1e-10, atol=1e-12, msg=lambda said, name=name: f"{name}: {said}"
            )


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_operation_is_torchs_at_its_edges(name):
    """Near and far, at infinities and where there is no number."""
    function = FUNCTIONS[name]
    made = small_graph(make_fx(function)(EDGES), [EDGES], compiler())
    assert made is not None
    for found, expected in zip(made(EDGES), function(EDGES), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-300, equal_nan=True)


def test_threads_do_not_meet_in_the_arrays_of_a_function():
    """All calls share them, and samplers call from a thread for each chain."""

    def function(x):
        return [(x[:, None] * x[None]).exp().sum(1).log()]

    x = torch.linspace(-1, 1, 60, dtype=torch.float64)
    made = small_graph(make_fx(function)(x), [x], compiler())
    assert made is not None
    inputs = [x * (1 + k) for k in range(4)]
    expected = [function(one)[0] for one in inputs]

    def many(k):
        return all(torch.allclose(made(inputs[k])[0], expected[k], rtol=1e-12) for _ in range(300))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(many, range(4)))


def test_few_numbers_pay_sooner():
    """A program that becomes a C function is compiled in a fraction of the time."""
    few, many = (work(lambda x: (x.exp() * 2).sum(), (torch.ones(n, dtype=torch.float64),)) for n in (3, LARGEST))
    assert few.few
    assert not many.few
    assert pays(few, 40_000)
    assert not pays(many, 4_000)


def test_what_is_not_known_is_left_to_inductor():
    assert small_graph(make_fx(lambda x: [torch.linalg.eigvalsh(x @ x.mT)])(A), [A], compiler()) is None
    assert small_graph(make_fx(lambda x: [x + torch.rand(3, 4, dtype=x.dtype)])(A), [A], compiler()) is None
    assert small_graph(make_fx(lambda x: [x.add_(1.0)])(A.clone()), [A], compiler()) is None
    assert small_graph(make_fx(lambda x: [x.float().exp()])(A), [A], compiler()) is None
    wide = torch.zeros(LARGEST, dtype=torch.float64)
    assert small_graph(make_fx(lambda x: [(x + 1).exp() * 2])(wide), [wide], compiler()) is None
