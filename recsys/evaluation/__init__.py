"""Metrics of predictions, on all rows and on slices, and recalibration."""
