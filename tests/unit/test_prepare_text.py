"""Text columns of any file, prepared: against pandas, a row at a time."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import xxhash

from recsys.data.preparation import first_pass
from recsys.data.preparation.fields import data_fields
from recsys.data.preparation.prepare import SPLITS, prepare
from recsys.data.sources import columnar
from recsys.data.sources.scan import scan
from recsys.features.schema import Schema

ROWS, BATCH = 7_000, 1_500
BUCKETS = 50
FIELDS: dict[str, Any] = {
    "few": {},
    "many": {"min_count": 1},
    "plain": {"max_size": 5},
    "number": {},
    "part_number": {},
    "hashed": {"encoding": "hash", "buckets": BUCKETS},
    "crossed": {"encoding": "hash", "buckets": BUCKETS, "inputs": ["few", "number"]},
    "list": {"kind": "multi", "max_length": 2},
    "like_few": {"table": "few", "inputs": ["other"]},
}
CONFIG = {"name": "text", "label": "click", "group": "few", "split": {"column": "part"}, "fields": FIELDS}


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several batches in a part of a file, and several parts in a batch."""
    monkeypatch.setattr(first_pass, "CHUNK", BATCH)
    monkeypatch.setattr(columnar, "_ROWS", BATCH)


@pytest.fixture(scope="module")
def table() -> pa.Table:
    r = np.random.default_rng(0)
    few = pa.array([None if v == 0 else "" if v == 1 else f"v{v}" for v in r.integers(0, 9, ROWS)])
    lists = [None if i % 11 == 0 else [f"v{v}" for v in r.integers(0, 9, i % 4)] for i in range(ROWS)]
    return pa.table({
        "click": r.integers(0, 2, ROWS),
        "part": np.array(SPLITS)[r.choice(3, ROWS, p=[0.7, 0.15, 0.15])],
        "few": few,
        "many": [f"user {v:012d}" for v in r.zipf(1.2, ROWS) % 9_000],  # its dictionary outgrows a page
        "plain": [f"v{v}" for v in r.integers(2, 12, ROWS)],
        "other": [f"v{v}" for v in r.integers(2, 12, ROWS)],
        "number": r.integers(-3, 900, ROWS),
        "part_number": pa.array(r.integers(0, 70, ROWS).astype(float), mask=r.random(ROWS) < 0.1),
        "hashed": [f"é{v}" for v in r.integers(0, 400, ROWS)],
        "list": lists,
    })  # fmt: skip


def _slow(table: pa.Table, fields: dict[str, Any]) -> pd.DataFrame:
    """The ids of every row, from the definitions in docs/data.md."""
    raw, train = table.to_pandas(), (table["part"].to_numpy() == "train")

    def spell(v: Any) -> str | None:
        return None if v is None or v != v or v == "" else v if isinstance(v, str) else str(int(v))

    def known(values: pd.Series, least: int = 2, most: int = 0) -> dict[str, int]:
        counts = values[train].explode().map(spell).value_counts()
        ranked = sorted((-n, v) for v, n in counts.items() if n >= least)
        return {v: i + 2 for i, (_, v) in enumerate(ranked[: most or None])}

    def hashes(text: str | None) -> int:
        return 0 if text is None else 1 + xxhash.xxh64_intdigest(text.encode()) % BUCKETS

    out = {}
    for name in ("few", "many", "plain", "number", "part_number"):
        ids = known(raw[name], fields[name].get("min_count", 2), fields[name].get("max_size", 0))
        out[name] = [0 if v is None else ids.get(v, 1) for v in map(spell, raw[name])]
    out["hashed"] = [hashes(v) for v in raw["hashed"]]
    parts = zip(map(spell, raw["few"]), map(spell, raw["number"]), strict=True)
    out["crossed"] = [hashes("\x1f".join("\x00" if p is None else p for p in pair)) for pair in parts]
    kept = raw["list"].map(lambda x: [] if x is None else list(x[:2]))
    ids = known(kept)
    lists = [[ids.get(v, 1) for v in x] for x in kept]
    for i in range(2):
        out[f"list{i}"] = [x[i] if i < len(x) else -1 for x in lists]
    ids = known(raw["few"])
    out["like_few"] = [ids.get(v, 1) for v in raw["other"]]
    return pd.DataFrame(out)


