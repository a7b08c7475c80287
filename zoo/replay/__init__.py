"""A model run at given values: its sites and their densities, maps onto supports, distributions that Pyro lacks."""
