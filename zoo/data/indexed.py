"""Rows that are fetched by their numbers: data sets of torch, memory-mapped arrays, files of images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import data as of_torch

from zoo.data.stream import SAMPLE, Stream
from zoo.errors import DataError

NUMBERS = 50_000_000  # of a sample of rows, at most: 400 MB in float64
FEWEST = 100  # rows of a sample, whatever their size
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")


@dataclass(frozen=True)
class Indexed(Stream):
    """Rows that can be asked for by their numbers; a sample of them is drawn without reading the others."""

    def frames(self) -> Iterator[Any]:
        """The rows in order, `chunk` at a time, or fewer where they are large."""
        size = min(self.chunk, self.sampled)
        for start in range(0, len(self), size):
            yield self.at(np.arange(start, min(start + size, len(self))))

    def sample(self) -> tuple[Any, int]:
        """Rows drawn evenly from all of them, and how many there are; from torch's random numbers."""
        some = torch.randperm(len(self))[: self.sampled].sort().values
        return self.at(some.numpy()), len(self)

    def __len__(self) -> int:
        """Return the number of rows."""
        raise NotImplementedError(type(self).__name__)

    @property
    def count(self) -> int:
        """How many rows there are."""
        return len(self)

    @property
    def sampled(self) -> int:
        """How many rows a sample has."""
        first = self.at(np.zeros(1, dtype=np.int64))
        shapes = [np.shape(v) for v in (first.values() if isinstance(first, dict) else [first])]
        numbers = sum(math.prod(shape) for shape in shapes)
        return min(SAMPLE, max(FEWEST, NUMBERS // max(1, numbers)))


@dataclass(frozen=True, eq=False)
class Array(Indexed):
    """The rows of an array or tensor, which may be on disk (``np.load(path, mmap_mode="r")``)."""

    array: np.ndarray | Tensor

    def __str__(self) -> str:
        """Name what it is."""
        return "an array on disk" if isinstance(self.array, np.memmap) else "an array"

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.array)

    def at(self, rows: np.ndarray, epoch: int = 0) -> Any:
        """Take rows."""
        return self.array[torch.from_numpy(rows)] if isinstance(self.array, Tensor) else np.asarray(self.array[rows])


@dataclass(frozen=True, eq=False)
class Items(Indexed):
    """The items of a `torch.utils.data.Dataset`, each of which is a row.

    Attributes
    ----------
    items
        The data set.
    names
        Fields of the model: what an item that is a tuple holds, in this order; of one field the first entry counts.
    """

    items: Any
    names: tuple[str, ...]

    def __str__(self) -> str:
        """Name the data set."""
        return f"a {type(self.items).__name__}"

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.items)

    def at(self, rows: np.ndarray, epoch: int = 0) -> Any:
        """Fetch items and put them together, field by field."""
        fetch = getattr(self.items, "__getitems__", None)
        found = fetch(rows.tolist()) if fetch else [self.items[i] for i in rows.tolist()]
        if not isinstance(found, Sequence):
            raise DataError(f"{self}: `__getitems__` gave {type(found).__name__}, expected a list of items")
        first = found[0]
        if isinstance(first, dict):
            lacking = [n for n in self.names if n not in first]
            if lacking:
                known = ", ".join(map(str, first))
                raise DataError(f"{self}: items have no {lacking[0]!r}, a field of the model; they have {known}")
            return {n: _stacked(n, [item[n] for item in found]) for n in self.names}
        if not isinstance(first, tuple | list):
            first, found = (first,), [(item,) for item in found]
        if len(self.names) > 1 and len(first) != len(self.names):
            raise DataError(
                f"{self}: items have {len(first)} entries, and the model the fields {', '.join(self.names)}; give "
                "tuples of these, in this order, or dicts"
            )
        return {n: _stacked(n, [item[i] for item in found]) for i, n in enumerate(self.names)}


def _stacked(name: str, entries: list[Any]) -> Any:
    """Put the entries of one field below each other; pictures of Pillow are arrays, too."""
    arrays = [e if isinstance(e, Tensor) else np.asarray(e) for e in entries]
    odd = next((a for a in arrays if a.shape != arrays[0].shape), None)
    if odd is not None:
        raise DataError(
            f"field {name!r}: expected items of one shape, found {tuple(arrays[0].shape)} and {tuple(odd.shape)}; "
            "crop or resize them in the data set"
        )
    tensors = [a for a in arrays if isinstance(a, Tensor)]
    return torch.stack(tensors) if len(tensors) == len(arrays) else np.stack([np.asarray(a) for a in arrays])


