"""Look at a table before a run: guess its configuration, find leakage and drift."""
