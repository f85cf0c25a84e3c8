"""Configuration: where options are found, what they may name, and which values are allowed."""
