"""Pictures of fits, and the page and the folder that they are put in."""
