"""What a NetCDF file may hold, which is HDF5: its own numbers, and not more than its size bears out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from zoo.errors import DataError
from zoo.frames.bounded import most

DEEPEST = 8  # groups in groups; those of ArviZ stand in one another twice at most


def check_contained(path: Path) -> None:
    """Check that a file refers to no other file, and how many bytes its arrays are, before they are read.

    Raises
    ------
    DataError
        For links to other files, arrays whose numbers are kept in other files, and arrays of many more bytes than the
        file has.
    """
    import h5py

    left = most(path.stat().st_size)

    def look(group: Any, depth: int = 0) -> None:
        nonlocal left
        if depth > DEEPEST:
            raise DataError(f"{path}: {group.name}: groups stand in groups more than {DEEPEST} deep")
        for name in group:
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise DataError(
                    f"{path}: {group.name}/{name} is a link to elsewhere; files are read by themselves only"
                )
            found = group[name]
            if isinstance(found, h5py.Group):
                look(found, depth + 1)
            elif isinstance(found, h5py.Dataset):
                if found.external or found.is_virtual:
                    raise DataError(f"{path}: the numbers of {found.name} are in another file; put them into this one")
                left -= math.prod(found.shape or ()) * found.dtype.itemsize
                if left < 0:
                    raise DataError(
                        f"{path}: {found.name} is said to be {' x '.join(map(str, found.shape))} numbers, which a file "
                        "of this size does not hold"
                    )

    with h5py.File(path, "r") as file:
        look(file)
