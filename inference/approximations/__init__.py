"""What q is after a fit: each can be drawn from, and written to a file."""
