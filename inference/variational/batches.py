"""Mini-batches of rows through torch's DataLoader: shuffled, in parts, and resumable."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from zoo.data.data import Data
from zoo.program.rows import Batch, rows_of


class RowDataset(Dataset[Batch]):
    """The rows of a data set, fetched many at a time."""

    def __init__(self, data: Data, scale: float) -> None:
        self.data, self.scale = data, scale

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.data)

    def __getitem__(self, rows: Tensor) -> Batch:
        """Return these rows, weighted so that they stand for all."""
        at = rows.to(next(iter(self.data.values.values())).device)
        weights = torch.ones(len(at), dtype=self.data.dtype, device=at.device)
        if self.data.weights is not None:
            weights = self.data.weights[at]
        return rows_of(self.data, at, weights * self.scale)


class Shuffled(Sampler[Tensor]):
    """Batches of rows without replacement, each pass over them in a new order; rows left over wait for the next pass.

    Parameters
    ----------
    rows, size
        How many rows there are, and go into a batch.
    seed
        Of the orders: that of one pass depends on this and the number of the pass only.
    """

    def __init__(self, rows: int, size: int, seed: int) -> None:
        self.rows, self.size, self.seed, self.epoch = rows, size, seed, 0

    def __len__(self) -> int:
        """Return the number of batches in a pass."""
        return max(1, self.rows // self.size)

    def __iter__(self) -> Iterator[Tensor]:
        """Yield the batches of one pass."""
        order = torch.randperm(self.rows, generator=torch.Generator().manual_seed(self.seed + self.epoch))
        self.epoch += 1
        for start in range(0, self.rows - self.size + 1, self.size):
            yield order[start : start + self.size]


class Batches:
    """An endless stream of mini-batches, or of all rows.

    Parameters
    ----------
    data
        All rows.
    size
        Rows to a batch.
    seed
        Of the order of rows.
    workers
        Processes that fetch rows ahead of their use.
    bound
        Whether the program is set up for these very rows, all of them.
    """

    def __init__(self, data: Data, size: int, seed: int, workers: int = 0, *, bound: bool = False) -> None:
        self.device = next(iter(data.values.values())).device
        self.data, self.whole, self.bound = data, size >= len(data), bound or bool(data.missing)
        self.rows = min(size, len(data))
        self.sampler = Shuffled(len(data), self.rows, seed)
        self.epoch = 1 if self.whole else len(self.sampler)
        there = self.device.type == "cpu"
        near = data if there or not workers else data.to(data.dtype, torch.device("cpu"))
        self.loader: DataLoader[Any] = DataLoader(
            RowDataset(near, len(data) / max(1, self.rows)),
            batch_size=None,
            sampler=self.sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=bool(workers) and not there,
            generator=torch.Generator().manual_seed(seed),  # the global one is for noise only
        )

    def example(self) -> Batch:
        """Return a batch, for its shapes."""
        if self.whole:
            return Batch({}) if self.bound else rows_of(self.data)
        return RowDataset(self.data, 1.0)[torch.arange(self.rows)]

    def stream(self, done: int = 0) -> Iterator[Batch]:
        """Yield the batches that follow the first `done`."""
        if self.whole:
            everything = self.example()
            while True:
                yield everything
        self.sampler.epoch, skip = divmod(done, self.epoch)
        while True:
            for i, batch in enumerate(self.loader):
                if i >= skip:
                    yield batch.to(self.device)
            skip = 0
