"""Optimisers of the dense layers, one a file: parameters, rate, decay → torch optimisers."""
