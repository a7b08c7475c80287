"""Data in: tables, arrays, files and streams become checked tensors with named dimensions and coordinates."""
