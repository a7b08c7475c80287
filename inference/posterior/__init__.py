"""The fit, and the questions that can be asked of it."""
