"""From codes back to data: the mean of what is observed at given codes, along lines between them and one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributions as dist
import xarray as xr
from torch import Tensor

from inference.approximations.corrected_rows import back
from inference.diagnostics.coordinates import category_labels, dimension_names, event_names
from inference.posterior.answer import Answer
from inference.posterior.codes import SD, coded, encode, labels, row_axis, spread_codes
from inference.posterior.rows import row_chunks
from inference.posterior.simulate import as_dict, as_given, check_condition, conditioned, conditions
from inference.posterior.streams import Stream
from zoo.data.bind import Source
from zoo.data.data import Data
from zoo.data.plain import as_numpy
from zoo.errors import DataError, FitError
from zoo.program.program import Program
from zoo.replay.evaluate import Values
from zoo.replay.masked import OBSERVED
from zoo.replay.sites import Site, base_distribution

AVERAGED = 100  # draws of global latents that a decoded mean is averaged over

Condition = Mapping[str, Any] | None


def decode(answer: Answer, codes: Any, condition: Condition = None) -> xr.Dataset:
    """E[x | z] of each observed site at given codes; averaged over draws of what rows share, where it has any.

    Raises
    ------
    DataError
        If the codes have another shape than the latents.
    FitError
        If the mean of a site is not known given the codes.
    """
    values, lead, shape = _given(answer, codes)
    count = int(np.prod(shape)) if shape else 1
    program = conditioned(answer, count, condition, "decode")
    means = _means(answer, program, values)
    return _laid_out(program, means, lead, shape, _lead_labels(codes, lead))


def _given(answer: Answer, codes: Any) -> tuple[Values, list[str], tuple[int, ...]]:
    """Codes as (rows, entries) of each latent, with names and sizes of the dimensions they were given in."""
    program, sites = answer.program, coded(answer)
    if isinstance(codes, xr.Dataset):
        missing = [s.name for s in sites if s.name not in codes]
        if missing:
            raise DataError(f"decode: the Dataset has no variable {missing[0]!r}; give what encode() returns")
        own = {d for s in sites for d in dimension_names(program, s) if d != program.row}
        lead = [str(d) for d in codes[sites[0].name].dims if d not in own]
        shape = tuple(codes.sizes[d] for d in lead)
        arrays = {}
        for site in sites:
            rest = [d for d in dimension_names(program, site) if d != program.row]
            arrays[site.name] = codes[site.name].transpose(*lead, *rest).to_numpy()
    else:
        if len(sites) > 1:
            names = ", ".join(s.name for s in sites)
            raise DataError(f"decode: rows have several latents ({names}); give a Dataset with these variables")
        array = as_numpy(codes, float)
        event = _entry_shape(program, sites[0])
        if array.shape[array.ndim - len(event) :] != event:
            raise DataError(
                f"decode: codes have shape {array.shape}, and a row's {sites[0].name!r} has shape {event}; give "
                f"(rows, {', '.join(map(str, event))})"
            )
        shape = array.shape[: array.ndim - len(event)]
        lead = [program.row] if len(shape) == 1 else [f"code_dim_{i}" for i in range(len(shape))]
        arrays = {sites[0].name: array}
    values = {}
    for site in sites:
        flat = torch.as_tensor(np.array(arrays[site.name], order="C")).to(program.device, program.dtype)
        entries = int(np.prod(_entry_shape(program, site)))
        count = int(np.prod(shape))
        if flat.numel() != count * entries:
            raise DataError(
                f"decode: {site.name!r} has {flat.numel()} numbers, expected {entries} for each of {count} rows"
            )
        values[site.name] = flat.reshape(count, entries)
    return values, lead, shape


def _entry_shape(program: Program, site: Site) -> tuple[int, ...]:
    """Shape of a latent's value in one row, without dimensions that nobody named."""
    shape = list(program.site_shape(site))
    shape.pop(row_axis(program, site))
    return tuple(n for i, n in enumerate(shape) if n != 1 or i >= site.batch_dim - 1)


def _lead_labels(codes: Any, lead: Sequence[str]) -> dict[str, Any]:
    if not isinstance(codes, xr.Dataset):
        return {}
    return {d: codes.coords[d].to_numpy() for d in lead if d in codes.coords}


