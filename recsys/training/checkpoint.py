"""A model on disk: its description (model.json) and its weights (model/). `load` needs only the folder."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import NoneType
from typing import Any, Required, TypedDict

import torch

from recsys.config.factory import make
from recsys.data.ranks import Ranks
from recsys.features.schema import Schema
from recsys.files import read_json, remove_folder, write_json
from recsys.frame.contracts import Embedding, RoutedEmbedding, TrainableEmbedding, check_embedding
from recsys.frame.ctr import CTR
from recsys.frame.with_linear import WithLinear
from recsys.heads.click import Click
from recsys.tables.lookup import Lookup
from recsys.tables.plain import PlainEmbedding
from recsys.tables.saved import restored, saved
from recsys.training.device import CPU, Device
from recsys.training.saving import Snapshot, Writer
from recsys.training.state import dense_state, held_rows, load_weights
from recsys.training.tensors.read import TensorFolder
from recsys.training.tensors.rewrite import MODEL

__all__ = ["VERSION", "WEIGHTS", "Spec", "build", "load", "optimizer_state", "save", "squared_gradients"]

VERSION = 6  # version of model.json and of what is in model/
WEIGHTS = MODEL  # the folder of plain tensors beside model.json


class Spec(TypedDict, total=False):
    """The parts of a model beside its schema: options of groups, as in the configuration."""

    model: Required[Mapping[str, Any]]
    embedding: Required[Mapping[str, Any]]
    embedding_dropout: Required[float]
    sequence: Mapping[str, Any] | None  # needed if there are sequences
    head: Mapping[str, Any] | None  # the click head by default
    table_optimizer: Mapping[str, Any]  # the embedding's own by default
    linear: bool  # whether a frozen logistic regression is part of it; false by default
    seed: int
    refit: bool  # whether it was trained on validation rows too; false by default


def build(schema: Schema, spec: Spec, device: Device = CPU) -> CTR:
    """A fresh model on a device.

    Args:
        schema: The fields.
        spec: The parts of the model.
        device: Tables are made there; the dense part is drawn on the CPU and moved, so that devices start alike.

    Raises:
        ConfigError: If a constructor refuses a setting.
    """
    with device.torch_device:
        embedding = make(spec["embedding"], "embedding")(schema)
        check_embedding(embedding, RoutedEmbedding if spec.get("linear") else TrainableEmbedding)
        if spec.get("linear"):
            embedding = WithLinear(schema, embedding)
    model = _frame(schema, embedding, spec)
    if option := spec.get("table_optimizer"):
        model.trainable().use_optimizer(make(option, "table_optimizer")())
    return model.to(device.torch_device)


def _frame(schema: Schema, embedding: Embedding, spec: Spec) -> CTR:
    """A fresh model over an embedding."""
    sequence, head = _sequence(spec), make(option, "head") if (option := spec.get("head")) else Click
    interaction, linear = make(spec["model"], "model"), spec.get("linear", False)
    return CTR(schema, embedding, interaction, spec["embedding_dropout"], sequence, head, linear)


def _sequence(spec: Spec) -> Callable[..., Any] | None:
    return make(option, "sequence") if (option := spec.get("sequence")) else None


def save(folder: Path, model: CTR, spec: Spec) -> None:
    """Write model.json and the folder model/ of plain tensors, with the tables' optimiser state if there is one.

    Several processes that train together write it together, each the rows that it holds.

    Raises:
        OSError: If the disk is full, or the folder may not be written to.
    """
    plain, ranks = model.embedding if isinstance(model.embedding, PlainEmbedding) else None, Ranks.current()
    header: dict[str, Any] = {"schema": model.schema.to_json(), "spec": spec}
    rest: dict[str, Any]
    if plain is None:
        rest = {"model": dense_state(model)}
    else:
        rest = {
            "interaction": model.interaction.state_dict(),
            "sequences": model.sequences.state_dict(),
            "head": model.head.state_dict(),
            "linear": model.linear.state_dict() if model.linear else {},
            "tables": {n: saved(t) for n, t in plain.tables.items()},
        }
        header["lookups"] = [asdict(k) for k in plain.lookups]
    if ranks.first and (folder / WEIGHTS).exists():  # of a stage that was killed before its end
        remove_folder(folder / WEIGHTS)
    writer = Writer(ranks)
    writer.save(Snapshot.of(held_rows(model), rest), folder / WEIGHTS)
    writer.wait()
    if ranks.first:
        write_json(folder / "model.json", header, VERSION)
    ranks.barrier()


def optimizer_state(model: CTR) -> dict[str, torch.Tensor]:
    """Table → state of its optimiser; empty for a compressed model."""
    return model.embedding.optimizer_state() if isinstance(model.embedding, TrainableEmbedding) else {}


def squared_gradients(model: CTR) -> dict[str, torch.Tensor]:
    """Table → Σ over steps of mean_d(g²), one value for each row, from the state of Adagrad, row-wise or not.

    It is empty for a compressed model, and if the tables' optimiser has no state.
    """
    return {n: m if m.ndim == 1 else m.mean(1) for n, m in optimizer_state(model).items()}


def load(folder: Path, device: Device = CPU) -> tuple[CTR, Spec]:
    """The model that `save` wrote, in eval mode on a device, and its spec.

    Raises:
        DataError: If the folder holds no model, or one of another version.
    """
    folder = Ranks.current().broadcast(folder)  # of rank 0, whose files are those of the run
    shape = {"schema": {"fields": [dict]}, "spec": {"model": dict}, "lookups": ([dict], NoneType)}
    header = read_json(folder / "model.json", "a model", "run the stage that makes it", VERSION, shape)
    source = TensorFolder(folder / WEIGHTS, "run the stage that makes it again")
    rest = source.rest()
    schema, spec = Schema.from_json(header["schema"]), header["spec"]
    if "tables" in rest:
        tables = {n: restored(t) for n, t in rest["tables"].items()}
        embedding = PlainEmbedding(schema, tables, [Lookup(**k) for k in header["lookups"]])
        model = _frame(schema, embedding, spec)
        model.interaction.load_state_dict(rest["interaction"])
        model.sequences.load_state_dict(rest["sequences"])
        model.head.load_state_dict(rest["head"])
        if model.linear:
            model.linear.load_state_dict(rest["linear"])
    else:
        model = build(schema, spec, device)
        load_weights(model, source, rest)
    return model.to(device.torch_device).eval(), spec
