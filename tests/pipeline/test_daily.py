"""experiment=daily through the command: days follow one another, deltas add up, and a lineage survives kills."""

import json
import signal
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import safetensors.numpy
import torch

from recsys.errors import BundleError
from recsys.export.delta import scoring_weights
from recsys.export.graphs import ScoringGraph
from recsys.features.encoders import encoder_from_json
from recsys.features.row_encoder import RowEncoder
from recsys.features.schema import Schema
from recsys.results import read_result
from recsys.serving.delta import apply_delta
from recsys.training import checkpoint
from tests.pipeline.forks import Forks
from tests.pipeline.small import recsys

DAYS, EACH, FIRST = 30, 80, datetime(2017, 7, 1)
DATA = [
    "experiment=daily_own", "data=table", "data.name=small", "data.source.path=clicks.parquet", "data.label=click",
    "data.time=at", "name=small", "~data.split.shares",
    '+data.split={train: ["2017-07-01","2017-07-11"], valid: ["2017-07-11","2017-07-14"],'
    ' test: ["2017-07-14","2017-07-17"]}',
    "+data.fields={user: {}, item: {min_count: 3}, past: {kind: sequence, table: item, max_length: 2},"
    " city: {encoding: hash, buckets: 9}, price: {kind: numeric, encoding: piecewise, buckets: 4}}",
    "train.batch_size=64", "train.max_epochs=1", "embedding.dim=4", "model=mlp", "model.hidden=[8]",
    "daily.days=2", "daily.delay_days=1", "daily.evict_days=4", "daily.retrain_every=2", "daily.end=2017-07-20",
]  # fmt: skip


