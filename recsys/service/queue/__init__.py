"""The queue: one table of runs, on SQLite or Postgres, that several workers and clients share."""