def _parquet(table: pa.Table, path: Path) -> None:
    """Write text as other programs do: dictionaries that outgrow a page, none, codes of a byte, bytes."""
    kinds = {
        "few": pa.dictionary(pa.int8(), pa.string()), "number": pa.int16(), "plain": pa.large_string(),
        "other": pa.binary(), "hashed": pa.string_view(),
    }  # fmt: skip
    pyarrow.parquet.write_table(
        table.cast(pa.schema([(f.name, kinds.get(f.name, f.type)) for f in table.schema])),
        path,
        row_group_size=2_000,
        use_dictionary=[n for n in table.column_names if n not in ("plain", "number")],
        dictionary_pagesize_limit=1 << 12,
        data_page_size=1 << 12,
    )


def _ids(folder: Path, table: pa.Table, names: list[str]) -> pd.DataFrame:
    """The ids that stand in the shards, in the table's order."""
    order = np.concatenate([np.flatnonzero(table["part"].to_numpy() == s) for s in SPLITS])
    ids_BL = np.concatenate([np.load(folder / s / "ids.npy") for s in SPLITS])
    return pd.DataFrame(ids_BL, order, names).sort_index()


def test_text_of_every_kind_of_parquet_file_has_the_ids_of_its_definition(table: pa.Table, tmp_path: Path) -> None:
    _parquet(table, tmp_path / "t.parquet")
    folder = prepare(CONFIG | {"source": {"path": "t"}}, lambda: scan(str(tmp_path / "t.parquet")), tmp_path / "c")
    wanted = _slow(table, FIELDS)
    order = [n for f in Schema.load(folder / "schema.json").sparse for n in wanted if n.rstrip("01") == f.name]
    pd.testing.assert_frame_equal(_ids(folder, table, order), wanted[order], check_dtype=False)


def test_parquet_text_and_memory_are_prepared_the_same(table: pa.Table, tmp_path: Path) -> None:
    """To the last byte: ids, groups, vocabularies, golden rows."""
    rows = table.slice(0, 6_600).drop_columns(["list", "part_number"])  # CSV has no lists, and whole numbers
    few = pa.array([v or None for v in rows["few"].to_pylist()])  # nor empty text
    rows = rows.set_column(rows.column_names.index("few"), "few", few)
    pyarrow.parquet.write_table(rows, tmp_path / "u.parquet", row_group_size=4_000)
    pyarrow.csv.write_csv(rows, tmp_path / "u.csv")
    fields = {k: v for k, v in FIELDS.items() if k not in ("list", "part_number")}
    loads = {"parquet": lambda: scan(str(tmp_path / "u.parquet")), "csv": lambda: scan(str(tmp_path / "u.csv"))}
    folders = []
    for name, load in (*loads.items(), ("memory", lambda: rows)):
        folders.append(prepare(CONFIG | {"fields": fields}, load, tmp_path / name))
    for path in sorted(p for p in folders[0].rglob("*") if p.is_file() and p.name != "prepared.json"):
        bodies = [(f / path.relative_to(folders[0])).read_bytes() for f in folders]
        assert bodies[0] == bodies[1] == bodies[2], path


def test_only_text_that_is_looked_up_comes_as_a_dictionary(table: pa.Table, tmp_path: Path) -> None:
    """The codes of a group or of a key are in order of first appearance, whatever the file's dictionary."""
    _parquet(table, tmp_path / "t.parquet")
    seen: list[pa.Schema] = []
    source = scan(str(tmp_path / "t.parquet"))
    batches = source.batches
    source.batches = lambda *a: (seen.append(b.schema) or b for b in batches(*a))  # type: ignore[method-assign]
    (tmp_path / "spool").mkdir()
    spool = first_pass.read_source(source, data_fields(CONFIG), CONFIG, tmp_path / "spool")
    spool.close()
    assert len(seen) == 5
    coded = {f.name for f in seen[0] if pa.types.is_dictionary(f.type)}
    assert coded == {"many", "plain", "other", "hashed"}
