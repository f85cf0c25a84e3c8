"""All stages in their order, and what is known of each before it runs."""

from dataclasses import dataclass

__all__ = ["MODEL_STAGES", "STAGES", "StageInfo"]

_TRAINING = ("model", "embedding", "sequence", "head", "train", "optimizer", "table_optimizer", "seed")
_MODEL = ("recsys.training.checkpoint.VERSION",)
_DATA = ("recsys.data.preparation.prepare.FORMAT", "recsys.features.row_encoder.ENCODERS_VERSION")
_DAILY = (*_MODEL, "recsys.serving.delta.FORMAT", "pipelines.one_day.VERSION")
_REPORT = ("recsys.selection.reports.report.VERSION",)
MODEL_STAGES = ("train", "retrain", "refit", "merge", "distill", "compress")  # those that leave a model, in order


@dataclass(frozen=True)
class StageInfo:
    """What is known of a stage before it runs.

    Args:
        call: Its function, as `module.function` of this package: imported when it runs, since that takes seconds.
        reads: Keys of the configuration that it reads.
        needs: Stages of which at least one must have run before it, beside prepare; none if empty.
        formats: The constants that hold the versions of the files that it writes.
        together: Whether it trains or scores, so that several processes compute it together.
    """

    call: str
    reads: tuple[str, ...]
    needs: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    together: bool = False


STAGES = {  # in their order
    "prepare": StageInfo("prepare.run", ("data",), formats=_DATA),
    "train": StageInfo("train.run", (*_TRAINING, "select.apply"), formats=_MODEL, together=True),
    "select": StageInfo(
        "select_features.run", ("selection", "select", "train", "optimizer", "seed"), ("train",), _REPORT, True
    ),
    "retrain": StageInfo("train.run_again", _TRAINING, ("select",), _MODEL, True),
    "refit": StageInfo("refit.run", (), ("train", "retrain"), _MODEL, True),
    "merge": StageInfo("merge.run", ("merge",), formats=(*_MODEL, "recsys.training.merged.VERSION")),
    "distill": StageInfo("distill.run", ("distill", *_TRAINING[2:]), ("train", "merge"), _MODEL, True),
    "compress": StageInfo(
        "compress.run", ("compression", "quantization", "heal", "seed"), ("train", "retrain"), _MODEL, True
    ),
    "evaluate": StageInfo("evaluate.run", ("calibrate", "evaluate"), MODEL_STAGES, together=True),
    "export": StageInfo("export.run", ("name", "export"), MODEL_STAGES, ("recsys.serving.manifest.FORMAT",)),
    "daily": StageInfo("daily.run", ("daily",), ("train", "retrain"), _DAILY),
    "benchmark": StageInfo("benchmark.run", ("benchmark", "select", *_TRAINING), formats=_REPORT),
}