@dataclass(frozen=True)
class Files(Indexed):
    """Files of images; make one with `zoo.image_files`."""

    paths: tuple[Path, ...]
    grey: bool
    size: tuple[int, int] | None

    def __str__(self) -> str:
        """Name the folder."""
        return f"{self.paths[0].parent}"

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self.paths)

    def at(self, rows: np.ndarray, epoch: int = 0) -> np.ndarray:
        """Read images: (rows, height, width) if grey, else (rows, 3, height, width), uint8."""
        images = [self._read(self.paths[i]) for i in rows.tolist()]
        for i, image in zip(rows.tolist(), images, strict=True):
            if image.shape != images[0].shape:
                raise DataError(
                    f"{self.paths[i]}: expected an image of {images[0].shape[-2]} x {images[0].shape[-1]} pixels as "
                    f"{self.paths[int(rows[0])].name}, found {image.shape[-2]} x {image.shape[-1]}; give "
                    "image_files(..., size=(height, width))"
                )
        return np.stack(images)

    def _read(self, path: Path) -> np.ndarray:
        from PIL import Image

        try:
            with Image.open(path) as opened:
                image = opened.convert("L" if self.grey else "RGB")
        except OSError as error:
            raise DataError(f"{path}: cannot be read as an image ({error}); is it truncated?") from error
        if self.size is not None:
            image = image.resize(self.size[::-1])
        array = np.asarray(image)
        return array if self.grey else np.moveaxis(array, -1, 0)


def image_files(folder: str | Path, *, grey: bool = False, size: tuple[int, int] | None = None) -> Files:
    """Read images from the files below a folder when they are needed, in the order of their paths.

    Parameters
    ----------
    folder
        Whose files, and those of the folders in it, are read by Pillow (``pip install pillow``).
    grey
        Read grey values, (rows, height, width), in place of colours, (rows, 3, height, width).
    size
        (height, width) that every image is resized to; None where all have one size.

    Raises
    ------
    DataError
        If there is no such folder, no image in it, or no Pillow.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from PIL import Image
    >>> import zoo
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.fromarray(np.full((4, 4), 255, dtype=np.uint8)).save(f"{folder}/white.png")
    ...     len(zoo.image_files(folder))
    1
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    paths = tuple(sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES))
    if not paths:
        raise DataError(f"{folder}: expected files of images ({', '.join(SUFFIXES)}), found none")
    try:
        import PIL  # noqa: F401
    except ImportError:
        raise DataError("files of images are read by Pillow, which is not installed: pip install pillow") from None
    return Files(paths, grey, size)


def as_stream(source: Any, names: tuple[str, ...]) -> Any:
    """Return data sets and loaders of torch, and arrays on disk, as streams; what is in memory as arrays.

    Small ones are read at once, so that every method takes them.

    Raises
    ------
    DataError
        If rows of a data set have no numbers, or a loader makes something else of them.
    """
    if isinstance(source, of_torch.DataLoader):
        source = _of_loader(source)
    if isinstance(source, of_torch.IterableDataset):
        raise DataError(
            f"{type(source).__name__} gives items one after the other, and steps take rows by their numbers; give a "
            "Dataset with __getitem__ and __len__, or a Parquet file: zoo.stream(path)"
        )
    if isinstance(source, of_torch.TensorDataset):
        _check_count(len(source.tensors), names, "a TensorDataset")
        parts = dict(zip(names, source.tensors, strict=False))
        return parts if len(names) > 1 else parts[names[0]]
    if isinstance(source, of_torch.Dataset):
        source = Items(source, names)
    elif isinstance(source, np.memmap) and source.ndim:
        source = Array(source)
    if isinstance(source, Indexed) and source.fixed and 0 < len(source) <= source.sampled:
        return source.at(np.arange(len(source)))
    return source


def _check_count(found: int, names: tuple[str, ...], what: str) -> None:
    if len(names) > 1 and found != len(names):
        raise DataError(
            f"{what} of {found} tensors, and the model has the fields {', '.join(names)}; give these, in this order"
        )


def _of_loader(loader: of_torch.DataLoader[Any]) -> of_torch.Dataset[Any]:
    """Return the data set of a loader that takes every item once."""
    plain = isinstance(loader.sampler, of_torch.RandomSampler | of_torch.SequentialSampler)
    again = plain and getattr(loader.sampler, "replacement", False)
    if not plain or again or len(loader.sampler) != len(loader.dataset):  # type: ignore[arg-type]
        raise DataError(
            f"a DataLoader with a {type(loader.sampler).__name__} leaves out or repeats rows; give its dataset, or a "
            "torch.utils.data.Subset of it"
        )
    if loader.collate_fn is not of_torch.default_collate:
        raise DataError(
            "a DataLoader with a collate_fn of its own makes other rows of its items; do that in the Dataset"
        )
    return loader.dataset
