"""Mini-batches of rows: shuffled, in parts, and resumable; from memory or a stream, by torch's workers if asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from zoo.data.bind import bind
from zoo.data.data import Data
from zoo.declare.model import Model
from zoo.errors import DataError
from zoo.program.rows import Batch, rows_of

Pick = tuple[Tensor, int]  # numbers of rows, and of the pass over all rows that they are fetched in


UNEVEN = 5.0  # largest weight over the mean one, from which on rows come as often as their weights say


class RowDataset(Dataset[Batch]):
    """The rows of a data set, fetched many at a time.

    Parameters
    ----------
    data
        The rows.
    scale
        What a row in a batch counts for, times its weight.
    even
        Whether its weight counts, and not only how often it comes.
    """

    def __init__(self, data: Data, scale: float, *, even: bool) -> None:
        self.data, self.scale, self.even = data, scale, even

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.data)

    def __getitem__(self, pick: Pick) -> Batch:
        """Return these rows, weighted so that they stand for all."""
        at = pick[0].to(next(iter(self.data.values.values())).device)
        weights = torch.ones(len(at), dtype=self.data.dtype, device=at.device)
        if self.data.weights is not None and self.even:
            weights = self.data.weights[at]
        return rows_of(self.data, at, weights * self.scale)


class StreamDataset(Dataset[Batch]):
    """The rows of a stream, read and checked when they are asked for.

    Parameters
    ----------
    model
        Whose fields they are.
    data
        A sample of them, which the others have to be like.
    size
        Rows to a batch, which stands for all.
    """

    def __init__(self, model: Model, data: Data, size: int) -> None:
        self.model, self.data = model, data.to(data.dtype, torch.device("cpu"))
        assert data.stream is not None
        assert data.stream.count is not None
        self.stream, self.rows = data.stream, data.stream.count
        self.weights = torch.full((size,), self.rows / size, dtype=data.dtype)

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.rows

    def __getitem__(self, pick: Pick) -> Batch:
        """Read these rows.

        Raises
        ------
        DataError
            If they are not like the sample.
        """
        rows, epoch = pick
        data = bind(self.model, self.stream.at(rows.numpy(), epoch), like=self.data)
        for name, gone in data.missing.items():
            if bool(gone.any()):
                at = int(rows[int(gone.flatten(1).any(1).nonzero()[0])])
                raise DataError(
                    f"field {name!r}: row {at} of {self.stream} misses values (NaN), which rows that are read by their "
                    "numbers must not; leave these rows out"
                )
        return rows_of(data.to(self.data.dtype, torch.device("cpu")), torch.arange(len(rows)), self.weights)


class Shuffled(Sampler[Pick]):
    """Batches of rows without replacement, each pass over them in a new order; rows left over wait for the next pass.

    Rows with very uneven weights come as often as these say, all with the same say in a batch: a few rows with large
    ones, such as those that have labels, would else be seen rarely, and then make a step of their own. In a pass a row
    comes rows * weight / sum of weights times, rounded up or down at random (systematic sampling).

    Parameters
    ----------
    rows, size
        How many rows there are, and go into a batch.
    seed
        Of the orders: that of one pass depends on this and the number of the pass only.
    weights
        A weight for each row, by which they come; None if each comes once.
    """

    def __init__(self, rows: int, size: int, seed: int, weights: Tensor | None = None) -> None:
        self.rows, self.size, self.seed, self.epoch = rows, size, seed, 0
        self.weights = None if weights is None else weights.detach().double().cpu()

    def __len__(self) -> int:
        """Return the number of batches in a pass."""
        return max(1, self.rows // self.size)

    def __iter__(self) -> Iterator[Pick]:
        """Yield the batches of one pass."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(self.rows, generator=generator)
        if self.weights is not None:
            ends = self.weights[order].cumsum(0)
            first = torch.rand((), dtype=ends.dtype, generator=generator)
            at = torch.searchsorted(ends, (first + torch.arange(self.rows)) * (ends[-1] / self.rows), right=True)
            order = order[at.clamp_max(self.rows - 1)][torch.randperm(self.rows, generator=generator)]
        epoch = self.epoch
        self.epoch += 1
        for start in range(0, self.rows - self.size + 1, self.size):
            yield order[start : start + self.size], epoch


class Batches:
    """An endless stream of mini-batches, or of all rows.

    Parameters
    ----------
    data
        All rows, or a sample of those of a stream.
    size
        Rows to a batch.
    seed
        Of the order of rows.
    workers
        Processes that fetch rows ahead of their use.
    bound
        Whether the program is set up for these very rows, all of them.
    model
        Whose fields the rows of a stream are.
    """

    def __init__(
        self, data: Data, size: int, seed: int, workers: int = 0, *, bound: bool = False, model: Model | None = None
    ) -> None:
        self.device = next(iter(data.values.values())).device
        streamed = data.stream is not None
        count = data.stream.count if data.stream is not None and data.stream.count is not None else len(data)
        self.data, self.whole, self.bound = data, size >= count and not streamed, bound or bool(data.missing)
        self.rows = min(size, count)
        uneven = not streamed and data.weights is not None and bool(data.weights.max() > UNEVEN * data.weights.mean())
        self.sampler = Shuffled(count, self.rows, seed, data.weights if uneven else None)
        self.epoch = 1 if self.whole else len(self.sampler)
        there = self.device.type == "cpu"
        near = data if there or not workers else data.to(data.dtype, torch.device("cpu"))
        total = float(data.weights.sum()) if uneven and data.weights is not None else count
        self.source: Dataset[Batch] = RowDataset(near, total / max(1, self.rows), even=not uneven)
        if streamed:
            assert model is not None
            self.source = StreamDataset(model, data, self.rows)
        self.loader: DataLoader[Any] | None = None
        if workers:  # without, all that it would do is take time
            self.loader = DataLoader(
                self.source,
                batch_size=None,
                sampler=self.sampler,
                num_workers=workers,
                persistent_workers=True,
                pin_memory=not there,
                generator=torch.Generator().manual_seed(seed),  # the global one is for noise only
            )

    def example(self, *, last: bool = False) -> Batch:
        """Return a batch, for its shapes: the first rows or the last."""
        if self.whole:
            return Batch({}) if self.bound else rows_of(self.data)
        first = self.sampler.rows - self.rows if last else 0
        example: Batch = self.source[torch.arange(first, first + self.rows), 0]
        return example.to(self.device)

    def stream(self, done: int = 0) -> Iterator[Batch]:
        """Yield the batches that follow the first `done`."""
        if self.whole:
            everything = self.example()
            while True:
                yield everything
        self.sampler.epoch, skip = divmod(done, self.epoch)
        while True:
            fetched = map(self.source.__getitem__, self.sampler) if self.loader is None else self.loader
            for i, batch in enumerate(fetched):
                if i >= skip:
                    yield batch.to(self.device)
            skip = 0
