"""`recsys plan`: does a training fit, on what, how fast, and at what cost."""

import math
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.table import Table

from recsys.errors import ConfigError
from recsys.files import check_place, write_text
from recsys.terminal import console

if TYPE_CHECKING:
    from recsys.capacity.hardware import Hardware
    from recsys.capacity.prediction import Prediction
    from recsys.capacity.workload import Workload
    from recsys.features.schema import Schema

__all__ = ["main"]

_A_PROCESS = 8192  # rows a step of a process, if train.batch_size is auto
_DAY = 86_400
_MOST = 10  # machines are doubled so often, at most


def _schema(given: Namespace, data: Mapping[str, Any]) -> "Schema":
    """The fields: of prepared data, of --fields, or of the data configuration."""
    from pipelines import capacity
    from recsys.features.schema import Schema

    if given.prepared:
        schema = Schema.load(given.prepared / "schema.json")
        return capacity.scaled(schema, given.table_rows) if given.table_rows and schema.sparse else schema
    if not given.table_rows:
        raise ConfigError("--table-rows: expected a count of ids, since no data is prepared: give it, or --prepared")
    if given.fields is not None:
        if not given.fields + given.numbers:
            raise ConfigError("--fields: expected at least one field or number, got none of both: give one")
        return capacity.of_count(given.fields, given.numbers, given.table_rows)
    return capacity.of_fields(data, given.table_rows)


def _hardware(given: Namespace, dim: int) -> "Hardware":
    """The description that is named, or what is measured here and written to a file."""
    from recsys.capacity.hardware import Hardware

    if given.measure is None:
        return Hardware.load(given.hardware, Path.cwd())
    check_place(given.measure)
    from recsys.capacity.measure import measured

    console().print("measuring this machine, about 20 seconds", style="dim")
    hardware = measured(dim, given.measure.absolute().parent)
    values = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in asdict(hardware).items() if k != "name"}
    write_text(given.measure, "# Measured by recsys plan --measure.\n" + yaml.safe_dump(values, sort_keys=False))
    return hardware


def _counts(given: Namespace, hardware: "Hardware") -> Iterator[int]:
    """The counts of processes to look at."""
    if given.processes:
        yield given.processes
        return
    if hardware.processes > 1:
        yield 1
    for doubled in range(_MOST + 1):
        yield hardware.processes * 2**doubled


def _predictions(
    given: Namespace, work: "Workload", hardware: "Hardware", train: Mapping[str, Any]
) -> "Iterator[Prediction]":
    """One for each count of processes, until one fits, keeps up with the samples of a day, and one more."""
    from recsys.capacity.prediction import predict
    from recsys.training.saving import COPY_BYTES

    precision = "fp32" if train["precision"] == "fp32" else "bf16"
    enough = 0
    for processes in _counts(given, hardware):
        batch = given.batch or (train["batch_size"] if given.fixed else _A_PROCESS * processes)
        prediction = predict(work, hardware, processes, max(batch, processes), precision, COPY_BYTES)
        yield prediction
        enough += prediction.fits and prediction.rows_per_second * _DAY >= (given.samples_per_day or 0)
        if enough == 2:
            return


def _size(number: float, unit: str = "B") -> str:
    power = max(0, min(5, int(math.log10(max(number, 1)) // 3)))
    return f"{number / 1000**power:.3g} {('', 'k', 'M', 'G', 'T', 'P')[power]}{unit}".rstrip()


def _line(given: Namespace, p: "Prediction") -> list[str]:
    kinds = list(p.sharding.values())
    by_row = kinds.count("row-wise")
    shared = "whole" if p.processes == 1 else f"{len(kinds) - by_row} tw, {by_row} rw"
    line = [str(p.machines), str(p.processes), f"{p.batch:,}", shared, _size(p.bytes)]
    if not p.fits:
        return [*line, "no", *[""] * (4 if given.samples_per_day else 2)]
    line += ["yes", _size(p.rows_per_second, "rows/s"), p.limit]
    if given.samples_per_day:
        hours = given.samples_per_day / p.rows_per_second / 3600
        cost = f"{hours * p.machines * given.dollars_per_hour:,.2f}" if given.dollars_per_hour else "–"
        line += [f"{hours:.3g}" if hours <= 24 else f"{hours:.3g}: too slow", cost]
    return line


def _show(given: Namespace, work: "Workload", predictions: "Sequence[Prediction]", name: str) -> None:
    screen = console(width=130, stderr=False)
    screen.print(
        f"{work.table_rows:,} table rows in {len(work.tables)} tables: {_size(work.table_bytes)} with the optimiser's "
        f"state; {work.dense_parameters:,} dense parameters; {_size(work.train_flops, 'FLOP')} a row, forward and "
        f"backward; {work.reads} lookups a row; a checkpoint of {_size(work.checkpoint_bytes)}",
        soft_wrap=True,
    )
    table = Table(title=f"on {name}")
    for column in ("machines", "processes", "batch", "tables", "a process", "fits", "speed", "limit"):
        table.add_column(column, justify="left" if column in ("tables", "fits", "limit") else "right")
    if given.samples_per_day:
        table.add_column("hours", justify="right")
        table.add_column("$", justify="right")
    for prediction in predictions:
        table.add_row(*_line(given, prediction))
    screen.print(table)
    screen.print(
        "tw: tables placed whole; rw: shared out by row; a process: bytes of the fullest; hours: of a day's samples"
    )
    shown = next((p for p in predictions if p.fits), predictions[-1])
    parts = Table(title=f"with {shown.processes:,} process{'es' * (shown.processes > 1)}")
    for column, right in (("memory of a process", False), ("bytes", True), ("a step", False), ("takes", True)):
        parts.add_column(column, justify="right" if right else "left")
    memory, seconds = (sorted(d.items(), key=lambda item: -item[1]) for d in (shown.memory, shown.seconds))
    times = [(name, f"{1000 * value:.3g} ms") for name, value in seconds]
    times += [("sent by a process", _size(shown.sent)), ("writing a checkpoint", f"{shown.checkpoint:.3g} s")]
    for left, right in zip_longest([(name, _size(value)) for name, value in memory], times, fillvalue=("", "")):
        parts.add_row(*left, *right)
    screen.print(parts)


def main(given: Namespace) -> int:
    """Print what fits, and what it takes."""
    from pipelines.composed import refuse_what_a_file_may_not_say, resolve_config
    from pipelines.one_run import quiet
    from pipelines.overrides import WRONG, compose, compose_typed, key_of, what_is_wrong
    from recsys.config.factory import trust
    from recsys.config.options import own_options

    quiet()
    overrides = [*given.overrides, *own_options(Path.cwd())]
    try:
        composed = compose(overrides)
    except WRONG as error:
        raise ConfigError(what_is_wrong(error, overrides)) from error
    refuse_what_a_file_may_not_say(composed, compose_typed(overrides), overrides)
    config = resolve_config(composed)
    trust(config.trusted)
    from pipelines import capacity

    given.fixed = config.train["batch_size"] != "auto" and any(key_of(o).startswith("train") for o in overrides)
    schema = _schema(given, config.data)
    chosen = capacity.settings(config, schema, given.samples_per_day or 10_000_000)
    hardware = _hardware(given, chosen["embedding"].get("dim", 16))
    work = capacity.workload(chosen, schema)
    predictions = list(_predictions(given, work, hardware, chosen["train"]))
    _show(given, work, predictions, given.hardware if given.measure is None else hardware.name)
    return 0
