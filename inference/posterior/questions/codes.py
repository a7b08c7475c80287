"""Questions about codes: what continuous latents say of a row, what data they stand for, what the bound is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd
import xarray as xr

from inference.posterior.annealed import annealed_log_prob
from inference.posterior.bound_parts import active_units, anomaly, rate_distortion
from inference.posterior.code_pictures import mapped, pictured
from inference.posterior.codes import encode
from inference.posterior.decoded import decode, interpolate, reconstruct, traverse
from inference.posterior.questions.arguments import positive
from inference.posterior.result import Result
from zoo.data.bind import Source

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class CodeQuestions(Result):
    """Codes of rows by q (an encoder's, say), the data they are decoded to, and the bound row by row."""

    def encode(self, new: Source | None = None, draws: int = 0, seed: int | None = None) -> xr.Dataset:
        """Return q(z_i | x_i), the codes of rows: mean and standard deviation of each continuous latent, or draws.

        It is q itself, one pass through an encoder, not corrected by importance weights; `assign` gives moments that
        are. Of rows with missing cells, for which an encoder has no words, it is their posterior by weighted draws;
        a missing label is no gap where some fitted rows lack theirs, as the encoder was trained on such rows.

        Parameters
        ----------
        new
            Rows like those fitted; None for the fitted rows.
        draws
            How many draws of each row instead of moments; 0 for moments.
        seed
            Of the draws; None for one that follows from the fit's.

        Returns
        -------
        Dataset
            Variables z and z_sd, dims (row, latent), for a latent z; with draws z alone, dims (draw, row, latent).
            Rows have the labels of the data. Moments are exact where q is a Normal, diagonal or full; of other families
            they are those of 2000 draws.

        Raises
        ------
        FitError
            If rows have no continuous latents, or q says nothing of these rows.

        Examples
        --------
        ``fit.encode(test)["z"].to_pandas()`` is a table of codes.

        >>> import zoo
        >>> from guides import Encoder
        >>> from inference import SVI, fit
        >>> digits = (zoo.datasets.load("digits").head(60) >= 8).astype(int)
        >>> method = SVI(guide=Encoder(hidden=(8,)), steps=20)
        >>> result = fit(zoo.VAE(latent=2, hidden=(8,)), digits, method=method, seed=0)
        >>> codes = result.encode(digits.head(3))
        >>> codes["z"].shape, codes["z_sd"].shape
        ((3, 2), (3, 2))
        >>> result.encode(digits.head(3), draws=5)["z"].dims
        ('draw', 'row', 'latent')
        """
        return encode(self, new, positive("encode(draws)", draws) if draws else 0, seed)

    def decode(self, codes: Any, condition: Mapping[str, Any] | None = None) -> xr.Dataset:
        """Return E[x | z], the mean of the observed sites at given codes.

        Parameters
        ----------
        codes
            What `encode` returns, or an array (..., latent) where rows have one latent.
        condition
            Covariate -> its value in all rows, or an array with one for each code.

        Returns
        -------
        Dataset
            A variable for each observed site: its mean, or the probabilities of its categories, with the dimensions
            that the codes came in.

        Examples
        --------
        >>> import zoo
        >>> from guides import Encoder
        >>> from inference import SVI, fit
        >>> digits = (zoo.datasets.load("digits").head(60) >= 8).astype(int)
        >>> method = SVI(guide=Encoder(hidden=(8,)), steps=20)
        >>> result = fit(zoo.VAE(latent=2, hidden=(8,)), digits, method=method, seed=0)
        >>> result.decode([[0.0, 0.0], [1.0, -1.0]])["x"].shape
        (2, 64)
        """
        return decode(self, codes, condition)

    def reconstruct(self, new: Source | None = None) -> xr.Dataset:
        """Return E[x | z] at the mean code of each row: what is left of it after the way through its code.

        Parameters
        ----------
        new
            Rows like those fitted; None for the fitted rows.

        Examples
        --------
        >>> import zoo
        >>> from guides import Encoder
        >>> from inference import SVI, fit
        >>> digits = (zoo.datasets.load("digits").head(60) >= 8).astype(int)
        >>> method = SVI(guide=Encoder(hidden=(8,)), steps=20)
        >>> result = fit(zoo.VAE(latent=2, hidden=(8,)), digits, method=method, seed=0)
        >>> result.reconstruct(digits.head(3))["x"].dims
        ('row', 'feature')
        """
        return reconstruct(self, new)

    def interpolate(
        self, a: Source | xr.Dataset, b: Source | xr.Dataset, steps: int = 8, condition: Mapping[str, Any] | None = None
    ) -> xr.Dataset:
        """Return E[x | z] along straight lines between codes, z = (1 - t) z_a + t z_b, t from 0 to 1.

        Parameters
        ----------
        a, b
            Rows, as many on both sides, or their codes as `encode` gives them.
        steps
            How many values of t, the ends included.
        condition
            Covariate or label -> its value; of what is left out, the rows' own, if both ends have the same.

        Examples
        --------
        >>> import zoo
        >>> from guides import Encoder
        >>> from inference import SVI, fit
        >>> digits = (zoo.datasets.load("digits").head(60) >= 8).astype(int)
        >>> method = SVI(guide=Encoder(hidden=(8,)), steps=20)
        >>> result = fit(zoo.VAE(latent=2, hidden=(8,)), digits, method=method, seed=0)
        >>> result.interpolate(digits.head(1), digits.tail(1), steps=5)["x"].dims
        ('t', 'row', 'feature')
        """
        return interpolate(self, a, b, positive("interpolate(steps)", steps), condition)

    def traverse(
        self,
        coordinate: int | str = 0,
        site: str | None = None,
        at: Source | xr.Dataset | None = None,
        span: float = 3.0,
        steps: int = 9,
        condition: Mapping[str, Any] | None = None,
    ) -> xr.Dataset:
        """Return E[x | z] while one coordinate of the code moves and the others stay.

        Parameters
        ----------
        coordinate
            Which coordinate, by its label.
        site
            Which latent; None for the first.
        at
            Rows, or their codes, at whose mean code the others stay; None for that of the fitted rows.
        span
            How far on both sides, in standard deviations of the codes by q of fitted rows, 500 at most.
        steps
            How many values.
        condition
            Covariate or label -> its value; of what is left out, that of the rows `at`, if all have the same.

        Examples
        --------
        >>> import zoo
        >>> from guides import Encoder
        >>> from inference import SVI, fit
        >>> digits = (zoo.datasets.load("digits").head(60) >= 8).astype(int)
        >>> method = SVI(guide=Encoder(hidden=(8,)), steps=20)
        >>> result = fit(zoo.VAE(latent=2, hidden=(8,)), digits, method=method, seed=0)
        >>> result.traverse(0, steps=5, span=2.0)["x"].shape
        (5, 64)
        """
        return traverse(self, coordinate, site, at, span, positive("traverse(steps)", steps), condition)

    def anomaly(self, new: Source | None = None, samples: int = 1000) -> pd.DataFrame:
        """Return how unusual rows are, in three ways: columns log_prob, kl and reconstruction, in nats.

        log p(x_i); KL(q(z_i) || p(z_i)), how far the code is from the prior; and E_q[log p(x_i | z_i)], how well the
        code explains the row. A row is unusual where the first or the last is low, or the second high. Of a model
        without codes, a density of rows alone, there is the first column only.

        Parameters
        ----------
        new
            Rows like those fitted; None for the fitted rows.
        samples
            Draws of q for each row. ``attrs["mcse"]`` has the Monte Carlo errors, column by column.

        Examples
        --------
        >>> import zoo
        >>> from guides import Encoder
        >>> from inference import SVI, fit
        >>> digits = (zoo.datasets.load("digits").head(60) >= 8).astype(int)
        >>> method = SVI(guide=Encoder(hidden=(8,)), steps=20)
        >>> result = fit(zoo.VAE(latent=2, hidden=(8,)), digits, method=method, seed=0)
        >>> list(result.anomaly(digits.head(3), samples=10).columns)
        ['log_prob', 'kl', 'reconstruction']
        """
        return anomaly(self, new, positive("anomaly(samples)", samples))

    def active_units(self, new: Source | None = None) -> pd.DataFrame:
        """Return which coordinates of the codes are used: Var_x(E_q[z | x]) over rows (Burda et al. 2016).

        A coordinate is active where that is above 0.01 of the variance of the codes of all rows together, which is 1
        under a standard Normal prior; the others have collapsed onto the prior.

        Parameters
        ----------
        new
            Rows; None for the fitted ones, at most 10,000 of them.

        Returns
        -------
        DataFrame
            A row for each coordinate, columns variance and active.

        Examples
        --------
        >>> import zoo
        >>> from guides import Encoder
        >>> from inference import SVI, fit
        >>> digits = (zoo.datasets.load("digits").head(60) >= 8).astype(int)
        >>> method = SVI(guide=Encoder(hidden=(8,)), steps=20)
        >>> result = fit(zoo.VAE(latent=2, hidden=(8,)), digits, method=method, seed=0)
        >>> list(result.active_units().columns)
        ['variance', 'active']
        """
        return active_units(self, new)

    def rate_distortion(self, new: Source | None = None, samples: int = 100) -> pd.DataFrame:
        """Split the bound of a row in two: ELBO = -distortion - rate, on average over rows, in nats.

        rate = KL(q(z_i) || p(z_i)), what the code tells; distortion = -E_q[log p(x_i | z_i)], what is lost (Alemi et
        al. 2018).

        Parameters
        ----------
        new
            Rows; None for the fitted ones, at most 10,000 of them.
        samples
            Draws of q for each row.

        Returns
        -------
        DataFrame
            Rows rate, distortion, elbo; columns nats and mcse, the Monte Carlo error given these rows.

        Examples
        --------
        >>> import zoo
        >>> from guides import Encoder
        >>> from inference import SVI, fit
        >>> digits = (zoo.datasets.load("digits").head(60) >= 8).astype(int)
        >>> method = SVI(guide=Encoder(hidden=(8,)), steps=20)
        >>> result = fit(zoo.VAE(latent=2, hidden=(8,)), digits, method=method, seed=0)
        >>> parts = result.rate_distortion(samples=10)["nats"]
        >>> parts.index.tolist(), bool(parts["rate"] > 0)
        (['rate', 'distortion', 'elbo'], True)
        """
        return rate_distortion(self, new, positive("rate_distortion(samples)", samples))

    def annealed_log_prob(
        self, new: Source | None = None, chains: int = 16, temperatures: int = 500, steps: int = 10
    ) -> pd.Series:
        """log p(x_i) of each row by annealed importance sampling (Neal 2001), a check on `log_prob`.

        Chains go from the prior of a row's latents to their posterior through p(z) p(x | z)^b, b from 0 to 1, by
        Hamiltonian moves whose sizes are learned beforehand for each row (Wu et al. 2017). They owe nothing to the
        encoder, so a guide that misses a part of the posterior does not lower them. It takes `chains` x `temperatures`
        x `steps` gradients for each row.

        Parameters
        ----------
        new
            Rows like those fitted; None for the fitted rows.
        chains
            For each row.
        temperatures
            From the prior to the posterior, along a sigmoid.
        steps
            Leapfrog steps of a move.

        Returns
        -------
        Series
            In nats, by row, with attrs mcse and mcse_total as in `log_prob`, and accepted, the share of moves.

        Raises
        ------
        FitError
            If rows have no continuous latents or no density of their own, or what they share has posterior draws.

        Examples
        --------
        >>> import zoo
        >>> from guides import Encoder
        >>> from inference import SVI, fit
        >>> digits = (zoo.datasets.load("digits").head(60) >= 8).astype(int)
        >>> method = SVI(guide=Encoder(hidden=(8,)), steps=20)
        >>> result = fit(zoo.VAE(latent=2, hidden=(8,)), digits, method=method, seed=0)
        >>> result.annealed_log_prob(digits.head(2), chains=4, temperatures=10, steps=3).shape
        (2,)
        """
        return annealed_log_prob(
            self,
            new,
            positive("annealed_log_prob(chains)", chains),
            positive("annealed_log_prob(temperatures)", temperatures),
            positive("annealed_log_prob(steps)", steps),
        )

    def draw_images(self, new: Source | None = None, n: int = 10) -> Figure:
        """Return a figure of `n` rows, of what their codes are decoded to, and of `n` generated rows, a line each.

        Parameters
        ----------
        new
            Rows that are images, or squares of pixels; None for the fitted rows.
        n
            How many, evenly spread over the rows.

        Examples
        --------
        ``fit.draw_images(test).savefig("digits.png")``

        >>> import zoo
        >>> from guides import Encoder
        >>> from inference import SVI, fit
        >>> digits = (zoo.datasets.load("digits").head(60) >= 8).astype(int)
        >>> method = SVI(guide=Encoder(hidden=(8,)), steps=20)
        >>> result = fit(zoo.VAE(latent=2, hidden=(8,)), digits, method=method, seed=0)
        >>> figure = result.draw_images(digits, n=5)
        >>> len(figure.axes)
        15
        """
        return pictured(self, new, positive("draw_images(n)", n))

    def draw_codes(self, new: Source | None = None, labels: Any = None) -> Figure:
        """Return a figure of the mean codes in the plane of the two coordinates that differ most between rows.

        Parameters
        ----------
        new
            Rows; None for the fitted ones, at most 10,000 of them.
        labels
            A label for each row, which colours it.

        Examples
        --------
        >>> import zoo
        >>> from guides import Encoder
        >>> from inference import SVI, fit
        >>> digits = (zoo.datasets.load("digits").head(60) >= 8).astype(int)
        >>> method = SVI(guide=Encoder(hidden=(8,)), steps=20)
        >>> result = fit(zoo.VAE(latent=2, hidden=(8,)), digits, method=method, seed=0)
        >>> figure = result.draw_codes(labels=[0, 1] * 30)
        >>> figure.axes[0].get_xlabel()
        'z[0]'
        """
        return mapped(self, new, labels)
