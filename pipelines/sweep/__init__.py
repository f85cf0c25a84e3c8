"""`recsys sweep`: a search over settings, in which each trial is a run."""
