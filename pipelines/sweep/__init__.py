"""`recsys sweep`: a search over settings, around the one door of a run."""
