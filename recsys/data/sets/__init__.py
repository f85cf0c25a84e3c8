"""Data sets that need no download, real and synthetic."""
