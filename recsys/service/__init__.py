"""The training service: a queue of runs, workers that run them as processes, an HTTP interface and pages.

It starts runs as processes of their own and imports no training code.
"""
