"""What a comparison says of each fit, and how it is printed."""
