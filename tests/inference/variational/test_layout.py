"""Flat vectors and files of what climbs: groups have names of their own, and everything comes back."""

from __future__ import annotations

import pytest
import torch

from inference.compiled.trees import leaves, rebuilt
from inference.runtime.checkpoint import Checkpoint, State
from inference.runtime.tensor_folder import TensorFolder
from inference.variational.layout import Layout
from inference.variational.position import Fixed
from zoo.errors import FitError
from zoo.program.rows import Batch

A, B = torch.arange(6.0).reshape(2, 3), torch.tensor(7.0)


def test_groups_may_use_the_same_names():
    layout = Layout({"w": A}, {}, {"w": B, "v": A[0]})
    flat = layout.pack({"w": A}, {}, {"w": B, "v": A[0]}, like=A)
    assert layout.sizes == (6, 0, 4)
    assert flat.shape == (layout.size,)
    first, second, third = layout.unpack(flat)
    assert not second
    for group, expected in ((first, {"w": A}), (third, {"w": B, "v": A[0]})):
        assert list(group) == list(expected)
        for name, tensor in expected.items():
            assert torch.equal(group[name], tensor)


def test_a_packed_vector_can_be_differentiated():
    leaf = A.clone().requires_grad_()
    layout = Layout({"w": A})
    layout.pack({"w": leaf}, like=A).square().sum().backward()
    assert torch.equal(leaf.grad, 2 * A)


def test_named_tuples_and_what_is_not_there_come_back_from_flat_tensors():
    tree = (Batch({"y": B, "x": A}), Fixed({"unit": A[0]}, A[1], B, {}), {"z": B})
    flat = leaves(tree)
    assert len(flat) == 6  # neither rows nor weights
    batch, fixed, last = rebuilt(tree, iter([t + 1 for t in flat]))
    assert isinstance(batch, Batch)
    assert isinstance(fixed, Fixed)
    assert batch.rows is None
    assert list(batch.fields) == ["y", "x"]
    assert torch.equal(batch.fields["x"], A + 1)
    assert torch.equal(fixed.buffers["unit"], A[0] + 1)
    assert torch.equal(fixed.unit, last["z"])


def test_a_checkpoint_gives_back_what_it_was_given(tmp_path):
    tensors = TensorFolder(whole=B)
    tensors.add("some", {"0": A, "1": A.to(torch.int64)})
    file = Checkpoint(tmp_path / "state", "me", 100)
    assert file.load() is None
    file.save(State(tensors, {"taken": 3, "rows": [[1, 0.25, -1.5e-300]], "none": None}))
    state = file.load()
    assert state.numbers == {"taken": 3, "rows": [[1, 0.25, -1.5e-300]], "none": None}
    assert set(state.tensors.folder("some")) == {"0", "1"}
    assert torch.equal(state.tensors.folder("some")["1"], A.to(torch.int64))
    assert torch.equal(state.tensors["whole"], B)
    assert [step for step in range(50, 301, 50) if file.due(step, 50)] == [100, 200, 300]
    with pytest.raises(FitError, match="another fit"):
        Checkpoint(file.path, "you", 100).load()
