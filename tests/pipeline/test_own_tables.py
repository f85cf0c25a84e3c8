"""From raw files to an answer over HTTP by the user's commands alone, on tables that nothing here has seen.

No Python is written, and one YAML edited at most.
"""

import csv
import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.export.graphs import compiler
from recsys.results import RunResult, read_result
from tests.pipeline.small import recsys, whole_recsys

SMALL = [
    "train.batch_size=128", "train.max_epochs=3", "train.evals_per_epoch=1", "train.lr=0.01", "train.table_lr=0.3",
    "train.embedding_dropout=0", "train.fresh_tables=false", "embedding.dim=4",
]  # fmt: skip


def ran(place: Path, *arguments: str, command: Callable[..., Any] = recsys) -> str:
    """Standard output of a command that must succeed without a warning or a traceback."""
    done = command(place, *arguments)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def table_to_run(
    place: Path, file: str, guess: list[str], run: list[str], edit: dict[str, str], command: Callable[..., Any] = recsys
) -> RunResult:
    """`data guess`, the one edit, `data report`, `run` → result.json. Each prints its result and nothing else."""
    name = file.split(".")[0]
    config = place / ran(place, "data", "guess", file, *guess).strip()
    assert config == place / "data" / f"{name}.yaml"
    for old, new in edit.items():
        assert config.read_text().count(old) == 1
        config.write_text(config.read_text().replace(old, new))
    page = place / ran(place, "data", "report", name).strip()
    assert "Fields, the most telling first" in page.read_text()
    out = ran(place, "run", f"data={name}", f"name={name}", *SMALL, *run, command=command)
    assert len(out.splitlines()) == 1, "a script takes standard output for the result"
    return read_result(place / out.strip())


def predicted(place: Path, bundle: str, rows: Path) -> np.ndarray:
    return np.array([json.loads(line)["probability"] for line in ran(place, "predict", bundle, str(rows)).splitlines()])


@contextmanager
def server(place: Path, bundle: str) -> Iterator[str]:
    """The address of `recsys serve` on a free port."""
    command = [sys.executable, "-m", "recsys", "serve", bundle, "--port", "0"]
    process = subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        said = process.stdout.readline()
        assert " on http://" in said
        yield said.split(" on ")[1].split(" ")[0]
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


