"""Stage prepare: raw table → schema, encoders and shards (cached by a digest)."""

from pathlib import Path

from pipelines.stage import Result, Stage
from recsys.config.factory import make
from recsys.data.preparation.prepare import check_unchanged, prepare
from recsys.errors import DataError
from recsys.results import NUMBER, prepared_folder, read_prepared, write_prepared

__all__ = ["check", "gone", "run"]

_SHARES = {str: NUMBER}
_SPLIT = {"rows": NUMBER, "label_rate": NUMBER, "fields": {str: _SHARES}}
_ABOUT = {"rows": NUMBER, "bad_rows": NUMBER, "splits": {str: _SPLIT}, "clipped": _SHARES}


def check(stage: Stage) -> None:
    """Make sure, when a run is resumed, that its table is still the one that it prepared.

    Raises:
        DataError: If it has changed.
    """
    data = stage.config["data"]
    check_unchanged(data, make(data["source"], "data.source"), prepared_folder(stage.folder))


def gone(stage: Stage) -> bool:
    """Whether the data that a run prepared is there no more: it can be prepared again."""
    return (stage.folder / "data.json").exists() and not prepared_folder(stage.folder).is_dir()


def _check_same(stage: Path, made: str) -> None:
    """What is prepared again, since it was gone, is what the run's later stages stand on."""
    before = prepared_folder(stage).name if (stage / "data.json").exists() else made
    if before != made:
        raise DataError(
            f"{before} is gone, and preparing it anew gives other data, {made}: the table has changed since, or recsys "
            "has: begin a new run"
        )


def run(stage: Stage) -> Result:
    """Prepare `config.data`, or find it in the cache.

    The metrics tell what was read: rows, label rate and rows left out as bad; for each field that is
    looked up, the share of its ids that are missing, unseen or (estimated) share an id, by split; for each
    list, the share of rows whose list was cut.
    """
    data = stage.config["data"]
    source = make(data["source"], "data.source")
    cache = Path(stage.config["runs"]) / "cache"
    folder = prepare(data, source, cache).resolve()
    _check_same(stage.folder, folder.name)
    write_prepared(stage.folder, folder)
    about = read_prepared(folder, "prepared.json", _ABOUT)
    metrics: dict[str, float] = {"rows": about["rows"], "bad_rows": about["bad_rows"]}
    for split, seen in about["splits"].items():
        metrics |= {f"{split}_rows": seen["rows"], f"{split}_label_rate": seen["label_rate"]}
        for name, shares in seen["fields"].items():
            metrics |= {f"{split}.{what}.{name}": share for what, share in shares.items()}
    metrics |= {f"clipped.{name}": share for name, share in about["clipped"].items()}
    return Result(
        metrics, artifacts=[folder / "schema.json", folder / "prepared.json"], tags={"data_digest": folder.name}
    )
