"""Questions about rows: which states are behind each, and how probable it is."""

from __future__ import annotations

import pandas as pd

from inference.posterior.assign import assign
from inference.posterior.log_prob import log_prob
from inference.posterior.most_probable import most_probable
from inference.posterior.questions.arguments import positive
from inference.posterior.result import Result
from zoo.data.bind import Source
from zoo.data.data import Data


class RowQuestions(Result):
    """Latents of rows and densities of rows, of those fitted or of new ones."""

    def assign(self, new: Source | None = None, site: str | None = None) -> pd.DataFrame:
        """Posterior probabilities of discrete states, p(z_i = k | x_i): a row per row of data, a column per state.

        For a point estimate they are exact at the point. With posterior draws of the globals they are averaged over
        the draws; new rows weigh each draw by how well it explains them. A state that was observed has probability 1.

        Parameters
        ----------
        new
            Rows like those fitted; None for the fitted rows.
        site
            Which discrete latent; None for all that have one state per row, else (there are none) for all there are.

        Returns
        -------
        DataFrame
            Of one latent: a row for each entry of its plates (of several plates, their combinations), a single one if
            all rows share it; columns are its states. Of several latents columns have two levels, latent and state, so
            that ``assign()["z"]`` is the table of z.
            Of a `LinearGaussianChain` a row per row of data: the exact mean and standard deviation of each state given
            all rows, in columns (state, "mean") and (state, "sd").
            Of continuous latents of rows (scores of factors, shares of topics, codes), where there are no discrete ones
            or by name, their posterior mean and standard deviation, in the same columns; new rows are folded in.
            ``attrs["ess"]`` has the least effective number of draws behind a row, infinite where moments are exact.

        Raises
        ------
        FitError
            If the model has no latent of rows and no enumerated site.

        Examples
        --------
        >>> import zoo
        >>> from inference import fit
        >>> result = fit(zoo.GMM(components=2), "faithful", method="em", seed=0)
        >>> print(result.assign(zoo.datasets.load("faithful").head(2)).round(2))
        z    0    1
        0  1.0  0.0
        1  0.0  1.0
        """
        return assign(self, new, site)

    def most_probable(self, new: Source | None = None, site: str | None = None) -> pd.DataFrame:
        """Most probable configuration of all discrete latents: argmax_z p(z | x), over all of them and rows jointly.

        Along a chain it is the most probable path (Viterbi 1967); in a Bayesian network the most probable explanation.
        It need not consist of the states that are the most probable one by one, which `assign` gives. At a point
        estimate it is that at the point; with posterior draws of other latents, that of the draw at which the joint
        density, at its most probable configuration, is highest.

        Parameters
        ----------
        new
            Rows like those fitted; None for the fitted rows.
        site
            Which discrete latent of the configuration to give; None for all that have one state per row, else (there
            are none) for all there are.

        Returns
        -------
        DataFrame
            A row for each row of data (or entry of the latent's plates), a column for each discrete latent, with
            ``attrs["log_joint"]``, log p(x, z) at the whole configuration.

        Raises
        ------
        FitError
            If the model has no discrete latent.

        Examples
        --------
        >>> import zoo
        >>> from inference import fit
        >>> result = fit(zoo.GMM(components=2), "faithful", method="em", seed=0)
        >>> result.most_probable().value_counts().tolist()
        [175, 97]
        """
        return most_probable(self, new, site)

    def log_prob(self, new: Source | Data | None = None, samples: int = 1000) -> pd.Series:
        """log p(x_i | fitted data) of each row: the posterior predictive density, at a point estimate the plug-in one.

        Enumerated latents are summed out exactly. Posterior draws of the globals are averaged over. Continuous local
        latents are integrated out by importance sampling from the guide (from the prior where it does not cover the
        rows).

        Parameters
        ----------
        new
            Rows like those fitted; None for the fitted rows.
        samples
            Draws to average over, where there is anything to draw.

        Returns
        -------
        Series
            In nats, by row. ``attrs["mcse"]`` is the Monte Carlo standard error of each row (zeros where the value is
            exact), ``attrs["mcse_total"]`` that of the sum.

        Examples
        --------
        >>> import zoo
        >>> from inference import fit
        >>> result = fit(zoo.GMM(components=2), "faithful", method="em", seed=0)
        >>> result.log_prob(zoo.datasets.load("faithful").head(2)).round(2).tolist()
        [-4.64, -3.67]
        """
        return log_prob(self, new, positive("log_prob(samples)", samples))
