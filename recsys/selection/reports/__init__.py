"""What a selection found, as files and pages that people compare."""
