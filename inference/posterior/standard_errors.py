"""Standard errors of point estimates by observed information: the curvature of log p(x, theta) at its maximum."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import copy

import torch
from torch import Tensor

from guides.curvature import CHUNK, hessian, jacobians, slope
from inference.method import Method, Objective
from inference.posterior.answer import Answer
from inference.posterior.criteria import likelihood
from inference.posterior.rows import row_chunks
from zoo.errors import FitError
from zoo.program.program import Program
from zoo.program.terms import sum_of
from zoo.program.view import View
from zoo.replay.evaluate import Values, model_context

FAR = 0.1  # distance to the maximum, in standard errors, at which a point is none
SINGULAR = 1e-9  # smallest eigenvalue of the information, in units of its diagonal, that is told from 0
MOST = 500  # numbers of which the information matrix is made
CELLS = 2_000_000  # rows x states x numbers beyond which the matrix is not made unasked


class Point:
    """log p(x, theta(u)) over the unconstrained vector u of everything at a point: discrete latents summed out.

    There is no Jacobian: at a maximum of log p(x, theta) that of u is one as well.
    """

    def __init__(self, answer: Answer) -> None:
        program = self.program = answer.program
        self.view = View([*program.parameters, *program.globals], program.row)
        self.like = torch.empty(0, dtype=program.dtype, device=program.device)
        self.points, self.first = answer.points, True
        latents = {n: v[0] for n, v in answer.approximation.draw(program, 1)[0].items()}
        self.at = self.view.unconstrain_globals({**answer.points, **latents})

    def log_prob(self, u: Tensor) -> Tensor:
        """Evaluate it at one vector."""
        values = {**self.points, **self.view.constrain_globals(u)[0]}
        terms = self.program.log_joint(values)
        return terms.total(self.program.data.weights) - (0.0 if self.first else terms.rest)

    def pieces(self) -> Iterator[Point]:
        """Split it into densities of some rows each, whose second derivatives fit in memory and add up."""
        entries = sum(v[:1].numel() for v in self.program.data.values.values())
        draws = CHUNK * max(1, entries)  # each tangent has entries, states and rows
        for number, program in enumerate(row_chunks(self.program, whole=bool(self.program.tied), draws=draws)):
            piece = copy(self)
            piece.program, piece.first = program, not number
            yield piece

    def values(self, u: Tensor) -> Values:
        """All that a summary shows of the point: values of sites, and what is derived from them."""
        values = self.view.constrain_globals(u)[0]
        return {**values, **self.program.deterministic({**self.points, **values})}

    def name(self, coordinate: int) -> str:
        """Name of the site that a coordinate belongs to."""
        return next(s.site.name for s in self.view.globals if s.start <= coordinate < s.stop)


def too_large(program: Program) -> str:
    """Say why the information matrix is not made unasked; empty if it is."""
    size = View([*program.parameters, *program.globals], program.row).global_size
    states = max([1, *(s.cardinality for s in program.enumerated)])
    if size > MOST or size * len(program.data) * states > CELLS:
        return (
            f"no standard errors: an information matrix of {size} numbers over {len(program.data)} rows takes long; "
            "standard_errors() makes it all the same"
        )
    return ""


def information(answer: Answer, method: Method, objective: Objective) -> Mapping[str, Tensor]:
    """se(theta) = sqrt(diag(J I(u)^-1 J^T)), I = -d^2 log p(x, theta(u)) / du^2 the observed information (Louis 1982).

    J = d theta / du, by which errors of unconstrained coordinates become those of probabilities, covariances and so on
    (the delta method). The second derivatives are those of the marginal density itself, discrete latents summed out, by
    automatic differentiation. With priors, log p(x, theta) includes them.

    Returns
    -------
    dict
        Site -> standard errors in its shape.

    Raises
    ------
    FitError
        If this is no point estimate, if the fit did not end at a maximum, or if the data do not determine a parameter,
        by its name.
    """
    likelihood(answer, method, objective)  # says why not, where there is no maximum of this density
    program = answer.program
    if program.locals:
        raise FitError(
            "no standard errors: rows have continuous latents, over which log p(x | theta) is not summed here; use "
            'standard_errors(kind="parametric") or kind="bootstrap"'
        )
    if program.networks:
        raise FitError("no standard errors: weights of a network are not determined by the data one by one")
    point = Point(answer)
    if not len(point.at):
        return {}
    with model_context(program.dtype, program.device):
        _, gradient = slope(point, point.at)
        matrix = -sum_of(hessian(piece, point.at) for piece in point.pieces())
    covariance = _inverse(point, matrix)
    step = covariance @ gradient
    far = float((gradient @ step).clamp_min(0).sqrt())
    if far > FAR:
        raise FitError(
            f"no standard errors: the fit ends {far:.2g} of them from the maximum, along "
            f"{point.name(int((gradient * step).abs().argmax()))!r}; let the method take more steps, or give it a "
            "smaller tolerance"
        )
    with model_context(program.dtype, program.device):
        # Site -> (*shape, G)
        slopes = jacobians(point.values, point.at.to(point.like))
    errors = {}
    for name, j in slopes.items():
        j = j.detach().double().cpu()
        errors[name] = torch.einsum("...g,gh,...h->...", j, covariance, j).clamp_min(0).sqrt()
    return errors


def _inverse(point: Point, matrix: Tensor) -> Tensor:
    """Invert an information matrix (G, G); say along what it is singular."""
    if not bool(matrix.isfinite().all()):
        name = point.name(int((~matrix.isfinite()).any(1).nonzero()[0]))
        raise FitError(f"no standard errors: the curvature of {name!r} is not a number, as at the edge of its support")
    size = matrix.diagonal().abs().clamp_min(torch.finfo(matrix.dtype).tiny).sqrt()
    values, vectors = torch.linalg.eigh(matrix / size[:, None] / size)
    if float(values[0]) < SINGULAR:
        name = point.name(int(vectors[:, 0].abs().argmax()))
        raise FitError(
            f"no standard errors: the information is singular along {name!r} (its smallest eigenvalue, scaled, is "
            f"{float(values[0]):.2g}): the data do not determine it, it is at the edge of its support, or this "
            "is a saddle"
        )
    inverse: Tensor = (vectors / values) @ vectors.mT / size[:, None] / size
    return inverse
