"""The conditional distribution of collapsed latents given all others, read off gradients of the log joint.

Let f(c; phi) be the log joint as a function of the collapsed latents c. Where they are jointly Normal given the rest
phi, grad f = h - P c, so that differences of gradients are columns of the precision P: one for each of a few latents
that all others meet, and one for each entry of a group in a plate, whose groups do not meet. Other families are told
by gradients at two points (`conjugate_forms.py`). Then, at any c0 (Chib 1995),

    log m(phi) = f(c0; phi) - log q(c0; phi),

a function of phi that can be differentiated any number of times. Only f is the program's own: there is one way for all
likelihoods, weights, masks and missing cells.

A Normal latent stands in c as the standard Normal noise behind it. Its prior adds exactly the identity to P then, so
that P has a Cholesky factor everywhere, also where the scale of a group goes to zero, and nothing cancels there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from zoo.program.conjugate_forms import Form
from zoo.replay.evaluate import Values

FEW = 16  # products of columns that are merged into the loops around them when compiled


@dataclass(frozen=True)
class Layout:
    """Where collapsed latents stand in one vector c of D numbers, and which of them meet.

    Attributes
    ----------
    names, shapes
        Sites in the order of the vector, and the shapes of their values.
    groups
        Normal entries in groups that do not meet each other: positions (J, M), M entries a group.
    dense
        Normal entries that may meet all others: positions (K,).
    forms
        Site -> family of its entries, which meet no other collapsed entry.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    groups: Tensor
    dense: Tensor
    forms: dict[str, Form]

    @property
    def sizes(self) -> list[int]:
        """Numbers of each site."""
        return [math.prod(shape) for shape in self.shapes]

    @property
    def size(self) -> int:
        """D."""
        return sum(self.sizes)

    def values(self, c: Tensor) -> Values:
        """Values of the sites from vectors (..., D)."""
        parts = c.split(self.sizes, -1)
        return {n: p.reshape((*c.shape[:-1], *s)) for n, p, s in zip(self.names, parts, self.shapes, strict=True)}

    def of_form(self, vector: Tensor, name: str) -> Tensor:
        """Entries of a site that has a form, from vectors (..., D): (..., entries), or (..., entries, d)."""
        at = self.names.index(name)
        part, shape = vector.split(self.sizes, -1)[at], self.shapes[at]
        events = self.forms[name].events
        entries: Tensor = part.reshape(*vector.shape[:-1], -1, *shape[len(shape) - events :])
        return entries


