"""Stage compress: low rank, then quantised rows."""

from dataclasses import replace

from rich.console import Console

from pipelines.stage import Result, Stage, newest_model, write_json
from recsys import checkpoint
from recsys.factory import make
from recsys.tables import PlainEmbedding

__all__ = ["run"]


def run(stage: Stage) -> Result:
    """Compress the newest model's tables by `config.compression`, then by `config.quantization`.

    A model of numbers alone has no tables: it is left as it is, which the stage says.
    """
    model, spec = checkpoint.load(newest_model(stage, before="compress"))
    plain: PlainEmbedding = model.embedding.plain()  # type: ignore[operator]
    if not plain.tables:  # a table of numbers, or selection kept only those: the run goes on
        checkpoint.save(stage.folder, model.over(plain), spec)
        said = "no tables to compress: all fields are numbers"
        Console(stderr=True).print(said)
        return Result({"table_bytes_before": 0, "table_bytes": 0}, tags={"note": said})
    tables, reports = plain.tables, []
    if stage.config["compression"]:
        method = make(stage.config["compression"], "compression")
        tables, reports = method(tables, checkpoint.fisher(model))
    if stage.config["quantization"]:
        method = make(stage.config["quantization"], "quantization")
        tables, quantised = method(tables)
        before = {r.table: r for r in reports}
        merged = [
            replace(r, bytes_before=before[r.table].bytes_before, note=before[r.table].note)
            for r in quantised
            if r.table in before
        ]
        reports = merged or quantised
    smaller = model.over(PlainEmbedding(model.schema, tables, plain.lookups))
    checkpoint.save(stage.folder, smaller, spec)
    report = write_json(stage.folder / "compression.json", [r.to_json() for r in reports])
    after = sum(t.nbytes for t in tables.values())
    metrics = {"table_bytes_before": plain.nbytes, "table_bytes": after, "times_smaller": plain.nbytes / after}
    return Result(metrics, artifacts=[report])
