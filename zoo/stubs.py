"""What type checkers and editors see of the packages, whose names are imported at run time when they are first used.

``python -m zoo.stubs`` writes `__init__.pyi` beside each `__init__.py`: every public name and the module it comes from.
A new model, guide or method works without it; only checkers and editors need the line, and a test asks for it.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from zoo import catalogue


def stub(kind: str) -> tuple[Path, str]:
    """Return the file that declares the public names of the package of this kind, and what it should say."""
    name = catalogue.KINDS[kind][0].partition(".")[0]
    package = importlib.import_module(name)
    lines = [f'"""{(package.__doc__ or "").strip()}"""', ""]
    homes = {**package._EXPORTS, **{entry.name: entry.module for entry in catalogue.shipped(kind).values()}}
    imports = []
    for public, home in homes.items():
        module = home.rpartition(".")[0] if home == f"{name}.{public}" else home  # the name is that of the module
        imports.append((module, f"from {module} import {public} as {public}"))
    lines += [line for _, line in sorted(imports)]
    lines += ["", "__version__: str"] if hasattr(package, "__version__") else []
    return Path(str(package.__file__)).with_suffix(".pyi"), "\n".join(lines) + "\n"


def main() -> int:
    """Write the stubs that are not as they should be, and name them."""
    for path, text in map(stub, catalogue.KINDS):
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            sys.stdout.write(f"wrote {path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
