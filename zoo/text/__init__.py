"""Models written as text."""
