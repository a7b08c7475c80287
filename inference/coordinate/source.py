"""Where the rows of a fit come from: memory, a file read in chunks, or a share of them in each of several processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from inference.runtime.processes import ALONE, Processes
from zoo.data.bind import bind
from zoo.data.stream import Stream
from zoo.errors import DataError
from zoo.program.program import Program


class RowSource:
    """The rows of a program, part by part, and sums over all of them.

    Parameters
    ----------
    program
        Bound to all rows, or to a sample of them if they are streamed.
    distributed
        Whether each process of `torch.distributed` takes a share of the rows.

    Raises
    ------
    MethodError
        If `distributed` is asked for where no process group is running.
    """

    def __init__(self, program: Program, *, distributed: bool = False) -> None:
        self.program = program
        self.stream: Stream | None = program.data.stream
        self.processes = Processes.running() if distributed else ALONE
        self._share: Program | None = None

    @property
    def whole(self) -> bool:
        """Whether all rows are in memory, in this process."""
        return self.stream is None and self.processes.world == 1

    def parts(self) -> Iterator[Program]:
        """Programs on the rows of this process, one after the other."""
        if self.stream is not None:
            sample = self.program.data
            for i, frame in enumerate(self.stream.frames()):
                weights = self.stream.weights
                if weights is not None and bool((frame[weights] == 0).all()):  # rows that are dropped, a chunk of them
                    continue
                data = bind(self.program.model, frame, like=sample, weights=weights)
                strange = set(data.missing) - set(sample.missing)
                if strange:
                    raise DataError(
                        f"field {min(strange)!r} misses values (NaN) in rows that are read later, but in none of the "
                        "sample that the fit was set up on; drop or impute these rows"
                    )
                if i % self.processes.world == self.processes.rank:
                    yield self.program.rebind(data.to(sample.dtype, self.program.device))
            return
        if self._share is None:
            self._share = self.program
            if self.processes.world > 1:
                bounds = self.processes.share(len(self.program.data))
                self._share = self.program.rebind(
                    self.program.data.take(torch.arange(*bounds, device=self.program.device))
                )
        yield self._share

    def add_up(self, tensors: Iterable[Tensor]) -> list[Tensor]:
        """Sum each tensor over the processes."""
        return self.processes.add_up(tensors)
