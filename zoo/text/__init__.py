"""Models written as text."""

SUFFIXES = (".toml", ".yaml", ".yml")  # of the files they are read from
