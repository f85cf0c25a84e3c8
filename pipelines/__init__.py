"""A run: one file a stage, run.py that calls them in order and tells MLflow, submit.py that starts it."""
