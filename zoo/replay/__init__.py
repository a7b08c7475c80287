"""The model run again with given values: sites, their densities, and the maps between constrained and real numbers."""
