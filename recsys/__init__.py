"""recsys: train, select, compress and serve sparse click-through-rate (CTR) models.

Importing this package, `recsys.features.schema`, `recsys.features.encoders` and `recsys.serving.bundle` needs numpy
and xxhash only: a scoring machine has no torch, pandas or mlflow.
"""

__version__ = "0.1.0"
