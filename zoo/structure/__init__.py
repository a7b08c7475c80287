"""What a model is made of, learned from running it: sites, plates, families, what depends on what."""
