"""A run: submit.py starts it, run.py calls its stages in order and tells MLflow; each stage has a file."""
