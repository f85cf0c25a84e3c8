"""Selectors: a trained model and held-out rows → a score for each field. One method a file."""
