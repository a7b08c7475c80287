"""Formulas with one thing changed, and whether the tests notice: `python -m tests.mutation`."""
