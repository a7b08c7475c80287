"""Refits of simulated data: truths, test quantities, and the processes that the refits run in."""
