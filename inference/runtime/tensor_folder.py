"""Tensors in folders, as one flat file keeps them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


class TensorFolder(dict[str, Tensor]):
    """Tensors by name, those of a folder under its name and a dot: "value.mu" is the tensor "mu" of the folder "value".

    A file of tensors holds no more than that. Folders may stand in folders; what they are called is nobody else's
    business: here alone their names are joined to those of tensors, and taken off again.
    """

    def add(self, folder: str, tensors: Mapping[str, Tensor]) -> None:
        """Put tensors into a folder of this one."""
        self.update({f"{folder}.{name}": tensor for name, tensor in tensors.items()})

    def folder(self, name: str) -> dict[str, Tensor]:
        """Return what is in the folder of that name, as a plain dict; nothing if nothing was put there."""
        return {n.removeprefix(f"{name}."): t for n, t in self.items() if n.startswith(f"{name}.")}

    def folders(self) -> list[str]:
        """Names of the folders that hold tensors, in the order in which they were put here."""
        return list(dict.fromkeys(name.rpartition(".")[0] for name in self if "." in name))