def asked(address: str, rows: Any) -> Any:
    """What the server answers."""
    request = urllib.request.Request(
        f"{address}/predict", json.dumps(rows).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def served(place: Path, bundle: str, rows: list[dict[str, Any]]) -> np.ndarray:
    """The server's answers to rows together, which are those to each alone."""
    with server(place, bundle) as address:
        together = asked(address, rows)["probabilities"]
        alone = [asked(address, row)["probability"] for row in rows[:2]]
    np.testing.assert_allclose(alone, together[:2], atol=1e-6)
    return np.array(together)


def metrics(result: dict) -> dict[str, dict[str, float]]:
    return json.loads((result.stages["evaluate"].folder / "metrics.json").read_text())


def bundle_of(result: RunResult) -> str:
    return str(result.stages["export"].bundle)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def write_csv(path: Path, names: list[str], rows: Any) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([names, *rows])
    return path


# --- an event log: who, what, when; one edit adds what had happened before ---

PAST = """  recent: {kind: sequence, max_length: 8, table: item, past: {what: last, of: item, by: [user]}}
  seen: {kind: numeric, encoding: log, past: {what: count, by: [user]}}
"""


def event_log(path: Path, rows: int = 1500) -> list[list[Any]]:
    """A click follows the item, and how often the user was there."""
    r = np.random.default_rng(3)
    user, item = r.integers(0, 60, rows), r.integers(0, 20, rows)
    start = datetime(2024, 1, 1)
    logit = r.normal(0, 2, 20)[item]
    click = (r.random(rows) < sigmoid(logit)).astype(int)
    at = [(start + timedelta(minutes=31 * i)).isoformat(sep=" ") for i in range(rows)]
    log = [[f"u{u}", int(i) + 100, t, int(y)] for u, i, t, y in zip(user, item, at, click, strict=True)]
    write_csv(path, ["user", "item", "at", "click"], log)
    return log


@pytest.mark.slow
def test_an_event_log(tmp_path):
    log = event_log(tmp_path / "shop.csv")
    guess = ["--label", "click", "--time", "at", "--group", "user"]
    run = ["stages=[prepare,train,evaluate,export]", "sequence=din", "model=mlp"]
    result = table_to_run(tmp_path, "shop.csv", guess, run, {"fields:\n": f"fields:\n{PAST}"})
    assert metrics(result)["train"]["auc"] > 0.7
    prepared = result.stages["prepare"].metrics
    assert prepared["rows"] == len(log)
    assert prepared["bad_rows"] == 0
    assert prepared["test.unseen.item"] == 0
    bundle = bundle_of(result)
    assert json.loads(ran(tmp_path, "verify", bundle))["rows"] > 100

    # Requests of an hour after the log's end. What the log says of each user, in plain Python:
    now = (datetime.fromisoformat(log[-1][2]) + timedelta(hours=1)).isoformat(sep=" ")
    users = [*sorted({row[0] for row in log})[:5], "never seen", None]
    past = [[row[1] for row in reversed(log) if row[0] == user] for user in users]
    short = [{"user": u, "item": 105, "at": now} for u in users]
    whole = [{**row, "recent": p[:8], "seen": len(p)} for row, p in zip(short, past, strict=True)]
    whole[-1]["seen"] = None  # no user: no past to count
    answers = served(tmp_path, bundle, [*whole, *short])
    assert len(set(answers[:5])) == 5, "the past must matter"
    np.testing.assert_allclose(answers[7:], answers[:7], atol=1e-6)
    rows = write_csv(tmp_path / "short.csv", list(short[0]), [r.values() for r in short])
    np.testing.assert_allclose(predicted(tmp_path, bundle, rows), answers[:7], atol=1e-6)


# --- a wide table of numbers with gaps, no field of ids ---


@pytest.mark.slow
def test_a_wide_table_of_numbers(tmp_path):
    r = np.random.default_rng(0)
    x = r.normal(size=(3000, 120))
    x[:, 3] = np.exp(1.5 * x[:, 3])
    bought = (r.random(3000) < sigmoid(2 * x[:, 0] - x[:, 1] + np.log(x[:, 3]))).astype(int)
    gap = r.random(x.shape) < 0.1
    cells = [["" if g else f"{v:.6g}" for v, g in zip(*row, strict=True)] for row in zip(x, gap, strict=True)]
    names = [*(f"sensor {i} (V)" for i in range(120)), "bought"]
    write_csv(tmp_path / "wide.csv", names, [[*c, y] for c, y in zip(cells, bought, strict=True)])
    steps = ["selection.steps=150", "selection.batch_size=128"]
    result = table_to_run(tmp_path, "wide.csv", ["--label", "bought"], steps, {}, whole_recsys)  # with the compiler
    assert metrics(result)["train"]["auc"] > 0.7
    bundle = bundle_of(result)
    checked = json.loads(ran(tmp_path, "verify", bundle))
    assert set(checked["max_drift"]) == ({"onnx", "pt2"} if compiler() else {"onnx"})
    write_csv(tmp_path / "some.csv", names[:-1], cells[:20])
    rows = [dict(zip(names, [float(v) if v else None for v in c], strict=False)) for c in cells[:20]]
    np.testing.assert_allclose(
        served(tmp_path, bundle, rows), predicted(tmp_path, bundle, tmp_path / "some.csv"), atol=1e-6
    )


# --- lists, separated strings and text as JSON lines, under names of all sorts ---


def media(rows: int = 3000) -> list[dict[str, Any]]:
    """A like follows one genre, one cast member and one word."""
    r = np.random.default_rng(1)
    words = np.array([*(f"word{i}" for i in range(14)), "fox"])
    made = []
    for _ in range(rows):
        genres = [f"g{g}" for g in r.choice(12, r.integers(0, 5), replace=False)]
        cast = r.choice(9, r.integers(1, 4), replace=False).tolist()
        title = " ".join(r.choice(words, r.integers(5, 10)))
        logit = 2.5 * ("g1" in genres) + 2.5 * (3 in cast) - 2.5 * ("fox" in title) - 0.5
        told = {"genre/s": "|".join(genres) or None, "cast.ids": cast, "Größe (€)": title}
        made.append(
            {**told, "year": int(r.integers(1950, 2020)), "liked": "yes" if r.random() < sigmoid(logit) else "no"}
        )
    return made


@pytest.mark.slow
def test_lists_and_text(tmp_path):
    rows = media()
    (tmp_path / "media.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = ["stages=[prepare,train,select,retrain,evaluate]", "selection.steps=150", "selection.batch_size=128"]
    result = table_to_run(tmp_path, "media.jsonl", ["--label", "liked"], run, {})
    assert metrics(result)["train"]["auc"] > 0.7
    prepared = result.stages["prepare"].metrics
    assert {"train.missing.genre/s", "test.unseen.cast.ids", "clipped.Größe (€)"} <= set(prepared)
    assert prepared["clipped.cast.ids"] == 0
    exported = read_result(Path(ran(tmp_path, "export", result.id).splitlines()[-1]))
    bundle = bundle_of(exported)
    assert json.loads((Path(bundle) / "card.json").read_text())["task"] == "media"
    ran(tmp_path, "verify", bundle)
    some = [{k: v for k, v in row.items() if k != "liked"} for row in rows[:30]]
    some += [{"genre/s": "g1|never seen", "cast.ids": [], "Größe (€)": None, "year": None}]
    (tmp_path / "some.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    write_csv(
        tmp_path / "some.csv", list(some[0]), [{**r, "cast.ids": json.dumps(r["cast.ids"])}.values() for r in some]
    )
    pq.write_table(pa.Table.from_pylist(some), tmp_path / "some.parquet")
    want = served(tmp_path, bundle, some)
    for file in ("some.jsonl", "some.csv", "some.parquet"):
        np.testing.assert_allclose(predicted(tmp_path, bundle, tmp_path / file), want, atol=1e-6)
