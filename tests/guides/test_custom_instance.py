"""A hand-written guide is a function or a class: an instance has no name that a saved fit could find it by."""

import pytest
import torch

from guides import Custom
from zoo.errors import MethodError


def test_an_instance_is_refused_with_the_remedy():
    with pytest.raises(MethodError, match=r"found an instance.*give the class, Custom\(Linear\)"):
        Custom(torch.nn.Linear(2, 2))
