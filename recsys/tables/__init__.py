"""Embedding tables as plain tensors: the forms that they are stored in, and lookups."""
