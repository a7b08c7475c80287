"""Whether the packages that belong together are found together, or something else of their name comes first."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

HOME = Path(__file__).parent.parent  # where zoo, guides and inference lie side by side


def check_found(name: str) -> None:
    """Raise if a package beside zoo is not what is imported by its name.

    Raises
    ------
    ImportError
        With what is found in its place, and the remedy.
    """
    loaded = sys.modules.get(name)
    spec = loaded.__spec__ if loaded is not None else find_spec(name)
    if spec is None or spec.origin is None:
        return  # importing it says what is the case
    found, wanted = Path(spec.origin), HOME / name / "__init__.py"
    if found != wanted and found.resolve() != wanted.resolve():
        place = found.parent if found.name == "__init__.py" else found
        raise ImportError(
            f"latentzoo's package {name!r} is shadowed: `import {name}` finds {place}, which comes before "
            f"{wanted.parent} on Python's path; rename that {'folder' if place.suffix != '.py' else 'file'}, or "
            "uninstall the package it belongs to"
        )
    if _is_foreign(wanted):
        from importlib.metadata import packages_distributions

        others = ", ".join(sorted({n for n in packages_distributions().get(name, ()) if n != "latentzoo"}))
        raise ImportError(
            f"latentzoo's package {name!r} was overwritten by a distribution with a package of the same name"
            f"{f' ({others})' if others else ''}, in {wanted.parent}; the two cannot be installed together: uninstall "
            "the other one, then pip install --force-reinstall --no-deps latentzoo, from where you had it"
        )


def _is_foreign(path: Path) -> bool:
    """Whether a file does without zoo, as no package of latentzoo does."""
    try:
        return "zoo" not in path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):  # in an archive
        return False
