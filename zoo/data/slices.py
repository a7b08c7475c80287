"""Parts of a field that a site observes: a column, a step in time, a range of rows."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

Entry = int | slice | None


@dataclass(frozen=True)
class Slice:
    """Where a site's value stands in a field, as ``field[index]``.

    Attributes
    ----------
    field
        Name of the field.
    index
        What to take along each of its dimensions; None for a new one.
    """

    field: str
    index: tuple[Entry, ...]

    @classmethod
    def find(cls, field: str, whole: Tensor, value: Tensor) -> Slice | None:
        """Find the slice that a tensor is of a field; None if it is a copy, and so may be anything.

        A slice shares the field's memory, so that its place and its strides there say which cells it is of, whatever
        they hold. Ends are counted from the end of the field, as those of ``y[:-1]`` are.
        """
        if whole.untyped_storage().data_ptr() != value.untyped_storage().data_ptr():
            return None
        offset, index = int(value.storage_offset()) - int(whole.storage_offset()), list[Entry]()
        sizes, strides = list(value.shape), list(value.stride())
        if not whole.is_contiguous() or not 0 <= offset < whole.numel():
            return None
        for size, unit in zip(whole.shape, whole.stride(), strict=True):
            at, offset = divmod(offset, unit)
            while sizes and sizes[0] == 1 and size > 1:
                index.append(None)
                del sizes[0], strides[0]
            inside = bool(sizes) and (sizes[0] == size == 1 or unit <= strides[0] < unit * size)
            index.append(_range(at, sizes.pop(0), strides.pop(0) // unit, size) if inside else at)
        found = (*index, *(None for _ in sizes))
        again = whole[found]
        same = again.shape == value.shape and again.data_ptr() == value.data_ptr()
        alike = all(a == b for a, b, n in zip(again.stride(), value.stride(), value.shape, strict=False) if n > 1)
        return cls(field, found) if same and alike else None

    def __call__(self, whole: Tensor) -> Tensor:
        """Take the slice of a tensor in the shape of the field."""
        return whole[self.index]

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        """Return a tensor in the shape of the field with other numbers in the slice."""
        new = whole.clone()
        new[self.index] = part.to(new)
        return new


def _range(start: int, count: int, step: int, size: int) -> slice:
    """Take `count` of `size` entries from `start` on."""
    stop = start + (count - 1) * step + 1 - size
    return slice(start or None, stop or None, step if step > 1 else None) if count > 1 or size > 1 else slice(None)