def _means(answer: Answer, program: Program, values: Values) -> dict[str, Tensor]:
    """E[x | z] of each observed site of rows, (rows, *event), at codes (rows, entries) of the program's rows."""
    if program.structure.in_turn:
        name = program.structure.in_turn[0]
        raise FitError(f"the mean of {name!r} given the codes is not known, as its entries depend on each other")
    count = min(AVERAGED, answer.draw_count) if answer.has_draws and answer.fixed is None else 1
    globals_ = answer.globals(count, program)
    evident = {name + OBSERVED for name in program.structure.completed}
    sites = [s for s in program.observed if s.field in program.data.row_fields and s.name not in evident]
    parts: list[dict[str, Tensor]] = []
    rows, start = len(program.data), 0
    with answer.running(Stream.ENCODE):
        for chunk in row_chunks(program, whole=False):
            own = {n: v[start : start + len(chunk.data)] for n, v in values.items()}
            own = {n: back(chunk, n, v, 0) for n, v in own.items()}
            start += len(chunk.data)
            total: dict[str, Tensor] = {}
            for k in range(count):
                values_at = {**answer.points, **{n: v[k] for n, v in globals_.items()}, **own}
                told = _labels(chunk, values_at)
                seen = chunk.replay(values_at, densities=False).distributions
                for site in sites:
                    mean = _mean(chunk, site, seen[site.name], told)
                    total[site.name] = total.get(site.name, torch.zeros(())) + mean
            parts.append({n: v / count for n, v in total.items()})
    assert start == rows
    return {n: torch.cat([p[n] for p in parts]) for n in parts[0]}


def _labels(program: Program, values: Values) -> Values:
    """Probabilities of the labels that some fitted rows lack, given each row and its code, (rows, labels)."""
    completed = program.structure.completed
    return {n: p for n, p in program.responsibilities(values).items() if n in completed} if completed else {}


def _mean(program: Program, site: Site, fn: Any, told: Values) -> Tensor:
    """Mean of a site of each row, (rows, ...), over its labels; of categories, their probabilities, on the right."""
    base = base_distribution(fn)
    categories = isinstance(base, dist.Categorical)
    try:
        mean = base.probs if categories else fn.mean
    except NotImplementedError:
        mean = torch.full((), torch.nan)
    for name, shares in told.items():
        mean = _over_label(program.sites[name], mean, shares, site.event_dim + categories)
    expected = [*site.shape, *([base.probs.shape[-1]] if categories else [])]
    expected[row_axis(program, site)] = len(program.data)
    if mean.ndim > len(expected):
        raise FitError(
            f"the mean of {site.name!r} is not known given the codes: it depends on the discrete latents "
            f"{', '.join(s.name for s in program.enumerated)} too; see generate() and assign()"
        )
    if not bool(mean.isfinite().all()):
        raise FitError(f"{site.name!r} ({site.family}) has no mean; generate() draws from it")
    whole: Tensor = mean.expand(expected)
    return whole.movedim(row_axis(program, site), 0)


def _over_label(label: Site, mean: Tensor, shares: Tensor, event_dim: int) -> Tensor:
    """Average means at all states of a label, which stand along the dimension that enumerates it, by their shares."""
    assert label.enum_dim is not None
    states, rows = label.enum_dim - event_dim, label.plate_dims[0] - event_dim
    if mean.ndim < -states or mean.shape[states] == 1:
        return mean
    shape = [1] * mean.ndim
    shape[states], shape[rows] = shares.shape[1], shares.shape[0]
    return (mean * shares.T.reshape(shape)).sum(states)


def _laid_out(
    program: Program, means: Values, lead: Sequence[str], shape: Sequence[int], of_lead: Mapping[str, Any]
) -> xr.Dataset:
    """Means (rows, *event) with the dimensions that codes were given in, in place of the rows."""
    made: dict[str, tuple[list[str], np.ndarray]] = {}
    levels: dict[str, Any] = {}
    for name, mean in means.items():
        site = program.sites[name]
        dims = [d for d in event_names(program, site) if d != program.row]
        if len(dims) < mean.ndim - 1 and site.field in program.data.levels:
            dims.append(f"{site.field}_level")
            levels[dims[-1]] = category_labels(program.data, site.field)
        dims += [f"{name}_dim_{i}" for i in range(len(dims) + 1, mean.ndim)]
        made[name] = [*lead, *dims], mean.reshape(*shape, *mean.shape[1:]).cpu().numpy()
    known = {d: v for d, v in labels(program, made).items() if d not in lead}
    return xr.Dataset(made, {**known, **levels, **of_lead})


def reconstruct(answer: Answer, new: Source | Data | None = None) -> xr.Dataset:
    """E[x | z] at the mean code of each row, with the rows' own covariates and labels."""
    program = answer.on(new)
    codes = encode(answer, new)
    values, lead, shape = _given(answer, codes)
    return _laid_out(program, _means(answer, program, values), lead, shape, _lead_labels(codes, lead))


