"""Questions that draws answer: latents, new rows, other values of given rows, missing cells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from inference.posterior.groups import sample
from inference.posterior.impute import impute
from inference.posterior.questions.arguments import positive
from inference.posterior.result import Result
from inference.posterior.simulate import generate, predict
from zoo.data.bind import Source
from zoo.errors import FitError


class DrawQuestions(Result):
    """Draws from the posterior, and of data from its predictive distribution."""

    def sample(self, n: int, seed: int | None = None) -> xr.Dataset:
        """Draw `n` fresh posterior draws of the latents, dims (chain, draw, ...); of Markov chains, some of theirs.

        Raises
        ------
        FitError
            If the fit is a point estimate.

        Examples
        --------
        >>> import zoo
        >>> from inference import fit
        >>> result = fit(zoo.BetaBernoulli(), [1, 0, 1, 1, 0, 1], method="exact", seed=0)
        >>> result.sample(3, seed=0)["p"].dims
        ('chain', 'draw')
        """
        if self.is_point:
            raise FitError(
                f"{type(self.method).__name__.lower()} gives a point estimate, which has no posterior draws; "
                "use `posterior['point_estimate']`, or fit with svi"
            )
        return sample(self, positive("sample(n)", n), seed)

    def generate(
        self, n: int, seed: int | None = None, condition: Mapping[str, Any] | None = None
    ) -> pd.DataFrame | dict[str, np.ndarray]:
        """Draw `n` new rows from the posterior predictive: each from a posterior draw of its own, or from the point.

        Data the model does not explain (covariates) are drawn with replacement from the fitted rows, but for those in
        `condition`.

        Parameters
        ----------
        n
            How many.
        seed
            None for one that follows from the fit's.
        condition
            Covariate -> its value in all rows, or an array with one for each row: ``{"label": 3}``.

        Returns
        -------
        DataFrame
            With the columns of the fitted data; a dict of arrays where fields are not columns.

        Examples
        --------
        >>> import zoo
        >>> from inference import fit
        >>> result = fit(zoo.GMM(components=2), "faithful", method="em", seed=0)
        >>> result.generate(2, seed=1).shape
        (2, 2)
        """
        return generate(self, positive("generate(n)", n), seed, condition)

    def predict(self, new: Source | None = None, draws: int = 200, seed: int | None = None) -> xr.DataTree:
        """Posterior predictive draws for given rows, in the ArviZ group posterior_predictive, for posterior checks.

        For the fitted rows (`new=None`) locals and the states of chains have their posterior, so that rows of NaN are
        forecast, and what was observed comes along; for new rows,
        whose observed fields may be left out, locals are drawn from the model given the globals.

        Parameters
        ----------
        new
            Rows with the model's covariates.
        draws
            Number of draws of each row.
        seed
            None for one that follows from the fit's.

        Examples
        --------
        >>> import zoo
        >>> from inference import fit
        >>> line = {"x": [[0.0], [1.0], [2.0], [3.0]], "y": [0.1, 0.9, 2.1, 2.9]}
        >>> result = fit(zoo.BayesianRegression(), line, method="exact", seed=0)
        >>> drawn = result.predict({"x": [[4.0], [5.0]]}, draws=50)
        >>> drawn["posterior_predictive"]["y"].shape
        (1, 50, 2)
        """
        return predict(self, new, positive("predict(draws)", draws), seed)

    def impute(self, new: Source | None = None, draws: int = 1, *, mean: bool = False, seed: int | None = None) -> Any:
        """Complete the rows: each missing cell drawn given the observed cells of its row, or at its conditional mean.

        p(x_mis | x_obs, fitted data): a row's discrete states have their posterior given what is observed of it, and
        what is missing its distribution given those (for a multivariate Normal, the conditional one). With posterior
        draws, each table of fitted rows is made from one draw of the latents, so that several tables are proper
        multiple imputations (Rubin 1987); of new rows each has its own.

        Parameters
        ----------
        new
            Rows like those fitted, with NaN where a value is missing; None for the fitted rows.
        draws
            How many tables.
        mean
            Give E[x_mis | x_obs] instead, in one table; it is too smooth to be taken for data.
        seed
            None for one that follows from the fit's.

        Returns
        -------
        DataFrame
            The rows with their labels and no missing value; a dict of arrays where fields are not columns. A list of
            `draws` of them if `draws` is above 1.

        Examples
        --------
        >>> import zoo
        >>> from inference import fit
        >>> result = fit(zoo.GMM(components=2), "faithful", method="em", seed=0)
        >>> gaps = zoo.datasets.load("faithful").head(3)
        >>> gaps.loc[1, "waiting"] = None
        >>> int(result.impute(gaps, seed=0).isna().sum().sum())
        0
        >>> round(float(result.impute(gaps, mean=True).loc[1, "waiting"]), 1)
        53.0
        """
        draws = positive("impute(draws)", draws)
        if mean and draws > 1:
            raise FitError("impute(mean=True) gives one table; leave out draws")
        tables = impute(self, new, draws, mean=mean, seed=seed)
        return tables if draws > 1 else tables[0]
