"""The figures that runs tell: which way is better, which kind a name is of, and the AUC that a list shows.

A name is `STAGE/MODEL.KIND` or, of a model with several heads, `STAGE/KIND.HEAD`.
"""

__all__ = ["auc_of", "is_higher_better", "kind_of"]

_DIRECTIONS: dict[str, int] = {
    **dict.fromkeys(("auc", "gauc", "valid_auc", "retrain_auc_change", "times_smaller"), 1),
    **dict.fromkeys(("logloss", "valid_logloss", "train_loss", "ne", "ece", "false_discovery_rate"), -1),
    **dict.fromkeys(("bytes", "table_bytes", "bundle_bytes", "seconds", "us_per_row", "latency", "price"), -1),
}


def kind_of(name: str) -> str:
    """What a figure measures.

    >>> kind_of("evaluate/train.auc"), kind_of("train/valid_auc.click"), kind_of("train/best_step")
    ('auc', 'valid_auc', 'best_step')
    """
    parts = name.rpartition("/")[2].split(".")
    return next((part for part in reversed(parts) if part in _DIRECTIONS), parts[-1])


def is_higher_better(name: str) -> bool | None:
    """Whether a larger figure is better; None if it is neither better nor worse, such as a count of rows.

    >>> is_higher_better("compress/times_smaller"), is_higher_better("seconds"), is_higher_better("train/rows")
    (True, False, None)
    """
    direction = _DIRECTIONS.get(kind_of(name), 0)
    return direction > 0 if direction else None


def auc_of(metrics: dict[str, dict[str, float]]) -> tuple[float, str] | None:
    """The AUC of the model that a run keeps, of its last stage that has one, and what it is of.

    >>> auc_of({"train": {"step": 9, "valid_auc": 0.7, "best_step": 6, "best_valid_auc": 0.8}})
    (0.8, 'best look so far')
    >>> auc_of({"train": {"valid_auc": 0.8, "best_step": 6}, "evaluate": {"train.auc": 0.75}})
    (0.8, 'kept model')
    """
    for figures in reversed(metrics.values()):
        if "best_valid_auc" in figures:
            return figures["best_valid_auc"], "best look so far"
        if "valid_auc" in figures:
            return figures["valid_auc"], "newest look" if "step" in figures else "kept model"
        if "auc" in figures:  # a daily run is scored on rows that come after those it has learned
            return figures["auc"], "newest day" if "step" in figures else "mean of its days"
    return None
