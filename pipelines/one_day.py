"""One day of a lineage: the vocabularies follow its rows, the tables grow, the model learns the rows once.

V ids of a table.
"""

import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from pipelines.daily_settings import Daily, Day
from pipelines.refit import steps_of
from pipelines.stage import Result, Stage, write_json
from recsys.config.factory import make_dataclass
from recsys.data.preparation.days import DayRows, Span
from recsys.data.preparation.fields import data_fields
from recsys.data.shards import Shards
from recsys.errors import DataError
from recsys.evaluation.metrics import auc, logloss, sigmoid
from recsys.export.delta import scoring_weights, write_delta
from recsys.features.encoders import AnyEncoder, Vocabulary, encoder_from_json
from recsys.features.growth import Change, Growing, Rule
from recsys.features.row_encoder import encoders_to_json, read_encoders
from recsys.features.schema import Schema
from recsys.files import Json, read_json
from recsys.frame.ctr import CTR
from recsys.results import read_made
from recsys.training import checkpoint
from recsys.training.config import TrainConfig
from recsys.training.device import Device
from recsys.training.fit import best_look, logits
from recsys.training.grown import check_growable, grown
from recsys.training.loop import seed_everything
from recsys.training.passes import train_for

__all__ = ["VERSION", "FieldDay", "Lineage", "OneDay", "one_day", "retrain_day", "span_of"]

VERSION = 1  # of growth.json and day.json


@dataclass(frozen=True)
class FieldDay:
    """What a day did to the ids of a table: ids with a row now, gained and lost; ids that wait; the share of scored
    values that have no row.
    """

    live: int
    admitted: int
    evicted: int
    waiting: int
    unseen: float


@dataclass(frozen=True)
class OneDay:
    """day.json: the results of one day.

    Args:
        day: The period.
        rows: Rows learned.
        scored_rows: Rows that the models are scored on.
        seconds: Of training alone.
        total_seconds: Of all work of the day.
        auc: Of the model that has learned the day.
        logloss: Of the same.
        frozen_auc: Of the first model, which learned no day.
        frozen_logloss: Of the same.
        fields: Table → what became of its ids.
        delta: Digests and sizes of the delta.
    """

    day: Day
    rows: int
    scored_rows: int
    seconds: float
    total_seconds: float
    auc: float
    logloss: float
    frozen_auc: float
    frozen_logloss: float
    fields: dict[str, FieldDay]
    delta: Json


@dataclass(frozen=True)
class _Recipe:
    """recipe.json of a training: the settings that it used."""

    train: dict[str, Any]


def span_of(start: str, stop: str) -> Span:
    """From two ISO times."""
    return Span.between(datetime.fromisoformat(start), datetime.fromisoformat(stop))


