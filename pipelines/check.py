"""Checks a run's configuration before it starts, without importing the code that runs it."""

import re
from collections.abc import Mapping, Sequence
from glob import iglob
from pathlib import Path

import psutil

from pipelines.benchmark_settings import benchmark_settings
from pipelines.config import RunConfig
from pipelines.daily_settings import check_daily
from pipelines.earlier import finished, stages_to_run, taken_over
from pipelines.members import members
from pipelines.places import check_places
from pipelines.stages import STAGES
from recsys.config import factory
from recsys.config.factory import Part, make_dataclass
from recsys.config.options import present_name
from recsys.data.preparation.fields import FieldConfig, data_fields, label_names
from recsys.errors import ConfigError
from recsys.selection.reports.find import is_mlflow_id, named
from recsys.training.auto import Facts, of_student, resolve
from recsys.training.config import TrainConfig

__all__ = ["check", "check_table"]

_BUILT = (
    *("model", "embedding", "sequence", "head", "optimizer", "table_optimizer"),
    *("selection", "compression", "quantization", "heal", "launcher"),
)
"""Groups whose option names the class or function that builds a part of the run."""

_CLICK = "recsys.heads.click.Click"  # takes one label, whatever its name

_SOME = Facts(rows=10_000, positives=5_000, cardinalities=(100,), numbers=1)
"""Stands for the data's facts, to check now that the settings that the recipe fills in are in range."""


def _stages(config: RunConfig) -> None:
    asked = stages_to_run(config)
    present = {*taken_over(config, asked), *asked}
    if "compress" in asked and "merge" in present and "distill" not in present:
        raise ConfigError(
            "stage compress: a merged model cannot be compressed: merge runs that were compressed, or add distill"
        )
    for stage in asked:
        needs = STAGES[stage].needs
        if needs and not present & set(needs):
            raise ConfigError(
                f"stage {stage} needs {needs[0]}, which has not run: add {needs[0]} to stages, "
                "or give from_run=ID of a run that has it"
            )


def _parts(config: RunConfig) -> Part:
    """Check that the settings of training, model, selector … fit what they are for → those of the embedding."""
    if "benchmark" in config.stages:
        benchmark_settings(config.benchmark)
    if "daily" in config.stages:
        daily, _ = check_daily(config.daily, config.data)
        if daily.after is not None:
            finished(config, daily.after, "daily.after")
    if "select" in config.stages and not config.selection:
        raise ConfigError("selection: stage select needs an option of the group, got none: name one")
    values = config.to_json()
    chosen = resolve(values, _SOME)
    make_dataclass(TrainConfig, chosen["train"], "train")
    for group in _BUILT:
        if settings := chosen.get(group, values[group]):
            factory.check(settings, group)
    student = resolve(of_student(values), _SOME)
    for group in ("model", "embedding"):
        factory.check(student[group], f"distill.{group}")
    return chosen["embedding"]


def _gives(config: RunConfig, outputs: int) -> None:
    """Check that each model of the run gives as many numbers per row as the head needs."""
    models = {"model": config.model, **({"distill.model": config.distill.model} if "distill" in config.stages else {})}
    for place, model in models.items():
        if outputs != 1 and "outputs" not in factory.check({"_target_": model["_target_"]}, place):
            raise ConfigError(
                f"{place}: the head wants {outputs} numbers a row, and {model['_target_']} has no parameter `outputs`: "
                "add outputs: int = 1 to its __init__, and give so many numbers, or set head=click"
            )


