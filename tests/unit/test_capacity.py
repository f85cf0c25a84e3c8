"""Memory, traffic and time that `recsys plan` predicts: each formula by hand, tables and operations by a real model."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipelines import capacity
from recsys.capacity.hardware import Hardware
from recsys.capacity.prediction import placed, predict
from recsys.capacity.workload import TableSize, Workload
from recsys.config.options import CONF
from recsys.errors import ConfigError, DataError
from recsys.features.schema import Field, Schema
from recsys.training import checkpoint
from tests.configs import run_config

WORK = Workload(
    [TableSize("a", 1000, 16, 1, 16), TableSize("b", 10, 8, 5, 40)],
    states=["row"],
    dense_parameters=100,
    flops=50.0,
    activations=80.0,
    operations=7,
    numbers=3,
)
RATES = Hardware(
    "test", 2, 1e9, 1e6, 2e9, 1e9, gather=1e6, copy=1e7, operation=1e-5, link=1e5, link_delay=0.01, network=1e4,
    network_delay=0.1, disk=1e5,
)  # fmt: skip


def test_bytes_of_tables_by_hand() -> None:
    assert WORK.table_bytes == 1000 * (64 + 4) + 10 * (32 + 4)
    assert replace(WORK, states=["element"]).table_bytes == 2 * (1000 * 64 + 10 * 32)
    assert replace(WORK, states=[]).table_bytes == 1000 * 64 + 10 * 32
    assert replace(WORK, states=["element", "row"]).table_bytes == 2 * (1000 * 64 + 10 * 32) + 1010 * 4
    assert WORK.checkpoint_bytes == WORK.table_bytes + 1200
    assert WORK.reads == 6 and WORK.row_bytes == 4 * 9 and WORK.table_rows == 1010
    assert WORK.gather_bytes == (64 + 2 * (64 + 4)) + 5 * (32 + 2 * (32 + 4)) and WORK.train_flops == 150


def test_one_process_by_hand() -> None:
    p = predict(WORK, RATES, 1, 100, "fp32", 10**9)
    assert p.memory == {
        "process": 1e6, "dense": 1600, "activations": 2 * 100 * 80, "batches": 2 * 100 * (8 * 6 + 4 * 3),
        "tables": WORK.table_bytes, "checkpoint": WORK.checkpoint_bytes,
    }  # fmt: skip
    assert predict(WORK, RATES, 1, 100, "fp32", 100).memory["checkpoint"] == 100, "a larger one is not copied"
    assert p.seconds == pytest.approx(
        {
            "matrix products": 100 * 150 / 1e9,
            "lookups and updates": 100 * (WORK.gather_bytes / 1e6 + 16 * 56 / 1e7),
            "elementwise": (6 * 100 * 80 + 7 * 4 * 100) / 1e7,
            "starting operations": 21 * 1e-5,
        }
    )
    assert p.fits and p.sent == 0 and p.limit == "lookups and updates" and set(p.sharding.values()) == {"whole"}
    assert p.rows_per_second == pytest.approx(100 / sum(p.seconds.values())) and p.machines == 1
    assert predict(WORK, RATES, 1, 100, "bf16", 10**9).seconds["matrix products"] == pytest.approx(100 * 150 / 2e9)


def test_two_processes_of_one_machine_by_hand() -> None:
    p = predict(WORK, RATES, 2, 200, "fp32", 10**9)
    assert set(p.sharding.values()) == {"table-wise"} and p.memory["tables"] == 1000 * 68
    ids, pooled, dense = 8 * 100 * 6 / 2, 2 * 4 * 100 * 56 / 2, 2 * 4 * 100 / 2
    assert p.sent == ids + pooled + dense
    assert p.seconds["ids"] == pytest.approx(0.01 + ids / 1e5)
    assert p.seconds["pooled rows"] == pytest.approx(2 * 0.01 + pooled / 1e5)
    assert p.seconds["dense gradients"] == pytest.approx(0.01 + dense / 1e5)


def test_rows_shared_out_cost_more_traffic_and_other_machines_more_time() -> None:
    small = replace(RATES, memory=1.6e6 / 0.9)  # room for half of the large table
    work = replace(WORK, tables=[replace(WORK.tables[0], rows=10_000), WORK.tables[1]])
    p = predict(work, small, 4, 400, "fp32", 10**9)
    assert p.sharding == {"a": "row-wise", "b": "table-wise"} and p.machines == 2 and p.fits
    assert p.memory["tables"] == 10_000 * 68 / 4 + 360
    pooled = 2 * 4 * 100 * (16 * 3 + 40 * 3 / 4)
    near, far = pooled / 3, pooled * 2 / 3  # of three others, one is on the same machine
    assert p.seconds["pooled rows"] == pytest.approx(2 * 0.1 + near / 1e5 + far / 1e4)
    assert not predict(work, small, 1, 100, "fp32", 10**9).fits


@pytest.mark.parametrize("processes", [3, 4, 7])
def test_tables_are_shared_out_evenly_and_whole_if_they_fit(processes: int) -> None:
    work = replace(WORK, tables=[TableSize(str(i), 2**i, 4, 1, 4) for i in range(12)])
    kinds, fullest = placed(work, processes, math.inf)
    assert set(kinds.values()) == {"table-wise"} and fullest == 2**11 * 20
    kinds, fullest = placed(work, processes, work.table_bytes / processes * 1.01)
    by_row = sum(k == "row-wise" for k in kinds.values())
    assert 0 < by_row < 12 and {t for t, k in kinds.items() if k == "row-wise"} == {str(11 - i) for i in range(by_row)}
    assert work.table_bytes / processes <= fullest <= work.table_bytes / processes * 1.01


PARTS = {
    "model": {"_target_": "recsys.models.dcn.DCN", "layers": 2, "hidden": [32, 16], "dropout": 0.1},
    "embedding": {"_target_": "recsys.embeddings.per_field.per_field", "dim": 8},
}
LISTS = Schema(
    (
        Field("item", "categorical", ("item",), ("int",), 50),
        Field("tags", "multi", ("tags",), ("int",), 30, 4),
        Field("past", "sequence", ("past",), ("int",), 50, 3, "item"),
        Field("price", "numeric", ("price",), ("float",)),
    ),
    "click",
)


def test_a_model_is_counted_as_its_formulas_say() -> None:
    chosen = capacity.settings(run_config(**PARTS), LISTS, 1_000_000)
    work = capacity.workload(chosen, LISTS)
    assert [(t.name, t.rows, t.dim, t.reads, t.pooled) for t in work.tables] == [
        ("item", 50, 8, 1 + 3, 8 + 3 * 8),
        ("tags", 30, 8, 4, 8),
    ]
    width = 3 * 8 + 1
    layers = 2 * width**2 + width * 32 + 32 * 16 + (width + 16)
    assert work.flops == 2 * layers and work.states == ["row"] and work.numbers == 2
    model = checkpoint.build(LISTS, {**PARTS, "sequence": chosen["sequence"], "embedding_dropout": 0.0})
    assert work.dense_parameters == sum(p.numel() for n, p in model.named_parameters() if "embedding" not in n)
    assert work.table_bytes == sum(
        r.weight_RD.nbytes + (0 if r.state is None else r.state.nbytes) for r in model.trainable().held()
    )
    hidden = 4 * (2 * width + 32 + 16)  # at least what each layer gives
    assert hidden < work.activations < 12 * hidden and work.operations > 10


@pytest.mark.parametrize(("name", "states"), [("sgd", []), ("adagrad", ["element"]), ("rowwise_adagrad", ["row"])])
def test_each_table_optimizer_has_its_state(name: str, states: list[str]) -> None:
    option = {"_target_": f"recsys.embeddings.optimizers.{name}.{name}"}
    train = {**run_config().train, "table_lr": 0.1}
    config = run_config(**PARTS, table_optimizer=option, train=train)
    assert capacity.workload(capacity.settings(config, LISTS, 1000), LISTS).states == states


def test_tables_of_any_size_take_no_memory_to_count() -> None:
    schema = capacity.of_count(26, 13, 10**11)
    assert sum(f.cardinality for f in schema.sparse) == pytest.approx(10**11, rel=1e-6)
    sizes = [f.cardinality for f in schema.sparse]
    assert sizes[0] == pytest.approx(2 * sizes[1]) and min(sizes) >= 4 and len(schema.numeric) == 13
    work = capacity.workload(capacity.settings(run_config(**PARTS), schema, 10**12), schema)
    assert work.table_bytes == pytest.approx(10**11 * (4 * 8 + 4), rel=1e-6)
    assert sum(f.cardinality for f in capacity.scaled(LISTS, 80_000).sparse if not f.table) == 80_000
    data = run_config().data
    assert {f.name for f in capacity.of_fields(data, 1000).fields} == set(data["fields"])


def test_hardware_is_read_and_checked(tmp_path: Path) -> None:
    for file in (CONF / "hardware").glob("*.yaml"):
        assert Hardware.load(file.stem, tmp_path).name == file.stem
    with pytest.raises(ConfigError, match="no description 'moon': expected one of a100x8"):
        Hardware.load("moon", tmp_path)
    text = (CONF / "hardware" / "laptop.yaml").read_text()
    for wrong, why in (
        (text.replace("gather: 8.0e+9", "gather: 0.0"), "gather: expected a number above 0"),
        (text.replace("disk:", "disc:"), "unknown disc"),
        (text.replace("disk: 1.0e+9", ""), "no value for disk"),
        ("[1", "expected YAML"),
    ):
        (tmp_path / "mine.yaml").write_text(wrong)
        with pytest.raises((ConfigError, DataError), match=why):
            Hardware.load("mine.yaml", tmp_path)


def test_this_machine_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recsys.capacity import measure

    monkeypatch.setattr(measure, "_AT_LEAST", 0.01)
    monkeypatch.setattr(measure, "_TABLE", 1 << 22)
    monkeypatch.setattr(measure, "_links", lambda: (1e-4, 1e9))  # two processes: the slow tests
    rates = measure.measured(16, tmp_path)
    assert 1e9 < rates.flops_fp32 < 1e14 and 1e8 < rates.copy < 1e12 and 1e7 < rates.gather < 1e12
    assert 1e-7 < rates.operation < 1e-2 and rates.disk > 1e6 and rates.base > 1e8
    assert rates.processes * torch.get_num_threads() >= 1 and list(tmp_path.iterdir()) == []
