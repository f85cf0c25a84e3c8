"""Exports a trained model as a bundle that a scoring machine can read: see `recsys.export.bundle`."""
