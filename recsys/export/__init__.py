"""From a trained model to a folder that a scoring machine can read: see `recsys.export.bundle`."""
