"""The bound as a function of flat vectors, and its ascent by gradient."""
