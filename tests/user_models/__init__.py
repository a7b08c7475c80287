"""Models as Pyro users write them, and their right values by other means."""
