"""Logistic regression and LightGBM, fitted on the split that a run uses."""
