"""Models in a user's own Python files."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from zoo.errors import ModelError, UnknownNameError, ZooError


def import_file(path: Path, name: str) -> ModuleType:
    """Run a Python file as a module called `name`, and return it.

    Raises
    ------
    UnknownNameError
        If there is no such file, or it is no Python file.
    ModelError
        If running it fails.
    """
    if not path.is_file():
        raise UnknownNameError(f"{path}: no such file")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UnknownNameError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except ZooError:
        raise
    except (Exception, SystemExit) as error:
        raise ModelError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    return module
