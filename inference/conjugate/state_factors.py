"""Factors by state: x_i ~ Normal(m_k + W_k t_i, 1/s_k) given z_i = k, with a latent t_i for every row.

Ghahramani and Hinton (1996), "The EM algorithm for mixtures of factor analyzers": responsibilities with t_i integrated
out, and the regression of the rows of each state on its own posterior of t_i.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from inference.conjugate.by_state import ByState, shares
from inference.conjugate.e_step import EStep
from inference.conjugate.exponential_family import Arguments, Current, Entries, Likelihood, Moments
from inference.conjugate.factor_blocks import FactorBlock, FactorMatcher, factors
from inference.conjugate.factor_posteriors import LocalNormal
from inference.conjugate.factor_tables import padded
from inference.conjugate.factors import FactorLikelihood, tabulate
from zoo.program.conditional import by_state
from zoo.program.program import Program
from zoo.replay.evaluate import Values
from zoo.replay.sites import Site


class StateFactorLikelihood(FactorLikelihood):
    """x_i ~ Normal(W_k (1, t_i), 1/s_k), a vector of columns, in each of K states of the row.

    The columns of all states stand one after the other, (K d) in all, each with an intercept and loadings of its own;
    what several states share is a coefficient that feeds several of them.
    """

    @classmethod
    def fits(cls, program: Program, local: Site) -> bool:
        """Whether the states are those of one discrete latent, along the dimension left of the rows."""
        names = by_state(program, local)
        return (
            len(names) == 1
            and program.sites[names[0]].enum_dim == -2
            and program.sites[names[0]].plates == (program.row,)
        )

    def __init__(self, program: Program, site: Site, known: Mapping[str, Likelihood]) -> None:
        (local,) = (n for n in site.args["loc"].sites if program.sites[n].role == "local")
        (name,) = by_state(program, program.sites[local])
        self.lead = (program.sites[name].cardinality,)
        super().__init__(program, site, known)

    # -- the likelihood ----------------------------------------------------------------------------------------

    def natural(
        self, fn: object, argument: Arguments, center: Tensor | None = None
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """As of factors, state by state: means (K, n, d), precisions (K, 1, d)."""
        loc, precision = argument("loc"), argument("precision")
        columns = (*self.lead, 1, self.site.shape[-1])
        s, log = precision["mean"].expand(columns), precision["log"].expand(columns)
        if "seen" in loc:
            s, log = loc["seen"] * s, loc["seen"] * log
        return (s * loc["mean"], -0.5 * s), 0.5 * (log.sum(-1) - loc["square"])

    def location(self, current: Current) -> Moments:
        """W_k (1, t_i) of each row and state, at values, (K, n, d)."""
        w = self.apart(self.loadings(current)[0])
        t = current.values[self.z]
        return {"mean": w[:, None, :, 0].to(t.dtype) + t.reshape(len(t), -1) @ w[:, :, 1:].mT.to(t.dtype)}

    def coefficients(self, current: Current) -> Moments:
        """E[W_k (1, t_i)], (K, n, d), and sum_j E[s_kj (W_k (1, t_i))_j^2], (K, n), about the mean of the data."""
        (one, spread), cells = self._latent(current), current.program.missing(self.site)
        product = self.apart(self.products(current)[0]).to(one.dtype)  # (K, d, q + 1, q + 1)
        loc = {"mean": one @ self.apart(self.about(current)[0]).mT.to(one.dtype)}
        if cells is None:
            weight = product.sum(1)
            square = ((one @ weight) * one).sum(-1)
            weight = weight[:, None]
        else:  # a matrix for each row
            loc["seen"] = (~cells.missing).to(one)
            weight = (loc["seen"] @ product.flatten(2)).unflatten(-1, product.shape[2:])
            square = (one[..., None, :] @ weight @ one[..., None])[..., 0, 0]
        square = square + (weight[..., 1:, 1:].to(one.dtype) * spread).sum((-1, -2))
        return {**loc, "square": square}

    def precision(self, current: Current) -> Tensor:
        """E[s_kj] of each column of each state, (K d,)."""
        s = current.argument(self.site, "precision")["mean"]
        return s.expand(*self.lead, 1, self.site.shape[-1]).reshape(-1).double()

    def deviations(self, entries: Entries) -> Tensor:
        """Weights times E[(x - W_k (1, t))^2], (K, 1, d)."""
        second, cross, squares, _ = self.state_sums(entries.current)
        w, cov = self.about(entries.current)
        w = self.apart(w)
        product = w[..., :, None] * w[..., None, :]
        product = product if cov is None else product + self.apart(cov)
        found = squares - 2 * (w * cross.mT).sum(-1) + (product * second).sum((-1, -2))
        return found.clamp_min(0.0)[:, None].to(entries.current.program.dtype)

    def count(self, entries: Entries) -> Tensor:
        """Weights of the deviations, (K, 1, d)."""
        return self.state_sums(entries.current)[3][:, None].to(entries.count)

    # -- statistics --------------------------------------------------------------------------------------------

    def state_sums(self, current: Current) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Sums over the rows by state, with q(z_i = k) for weights.

        sum w E[(1, t)(1, t)^T] of each column, (K, 1 or d, q + 1, q + 1), sum w E[(1, t)] x^T, (K, q + 1, d), sum w x^2
        and sum w, (K, d). A column's are over the rows in which it is observed.
        """
        share, table = self._shares(current), tabulate(current, [self.site])
        one, spread = self._latent(current)
        x, one, spread = table.x.double(), one.double().expand(*self.lead, *one.shape[1:]), spread.double()
        weighed = share[..., None] * one
        cross, squares = weighed.mT @ x, share @ x.square()
        if table.missing is None:
            second = weighed.mT @ one + share.sum(-1)[:, None, None] * padded(spread[:, 0])
            return second[:, None], cross, squares, share.sum(-1)[:, None].expand_as(squares)
        seen = (~table.missing).double()
        rows = one[..., :, None] * one[..., None, :] + padded(spread)  # (K, n, q + 1, q + 1)
        second = (share[..., None] * seen).mT @ rows.flatten(2)
        return second.unflatten(-1, rows.shape[2:]), cross, squares, share @ seen

    def normal_equations(self, current: Current) -> tuple[Tensor, Tensor]:
        """The same, of all columns one after the other: (K d, q + 1, q + 1) and (K d, q + 1)."""
        second, cross, _, _ = self.state_sums(current)
        return second.expand(-1, self.site.shape[-1], -1, -1).flatten(0, 1), cross.mT.flatten(0, 1)

    def _shares(self, current: Current) -> Tensor:
        """Weight of each row in each state, (K, n), double precision."""
        assert isinstance(current, EStep)
        weight = current.marginals[self.site.name]
        if weight.ndim == 1:  # nothing tells the states apart yet
            weight = weight.expand(*self.lead, len(weight)) / self.lead[0]
        return weight.double()

    def _latent(self, current: Current) -> tuple[Tensor, Tensor]:
        """E[(1, t_i)] in each state, (K or 1, n, q + 1), and the covariance of t_i there, (K or 1, n or 1, q, q)."""
        t = current.value(current.program.sites[self.z])
        mean = t["mean"].reshape(*t["mean"].shape[: t["mean"].ndim - len(self.events)], self.factors)
        mean = mean if mean.ndim > 2 else mean[None]
        spread = t["cov"] if "cov" in t else mean.new_zeros(1, 1, self.factors, self.factors)
        return torch.nn.functional.pad(mean, (1, 0), value=1.0), spread

    @property
    def events(self) -> tuple[int, ...]:
        """Shape of one row's latent."""
        return tuple(self.program.sites[self.z].shape[1:])

    def apart(self, columns: Tensor) -> Tensor:
        """Numbers of all columns (K d, ...), state by state: (K, d, ...)."""
        return columns.reshape(*self.lead, self.site.shape[-1], *columns.shape[1:])

    def _centers(self, center: Tensor) -> Tensor:
        return center.expand(*self.lead, -1).flatten()


