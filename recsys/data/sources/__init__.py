"""Read tables: files of many formats, a block at a time."""
