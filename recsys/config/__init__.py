"""Configuration: where options are, what they may name, which values are allowed."""
