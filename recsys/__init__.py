"""recsys: train, select, compress and serve sparse click-through-rate (CTR) models.

Importing this package, `recsys.features` and `recsys.serving.bundle` needs numpy and xxhash only, since a scoring
machine has no torch, pandas or mlflow. The public names are in `__all__`; each is imported at its first use.
"""

from importlib import import_module

__version__ = "0.1.0"

_HOME = {
    "Bundle": "recsys.serving.bundle",
    "CTR": "recsys.frame.ctr",
    "DCN": "recsys.models.dcn",
    "FM": "recsys.models.fm",
    "MLP": "recsys.models.mlp",
    "RecsysError": "recsys.errors",
    "Schema": "recsys.features.schema",
    "Shards": "recsys.data.shards",
    "TrainConfig": "recsys.training.config",
    "Wukong": "recsys.models.wukong",
    "evaluate": "recsys.evaluation.metrics",
    "fit": "recsys.training.fit",
    "hashed": "recsys.embeddings.hashed",
    "logits": "recsys.training.fit",
    "per_field": "recsys.embeddings.per_field",
    "prepare": "recsys.data.preparation.prepare",
    "scan": "recsys.data.sources.scan",
    "unified": "recsys.embeddings.unified",
}
"""Public name → the module that defines it; `__init__.pyi` says the same to type checkers."""

__all__ = list(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]  # lazy, since importing all takes seconds


def __getattr__(name: str) -> object:
    """Import a public name at its first use."""
    if name not in _HOME:
        raise AttributeError(f"recsys has no public name {name!r}: expected one of {', '.join(_HOME)}")
    return getattr(import_module(_HOME[name]), name)
