"""Graphs of small tensors in C give what torch gives; what is not known is left to Inductor."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from inference.compiled.compile import compiler, has_compiler
from inference.compiled.small_graphs import LARGEST, small_graph

pytestmark = pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")
A = torch.linspace(-1.5, 2.0, 12, dtype=torch.float64).reshape(3, 4)
ROWS = torch.tensor([2, 0, 1])


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


def test_what_is_not_known_is_left_to_inductor():
    assert small_graph(make_fx(lambda x: [torch.linalg.eigvalsh(x @ x.mT)])(A), [A], compiler()) is None
    assert small_graph(make_fx(lambda x: [x + torch.rand(3, 4, dtype=x.dtype)])(A), [A], compiler()) is None
    assert small_graph(make_fx(lambda x: [x.add_(1.0)])(A.clone()), [A], compiler()) is None
    assert small_graph(make_fx(lambda x: [x.float().exp()])(A), [A], compiler()) is None
    wide = torch.zeros(LARGEST, dtype=torch.float64)
    assert small_graph(make_fx(lambda x: [(x + 1).exp() * 2])(wide), [wide], compiler()) is None
