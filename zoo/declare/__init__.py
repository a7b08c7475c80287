"""What a model is: its fields, its data, its structure, and the program a model becomes on data."""
