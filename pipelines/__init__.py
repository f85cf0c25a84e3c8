"""A run: one file a stage, and run.py that calls them in order and tells MLflow."""
