"""Stage compress: shared rows or a low rank, then fewer bits."""

from pipelines.stage import Result, Stage, newest_model, write_json
from recsys.compression.reads import count_reads
from recsys.compression.report import compare
from recsys.config.factory import make
from recsys.data.shards import Shards
from recsys.tables.plain import PlainEmbedding
from recsys.terminal import console
from recsys.training import checkpoint

__all__ = ["run"]


def run(stage: Stage) -> Result:
    """Compress the newest model's tables by `config.compression`, then by `config.quantization`.

    A model of numbers alone has no tables: it is left as it is, which the stage says.
    """
    model, spec = checkpoint.load(newest_model(stage, before="compress"))
    plain = model.embedding.plain()
    if not plain.tables:  # a table of numbers, or selection kept only those: the run goes on
        checkpoint.save(stage.folder, model.over(plain), spec)
        said = "no tables to compress: all fields are numbers"
        console().print(said)
        return Result({"table_bytes_before": 0, "table_bytes": 0}, tags={"note": said})
    train = Shards(stage.data, "train", model.schema)
    reads = count_reads(model.trainable(), {n: t.rows for n, t in plain.tables.items()}, train)
    fisher = checkpoint.squared_gradients(model)
    # The best look may come before the epoch's end, or just after fresh tables: these weights saw only such rows.
    reads = {n: r * (fisher[n] > 0) if n in fisher else r for n, r in reads.items()}
    tables, notes = plain.tables, dict[str, str]()
    for group in ("compression", "quantization"):
        if stage.config[group]:
            tables, said_of = make(stage.config[group], group)(tables, reads, fisher)
            notes = {n: "; ".join(filter(None, (notes.get(n), said_of.get(n)))) for n in tables}
    smaller = model.over(PlainEmbedding(model.schema, tables, plain.lookups))
    checkpoint.save(stage.folder, smaller, spec)
    reports = compare(plain.tables, tables, reads, notes)
    report = write_json(stage.folder / "compression.json", [r.to_json() for r in reports])
    after = sum(t.nbytes for t in tables.values())
    metrics = {"table_bytes_before": plain.nbytes, "table_bytes": after, "times_smaller": plain.nbytes / after}
    return Result(metrics, artifacts=[report])