class StateNormal(LocalNormal):
    """t_i ~ Normal(loc_ki, L_ki L_ki^T) given z_i = k: loc (K, n, q), tril (K, 1 or n, q, q), 1 if rows are alike."""

    kind = "state_normal"

    def sample(self, count: int) -> Values:
        """Independent draws, in every state."""
        noise = torch.randn(count, *self.loc.shape, dtype=self.loc.dtype, device=self.loc.device)
        return {self.names[0]: self._shaped(self.loc + (self.tril @ noise[..., None])[..., 0])}

    def log_prob(self, values: Values) -> Values:
        """Log density of every row in every state, (..., K, n)."""
        gap = self._flat(values) - self.loc
        white = torch.linalg.solve_triangular(self.tril, gap[..., None], upper=False)
        return {self.names[0]: -0.5 * white.square().sum((-1, -2)) - self._volumes()}

    def _volumes(self) -> Tensor:
        """(q log 2 pi + log |L_ki L_ki^T|) / 2, (K, 1 or n)."""
        log_det = self.tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return 0.5 * self.tril.shape[-1] * math.log(2 * math.pi) + log_det

    def entropy(self) -> Values:
        """(q log 2 pi e + log |L_ki L_ki^T|) / 2 of every row."""
        return {self.names[0]: (self._volumes() + 0.5 * self.tril.shape[-1]).expand(self.loc.shape[:-1])}

    def moments(self, name: str) -> Moments:
        """Mean of every row in every state; variances (K, 1 or n, *events), and covariances (K, 1 or n, q, q)."""
        variance = self.cov.diagonal(dim1=-2, dim2=-1)
        return {"mean": self._shaped(self.loc), "var": self._shaped(variance), "cov": self.cov}


