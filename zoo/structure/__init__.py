"""What a model is made of, learned by running it: sites, plates, families, parents."""
