"""The figures that runs tell: which way is better, which kind a name is of, and the AUC that a list shows.

A name is `STAGE/MODEL.KIND` or, of a model with several heads, `STAGE/KIND.HEAD`.
"""

__all__ = ["is_higher_better", "kind_of", "newest_auc"]

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


def newest_auc(metrics: dict[str, dict[str, float]]) -> float | None:
    """The newest AUC that a run has told, of its last stage that tells one; of several heads, that of the first."""
    for figures in reversed(metrics.values()):
        names = sorted((n for n in figures if n in ("auc", "valid_auc") or n.startswith("valid_auc.")), key=len)
        if names:
            return figures[names[0]]
    return None
