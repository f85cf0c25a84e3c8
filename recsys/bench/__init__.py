"""What we say about speed, as commands that anyone can run: `recsys bench data`, `recsys bench select`."""
