"""`recsys bench …`: measure, with a reference in the same run."""
