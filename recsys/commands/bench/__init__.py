"""`recsys bench …`: measures speed, with a reference in the same run."""
