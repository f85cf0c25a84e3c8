"""Compressors: plain tables → smaller plain tables and a report. One method a file."""
