"""Models in TOML or YAML files: fields, settings, plates and sites, whose distributions are read as arithmetic."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.distributions import constraints

from zoo.declare.fields import Binary, Category, Count, Field, Positive, Real, UnitInterval
from zoo.declare.model import Model
from zoo.errors import ModelError, UnknownNameError, ZooError, unknown
from zoo.text.expressions import Expression
from zoo.text.lines import line_of
from zoo.text.story import Story
from zoo.text.yaml_tree import tree_of

KINDS = {kind.__name__: kind for kind in (Real, Positive, UnitInterval, Count, Binary, Category)}
CONSTRAINTS = {name: getattr(constraints, name) for name in ("real", "positive", "unit_interval", "simplex")}
FIELD = re.compile(r"\s*(\w+)\s*\(\s*(\w+(?:\s*,\s*\w+)*)\s*\)\s*")
TABLES = ("fields", "hyperparameters", "constants", "plates", "parameters", "definitions", "sites", "dims")
KEYS = ("name", "doc", *TABLES)
LARGEST = 1 << 18  # bytes of a file; YAML takes seconds for as much
DOTTED = re.compile(r"[\w\"'\- \t.]+")  # what keys of tables in tables look like: a.b.c
DEEPEST = 32  # tables in tables; the parser of TOML takes the square of it


def read_model(path: str | Path) -> type[Model]:
    """Read a model from a TOML or YAML file; no code in it is run.

    Parameters
    ----------
    path
        Of the file, whose suffix says which of the two it is. It has a ``name``, a ``doc``, and tables:

        * ``fields``: ``x = "Real(row, feature)"``;
        * ``hyperparameters``: their defaults;
        * ``constants``: worked out once, of the data that are fitted, ``center = "mean(x, 0)"``;
        * ``plates``: sizes of those that are no dimension of a field, ``component = "components"``;
        * ``parameters``: ``weights = { start = "full(k, 1 / k)", constraint = "simplex" }``;
        * ``definitions``: worked out wherever they are named, ``loc = "x @ coefficients"``;
        * ``sites``: ``mu = "Normal(0, scale)"``; a table in it, ``[sites.row]``, is a plate;
        * ``dims``: names of event dimensions, ``weights = ["component"]``.

        So TOML writes it; in YAML tables are indented, ``x: Real(row, feature)``. Its tags and references are refused.

        Arguments are arithmetic (``+ - * / ** @``, indices, functions such as ``exp`` and ``size(row)``) over the names
        above them. A site with the name of a field observes it.

    Returns
    -------
    type
        The model's class, which is used as one that is written in Python.

    Raises
    ------
    ModelError, UnknownNameError
        With the line and the key of what is wrong.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import zoo
    >>> from inference import fit
    >>> text = '''
    ... name = "Waits"
    ... doc = "Waits with one unknown rate."
    ... [fields]
    ... wait = "Positive(bus)"
    ... [hyperparameters]
    ... a = 1.0
    ... [sites]
    ... rate = "Gamma(a, 1)"
    ... [sites.bus]
    ... wait = "Exponential(rate)"
    ... '''
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "waits.toml").write_text(text)
    ...     Waits = zoo.read_model(Path(folder, "waits.toml"))
    >>> round(fit(Waits(a=1.0), [2.0, 1.0, 3.0], method="exact", seed=0).objective.value, 3)  # log 3! / 7^4
    -5.992
    """
    path = Path(path)
    if not path.is_file():
        raise UnknownNameError(f"{path}: no such file")
    if path.stat().st_size > LARGEST:
        raise ModelError(f"{path}: a model is declared in at most {LARGEST // 1024} kB, and this file is larger")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ModelError(f"{path} is no text: {error}") from None
    try:
        read = _toml if path.suffix == ".toml" else _yaml
        return _Reader(path, *read(path, text)).model()
    except RecursionError:
        raise ModelError(f"{path}: tables or lists stand in each other too deeply") from None


def _toml(path: Path, text: str) -> tuple[dict[str, Any], Callable[[tuple[str, ...]], int]]:
    if any(key.count(".") > DEEPEST for key in DOTTED.findall(text)):
        raise ModelError(f"{path}: tables stand in each other at most {DEEPEST} deep")
    try:
        return tomllib.loads(text), partial(line_of, text)
    except ValueError as error:  # also of whole numbers of thousands of digits
        raise ModelError(f"{path} is no TOML file: {error}") from None


def _yaml(path: Path, text: str) -> tuple[dict[str, Any], Callable[[tuple[str, ...]], int]]:
    try:
        return tree_of(text)
    except ModelError as error:
        raise ModelError(f"{path}:{error}") from None


class _Reader:
    """What a file says, and where; names that are known so far, by the table they are from."""

    def __init__(self, path: Path, described: dict[str, Any], line_of: Callable[[tuple[str, ...]], int]) -> None:
        self.path, self.described, self.line_of = path, described, line_of
        self.known: dict[str, str] = {}
        self.dims: set[str] = set()
        self.place = str(path)  # of what is read now

    @contextmanager
    def at(self, *keys: str) -> Iterator[None]:
        """Name the line and the key of what is wrong inside."""
        outer, self.place = self.place, f"{self.path}:{self.line_of(keys)}: {'.'.join(keys)}"
        try:
            yield
        except ZooError as error:
            if str(error).startswith(f"{self.path}:"):
                raise
            raise type(error)(f"{self.place}: {error}") from None
        finally:
            self.place = outer

    def model(self) -> type[Model]:
        """Make the class."""
        for key in self.described:
            with self.at(key):
                if key not in KEYS:
                    raise unknown("key", key, KEYS)
        fields = self.each("fields", _field)
        self.dims = {dim for field in fields.values() for dim in field.dims}
        settings = self.each("hyperparameters", _number)
        constants = self.each("constants", self.expression)
        plates = self.each("plates", self.expression, known=False)
        self.dims |= set(plates)
        parameters = self.each("parameters", self.parameter)
        drawn = _names(self.table("sites"))
        for name in self.table("definitions"):
            with self.at("definitions", name):
                if name in {*self.known, *drawn}:
                    raise ModelError(f"{name!r} is a name already; rename one")
        later = {*self.known, *self.table("definitions"), *drawn}
        definitions = self.each("definitions", lambda text: Expression(text, later, self.dims, self.place), known=False)
        for above, (name, definition) in enumerate(definitions.items()):
            with self.at("definitions", name):
                below = sorted(set([*definitions][above:]) & definition.named)
                if below:
                    raise ModelError(f"it names {below[0]!r}, which is not above it; move that up")
        sites = self.sites(self.table("sites"), ("sites",), definitions)
        dims = self.each("dims", _names_of_dimensions, known=False)
        for name in dims:
            with self.at("dims", name):
                if name not in {*drawn, *parameters}:
                    raise unknown("site or parameter", name, {*drawn, *parameters})
        name = self.described.get("name", self.path.stem)
        with self.at("name"):
            if not isinstance(name, str) or not name.isidentifier():
                raise ModelError(f"expected a name, found {name!r}")
        if not sites:
            raise ModelError(f"{self.path}: a model needs sites")
        if fields and not drawn & set(fields):
            with self.at("sites"):
                raise ModelError(f"no site is called as a field is ({', '.join(fields)}), so that nothing is observed")
        story = Story(fields, constants, plates, parameters, definitions, sites)

        def setup(model: Model, **data: Tensor) -> None:
            story.set_up(model, data)

        def forward(model: Model, **data: Tensor) -> None:
            story.tell(model, data)

        body = {
            "__doc__": str(self.described.get("doc", f"{name}, read from {self.path.name}.")),
            "__module__": __name__,
            "__text__": str(self.path.resolve()),
            "__annotations__": {n: type(value) for n, value in settings.items()},
            "dims": dims,
            "setup": setup,
            "forward": forward,
            **fields,
            **settings,
        }
        made: type[Model] = type(Model)(name, (Model,), body)  # type: ignore[misc]
        return made

    def table(self, key: str) -> dict[str, Any]:
        """Return a table of the file, empty if it has none."""
        found = self.described.get(key, {})
        with self.at(key):
            if not isinstance(found, dict):
                raise ModelError(f"expected a table, found {found!r}")
        return found

    def each(self, key: str, read: Callable[[Any], Any], *, known: bool = True) -> dict[str, Any]:
        """Read the entries of a table in their order; their names are known to those that follow."""
        found = {}
        for name, given in self.table(key).items():
            with self.at(key, name):
                found[name] = read(given)
                if known:
                    self.add(name, key)
        return found

    def add(self, name: str, owner: str) -> None:
        """Add a name, which must be new; sites may have the name of the field that they observe."""
        if not name.isidentifier():
            raise ModelError(f"expected a name, found {name!r}")
        taken = self.known.get(name)
        if taken is not None and (taken, owner) != ("fields", "sites"):
            raise ModelError(f"{name!r} is among the {taken} already; rename one")
        self.known[name] = owner

    def expression(self, text: Any) -> Expression:
        """Read arithmetic over what is known so far."""
        return Expression(repr(text) if isinstance(text, int | float) else text, self.known, self.dims, self.place)

    def parameter(self, given: Any) -> tuple[Expression, constraints.Constraint]:
        """Read the start and the constraint of a parameter."""
        if not isinstance(given, dict) or not {"start"} <= set(given) <= {"start", "constraint"}:
            raise ModelError(f"expected a table of start and constraint, found {given!r}")
        constraint = given.get("constraint", "real")
        if constraint not in CONSTRAINTS:
            raise unknown("constraint", constraint, CONSTRAINTS)
        return self.expression(given["start"]), CONSTRAINTS[constraint]

    def sites(
        self, given: Mapping[str, Any], keys: tuple[str, ...], definitions: Mapping[str, Expression]
    ) -> dict[str, Any]:
        """Read sites, each of the names before it, and plates of them."""
        found: dict[str, Any] = {}
        for name, entry in given.items():
            with self.at(*keys, name):
                if isinstance(entry, dict):
                    if name not in self.dims:
                        raise unknown("plate", name, self.dims, "A size of its own stands in plates.")
                    found[name] = self.sites(entry, (*keys, name), definitions)
                    continue
                drawn = Expression(entry, {*self.known, *definitions}, self.dims, self.place, distribution=True)
                early = sorted(_needed(drawn, definitions) - set(self.known))
                if early:
                    raise ModelError(f"{entry!r} needs {early[0]!r}, which is drawn further down; move it up")
                found[name] = drawn
                self.add(name, "sites")
        return found


def _needed(expression: Expression, definitions: Mapping[str, Expression]) -> set[str]:
    """Return the names that an expression needs, those of the definitions in it in their place."""
    inner = (_needed(definitions[n], definitions) if n in definitions else {n} for n in expression.named)
    return set().union(*inner)


def _field(given: Any) -> Field:
    """Read a field, ``Real(row, feature)``."""
    found = FIELD.fullmatch(given) if isinstance(given, str) else None
    if found is None:
        raise ModelError(f"expected a kind with its dimensions, such as 'Real(row, feature)', found {given!r}")
    if found[1] not in KINDS:
        raise unknown("kind of field", found[1], KINDS)
    return KINDS[found[1]](*(dim.strip() for dim in found[2].split(",")))


def _number(given: Any) -> bool | int | float:
    if not isinstance(given, bool | int | float):
        raise ModelError(f"expected a number, found {given!r}")
    return given


def _names_of_dimensions(given: Any) -> tuple[str, ...]:
    if not isinstance(given, list) or not all(isinstance(dim, str) and dim.isidentifier() for dim in given):
        raise ModelError(f"expected names of dimensions, such as ['feature'], found {given!r}")
    return tuple(given)


def _names(sites: Mapping[str, Any]) -> set[str]:
    """Names of all sites, those in plates too."""
    return {n for name, entry in sites.items() for n in (_names(entry) if isinstance(entry, dict) else [name])}
