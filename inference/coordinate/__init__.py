"""Coordinate ascent on the bound: one loop for EM, CAVI and their variants, and the E-steps it takes."""
