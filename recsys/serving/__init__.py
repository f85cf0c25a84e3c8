"""Scores raw rows with an exported bundle, without the training stack."""
