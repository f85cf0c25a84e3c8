"""The command line: the only room that knows the terminal's arguments."""
