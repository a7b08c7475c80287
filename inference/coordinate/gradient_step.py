"""The M-step where there is no closed form: climb the expected log joint by gradient (generalized EM)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.transforms import Transform

from inference.coordinate.matrices import POSITIVE_DEFINITE, RIDGE
from zoo.program.program import Program
from zoo.replay.bijections import PositiveDefiniteVector, bijection
from zoo.replay.evaluate import Values
from zoo.replay.sites import Site

FLOOR = 1e-10  # added to covariances, relative to the mean of their starting diagonal; more in single precision
DIGITS = 10  # rounding errors that a floor is above
INNER_STEPS = 10
DIRECT_STEPS = 300  # where nothing is averaged over, so that what climbs is the objective itself


class GradientStep:
    """Climbs E[log p(x, z, theta)] over some unknowns with L-BFGS, in unconstrained space.

    Positive-definite matrices are a map of unconstrained numbers plus floor * I, so they stay positive definite
    whatever the step. A step that does not raise the expected log joint is not taken.

    Parameters
    ----------
    program
        The program.
    names
        Unknowns without a closed form: latents, parameters, network weights.
    matrices
        The map from unconstrained numbers to positive-definite matrices.
    """

    def __init__(self, program: Program, names: list[str], matrices: str = "log_cholesky") -> None:
        self.program = program
        self.steps = INNER_STEPS if program.enumerated or program.locals else DIRECT_STEPS
        self.floors: dict[str, Tensor] = {}
        self._obstacle = ""
        self.transforms: dict[str, Transform] = {}
        for name in names:
            support = program.sites[name].support if name in program.sites else constraints.real
            usual = bijection(support, name)
            positive = isinstance(usual, PositiveDefiniteVector)
            self.transforms[name] = POSITIVE_DEFINITE[matrices]() if positive else usual
        self.names = [n for n in names if n not in program.sites or self._free(program.sites[n])]

    def _free(self, site: Site) -> bool:
        """Whether there is anything to move: the weight of a single component is not."""
        return bool(self.transforms[site.name].inverse_shape(torch.Size(site.shape)).numel() > 0)

    def note_floors(self, values: Values) -> None:
        """Note the floors of positive-definite matrices, (..., d, d), from their starting values of that shape.

        Without them a component that closes in on a row takes the likelihood to infinity.
        """
        for name in self.names:
            if isinstance(self.transforms[name], tuple(POSITIVE_DEFINITE.values())) and name not in self.floors:
                matrix = values[name]
                mean = matrix.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
                eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
                self.floors[name] = max(FLOOR, DIGITS * torch.finfo(matrix.dtype).eps) * mean * eye

    def _unconstrained(self, name: str, value: Tensor) -> Tensor:
        """Unconstrained numbers of a value, less its floor."""
        floor = self.floors.get(name)
        unconstrained: Tensor = self.transforms[name].inv(value if floor is None else _above(value, floor))
        return unconstrained

    def _constrained(self, name: str, u: Tensor) -> Tensor:
        """Value of unconstrained numbers, on top of its floor."""
        value: Tensor = self.transforms[name](u)
        return value + self.floors[name] if name in self.floors else value

    def obstacle(self) -> str:
        """Say why the last step was no step, if numbers failed; empty if it was taken, or gained nothing."""
        return self._obstacle

    def __call__(self, values: Values, marginals: Values) -> Values:
        """Return values with the unknowns moved uphill.

        Parameters
        ----------
        values
            All unknowns.
        marginals
            Posterior weight of each entry of each site's log density, in its layout.
        """
        self._obstacle = ""
        if not self.names:
            return values
        self.note_floors(values)
        start = {n: self._unconstrained(n, values[n].detach()) for n in self.names}
        sizes = [u.numel() for u in start.values()]
        # All unknowns as one vector, shape (sum of sizes,): L-BFGS sees how they curve together.
        flat = torch.cat([u.reshape(-1) for u in start.values()]).clone().requires_grad_()
        optimizer = torch.optim.LBFGS(
            [flat], max_iter=self.steps, tolerance_grad=1e-12, tolerance_change=1e-15, line_search_fn="strong_wolfe"
        )

        def unpack(vector: Tensor) -> Values:
            parts = vector.split(sizes)
            return {n: self._constrained(n, p.reshape(start[n].shape)) for n, p in zip(self.names, parts, strict=True)}

        def expected(vector: Tensor) -> Tensor:
            """sum_n <marginal_n, log p_n>, a scalar; what has no weight counts nothing, were it minus infinity."""
            log_probs = self.program.log_probs({**values, **unpack(vector)})
            terms = [torch.where(marginals[n] > 0, marginals[n] * v, 0.0).sum() for n, v in log_probs.items()]
            return torch.stack(terms).sum()

        with torch.enable_grad():
            before = expected(flat)
            # The first step is as long as the gradient: relative to the objective, it suits any number of rows.
            scale = 1.0 / max(1.0, abs(float(before.detach())))
            gradients: list[Tensor] = []  # the first one, of shape (sum of sizes,)

            def closure() -> Tensor:
                optimizer.zero_grad()
                loss = -scale * expected(flat)
                loss.backward()
                if not gradients and flat.grad is not None:
                    gradients.append(flat.grad.clone())
                return loss

            optimizer.step(closure)
        with torch.no_grad():
            after = expected(flat.detach())
            if bool(after > before):
                return {**values, **unpack(flat.detach())}
        if not bool(after.isfinite() & gradients[0].isfinite().all()):  # such a gradient leads nowhere else
            parts = zip(self.names, gradients[0].split(sizes), strict=True)
            stuck = [n for n, part in parts if not bool(part.isfinite().all())] or self.names
            self._obstacle = (
                f"{', '.join(stuck)} cannot move: the gradient step met a log density or gradient that is not finite; "
                "look for 0 / 0 or log 0 in a branch of the model, such as a rate that is 0 in one state"
            )
        return values


def _above(value: Tensor, floor: Tensor) -> Tensor:
    """Matrices (..., d, d) less their floors, positive definite where rounding leaves nothing above a floor."""
    above = value - floor
    sunk = torch.linalg.cholesky_ex(above).info > 0
    if not bool(sunk.any()):
        return above
    values, vectors = torch.linalg.eigh(above)
    least = RIDGE * floor.diagonal(dim1=-2, dim2=-1)  # (..., d)
    raised: Tensor = (vectors * torch.maximum(values, least)[..., None, :]) @ vectors.mT
    return torch.where(sunk[..., None, None], raised, above)
