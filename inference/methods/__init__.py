"""Methods, one per file; each is found by being here."""
