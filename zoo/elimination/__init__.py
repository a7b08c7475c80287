"""Discrete latents summed out exactly: variable elimination plate by plate, chains by parallel scans in a semiring."""
