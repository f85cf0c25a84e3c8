"""Logistic regression and LightGBM on the split that a run uses."""