def _fits(embedding: Part, fields: Sequence[FieldConfig]) -> None:
    """Check that the table rows known without data fit in memory, with the copy that training keeps of the best."""
    dim, most = embedding.get("dim", 4), embedding.get("rows")
    shared = embedding.get("num_tables")
    if not isinstance(dim, int) or not isinstance(most, int | None):
        return  # a user's own embedding, whose parameters mean something else
    hashed = [c.buckets for c in fields if c.encoding in ("hash", "words") and not c.table]
    rows = most * shared if most and shared else sum(min(n, most or n) for n in hashed)
    needed, memory = 2 * rows * dim * 4, psutil.virtual_memory().total
    if needed > memory:
        raise ConfigError(
            f"the tables have {rows:,} rows of {dim} numbers, which take {needed / 2**30:,.0f} GiB in training; this "
            f"machine has {memory / 2**30:,.0f}: lower buckets (data.fields), embedding.rows or embedding.dim"
        )


def _slices(names: Sequence[str], fields: Sequence[FieldConfig]) -> None:
    """Check that each field by which test rows are sliced gives one id per row."""
    by_name = {c.name: c for c in fields}
    good = [c.name for c in fields if c.kind == "categorical"]
    for name in names:
        field = by_name.get(name)
        wanted = f"evaluate.slices: expected some of {', '.join(good) or 'no field: none is categorical'}"
        if field is None:
            raise ConfigError(f"{wanted}, got {name!r}, which is no field: leave it out, or add it to data.fields")
        if field.kind == "numeric":
            mend = f"+data.fields.{name}_bucket={{encoding: bucket, inputs: [{field.inputs[0]}], buckets: 10}}"
            raise ConfigError(f"{wanted}, got {name!r}, a number without buckets: leave it out, or add {mend}")
        if field.kind != "categorical":
            raise ConfigError(f"{wanted}, got {name!r}, which is {field.kind}, not one id a row: leave it out")


def check(config: RunConfig) -> None:
    """Check a configuration as far as it can be without data.

    Raises:
        ConfigError: At the first invalid setting.
    """
    _stages(config)
    factory.trust(config.trusted)
    if config.device == "cuda":
        from recsys.training.device import Device  # imports torch, which takes a second

        Device.choose("cuda")
    embedding = _parts(config)
    check_places(Path(config.runs), config.tracking.uri)
    apply = config.select.apply
    if apply is not None and not is_mlflow_id(apply):  # MLflow takes seconds to import: stage train asks it
        named(apply, Path(config.runs))
    fields = data_fields(config.data)
    _slices(config.evaluate.slices, fields)
    labels = label_names(config.data)
    if len(labels) > 1 or config.head["_target_"] != _CLICK:  # imports torch, which takes a second
        _gives(config, factory.make(config.head, "head")(labels).outputs)
    source = config.data.get("source")
    if not isinstance(source, Mapping):
        raise ConfigError(f"data.source: expected a mapping, got {source!r}: start from data=table")
    factory.check(source, "data.source")
    _fits(embedding, fields)


def check_table(config: RunConfig, folder: Path) -> None:
    """Check that the local files that stage prepare reads exist, and that the runs of stage merge can be merged.

    Args:
        config: A configuration that `check` has passed.
        folder: The run's. If it has prepared the table or merged the runs already, they may be gone.

    Raises:
        ConfigError: If a path leads to no file, or the runs cannot be merged.
        DataError: If the files of a run to be merged are damaged or of another version.
    """
    if "merge" in stages_to_run(config) and not (folder / "merge" / "result.json").exists():
        members(config)
    source = config.data["source"]
    scans = present_name(source["_target_"]) == "recsys.data.sources.scan.scan"
    if not scans or "prepare" not in stages_to_run(config) or (folder / "prepare" / "result.json").exists():
        return
    given = source["path"]
    for part in given.values() if isinstance(given, Mapping) else [given]:
        for path in [part] if isinstance(part, str) else part:
            if path and not _is_there(path):
                raise ConfigError(f"data.source.path: expected a table at {path}, found none: check the path")


def _is_there(path: str) -> bool:
    """Whether a path or glob leads to something; true for addresses and rare globs, which are checked later."""
    if "://" in path or re.search(r"[^/]\*\*|\*\*[^/]", path):
        return True
    place = Path(path).expanduser()
    return place.exists() or next(iglob(str(place).replace("[", "[[]"), recursive=True), None) is not None