@dataclass(frozen=True)
class Lineage:
    """What all days share: it is frozen when the first model has been trained.

    Args:
        stage: Stage daily.
        settings: Of daily training.
        first: The folder of the first model.
        trained: The span that it was trained on.
        rows: All rows of the table.
    """

    stage: Stage
    settings: Daily
    first: Path
    trained: Span
    rows: DayRows = field(repr=False)

    @cached_property
    def config(self) -> TrainConfig:
        """The recipe."""
        return make_dataclass(TrainConfig, read_made(self.first, "recipe.json", "a recipe", _Recipe).train, "train")

    @cached_property
    def device(self) -> Device:
        """Where models are."""
        return Device.choose(self.stage.config.device, self.config.precision)

    @cached_property
    def base(self) -> tuple[CTR, checkpoint.Spec]:
        """The first model."""
        model, spec = checkpoint.load(self.first, self.device)
        check_growable(model)
        return model, spec

    @property
    def schema(self) -> Schema:
        """The fields of the first model."""
        return self.base[0].schema

    @property
    def seed(self) -> int:
        """Of the run."""
        return self.base[1].get("seed", 0)

    @cached_property
    def encoders(self) -> dict[str, AnyEncoder]:
        """Field → the encoder of the first model, for each field and each field whose table others read."""
        stored = read_encoders(self.stage.data)
        owners = {f.table for f in self.schema.fields if f.table}
        return {n: encoder_from_json(stored[n]) for n in (*self.schema.names, *sorted(owners - {*self.schema.names}))}

    @cached_property
    def rules(self) -> dict[str, Rule]:
        """Table → when its ids come and go, for each table whose ids are a vocabulary."""
        owners = dict.fromkeys(f.table or f.name for f in self.schema.sparse)
        fields = {c.name: c for c in data_fields(self.stage.config.data)}
        admit, evict = self.settings.admit, self.settings.evict_days
        return {
            name: Rule(admit or fields[name].min_count, evict, fields[name].max_size)
            for name in owners
            if isinstance(self.encoders[name], Vocabulary)
        }

    def growth(self, parent: Path) -> dict[str, Growing]:
        """The vocabularies after the day in a folder, or of the first model."""
        if parent != self.first:
            mend = "remove it, and the day is trained again"
            shape = {"tables": {str: {"day": int, "values": list, "last": list, "waiting": dict}}}
            stored = read_json(parent / "growth.json", "the vocabularies of a day", mend, VERSION, shape)["tables"]
            return {name: Growing.from_json(rule, stored[name]) for name, rule in self.rules.items()}
        values = {n: e.values for n in self.rules if isinstance(e := self.encoders[n], Vocabulary)}
        return {
            name: Growing.begin(rule, self.trained.last_day, values[name], self.rows.seen(name, self.trained))
            for name, rule in self.rules.items()
        }

    def observed(self, growth: Mapping[str, Growing], span: Span) -> dict[str, Change]:
        """Let vocabularies follow the rows of a span."""
        return {name: g.observe(span.last_day, self.rows.seen(name, span)) for name, g in growth.items()}

    def encoders_of(self, growth: Mapping[str, Growing]) -> dict[str, AnyEncoder]:
        """Field → its encoder with grown vocabularies."""
        grown_now = {name: g.vocabulary for name, g in growth.items()}
        return {f.name: grown_now.get(f.table or f.name, self.encoders[f.name]) for f in self.schema.fields}

    def schema_of(self, encoders: Mapping[str, AnyEncoder]) -> Schema:
        """The fields with the cardinalities of their encoders."""
        fields = (replace(f, cardinality=encoders[f.name].cardinality) for f in self.schema.fields)
        return replace(self.schema, fields=tuple(fields))

    def figures(self, model: CTR, shards: Shards) -> tuple[float, float]:
        """AUC and logloss of the main label."""
        logit_B, label_B, weight_B = logits(model, shards, device=self.device), shards.label_B, shards.weight_B
        return auc(logit_B, label_B, weight_B), logloss(sigmoid(logit_B), label_B, weight_B)

    def learn(
        self, model: CTR, shards: Shards, config: TrainConfig, seed: int, folder: Path, steps: int | None = None
    ) -> float:
        """Train on rows → seconds; the folder gets the batch at which the training diverges."""
        started = time.perf_counter()
        train_for(model, shards, config, seed, folder, steps, device=self.device, reporter=self.stage.reporter)
        return time.perf_counter() - started


def _removed(folder: Path) -> Path:
    """The path of a folder that may have been left by a killed process, and is gone now."""
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def _scored(lineage: Lineage, day: Day, data: Path, schema: Schema, encoders: Mapping[str, AnyEncoder]) -> Shards:
    """The rows that a day's model is scored on."""
    span = span_of(day.scored_start, day.scored_stop)
    lineage.rows.write(data, "test", span, schema, encoders)
    shards = Shards(data, "test")
    weight_B = shards.weight_B
    label_B = shards.label_B if weight_B is None else shards.label_B[weight_B > 0]
    if len(set(label_B.tolist())) < 2:
        one = f"all {label_B[0]:g}" if len(label_B) else "of weight 0"
        raise DataError(
            f"label {schema.label!r}: expected both 0 and 1 in the rows from {span}, they are {one}: raise daily.days, "
            "or end before them (daily.end)"
        )
    return shards


