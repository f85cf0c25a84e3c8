"""Optimisers that update tables inside the backward pass, one a file: settings → TableOptimizer."""
