"""A model bound to data: all that methods may ask of it."""
