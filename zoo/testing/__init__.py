"""Checks that a user runs on a model, guide, method or family of their own: what the library promises of every one.

Each is a plain function that raises `AssertionError` naming what was expected and what is the case, for a test file of
the user's own. The library's own tests run them over everything that is registered.
"""

from __future__ import annotations

from zoo.testing.checks import CheckError, nothing_global_changes
from zoo.testing.families import check_family, family_checks
from zoo.testing.guides import check_guide, guide_checks
from zoo.testing.methods import check_method, method_checks
from zoo.testing.models import check_model, model_checks, quick_methods

__all__ = [
    "CheckError",
    "check_family",
    "check_guide",
    "check_method",
    "check_model",
    "family_checks",
    "guide_checks",
    "method_checks",
    "model_checks",
    "nothing_global_changes",
    "quick_methods",
]
