"""Questions to a point estimate: how likely it makes the data, at what number of parameters, and how far it is off."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Literal

import pandas as pd
import xarray as xr
from torch import Tensor

from inference.diagnostics.arviz import listed
from inference.posterior.bootstrap import bootstrap
from inference.posterior.criteria import Likelihood, free_parameters, likelihood, rows_of
from inference.posterior.questions.arguments import positive
from inference.posterior.result import Result
from inference.posterior.standard_errors import information, too_large
from zoo.errors import FitError


class PointQuestions(Result):
    """Likelihood, information criteria and standard errors of what is at a point."""

    def standard_errors(
        self,
        kind: Literal["information", "bootstrap", "parametric"] = "information",
        draws: int = 200,
        seed: int | None = None,
    ) -> pd.DataFrame:
        """Return standard errors of a point estimate: of parameters, latents at a point and what is derived from them.

        Parameters
        ----------
        kind
            "information": sqrt(diag(J I^-1 J^T)), I the observed information in unconstrained coordinates, by automatic
            differentiation of log p(x, theta) with discrete latents summed out (Louis 1982), J the derivative of the
            constrained values. "bootstrap": the spread of estimates on rows that are weighed at random, by
            Dirichlet(1, ..., 1) (Rubin 1981). "parametric": on data drawn from the model at the estimate (Efron 1979).
        draws
            How many data sets; the standard error itself is known to 1 / sqrt(2 draws).
        seed
            Of the bootstraps; None for one that follows from the fit's.

        Returns
        -------
        DataFrame
            Columns value and se, a row per entry as in `summary`.

        Raises
        ------
        FitError
            If the fit has posterior draws, is no maximum of this density (classification EM), did not come to it, or a
            parameter is not determined by the data; by name.

        Examples
        --------
        >>> import zoo
        >>> from inference import fit
        >>> result = fit(zoo.GMM(components=2), "faithful", method="em", seed=0)
        >>> print(result.standard_errors().head(2).round(2))
                    value    se
        weights[0]   0.64  0.03
        weights[1]   0.36  0.03
        """
        if kind not in ("information", "bootstrap", "parametric"):
            raise FitError(f'standard_errors(kind) must be "information", "bootstrap" or "parametric", not {kind!r}')
        if kind == "information":
            errors = self._information
        else:
            errors = bootstrap(self, self.method, self.objective, kind, positive("standard_errors(draws)", draws), seed)
        point = self.posterior["point_estimate"].to_dataset()
        kept = point[[n for n in point.data_vars if n in errors]]
        table = listed(kept)
        table["se"] = listed(kept.assign({n: (kept[n].dims, errors[str(n)].numpy()) for n in kept.data_vars}))["value"]
        return table

    @cached_property
    def _errors(self) -> xr.Dataset:
        """Standard errors of a point as they are kept with it, or the attribute `note`, why there are none."""
        note = too_large(self.program)
        errors: Mapping[str, Tensor] = {}
        if not note:
            try:
                errors = self._information
            except FitError as error:
                note = str(error)
        point = self.posterior["point_estimate"].to_dataset()
        found = xr.Dataset({n: (point[n].dims, v.numpy()) for n, v in errors.items() if n in point}, point.coords)
        return found.assign_attrs(note=note)

    @cached_property
    def _information(self) -> Mapping[str, Tensor]:
        """Standard errors by observed information, in the shape of each site."""
        return information(self, self.method, self.objective)

    @property
    def log_likelihood(self) -> float:
        """log p(x | theta) at the point fitted, in nats: latents of rows summed out, priors of theta left out.

        A `FitError` says what to use where there is no such point, or only a bound.

        Examples
        --------
        >>> import zoo
        >>> from inference import fit
        >>> result = fit(zoo.GMM(components=2), "faithful", method="em", seed=0)
        >>> round(result.log_likelihood, 2)
        -1130.26
        """
        return self._likelihood.value

    @cached_property
    def _likelihood(self) -> Likelihood:
        """log p(x | theta) at the point fitted, and the entropy of the discrete latents there."""
        return likelihood(self, self.method, self.objective)

    @cached_property
    def free_parameters(self) -> int:
        """How many numbers the fit has chosen: dimensions of the supports of all that is at a point.

        A simplex of K counts K - 1, a covariance matrix d (d + 1) / 2, weights of networks one each; latents with a
        prior count where they are at a point. A `FitError` where latents that all rows share have draws.

        Examples
        --------
        >>> import zoo
        >>> from inference import fit
        >>> result = fit(zoo.GMM(components=2), "faithful", method="em", seed=0)
        >>> result.free_parameters
        11
        """
        return free_parameters(self)

    @property
    def aic(self) -> float:
        """AIC = -2 log p(x | theta) + 2 p, p free parameters (Akaike 1974), the smaller the better; else see `bic`.

        Examples
        --------
        >>> import zoo
        >>> from inference import fit
        >>> result = fit(zoo.GMM(components=2), "faithful", method="em", seed=0)
        >>> round(result.aic, 2)
        2282.53
        """
        return 2 * self.free_parameters - 2 * self.log_likelihood

    @property
    def bic(self) -> float:
        """BIC = -2 log p(x | theta) + p log n (Schwarz 1978), n the total weight of rows; the smaller, the better.

        Mclust prints it with the opposite sign. With priors, theta is the posterior mode (Fraley and Raftery 2007).

        Raises
        ------
        FitError
            Where it means nothing: latents that all rows share have posterior draws (use elpd_loo), the likelihood is
            known up to a bound only, or the data have no rows. The text says what to use.

        Examples
        --------
        ``fit(zoo.GMM(components=2), "faithful", method="em").bic`` is 2322.19.

        >>> import zoo
        >>> from inference import fit
        >>> result = fit(zoo.GMM(components=2), "faithful", method="em", seed=0)
        >>> round(result.bic, 2)
        2322.19
        """
        return self.free_parameters * math.log(rows_of(self.program)) - 2 * self.log_likelihood

    @property
    def icl(self) -> float:
        """ICL = BIC + 2 H, H the entropy of the responsibilities (Biernacki et al. 2000); the smaller, the better.

        H = -sum_i w_i sum_k r_ik log r_ik >= 0, so clusters that overlap cost. Mclust prints the opposite sign, and has
        the most probable state of each row in place of the average. Raises as `bic` does, and without discrete latents.

        Examples
        --------
        >>> import zoo
        >>> from inference import fit
        >>> result = fit(zoo.GMM(components=2), "faithful", method="em", seed=0)
        >>> round(result.icl - result.bic, 2)
        1.39
        """
        if not self.program.enumerated:
            raise FitError(f"icl is about clusters, and {type(self.model).__name__} has no discrete latent; use bic")
        return self.bic + 2 * self._likelihood.entropy