@dataclass(frozen=True)
class Normals:
    """Normal(c_ref + P^-1 h, P^-1) with an arrow for P: groups on the diagonal, a dense border, both as factors.

    Attributes
    ----------
    diagonal
        Cholesky factors L_j of the groups' precisions, (J, M, M).
    border
        L_j^-1 P_jk, (J, M, K).
    inside
        L_j^-1 h_j, (J, M).
    corner
        Cholesky factor of the dense entries' precision with the groups integrated out, (K, K).
    outside
        What it takes h to, (K,).
    """

    diagonal: Tensor
    border: Tensor
    inside: Tensor
    corner: Tensor
    outside: Tensor

    @classmethod
    def of(cls, precision: tuple[Tensor, Tensor, Tensor], shift: tuple[Tensor, Tensor]) -> Normals:
        """Factorize: the groups first, then what is left of the dense entries.

        Parameters
        ----------
        precision
            Of groups (J, M, M), between groups and dense entries (J, M, K), of dense entries (K, K).
        shift
            The gradient h at the reference, (J, M) and (K,).
        """
        (diagonal, border, corner), (inside, outside) = precision, shift
        if diagonal.numel():
            diagonal = root_of(diagonal)
            both = torch.cat([border, inside.unsqueeze(-1)], -1)
            both = solved(diagonal, both, upper=False)
            border, inside = both[..., :-1], both[..., -1]
            corner = corner - over_groups(border, border)
            outside = outside - over_groups(border, inside.unsqueeze(-1)).squeeze(-1)
        if corner.numel():
            corner = root_of(corner)
            outside = solved(corner, outside.unsqueeze(-1), upper=False).squeeze(-1)
        return cls(diagonal, border, inside, corner, outside)

    def log_integral(self) -> Tensor:
        """log of the integral over c of exp(h'(c - c_ref) - (c - c_ref)' P (c - c_ref) / 2)."""
        entries = self.inside.numel() + self.outside.numel()
        height = self.inside.square().sum() + self.outside.square().sum()
        return 0.5 * (height + entries * math.log(2 * math.pi)) - self.log_root()

    def log_root(self) -> Tensor:
        """log|P| / 2."""
        return sum_of_logs(self.diagonal) + sum_of_logs(self.corner)

    def at(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """c - c_ref of groups and dense entries where standard Normal noise is (J, M) and (K,); the mean at zero."""
        dense, inside = (self.outside + second).unsqueeze(-1), (self.inside + first).unsqueeze(-1)
        if dense.numel():
            dense = solved(self.corner.mT, dense, upper=True)
            inside = inside - (self.border * dense.mT).sum(-1, keepdim=True)
        if inside.numel():
            inside = solved(self.diagonal.mT, inside, upper=True)
        return inside.squeeze(-1), dense.squeeze(-1)


def root_of(matrices: Tensor) -> Tensor:
    """Cholesky factors (..., d, d); NaN where there is none, so that one of many draws does not hold up the others."""
    if matrices.shape[-1] == 1:
        return matrices.sqrt()
    root, failed = torch.linalg.cholesky_ex(matrices)
    return torch.where((failed != 0)[..., None, None], math.nan, root)


def solved(root: Tensor, right: Tensor, *, upper: bool) -> Tensor:
    """X with R X = B for triangular R; one number at a time where it is one, of which a library makes calls."""
    return right / root if root.shape[-1] == 1 else torch.linalg.solve_triangular(root, right, upper=upper)


def over_groups(a: Tensor, b: Tensor) -> Tensor:
    """Sum of a_j' b_j over groups, (J, M, K) and (J, M, L) -> (K, L); small ones without a call of BLAS."""
    if a.shape[-1] * b.shape[-1] <= FEW:
        return (a.unsqueeze(-1) * b.unsqueeze(-2)).sum((0, 1))
    return torch.einsum("jmk,jml->kl", a, b)


def sum_of_logs(factors: Tensor) -> Tensor:
    """Sum of the logarithms of all diagonals."""
    return factors.diagonal(dim1=-2, dim2=-1).log().sum()


@dataclass(frozen=True)
class Probes:
    """Where gradients are taken: at a reference, and there with some entries moved.

    Attributes
    ----------
    layout
        What stands where.
    centre
        The reference c_ref, (D,); of forms the first of their two values.
    step
        By how much each Normal entry is moved, (D,), about its posterior standard deviation.
    """

    layout: Layout
    centre: Tensor
    step: Tensor

    @classmethod
    def blank(cls, layout: Layout, like: Tensor) -> Probes:
        """Begin where nothing is known of the data: at zero, or in the middle."""
        parts = []
        for name, shape in zip(layout.names, layout.shapes, strict=True):
            form = layout.forms.get(name)
            start = form.start(shape, like) if form is not None else like.new_zeros(shape)
            parts.append(start.reshape(-1))
        centre = torch.cat(parts)
        return cls(layout, centre, torch.ones_like(centre))

    def points(self) -> Tensor:
        """All of them, (1 + moves, D): entries of groups first, then dense ones; forms move in the first."""
        layout, count = self.layout, self.layout.groups.shape[1] + len(self.layout.dense)
        moves = torch.zeros(max(count, 1), layout.size, dtype=self.centre.dtype, device=self.centre.device)
        for m, column in enumerate(layout.groups.mT):
            moves[m, column] = self.step[column]
        for k, at in enumerate(layout.dense.tolist()):
            moves[layout.groups.shape[1] + k, at] = self.step[at]
        points = torch.cat([self.centre[None], self.centre + moves])
        parts = list(points.split(layout.sizes, -1))
        for i, name in enumerate(layout.names):
            if name in layout.forms:
                second = layout.forms[name].points(layout.of_form(self.centre, name))[1]
                parts[i] = torch.cat([parts[i][:1], second.reshape(1, -1), parts[i][2:]])
        return torch.cat(parts, -1)

    def at_zero(self, names: Collection[str]) -> Probes:
        """Probes about zero for some sites."""
        both = zip(self.layout.names, self.centre.split(self.layout.sizes), strict=True)
        return replace(self, centre=torch.cat([torch.zeros_like(c) if n in names else c for n, c in both]))

    def moved_to(self, conditional: Conditional) -> Probes:
        """Probes about the mean of a conditional, by its own spread."""
        layout = self.layout
        root = torch.ones_like(self.centre)
        mean, _ = conditional.normal_draw(root.new_zeros(layout.groups.numel() + len(layout.dense)))
        for precision, at in ((conditional.precision[0].diagonal(dim1=-2, dim2=-1), layout.groups),
                              (conditional.precision[2].diagonal(), layout.dense)):  # fmt: skip
            root[at] = precision.rsqrt()
        parts = list(mean.split(layout.sizes))
        for i, name in enumerate(layout.names):
            if name in layout.forms:
                parts[i] = layout.forms[name].mean(conditional.natural[name]).reshape(-1)
        return replace(self, centre=torch.cat(parts), step=root)


@dataclass(frozen=True)
class Conditional:
    """p(c | phi, data) at one phi, and f at the reference.

    Attributes
    ----------
    probes
        Where it was read off.
    height
        f(c_ref; phi).
    precision, shift
        P and h of the Normal entries, as `Normals.of` takes them.
    natural
        Site -> natural parameters of its entries.
    """

    probes: Probes
    height: Tensor
    precision: tuple[Tensor, Tensor, Tensor]
    shift: tuple[Tensor, Tensor]
    natural: dict[str, tuple[Tensor, ...]]

    @classmethod
    def of(cls, joint: Callable[[Values], Tensor], probes: Probes, points: Tensor) -> Conditional:
        """Read it off the gradients of a log joint, a function of the collapsed values, at the probes' points."""
        layout = probes.layout

        def height(c: Tensor) -> tuple[Tensor, Tensor]:
            value = joint(layout.values(c))
            return value, value

        gradients, heights = torch.vmap(torch.func.grad(height, has_aux=True))(points)  # (1 + moves, D), (1 + moves,)
        at, dense, step = layout.groups, layout.dense, probes.step
        fall = gradients[0] - gradients[1:]  # (moves, D): P times the moves
        entries = at.shape[1]
        natural = {}
        for name, form in layout.forms.items():
            pair = layout.of_form(points[0], name), layout.of_form(points[1], name)
            natural[name] = form.natural(pair, (layout.of_form(gradients[0], name), layout.of_form(gradients[1], name)))
        groups = fall[:entries, at].movedim(0, -1) / step[at].unsqueeze(-2)  # (J, M, M)
        border = fall[entries : entries + len(dense), at].movedim(0, -1) / step[dense]  # (J, M, K)
        corner = fall[entries : entries + len(dense), dense].mT / step[dense]  # (K, K)
        return cls(probes, heights[0], (groups, border, corner), (gradients[0, at], gradients[0, dense]), natural)

    def normals(self) -> Normals:
        """The Normal entries, factorized."""
        return Normals.of(self.precision, self.shift)

    def log_marginal(self) -> Tensor:
        """log m(phi): f with all these latents integrated out."""
        layout, value = self.probes.layout, self.height
        if layout.groups.numel() or layout.dense.numel():
            value = value + self.normals().log_integral()
        for name, form in layout.forms.items():
            value = value - form.log_prob(self.natural[name], layout.of_form(self.probes.centre, name)).sum()
        return value

    def normal_draw(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """c with the Normal entries drawn from standard Normal noise (entries,), others as they are; log q of it."""
        layout, inside = self.probes.layout, self.shift[0]
        normals, cut = self.normals(), inside.numel()
        off = normals.at(noise[:cut].reshape(inside.shape), noise[cut:])
        moved = torch.zeros_like(self.probes.centre)
        moved = moved.index_put((layout.groups,), off[0]).index_put((layout.dense,), off[1])
        log_q = normals.log_root() - 0.5 * (noise.square() + math.log(2 * math.pi)).sum()
        return self.probes.centre + moved, log_q

    def gradient(self, c: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient that f has at c (D,), if all is as it was said; and the size of what is added up for it."""
        layout, off = self.probes.layout, c - self.probes.centre
        groups, border, corner = self.precision
        inside, outside = off[layout.groups], off[layout.dense]  # (J, M), (K,)
        both = []
        for sign in (-1.0, 1.0):
            parts = [groups, border, corner, inside, outside, *self.shift]
            a, b, d, x, y, h, k = parts if sign < 0 else [p.abs() for p in parts]
            first = h + sign * ((a @ x.unsqueeze(-1)).squeeze(-1) + b @ y)
            second = k + sign * (torch.einsum("jmk,jm->k", b, x) + d @ y)
            both.append(torch.zeros_like(c).index_put((layout.groups,), first).index_put((layout.dense,), second))
        told, size = both
        pieces = list(told.split(layout.sizes))
        for i, name in enumerate(layout.names):
            if name in layout.forms:
                pieces[i] = layout.forms[name].gradient(self.natural[name], layout.of_form(c, name)).reshape(-1)
        return torch.cat(pieces), size