def table() -> pa.Table:
    """Items come and go: day d has items d to d + 11."""
    r = np.random.default_rng(0)
    day = np.repeat(np.arange(DAYS), EACH)
    item, city, price = day + r.integers(0, 12, len(day)), r.integers(0, 30, len(day)), r.lognormal(0, 1, len(day))
    logit = r.normal(0, 1.5, 99)[item] - 0.7 * np.log(price)
    seconds = np.sort(r.integers(0, 86_400, (DAYS, EACH)), 1).ravel()
    return pa.table(
        {
            "at": pa.array([FIRST + timedelta(days=int(d), seconds=int(s)) for d, s in zip(day, seconds, strict=True)]),
            "user": [f"u{u}" for u in r.integers(0, 20, len(day))],
            "item": item,
            "past": [[int(i) - 1, int(i) - 2][: i % 3] for i in item],
            "city": [f"city {c}" for c in city],
            "price": price,
            "click": (r.random(len(day)) < 1 / (1 + np.exp(-logit))).astype(np.int8),
        }
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("daily")
    pyarrow.parquet.write_table(table(), folder / "clicks.parquet")
    return folder


def run(place: Path, *arguments: str) -> Path:
    """→ the run's folder."""
    done = recsys(place, "run", *DATA, *arguments)
    assert done.returncode == 0, done.stderr
    return place / Path(done.stdout.splitlines()[-1]).parent


@pytest.fixture(scope="module")
def lineage(place: Path) -> Path:
    """A run whose days are done, with a bundle of its first model."""
    return run(place, "stages=[prepare,train,export,daily]")


def day(lineage: Path, number: int) -> Path:
    return lineage / "daily" / "days" / f"{number:04}"


def facts(lineage: Path, number: int) -> dict[str, Any]:
    return json.loads((day(lineage, number) / "day.json").read_text())


def test_each_day_learns_its_rows_and_is_scored_on_later_ones(lineage: Path) -> None:
    daily = json.loads((lineage / "daily" / "daily.json").read_text())
    days = daily["days"]
    assert [d["day"]["number"] for d in days] == [1, 2, 3] and list(daily["retrains"]) == ["2"]
    for i, d in enumerate(days):
        start = datetime(2017, 7, 11) + timedelta(days=2 * i)
        wanted = [start + timedelta(days=k) for k in (0, 2, 3, 5)]
        assert [datetime.fromisoformat(d["day"][k]) for k in ("start", "stop", "scored_start", "scored_stop")] == wanted
        assert d["rows"] == d["scored_rows"] == 2 * EACH and 0 < d["auc"] < 1
    assert daily["retrains"]["2"]["rows"] == 14 * EACH
    result = read_result(lineage / "result.json").stages["daily"].metrics
    assert result and result["auc"] == pytest.approx(np.mean([d["auc"] for d in days]))
    html = (lineage / "daily" / "daily.html").read_text()
    assert "3 periods from 2017-07-11" in html and "full retrain" in html


def test_items_have_a_row_as_the_raw_table_says(lineage: Path) -> None:
    rows = [(int(r["item"]), (r["at"] - FIRST).days) for r in table().to_pylist()]
    count, last = Counter(i for i, d in rows if d < 10), {i: d for i, d in rows if d < 10}
    live = {i for i, c in count.items() if c >= 3}
    for number in (1, 2, 3):
        end = 10 + 2 * number
        for i, d in rows:
            if end - 2 <= d < end:
                count[i], last[i] = count[i] + 1, d
        for i in [i for i, d in last.items() if d < end - 4]:  # forgotten
            live.discard(i), count.pop(i), last.pop(i)
        live |= {i for i, c in count.items() if c >= 3}
        stored = json.loads((day(lineage, number) / "encoders.json").read_text())["encoders"]
        assert {int(v) for v in stored["item"]["values"] if v is not None} == live
        assert stored["past"] == stored["item"]
        assert facts(lineage, number)["fields"]["item"]["live"] == len(live)
    assert sum(facts(lineage, n)["fields"]["item"]["admitted"] for n in (1, 2, 3)) > 3
    assert sum(facts(lineage, n)["fields"]["item"]["evicted"] for n in (1, 2, 3)) > 3


def bundle(lineage: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    folder = lineage / "export" / "bundle"
    encoders = json.loads((folder / "encoders.json").read_text())
    return safetensors.numpy.load_file(folder / "weights.safetensors"), encoders


def test_the_bundle_and_its_deltas_are_the_last_model_bit_for_bit(lineage: Path) -> None:
    weights, encoders = bundle(lineage)
    for number in (1, 2, 3):
        weights, encoders = apply_delta(day(lineage, number) / "delta", weights, encoders)
    model, _ = checkpoint.load(day(lineage, 3))
    whole = scoring_weights(model)
    assert whole.keys() == weights.keys() and all(np.array_equal(whole[n], weights[n]) for n in whole)
    assert encoders == json.loads((day(lineage, 3) / "encoders.json").read_text())
    applied = ScoringGraph(model)
    for x in applied.state_dict().values():
        x.zero_()
    applied.load_state_dict({n: torch.from_numpy(x) for n, x in weights.items()})
    schema = Schema.load(day(lineage, 3) / "schema.json")
    encode = RowEncoder(schema, {n: encoder_from_json(e) for n, e in encoders["encoders"].items()})
    ids_BL, dense_BN = map(torch.from_numpy, encode(table().slice(0, 2000).to_pylist()))
    with torch.no_grad():
        ours, theirs = applied(ids_BL, dense_BN), ScoringGraph(model)(ids_BL, dense_BN)
    assert torch.equal(ours, theirs) and len(ours.unique()) > 100


def test_a_delta_is_refused_on_another_base_and_if_it_is_damaged(lineage: Path, tmp_path: Path) -> None:
    weights, encoders = bundle(lineage)
    with pytest.raises(BundleError, match="expected the model .* apply the deltas in between first"):
        apply_delta(day(lineage, 2) / "delta", weights, encoders)
    first = day(lineage, 1) / "delta"
    for name in ("delta.json", "delta.safetensors"):
        (tmp_path / name).write_bytes((first / name).read_bytes())
    content = bytearray((tmp_path / "delta.safetensors").read_bytes())
    content[-3] ^= 1
    (tmp_path / "delta.safetensors").write_bytes(content)
    with pytest.raises(BundleError, match="is damaged: "):
        apply_delta(tmp_path, weights, encoders)
    (tmp_path / "delta.json").write_bytes(b"{}")
    with pytest.raises(BundleError, match="delta format None, this recsys reads 1"):
        apply_delta(tmp_path, weights, encoders)
    with pytest.raises(BundleError, match="expected a delta, it cannot be read"):
        apply_delta(tmp_path / "none", weights, encoders)


@pytest.mark.parametrize(
    ("after", "why"),
    [
        ("../../x", "daily.after: expected a folder inside"),
        ("/etc", "daily.after: expected a folder inside"),
        ("absent", "daily.after: no finished run 'absent'"),
    ],
)
def test_a_lineage_that_is_not_there_is_told_before_anything_runs(tmp_path: Path, after: str, why: str) -> None:
    refused = recsys(tmp_path, "run", *DATA, f"daily.after={after}")
    assert refused.returncode == 2 and why in refused.stderr and refused.stderr.count("\n") == 1, refused.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_lineage_that_goes_on_in_another_run_equals_one_run(place: Path, lineage: Path) -> None:
    again = [f"from_run={lineage.name}", "stages=[daily]", "daily.retrain_every=0"]
    begun = run(place, *again, "daily.end=2017-07-18")
    assert facts(begun, 2)["delta"] == facts(lineage, 2)["delta"]
    later = run(place, *again, f"daily.after={begun.name}")
    assert facts(later, 3)["delta"] == facts(lineage, 3)["delta"] and not day(later, 2).exists()
    for wrong, message in (
        ("daily.evict_days=9", "another daily.evict_days, and a lineage keeps it"),
        ("daily.end=2017-07-18", "raise daily.end, or wait for more rows"),
    ):
        refused = recsys(place, "run", *DATA, *again, f"daily.after={begun.name}", wrong)
        assert refused.returncode == 2 and message in " ".join(refused.stderr.split())
    day(begun, 2).joinpath("day.json").unlink()
    refused = recsys(place, "run", *DATA, *again, f"daily.after={begun.name}")
    assert refused.returncode == 2 and "is gone, and the next day goes on from it" in " ".join(refused.stderr.split())


@pytest.mark.slow
def test_a_killed_lineage_goes_on_at_the_day_that_it_was_in(place: Path, lineage: Path, forks: Forks) -> None:
    arguments = ["run", *DATA, f"from_run={lineage.name}", "stages=[daily]", "daily.retrain_every=0"]
    arguments += ["hydra.run.dir=runs/killed"]
    ended = forks.run(place, *arguments, at=("os.rename", "days/0002/model.json", 1), how=signal.SIGKILL)
    assert ended.code == -signal.SIGKILL, ended.said
    killed = place / "runs" / "killed"
    first = (day(killed, 1) / "result.json").stat().st_mtime_ns
    assert not (day(killed, 2) / "result.json").exists()
    resumed = recsys(place, "run", f"resume={killed.name}")
    assert resumed.returncode == 0, resumed.stderr
    assert (day(killed, 1) / "result.json").stat().st_mtime_ns == first
    assert facts(killed, 3)["delta"] == facts(lineage, 3)["delta"]
    assert not list((killed / "daily").glob(".rows*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("embedding=hashed", "embedding: expected a table row for each id"),
        ("train.linear=true", "cannot follow new ids: set train.linear=false"),
    ],
)
def test_models_that_cannot_grow_are_refused(place: Path, lineage: Path, change: str, message: str) -> None:
    small = ["embedding.rows=8"] if "hashed" in change else []
    refused = recsys(place, "run", *DATA, change, *small)
    assert refused.returncode == 2 and message in " ".join(refused.stderr.split()), refused.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "gap",
            "expected rows from 2017-07-15T00:00 to 2017-07-17T00:00, found none: the table has rows from 2017-07-01",
        ),
        ("one_label", "expected both 0 and 1 in the rows from 2017-07-18T00:00 to 2017-07-20T00:00, they are all 0"),
    ],
)
def test_days_that_cannot_be_learned_or_scored_are_named(place: Path, name: str, message: str) -> None:
    whole = table()
    us = np.array([(t - FIRST).days for t in whole["at"].to_pylist()])
    if name == "gap":  # days 14 and 15 of the table
        whole = whole.filter(pa.array((us < 14) | (us > 15)))
    else:
        whole = whole.set_column(
            whole.column_names.index("click"), "click", pa.array(np.where(us < 17, whole["click"], 0))
        )
    pyarrow.parquet.write_table(whole, place / f"{name}.parquet")
    refused = recsys(place, "run", *DATA, f"data.source.path={name}.parquet")
    assert refused.returncode == 2 and message in " ".join(refused.stderr.split()), refused.stderr
