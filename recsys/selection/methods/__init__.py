"""One selection method a file."""
