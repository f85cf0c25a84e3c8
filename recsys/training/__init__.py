"""Train a model: the loop, its settings, checkpoints."""
