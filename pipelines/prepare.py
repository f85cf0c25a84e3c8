"""Stage prepare: raw table → schema, encoders and shards (cached by a digest)."""

from dataclasses import dataclass
from pathlib import Path

from pipelines.stage import Result, Stage
from recsys.config.factory import make
from recsys.data.inspection.drift import drift, said
from recsys.data.preparation.prepare import check_unchanged, prepare
from recsys.data.preparation.shard_writer import SplitFacts
from recsys.errors import DataError
from recsys.results import prepared_folder, read_prepared, write_prepared
from recsys.terminal import console

__all__ = ["check", "gone", "run"]


@dataclass(frozen=True)
class _Facts:
    """What prepared.json says of a data set; `clipped` is the share of rows whose list was cut, by field."""

    rows: int
    bad_rows: int
    splits: dict[str, SplitFacts]
    clipped: dict[str, float]


def check(stage: Stage) -> None:
    """Check, when a run is resumed, that its table is still the one that it prepared.

    Raises:
        DataError: If it has changed.
    """
    data = stage.config.data
    check_unchanged(data, make(data["source"], "data.source"), prepared_folder(stage.folder))


def gone(stage: Stage) -> bool:
    """Whether the data that a run prepared has been removed; it can be prepared again."""
    return (stage.folder / "data.json").exists() and not prepared_folder(stage.folder).is_dir()


def _check_same(stage: Path, prepared: str) -> None:
    """Check that data that was prepared again equals the data that the run's later stages used."""
    before = prepared_folder(stage).name if (stage / "data.json").exists() else prepared
    if before != prepared:
        raise DataError(
            f"{before} is gone, and preparing it anew gives other data, {prepared}: the table has changed since, or "
            "recsys has: begin a new run"
        )


def run(stage: Stage) -> Result:
    """Prepare `config.data`, or find it in the cache.

    The metrics are: rows, label rate and rows left out as bad; for each field of ids and by split, the share of
    its values that are missing, unseen or (estimated) share an id; for each list, the share of rows whose list
    was cut; for each field, how far it drifts (`recsys.data.inspection.drift`).
    """
    data = stage.config.data
    source = make(data["source"], "data.source")
    cache = Path(stage.config.runs) / "cache"
    folder = prepare(data, source, cache, stage.reporter).resolve()
    _check_same(stage.folder, folder.name)
    write_prepared(stage.folder, folder)
    facts: _Facts = read_prepared(folder, "prepared.json", _Facts)
    metrics: dict[str, float] = {"rows": facts.rows, "bad_rows": facts.bad_rows}
    for split, seen in facts.splits.items():
        metrics |= {f"{split}_rows": seen.rows, f"{split}_label_rate": seen.label_rate}
        metrics |= {f"{split}_label_rate.{name}": rate for name, rate in seen.label_rates.items()}
        for name, shares in seen.fields.items():
            metrics |= {f"{split}.{what}.{name}": share for what, share in shares.items()}
    metrics |= {f"clipped.{name}": share for name, share in facts.clipped.items()}
    drifts = drift(folder)
    metrics |= {f"drift.{name}": psi for name, psi in drifts.fields.items()}
    if sentence := said(drifts):
        console().print(f"look at: {sentence}", soft_wrap=True)
    return Result(
        metrics, artifacts=[folder / "schema.json", folder / "prepared.json"], tags={"data_digest": folder.name}
    )
