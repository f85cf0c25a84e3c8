import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from recsys.commands.cli import call
from recsys.data.sets.criteo_like import FORMATS, SETS, Planted, expected_auc, largest_column
from recsys.data.sources.scan import scan
from recsys.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def planted() -> Planted:
    return Planted(13, 26, 1000, 3)


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_is_read_back(tmp_path: Path, format: str, planted: Planted) -> None:
    out = tmp_path / f"t.{format}"
    assert call(["data", "synth", str(out), "--rows", "500", "--seed", "3", "--cardinality", "1000"]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == [out.name, f"{out.name}.truth.json"]
    table = scan(str(out)).read()
    truth = json.loads((tmp_path / f"{out.name}.truth.json").read_text())
    if format == "avazu":
        assert table.column_names[:3] == ["id", "click", "hour"] and table.num_columns == 24
        assert set(truth["columns"]) == set(table.column_names[3:])
        return
    want = planted.chunk(0, 500)
    assert table["label"].to_pylist() == want.label_B.tolist()
    if format == "libsvm":
        present = (want.int_BI >= 0).sum(1) + (want.cat_BC >= 0).sum(1)
        assert [len(x) for x in table["index"].to_pylist()] == present.tolist()
        assert table["value"][0].as_py()[: (want.int_BI[0] >= 0).sum()] == want.int_BI[0][want.int_BI[0] >= 0].tolist()
        return
    assert table.column_names == ["label", *truth["columns"]]
    for i in range(13):
        assert [-1 if v is None else v for v in table[f"i{i + 1}"].to_pylist()] == want.int_BI[:, i].tolist()
    for i in range(26):  # a word an id, and none where it is missing
        pairs = set(zip(want.cat_BC[:, i].tolist(), table[f"c{i + 1}"].to_pylist(), strict=True))
        assert len(pairs) == len({p[0] for p in pairs}) == len({p[1] for p in pairs})
        assert all((i < 0) == (w is None) for i, w in pairs)


def test_the_truth_is_what_made_the_labels(planted: Planted) -> None:
    rows = planted.chunk(5, 100_000)
    z_BI = np.where(rows.int_BI < 0, 0, np.log1p(np.maximum(rows.int_BI, 0)) - 1)
    logit_B = planted.bias + z_BI @ planted.weight_I
    for i, effect in enumerate(planted.effects):
        logit_B += np.where(rows.cat_BC[:, i] < 0, 0, planted.weight_C[i] * effect[rows.cat_BC[:, i]])
    np.testing.assert_allclose(rows.probability_B, 1 / (1 + np.exp(-logit_B)), atol=1e-5)
    error = 5 * np.sqrt(0.25 * 0.75 / 100_000)
    assert abs(rows.label_B.mean() - 0.25) < error
    assert abs(roc_auc_score(rows.label_B, rows.probability_B) - planted.bayes_auc) < 0.01


def test_expected_auc_against_all_pairs() -> None:
    p = np.random.default_rng(0).random(50).round(1)
    weight = p[:, None] * (1 - p[None, :])
    higher = (p[:, None] > p[None, :]) + 0.5 * (p[:, None] == p[None, :])
    assert expected_auc(p) == pytest.approx((weight * higher).sum() / weight.sum())


def test_the_same_seed_gives_the_same_rows() -> None:
    first, again, other = (Planted(2, 3, 50, s).chunk(1, 100) for s in (0, 0, 1))
    assert (first.cat_BC == again.cat_BC).all() and (first.label_B == again.label_B).all()
    assert (first.cat_BC != other.cat_BC).any()
    assert (first.cat_BC != Planted(2, 3, 50, 0).chunk(2, 100).cat_BC).any()


@pytest.mark.parametrize("ids", SETS.values())
def test_a_set_has_nearly_as_many_ids_as_it_says(ids: int) -> None:
    counts = [np.geomspace(10, largest_column(ids, 26) + more, 26).round().sum() for more in (0, 1)]
    assert counts[0] <= ids < counts[1]


def test_ids_of_a_set_are_numbers_by_a_power_law(tmp_path: Path) -> None:
    out = tmp_path / "s.parquet"
    assert call(["data", "synth", str(out), "--rows", "20000", "--set", "S"]) == 0
    table = scan(str(out)).read()
    assert table.num_columns == 40 and {str(table.schema.field(f"c{i}").type) for i in (1, 26)} == {"int32"}
    id_B = table["c25"].drop_null().to_numpy()
    n = int(np.geomspace(10, largest_column(SETS["S"], 26), 26).round()[24])
    assert id_B.min() == 0 and n // 2 < id_B.max() < n and len(id_B) > 10_000
    for k in (1, 100, 10_000):  # p(id < k) = ln(1 + k) / ln(1 + n)
        assert (id_B < k).mean() == pytest.approx(np.log(1 + k) / np.log(1 + n), abs=0.02)


def test_wrong_asks_leave_nothing(tmp_path: Path) -> None:
    for arguments, match in [
        (["t.xls"], "--format"),
        (["t.csv", "--rows", "0"], "--rows"),
        (["t.criteo", "--ints", "3"], "criteo has 13 integer and 26"),
        (["t.csv", "--cardinality", "3"], "a cardinality of at least 10"),
        (["t.csv", "--set", "L", "--cats", "3"], "--set L has 13 \\+ 26 columns"),
        (["t.csv", "--set", "M"], "--set: invalid choice: 'M'"),
    ]:
        with pytest.raises(ConfigError, match=match):
            call(["data", "synth", str(tmp_path / arguments[0]), *arguments[1:]])
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write"):
        call(["data", "synth", str(tmp_path / "file" / "t.csv"), "--rows", "10"])
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = OSError(28, "No space left on device")

    def refuse(*_: object) -> None:
        raise full

    monkeypatch.setattr("recsys.data.sets.criteo_like._svm", refuse)
    with pytest.raises(DataError, match="No space left"):
        call(["data", "synth", str(tmp_path / "t.libsvm"), "--rows", "10"])
    assert list(tmp_path.iterdir()) == []
