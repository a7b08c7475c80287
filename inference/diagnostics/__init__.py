"""How far an answer can be trusted; the one place that imports ArviZ."""
