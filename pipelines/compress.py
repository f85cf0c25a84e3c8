"""Stage compress: shared rows, a low rank or codebooks, then fewer bits, then healing."""

from dataclasses import replace

from pipelines.stage import Result, Stage, newest_model, write_json
from recsys.compression.contract import TrainingRows, compressor, report
from recsys.config.factory import make
from recsys.data.shards import Shards
from recsys.errors import ConfigError
from recsys.terminal import console
from recsys.training import checkpoint

__all__ = ["run"]


def run(stage: Stage) -> Result:
    """Compress the newest model by `config.compression`, then by `config.quantization`, then heal it by `config.heal`.

    A model of numeric fields alone has no tables: it is left as it is, and a note says so.
    """
    trained, spec = checkpoint.load(newest_model(stage, before="compress"))
    if stage.config.heal and spec.get("refit"):
        raise ConfigError(
            "heal: the model was trained on validation rows (stage refit), and healing keeps what is best on these: "
            "leave heal out, ~heal, or begin from a run without refit"
        )
    plain = trained.embedding.scoring()
    smaller = trained.over(plain)
    if not plain.tables:  # a table of numbers, or selection kept only those: the run goes on
        checkpoint.save(stage.folder, smaller, spec)
        note = "no tables to compress: all fields are numbers"
        console().print(note)
        return Result({"table_bytes_before": 0, "table_bytes": 0}, tags={"note": note})
    train, valid = (Shards(stage.data, split, trained.schema) for split in ("train", "valid"))
    rows = TrainingRows(trained, train, valid, stage.config.seed, stage.reporter)
    parts = {r.part: r for r in report(smaller, rows, {})}
    for group in ("compression", "quantization", "heal"):
        if option := getattr(stage.config, group):
            smaller, reports = compressor(make(option, group))(smaller, rows)
            for r in reports:  # a later step's errors are against the trained model too; notes of all steps stay
                notes = (parts[r.part].note if r.part in parts else "", r.note)
                parts[r.part] = replace(r, note="; ".join(filter(None, notes)))
    checkpoint.save(stage.folder, smaller, spec)
    written = write_json(stage.folder / "compression.json", [r.to_json() for r in parts.values()])
    after = smaller.embedding.scoring().nbytes
    metrics = {"table_bytes_before": plain.nbytes, "table_bytes": after, "times_smaller": plain.nbytes / after}
    return Result(metrics, artifacts=[written])
