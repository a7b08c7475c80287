"""Model checks: which aspects of the data a fitted model does not reproduce, and whether its priors expected them."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from inference.approximations.simulations import simulations
from inference.diagnostics.arviz import power_scaling, reference_plot
from inference.diagnostics.coordinates import category_labels
from inference.diagnostics.quantities import Kind, Quantity, distribution_distances, quantities
from inference.diagnostics.uniformity import holm
from inference.posterior.fit import Fit, as_fit
from inference.posterior.streams import Stream
from zoo.data.missing import with_nan
from zoo.errors import FitError, ZooError
from zoo.program.program import Program
from zoo.replay.evaluate import Values
from zoo.replay.sites import Site

LEVEL = 0.05
FEWEST, MOST = 1000, 4000  # replicated data sets
PER_QUANTITY = 80  # so many replicates each, that two of them in a tail are significant beside the others
LARGEST = 20_000_000  # simulated numbers in memory at a time: 160 MB
SCALARS = 100  # entries of latents beyond which their sensitivity to the prior is not looked at
COLUMNS = ["site", "quantity", "observed", "mean", "low", "high", "p", "p_error"]
SENSITIVE = 0.05  # Kallioinen et al. 2023, section 3.4


@dataclass
class Check:
    """What a fitted model reproduces of its data, and what not.

    Attributes
    ----------
    table
        A row for each test quantity: site, quantity, its value in the data (`observed`), mean and 95 % interval in
        replicated data, two-sided p-value with its Monte Carlo error, p adjusted for the number of quantities (Holm
        1979), and `misfit`: whether that is below `level`.
    prior
        The same for data simulated from the prior, of location and scale only; `misfit` is then a conflict of prior
        and data. Empty where there is no prior to draw from.
    sensitivity
        How far each scalar moves if the prior or the likelihood is raised to a power (Kallioinen et al. 2023); empty
        where the log densities are not known.
    level
        Probability that a right model is accused of anything, at most.
    replicates
        How many data sets were simulated.
    notes
        What was not looked at.

    Examples
    --------
    >>> import zoo
    >>> from inference import check, fit
    >>> found = check(fit(zoo.GammaPoisson(a=2.0, b=1.0), [0, 1, 0, 9, 0, 8, 0, 1], method="exact", seed=0))
    >>> print(found)
    the model does not reproduce 1 of 6 aspects of the data that were looked at:
      counts: variance over mean is 5.36, where the model makes 0.212 to 1.97 (p = 0.002, adjusted 0.012)
    the data are such as the prior expected
    sensitive to the prior, which pulls against the data: rate
    (1000 replicated data sets; at most 0.05 of right models are accused)
    """

    table: pd.DataFrame
    prior: pd.DataFrame
    sensitivity: pd.DataFrame
    level: float
    replicates: int
    notes: list[str] = field(default_factory=list)
    drawn: list[np.ndarray] = field(default_factory=list, repr=False)

    @property
    def misfits(self) -> list[str]:
        """What the model does not reproduce, in words.

        Examples
        --------
        >>> import zoo
        >>> from inference import check, fit
        >>> counts = [0, 0, 0, 0, 9, 0, 0, 12, 0, 0, 0, 8]
        >>> found = check(fit(zoo.GammaPoisson(), counts, method="exact", seed=0), seed=0)
        >>> found.misfits[0].partition(",")[0]
        'counts: largest value is 12'
        """
        return [_told(r, "the model makes") for r in self.table[self.table["misfit"]].itertuples()]

    @property
    def conflicts(self) -> list[str]:
        """What the prior did not expect, in words.

        Examples
        --------
        >>> import zoo
        >>> from inference import check, fit
        >>> counts = [0, 0, 0, 0, 9, 0, 0, 12, 0, 0, 0, 8]
        >>> found = check(fit(zoo.GammaPoisson(), counts, method="exact", seed=0), seed=0)
        >>> found.conflicts
        []
        """
        if self.prior.empty:
            return []
        return [_told(r, "the prior expected") for r in self.prior[self.prior["misfit"]].itertuples()]

    def __str__(self) -> str:
        """Say it in words."""
        said = self.misfits
        lines = [f"  {word}" for word in said]
        head = (
            f"the model does not reproduce {len(said)} of {len(self.table)} aspects of the data that were looked at:"
            if said
            else f"nothing of the {len(self.table)} aspects of the data that were looked at speaks against the model"
        )
        conflicts = self.conflicts
        if conflicts:
            lines += ["prior and data are in conflict:", *(f"  {word}" for word in conflicts)]
        elif not self.prior.empty:
            lines.append("the data are such as the prior expected")
        moved = self.sensitivity
        if not moved.empty:
            strong = moved.index[(moved["prior"] > SENSITIVE) & (moved["likelihood"] > SENSITIVE)]
            if len(strong):
                lines.append(f"sensitive to the prior, which pulls against the data: {', '.join(map(str, strong))}")
            weak = moved.index[(moved["prior"] > SENSITIVE) & (moved["likelihood"] <= SENSITIVE)]
            if len(weak):
                lines.append(f"known from the prior more than from the data: {', '.join(map(str, weak))}")
        rate = f"({self.replicates} replicated data sets; at most {self.level:g} of right models are accused)"
        return "\n".join([head, *lines, *(f"note: {note}" for note in self.notes), rate])

    def _repr_html_(self) -> str:
        parts = [f"<p>{'<br>'.join(html.escape(str(self)).splitlines())}</p>", self.table.to_html()]
        return "".join(parts)

    def plot(self) -> Any:
        """Draw each quantity in replicated data, and where the data stand; return ArviZ's `PlotCollection`.

        The quantities with the smallest p-values, at most 12.

        Examples
        --------
        >>> import zoo
        >>> from inference import check, fit
        >>> counts = [0, 0, 0, 0, 9, 0, 0, 12, 0, 0, 0, 8]
        >>> found = check(fit(zoo.GammaPoisson(), counts, method="exact", seed=0), seed=0)
        >>> type(found.plot()).__name__
        'PlotCollection'
        """
        least = self.table.sort_values("p", kind="stable").index[:12]
        texts = {i: f"{self.table.loc[i, 'site']}: {self.table.loc[i, 'quantity']}" for i in least}
        names = {i: text.replace("/", "|") for i, text in texts.items()}  # a variable of a tree has no slash
        drawn = {names[i]: self.drawn[int(i)] for i in least}
        return reference_plot(drawn, {names[i]: float(self.table.loc[i, "observed"]) for i in least})


def check(fit: Fit, *, level: float = LEVEL, replicates: int | None = None, seed: int | None = None) -> Check:
    """Compare the data with data that the fitted model makes, and with what its prior expected.

    A replicated data set is drawn at each of many posterior draws of the globals; locals and discrete states are drawn
    anew, as those of new rows (mixed replicates; Marshall and Spiegelhalter 2003). A test quantity T(y) that lies in
    the tails of T(y_rep) is something the model does not reproduce (Rubin 1984; Gelman, Meng and Stern 1996). The
    p-values are conservative: parameters were fitted to the same data.

    Parameters
    ----------
    fit
        Any fit; of a point estimate, replicates come from the point.
    level
        Probability that a right model is accused of anything, at most.
    replicates
        How many data sets; None for as many as the number of quantities needs, 1000 to 4000.
    seed
        None for one that follows from the fit's.

    Raises
    ------
    FitError
        If it is no fit, the weights of rows are no whole numbers, or data cannot be simulated.

    Examples
    --------
    >>> print(check(result))  # doctest: +SKIP
    """
    fit = as_fit(fit, "check(fit(model, data, method=...))")
    if not 0 < level < 1:
        raise FitError(f"check(level) must be between 0 and 1, not {level!r}")
    if fit.program.not_drawn:
        raise FitError(f"check cannot draw data by running the model: {fit.program.not_drawn}")
    program = _unweighted(fit.program)
    notes = [f"field {n!r}: missing values are left out" for n in program.data.missing]
    with fit.running(Stream.CHECK, seed):
        observed = _observed(fit, program)
        chosen = []
        for site in program.observed:
            own, more = _chosen(program, site, observed[site.name])
            chosen += [(site.name, q) for q in own]
            notes += more
        total = replicates or min(MOST, max(FEWEST, math.ceil(PER_QUANTITY * len(chosen) * LEVEL / level)))
        table, drawn = _compared(fit, program, fit.globals(total), total, chosen, observed, level)
        prior = table.iloc[:0]
        if program.parameters or program.networks:
            notes.append("no check of the prior: there are parameters without one")
        else:
            central = [(n, q) for n, q in chosen if q.central]
            try:
                prior, _ = _compared(fit, program, {}, total, central, observed, level)
            except ZooError as error:
                notes.append(f"no check of the prior: {error}")
    return Check(table, prior, _sensitivity(fit), level, total, notes, drawn)


def _unweighted(program: Program) -> Program:
    """The program with each row as often as its weight says."""
    weights = program.data.weights
    if weights is None:
        return program
    if not torch.equal(weights, weights.round()):
        raise FitError("check needs rows that count once or several times; their weights are no whole numbers")
    rows = torch.arange(len(program.data)).repeat_interleave(weights.long().cpu())
    return program.rebind(replace(program.data.take(rows), weights=None))


def _observed(fit: Fit, program: Program) -> dict[str, np.ndarray]:
    """What each site observed, NaN where it observed nothing."""
    fields = with_nan(program.data)
    seen: Values = {}
    if any(s.field is None for s in program.observed):
        latents = fit.approximation.draw(fit.program, 1)[0]
        seen = program.replay({**fit.points, **{n: v[0] for n, v in latents.items()}}, densities=False).seen
    return {s.name: (fields[s.field] if s.field else seen[s.name]).double().cpu().numpy() for s in program.observed}


def _kind(program: Program, site: Site) -> Kind:
    if site.field in program.data.levels:
        return "category"
    if not site.support.is_discrete:
        return "real"
    return "binary" if str(site.support) == "Boolean()" else "count"


def _chosen(program: Program, site: Site, observed: np.ndarray) -> tuple[list[Quantity], list[str]]:
    """Test quantities of one site."""
    data, rows = program.data, _in_rows(observed, 0)
    dims = data.dims[site.field] if site.field else ()
    labels = list(data.coords[dims[1]]) if len(dims) == 2 else list(range(rows[0].size))
    levels = list(category_labels(data, site.field)) if site.field in data.levels else []
    groups = {}
    if site.plates[:1] == (program.row,):
        explained = {s.field for s in program.observed}
        fields = [n for n in data.levels if n not in explained and data.dims[n] == (data.row,)]
        codes = {n: data.values[n].cpu().numpy() for n in fields}
        groups = {n: c for n, c in codes.items() if 1 < len(np.unique(c)) <= len(c) // 2}
    return quantities(site.name, _kind(program, site), rows, labels, levels, groups)


def _compared(
    fit: Fit,
    program: Program,
    draws: Values,
    total: int,
    chosen: list[tuple[str, Quantity]],
    observed: dict[str, np.ndarray],
    level: float,
) -> tuple[pd.DataFrame, list[np.ndarray]]:
    """Replicate the data `total` times, at these draws, and compare every quantity."""
    step = max(1, min(total, LARGEST // max(1, sum(v.size for v in observed.values()))))
    names = list(observed)
    parts: list[list[np.ndarray]] = []
    first: dict[str, np.ndarray] = {}
    for start in range(0, total, step):
        some = {n: v[start : start + step] for n, v in draws.items()}
        count = min(step, total - start)
        made = simulations(program, fit.points, some, count, names)
        sets = {n: _in_rows(v.double().cpu().numpy(), 1) for n, v in made.items()}
        parts.append([q.of(sets[n]) for n, q in chosen if not q.distance])
        first = first or sets  # distributions are compared over these: as many as fit in memory
    values = iter([np.concatenate(column) for column in zip(*parts, strict=True)])
    rows, drawn = [], []
    for name, q in chosen:
        own = _in_rows(observed[name], 0)[None]
        if q.distance:
            at, replicated = distribution_distances(q.of(own)[0], q.of(first[name]))
        else:
            at, replicated = float(q.of(own)[0]), next(values)
        rows.append(_row(q, at, replicated))
        drawn.append(replicated)
    table = pd.DataFrame(rows, columns=COLUMNS)
    table["p_adjusted"] = holm(table["p"].to_numpy())
    table["misfit"] = table["p_adjusted"] <= level
    return table, drawn


def _in_rows(values: np.ndarray, lead: int) -> np.ndarray:
    """Give data without rows a row."""
    return values[..., None] if values.ndim == lead else values


def _row(q: Quantity, observed: float, replicated: np.ndarray) -> dict[str, Any]:
    """Compare one quantity: p = 2 min(P(T_rep <= T), P(T_rep >= T)), each tail with the data counted in."""
    count = len(replicated)
    above, below = ((1 + np.sum(c)) / (count + 1) for c in (replicated >= observed, replicated <= observed))
    p = float(above if q.distance else min(1.0, 2 * min(above, below)))
    low, high = np.quantile(replicated, [0.025, 0.975])
    return {
        "site": q.what,
        "quantity": q.name,
        "observed": observed,
        "mean": float(replicated.mean()),
        "low": float(low),
        "high": float(high),
        "p": p,
        "p_error": math.sqrt(p * (1 - p) / count),
    }


def _told(row: Any, whose: str) -> str:
    return (
        f"{row.site}: {row.quantity} is {row.observed:.3g}, where {whose} {row.low:.3g} to {row.high:.3g} "
        f"(p = {row.p:.2g}, adjusted {row.p_adjusted:.2g})"
    )


def _sensitivity(fit: Fit) -> pd.DataFrame:
    """Power-scaling sensitivity of the global latents."""
    names = [s.name for s in fit.program.globals if s.support.is_discrete is False]
    size = sum(math.prod(s.shape) for s in fit.program.globals)
    if (
        fit.is_point
        or not names
        or size > SCALARS
        or not {"log_prior", "log_likelihood"} <= set(fit.posterior.children)
    ):
        return pd.DataFrame(columns=["prior", "likelihood"])
    return power_scaling(fit.posterior, names)
