"""Folders of plain tensors: the form of trained models and of checkpoints on disk."""
