"""Starting values, from which every method climbs."""