def interpolate(answer: Answer, a: Any, b: Any, steps: int, condition: Condition = None) -> xr.Dataset:
    """E[x | z] along the straight lines z = (1 - t) z_a + t z_b between codes, `steps` of them from t = 0 to 1.

    Covariates and labels that `condition` says nothing of are those of the rows, if both ends agree.
    """
    given = as_dict(answer.program, condition)
    if not (isinstance(a, xr.Dataset) or isinstance(b, xr.Dataset)):
        own = _agreed(answer, a, b, [f for f in conditions(answer.program) if f not in given])
        given = {**{f: np.concatenate([v] * steps) for f, v in own.items()}, **given}
    check_condition(answer.program, given, "interpolate")
    ends = [_as_codes(answer, rows) for rows in (a, b)]
    row = answer.program.row
    _check_lengths(*(e.sizes.get(row, 1) for e in ends))
    first, last = ({str(n): v.variable for n, v in e.items()} for e in ends)  # by place, whatever the labels
    t = xr.Variable("t", np.linspace(0.0, 1.0, steps))
    path = {s.name: (1 - t) * first[s.name] + t * last[s.name] for s in coded(answer)}
    return decode(answer, xr.Dataset(path, {"t": t}), given)


def _check_lengths(first: int, last: int) -> None:
    if first != last:
        raise DataError(f"interpolate: there are {first} rows on one side and {last} on the other")


def _agreed(answer: Answer, a: Source, b: Source, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Covariates and labels of rows that are the same at both ends of each line.

    Raises
    ------
    DataError
        If they are not, or a label is missing.
    """
    found: dict[str, np.ndarray] = {}
    if not names:
        return found
    first, last = (answer.on(rows).data for rows in (a, b))
    _check_lengths(len(first), len(last))
    for name in names:
        sides = [_told(data, name, "interpolate") for data in (first, last)]
        apart = (sides[0] != sides[1]).reshape(len(first), -1).any(1)
        if apart.any():
            i = int(apart.argmax())
            raise DataError(
                f"interpolate: {name!r} is {sides[0][i]} at one end of line {i} and {sides[1][i]} at the other; say "
                f"which along all of it: condition={{{name!r}: ...}}"
            )
        found[name] = sides[0]
    return found


def _told(data: Data, name: str, question: str) -> np.ndarray:
    """A covariate or label of each row; DataError if one has none."""
    gone = data.missing[name].cpu().numpy() if name in data.missing else np.zeros(len(data), bool)
    if gone.any():
        where = data.coords[data.row][int(gone.argmax())]
        raise DataError(f"{question}: row {where} has no {name!r}; say which: condition={{{name!r}: ...}}")
    return as_given(data, name)


def _shared(answer: Answer, at: Source, names: Sequence[str]) -> dict[str, Any]:
    """The value of covariates and labels that all of these rows have.

    Raises
    ------
    DataError
        If they differ, or one is missing.
    """
    data, found = answer.on(at).data, {}
    for name in names:
        values = _told(data, name, "traverse")
        if (values != values[:1]).any():
            kinds = len(np.unique(values, axis=0))
            raise DataError(
                f"traverse: {name!r} has {kinds} values in the rows of `at`; give rows that have the same, or say "
                f"which: condition={{{name!r}: ...}}"
            )
        found[name] = values[0]
    return found


def _as_codes(answer: Answer, given: Any) -> xr.Dataset:
    return given if isinstance(given, xr.Dataset) else encode(answer, given)


def traverse(
    answer: Answer, coordinate: Any, site: str | None, at: Any, span: float, steps: int, condition: Condition
) -> xr.Dataset:
    """E[x | z] while one coordinate of z goes through `steps` values, the others where they are.

    Covariates and labels that `condition` says nothing of are those of the rows `at`, if all have the same.
    """
    sites = coded(answer)
    names = [s.name for s in sites]
    if site is not None and site not in names:
        raise DataError(f"traverse: {site!r} is no continuous latent of rows; there are {', '.join(names)}")
    name = names[0] if site is None else site
    program, given = answer.program, as_dict(answer.program, condition)
    if not (at is None or isinstance(at, xr.Dataset)):
        given = {**_shared(answer, at, [f for f in conditions(program) if f not in given]), **given}
    check_condition(program, given, "traverse")
    fitted = spread_codes(answer)
    row = program.row
    base = (fitted if at is None else _as_codes(answer, at)).mean(row, keep_attrs=True)
    dims = [d for d in fitted[name].dims if d != row]
    if len(dims) > 1:
        raise DataError(f"traverse: {name!r} has dimensions {', '.join(map(str, dims))}; decode() codes of your own")
    size = fitted.sizes[dims[0]] if dims else 1
    known = fitted.coords[dims[0]].to_numpy().tolist() if dims and dims[0] in fitted.coords else list(range(size))
    if coordinate not in known:
        raise DataError(f"traverse: {coordinate!r} is no coordinate of {name!r}; there are {known}")
    place = known.index(coordinate)
    means, sds = (fitted[n].transpose(row, ...).to_numpy().reshape(-1, size)[:, place] for n in (name, name + SD))
    spread = np.sqrt(means.var() + np.square(sds).mean())  # of the codes of all rows together
    centre = means.mean()
    values = centre + spread * np.linspace(-span, span, steps)
    path = {n: base[n].expand_dims(value=values).copy(deep=True) for n in names}
    path[name].data.reshape(steps, -1)[:, place] = values
    return decode(answer, xr.Dataset(path), given)
