"""Results of a selection as files and pages that people compare."""
