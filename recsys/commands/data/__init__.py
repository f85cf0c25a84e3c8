"""`recsys data …`: what is done with a table before a run."""