def one_day(lineage: Lineage, day: Day, parent: Path, folder: Path) -> Result:
    """Grow the parent's model, let it learn the rows of a day once, and score it on later rows.

    Args:
        lineage: What all days share.
        day: The period.
        parent: The folder of the day before, or of the first model.
        folder: Takes the model, day.json and delta/.
    """
    started, span = time.perf_counter(), span_of(day.start, day.stop)
    growth = lineage.growth(parent)
    changes = lineage.observed(growth, span)
    encoders = lineage.encoders_of(growth)
    schema, data = lineage.schema_of(encoders), _removed(folder / "data")
    lineage.rows.write(data, "train", span, schema, encoders)
    train, test = Shards(data, "train"), _scored(lineage, day, data, schema, encoders)
    before, spec = checkpoint.load(parent, lineage.device)
    seed = (lineage.seed + day.number) % 2**32
    model = grown(before, spec, schema, {n: c.fresh for n, c in changes.items()}, seed, lineage.device)
    steps = max(1, round(len(train) / lineage.config.batch_size))  # equal batches: fewer than `steps` rows are left out
    size, lr = len(train) // steps, lineage.config.lr * lineage.settings.rate
    config = replace(lineage.config, batch_size=size, lr=lr, max_epochs=1, warmup_steps=0, decay="none")
    seconds = lineage.learn(model, train, config, seed, folder)
    ours = lineage.figures(model, test)
    frozen = lineage.figures(lineage.base[0], _scored(lineage, day, data / "first", lineage.schema, lineage.encoders))
    checkpoint.save(folder, model, spec)
    stored = encoders_to_json(encoders)
    now, then = (scoring_weights(model), stored), (scoring_weights(before), _stored(lineage, parent))
    delta = write_delta(_removed(folder / "delta"), then, now)
    write_json(folder / "encoders.json", stored)
    write_json(folder / "schema.json", schema.to_json())
    write_json(folder / "growth.json", {"tables": {n: g.to_json() for n, g in growth.items()}}, VERSION)
    fields = {
        n: FieldDay(len(g), len(changes[n].admitted), len(changes[n].evicted), len(g.waiting), _unseen(test, n))
        for n, g in growth.items()
    }
    total = time.perf_counter() - started
    done = OneDay(day, len(train), len(test), seconds, total, *ours, *frozen, fields, asdict(delta))
    write_json(folder / "day.json", asdict(done), VERSION)
    shutil.rmtree(data)
    return Result({"auc": ours[0], "logloss": ours[1], "frozen_auc": frozen[0], "seconds": seconds})


def _stored(lineage: Lineage, parent: Path) -> Json:
    """The content of encoders.json of a day, or of the first model's fields."""
    if parent == lineage.first:
        return encoders_to_json({n: lineage.encoders[n] for n in lineage.schema.names})
    return read_json(parent / "encoders.json", "encoders", "remove the day, and it is trained again")


def _unseen(shards: Shards, table: str) -> float:
    """Share of values without a row; of a table whose own field is dropped, 0."""
    if table not in shards.schema.names:
        return 0.0
    ids = shards.ids(table)
    return float((ids == 1).sum() / max(1, (ids >= 0).sum()))


def retrain_day(lineage: Lineage, day: Day, folder: Path) -> Result:
    """Train a fresh model on all rows up to a day's end, by the same recipe, and score it on the same rows.

    Its vocabularies are fitted on all of these rows anew. It takes as many passes as were best for the first model.
    """
    span = Span(lineage.trained.start, span_of(day.start, day.stop).stop)
    growth = {n: Growing.begin(replace(r, evict_days=None), 0) for n, r in lineage.rules.items()}
    lineage.observed(growth, span)
    encoders = lineage.encoders_of(growth)
    schema, data = lineage.schema_of(encoders), _removed(folder / "data")
    lineage.rows.write(data, "train", span, schema, encoders)
    train, config = Shards(data, "train"), lineage.config
    history = read_made(lineage.first, "history.json", "the looks of a training", list[dict[str, float]])
    first = lineage.rows.count(lineage.trained)
    best, per_epoch = round(best_look(history)["step"]), first // min(config.batch_size, first)
    steps = steps_of(best, per_epoch, len(train) // config.batch_size)
    seed_everything(lineage.seed)
    model = checkpoint.build(schema, lineage.base[1], lineage.device)
    seconds = lineage.learn(model, train, config, lineage.seed, folder, steps)
    score = lineage.figures(model, _scored(lineage, day, data, schema, encoders))
    shutil.rmtree(data)
    return Result({"auc": score[0], "logloss": score[1], "seconds": seconds, "rows": float(len(train)), "steps": steps})
