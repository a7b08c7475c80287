"""Programs traced to their operations and compiled."""