@dataclass(eq=False)
class StateFactorBlock(FactorBlock):
    """The posterior of the latent of every row in every state: Woodbury's identity keeps all to q x q matrices."""

    by_state = True

    def prior(self, expected: EStep) -> tuple[Tensor, Tensor]:
        """E[P0_k] and E[P0_k m0_k], (K, q, q) and (K, q), in double precision."""
        (states,), events = self._first(expected).lead, tuple(self.z.shape[1:])
        size = math.prod(events)
        m = expected.argument(self.z, "loc")["mean"].expand(states, 1, *events).reshape(states, size).double()
        if self.z.family == "MultivariateNormal":
            p = expected.argument(self.z, "precision_matrix")["mean"].expand(states, 1, size, size)[:, 0].double()
        else:
            t = expected.argument(self.z, "precision")["mean"]
            p = torch.diag_embed(t.expand(states, 1, *events).reshape(states, size).double())
        return p, (p @ m[..., None])[..., 0]

    def _first(self, expected: EStep) -> StateFactorLikelihood:
        return self._by_state(expected, self.sites[0])

    @staticmethod
    def _by_state(expected: EStep, site: Site) -> StateFactorLikelihood:
        likelihood = factors(expected.plan, site)
        assert isinstance(likelihood, StateFactorLikelihood)
        return likelihood

    def posterior(self, expected: EStep) -> ByState:
        """Precision P0_k + sum_j E[s_kj w_kj w_kj^T], and a mean affine in x_i, in each state."""
        table, program = self.table(expected), expected.program
        seen = None if table.missing is None else (~table.missing).double()
        precision, right = (t[:, None] for t in self.prior(expected))  # then (K, 1 or n, q, q), (K, n, q)
        for site in self.sites:
            likelihood, span = self._by_state(expected, site), table.spans[site.name]
            product, gain = (likelihood.apart(t) for t in likelihood.products(expected))
            product = product[..., 1:]  # (K, d, q + 1, q)
            if seen is None:
                weight = product.sum(1, keepdim=True)
            else:
                weight = (seen[:, span] @ product.flatten(2)).unflatten(-1, product.shape[2:])
            precision = precision + weight[..., 1:, :]
            right = right - weight[..., 0, :] + table.x[:, span].double() @ gain[..., 1:]
        root = torch.linalg.cholesky(precision)
        if seen is None:
            loc = torch.cholesky_solve(right.mT, root[:, 0]).mT
        else:
            loc = torch.cholesky_solve(right[..., None], root)[..., 0]
        tril = torch.linalg.cholesky(torch.cholesky_inverse(root)).to(program.dtype)
        loc = loc.to(program.dtype)
        share = shares(expected, self.z, (len(tril), len(program.data)))
        return ByState(self.unknowns, share, 1, StateNormal(self.unknowns, tril, tuple(self.z.shape[1:]), loc))


class StateFactorMatcher(FactorMatcher):
    """Latents that are factors in every state of the row, and what intercepts and loadings are made of."""

    states = True
    likelihood = StateFactorLikelihood

    def block(self, z: Site, sites: tuple[Site, ...]) -> FactorBlock:
        """The block of a latent."""
        return StateFactorBlock(z, sites)
