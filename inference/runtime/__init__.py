"""What surrounds a run: random numbers, threads, progress, files with models."""
