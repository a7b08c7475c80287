"""Discrete latents summed out exactly: variable elimination in a semiring, chains by associative scans."""
