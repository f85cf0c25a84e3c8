import importlib.util
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from pipelines import evaluate as evaluate_stage
from pipelines.stage import Stage
from recsys.baselines import fit as baselines
from recsys.baselines import linear
from recsys.baselines.matrices import PRIOR, OneHot, TargetRates
from recsys.baselines.rows import rows_of
from recsys.baselines.trees import trees as trees_baseline
from recsys.commands.cli import call
from recsys.data.preparation.prepare import prepare
from recsys.data.shards import Shards
from recsys.errors import ConfigError
from recsys.evaluation.metrics import evaluate
from recsys.features.schema import Schema
from recsys.results import no_better_than_constant, write_prepared
from recsys.training import checkpoint
from tests.configs import run_config

needs_lightgbm = pytest.mark.skipif(not importlib.util.find_spec("lightgbm"), reason="the extra `baselines`")


def arrays(shards: Shards) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    batch = shards.batch(slice(0, len(shards)))
    return batch.ids_BL.numpy(), batch.dense_BN.numpy(), batch.label_B.numpy()


@pytest.fixture(scope="session")
def made(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the prepared small table with its baselines."""
    folder = tmp_path_factory.mktemp("baselines") / "small"
    shutil.copytree(prepared, folder)
    baselines.baseline(folder)
    return folder


@pytest.fixture
def independent(train: Shards, valid: Shards, prepared: Path, schema: Schema):
    """scikit-learn's own encoders: a function of C → logits of validation and of test."""
    single = [i for n, at in schema.id_columns.items() if schema[n].kind == "categorical" for i in at]
    tags = list(schema.id_columns["tags"])
    splits = [arrays(s) for s in (train, valid, Shards(prepared, "test"))]
    one_hot = OneHotEncoder(min_frequency=10, handle_unknown="infrequent_if_exist").fit(splits[0][0][:, single])
    numbers = [c.start for c in schema.float_columns.values()]  # in one piece, however the model reads them
    scaler = StandardScaler().fit(splits[0][1][:, numbers])
    lists = splits[0][0][:, tags]
    often = [i for i in np.unique(lists) if i >= 0 and (lists == i).sum() >= 10]

    def columns(ids: np.ndarray, dense: np.ndarray):
        bags = np.zeros((len(ids), len(often) + 1))
        for row, listed in enumerate(ids[:, tags]):
            here = [i for i in listed if i >= 0]
            for i in here:
                bags[row, often.index(i) if i in often else -1] += len(here) ** -0.5
        return sparse.hstack(
            [one_hot.transform(ids[:, single]), bags, scaler.transform(dense[:, numbers])], format="csr"
        )

    def fit(strength: float) -> list[np.ndarray]:  # logits
        model = LogisticRegression(C=strength, max_iter=5000, tol=1e-8)
        model.fit(columns(*splits[0][:2]), splits[0][2])
        return [model.decision_function(columns(*s[:2])) for s in splits[1:]]

    return fit


@needs_lightgbm
def test_logistic_regression_is_the_one_scikit_learn_fits_by_itself(made, independent, valid, prepared) -> None:
    found = json.loads((made / "baselines.json").read_text())["models"]["logistic regression"]
    test = Shards(prepared, "test")
    wanted = independent(found["settings"]["C"])
    for split, shards, logit_B in (("valid", valid, wanted[0]), ("test", test, wanted[1])):
        slow = evaluate(logit_B, shards.label_B, shards.group_B)
        for key in ("auc", "logloss", "ne", "gauc"):
            assert found[split][key] == pytest.approx(slow[key], abs=1e-3), (split, key)
    losses = {c: evaluate(independent(c)[0], valid.label_B)["logloss"] for c in linear.STRENGTHS[1:-1:2]}
    assert found["valid"]["logloss"] <= min(losses.values()) + 1e-3, "C is the best of the grid on validation"


@needs_lightgbm
def test_the_file_says_all_that_is_needed_to_repeat_it(made, train) -> None:
    about = json.loads((made / "baselines.json").read_text())
    assert set(about) == {"models", "rows", "versions", "seed", "code"}
    assert about["rows"] == {"used": len(train), "of": len(train)}
    assert set(about["versions"]) == {"scikit-learn", "lightgbm", "recsys"}
    assert list(about["models"]) == ["logistic regression", "LightGBM"]
    for model in about["models"].values():
        assert model["seconds"] >= 0
        for split in ("valid", "test"):
            assert set(model[split]) >= {"auc", "logloss", "ne", "gauc"}
            assert model[split]["auc"] > 0.6
    assert not list(made.glob("*.tmp"))


@needs_lightgbm
def test_it_repeats_exactly_and_a_share_of_the_rows_is_named(made, tmp_path, monkeypatch) -> None:
    folder = tmp_path / "again"
    shutil.copytree(made, folder)
    before = json.loads((folder / "baselines.json").read_text())["models"]
    again = baselines.baseline(folder)["models"]
    assert {n: m["test"] for n, m in again.items()} == {n: m["test"] for n, m in before.items()}
    monkeypatch.setattr(baselines, "MOST_ROWS", 500)
    monkeypatch.setattr("recsys.baselines.rows.CHUNK", 300)
    monkeypatch.setattr(linear, "CHUNK", 300)
    fewer = baselines.baseline(folder)
    assert fewer["rows"]["used"] == 500 < fewer["rows"]["of"]
    assert fewer["models"]["logistic regression"]["test"] != before["logistic regression"]["test"]


def test_rates_of_training_rows_never_see_their_own_fold(train, schema) -> None:
    ids, dense, label = arrays(train)
    seen = TargetRates(replace(schema, time=None), ids, label, seed=3)
    seen.wide, seen.narrow, seen.native = ["item"], [], []
    seen.sums = {"item": seen._sums("item", ids, np.arange(len(ids)))}
    crossed = seen.crossed(ids, dense, folds=4)[:, -2]
    item = ids[:, schema.id_columns["item"].start]
    folds = np.empty(len(ids), int)
    for k, (_, held) in enumerate(KFold(4, shuffle=True, random_state=3).split(ids)):
        folds[held] = k
    for row in range(0, len(ids), 97):
        others = [label[r] for r in range(len(ids)) if item[r] == item[row] and folds[r] != folds[row]]
        slow = (sum(others) + PRIOR * label.mean()) / (len(others) + PRIOR)
        assert crossed[row] == pytest.approx(slow, abs=1e-6)


def test_rates_of_training_rows_with_times_are_of_the_rows_above_them(train, schema) -> None:
    """Against a loop, of an id and of a list that may hold an id twice, with weights."""
    assert schema.time
    ids, dense, label = (a[:400] for a in arrays(train))
    at = schema.id_columns["tags"]
    ids = ids.copy()
    ids[::3, at.start + 1] = ids[::3, at.start]
    weight = np.random.default_rng(0).integers(1, 4, len(label)).astype(np.float32)
    rates = TargetRates(schema, ids, label, weight)
    found, mean = rates.crossed(ids, dense), np.average(label, weights=weight)
    for name in ("user_x_city", "tags"):
        assert name in rates.wide
        column, at = found.shape[1] - 2 * (len(rates.wide) - rates.wide.index(name)), schema.id_columns[name]
        total, often = {}, {}
        for row, (y, w) in enumerate(zip(label, weight, strict=True)):
            here = [i for i in ids[row, at.start : at.stop] if i >= 0]
            slow = [(total.get(i, 0) + PRIOR * mean) / (often.get(i, 0) + PRIOR) for i in here] or [mean]
            assert found[row, column] == pytest.approx(np.mean(slow), abs=1e-6)
            assert found[row, column + 1] == pytest.approx(
                sum(np.log1p(often.get(i, 0)) for i in here) / max(1, len(here))
            )
            for i in here:
                total[i], often[i] = total.get(i, 0) + w * y, often.get(i, 0) + w


@needs_lightgbm
def test_a_table_of_categories_only_has_its_baselines(tmp_path) -> None:
    r = np.random.default_rng(0)
    item, click = r.integers(0, 8, 900), r.integers(0, 2, 900)
    config = {"name": "c", "label": "click", "split": {"shares": [0.6, 0.2, 0.2]}, "fields": {"item": {}}}
    for more in ({}, {"weight": "w"}):
        table = pa.table({"item": item, "click": click, "w": np.ones(900) + item})
        folder = prepare({**config, **more}, lambda table=table: table, tmp_path)
        assert call(["data", "baseline", str(folder)]) == 0
        assert json.loads((folder / "baselines.json").read_text())["models"]["logistic regression"]["test"]["auc"] > 0


class Split:
    """What `_figures` asks of shards; the model's logits stand by."""

    group_B = weight_B = time_B = None

    def __init__(self, split: str, rate: float):
        self.split, r = split, np.random.default_rng(len(split))
        self.label_B, self.logit_B = (r.random(20_000) < rate).astype(np.float32), r.normal(0, 0.1, 20_000)


def test_baselines_are_recalibrated_on_validation(monkeypatch) -> None:
    """Validation's rate is .3, that of test .1: a curve of validation stays three times too high on test."""
    monkeypatch.setattr(baselines, "scored", lambda split, _: split.logit_B)
    found = baselines._figures(Split("valid", 0.3), Split("test", 0.1), None)["test"]
    assert found["calibration"] == pytest.approx(5, rel=0.05)
    assert found["recalibrated_calibration"] == pytest.approx(3, rel=0.05)


def test_a_list_is_the_mean_of_its_ids_and_an_empty_one_the_mean_label(train, schema) -> None:
    ids, dense, label = arrays(train)
    rates = TargetRates(schema, ids, label)
    assert "tags" in rates.wide
    at = schema.id_columns["tags"]
    made = rates(ids, dense)
    column = made.shape[1] - 2 * (len(rates.wide) - rates.wide.index("tags"))
    total, rows = rates.sums["tags"]
    for row in range(0, len(ids), 53):
        here = [i for i in ids[row, at.start : at.stop] if i >= 0]
        slow = [(total[i] + PRIOR * label.mean()) / (rows[i] + PRIOR) for i in here] or [label.mean()]
        assert made[row, column] == pytest.approx(np.mean(slow), abs=1e-6)


def test_rare_and_unseen_ids_share_a_column(train, schema) -> None:
    ids, dense, _ = arrays(train)
    encode = OneHot(schema, ids, dense)
    at = schema.id_columns["user"].start
    counts = np.bincount(ids[:, at], minlength=schema["user"].cardinality)
    for i, n in enumerate(counts):
        assert (encode.place["user"][i] == encode.place["user"][counts < 10].min()) == (n < 10)
    x = encode(ids, dense)
    fields = len(schema.sparse)
    squares = x.multiply(x).tocsc()[:, : encode.width - 2].sum(1)
    bag = schema.id_columns["tags"]
    filled = (ids[:, bag.start : bag.stop] >= 0).any(1)
    distinct = np.array([len(set(r[r >= 0])) == (r >= 0).sum() for r in ids[:, bag.start : bag.stop]])
    wanted = (fields - 1) + filled
    often = np.array([all(encode.place["tags"][i] != encode.place["tags"].min() for i in r[r >= 0]) for r in
                      ids[:, bag.start : bag.stop]])  # fmt: skip
    plain = distinct & often
    np.testing.assert_allclose(np.asarray(squares).ravel()[plain], wanted[plain], rtol=1e-5)


def test_without_lightgbm_the_command_says_what_to_install(prepared, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(ConfigError, match=r"pip install 'recsys\[baselines\]'"):
        baselines.baseline(prepared)
    assert not (prepared / "baselines.json").exists()


def test_there_are_no_figures_before_the_command_ran(prepared) -> None:
    assert baselines.read(prepared) == {}


@needs_lightgbm
def test_every_evaluation_after_shows_the_baselines(made, schema, tmp_path) -> None:
    spec = {"model": {"_target_": "recsys.models.fm.FM"}, "embedding_dropout": 0.0,
            "embedding": {"_target_": "recsys.embeddings.per_field.per_field"}}  # fmt: skip
    for name in ("prepare", "train", "evaluate"):
        (tmp_path / name).mkdir()
    write_prepared(tmp_path / "prepare", made)
    checkpoint.save(tmp_path / "train", checkpoint.build(schema, spec), spec)
    done = {n: tmp_path / n for n in ("prepare", "train")}
    result = evaluate_stage.run(Stage(run_config(device="cpu"), tmp_path / "evaluate", done))
    metrics = json.loads((tmp_path / "evaluate" / "metrics.json").read_text())
    shown = baselines.read(made)
    assert list(metrics) == ["constant", "logistic regression", "LightGBM", "train", "recalibrated"]
    assert metrics["LightGBM"] == shown["LightGBM"]
    assert set(shown["LightGBM"]) >= {"auc", "logloss", "ne", "gauc", "valid_auc", "valid_logloss"}
    assert result.metrics["logistic regression.auc"] == shown["logistic regression"]["auc"]
    page = (tmp_path / "evaluate" / "evaluation.html").read_text()
    assert "<td>logistic regression</td>" in page and "<td>LightGBM</td>" in page
    assert f"test AUC {metrics['recalibrated']['auc']:.4f}" in page, "the lead is about our model, not a baseline"


@needs_lightgbm
@pytest.mark.slow  # MLflow makes its database: many seconds on a busy machine
def test_a_data_config_anywhere_is_prepared_as_a_run_would(place, monkeypatch, tmp_path, capfd) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    config = {
        "name": "clicks",
        "source": {"_target_": "recsys.data.sources.scan.scan", "path": str(place / "clicks.parquet")},
        "label": "click", "time": "at", "group": "user", "split": {"shares": [0.8, 0.1, 0.1]},
        "fields": {"item": {}, "city": {}, "price": {"kind": "numeric"}},
    }  # fmt: skip
    (tmp_path / "mine" / "clicks.yaml").write_text(json.dumps(config))
    assert call(["data", "baseline", "mine/clicks.yaml", "runs=elsewhere", "+data.fields.item.min_count=3"]) == 0
    said = capfd.readouterr()
    path = Path(said.out.splitlines()[-1])
    assert path.name == "baselines.json" and path.is_relative_to(tmp_path / "elsewhere" / "cache")
    assert "logistic regression" in said.err
    assert call(["data", "baseline", str(path.parent), "--seed", "1"]) == 0
    assert json.loads(path.read_text())["seed"] == 1


def test_mistakes_are_one_line(prepared, tmp_path, monkeypatch, capfd) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="found none"):
        call(["data", "baseline", "absent.yaml"])
    with pytest.raises(ConfigError, match="leave them out"):
        call(["data", "baseline", str(prepared), "seed=3"])
    with pytest.raises(ConfigError, match="absent"):
        call(["data", "baseline", "absent"])
    assert "Traceback" not in capfd.readouterr().err


@pytest.fixture(scope="module")
def weighted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One table prepared with whole weights, with its rows repeated so often, and with those of weight 0 left out."""
    r = np.random.default_rng(0)
    rows, place = 3000, tmp_path_factory.mktemp("weighted")
    item, x = r.integers(0, 80, rows), r.normal(0, 1, rows)
    tags = [r.integers(0, 9, n).tolist() for n in r.integers(0, 4, rows)]
    stress = [r.integers(0, 3, len(t)).astype(float).tolist() for t in tags]
    logit = r.normal(0, 1, 80)[item] + x + [sum(w * (t - 4) / 4 for t, w in zip(*p, strict=True)) for p in
                                            zip(tags, stress, strict=True)]  # fmt: skip
    table = pa.table(
        {
            "item": item, "x": x, "tags": tags, "stress": stress, "w": r.integers(0, 4, rows).astype(float),
            "click": (r.random(rows) < 1 / (1 + np.exp(-logit))).astype(int),
            "part": np.repeat(["train", "valid", "test"], rows // 3),
        }
    )  # fmt: skip
    times = table["w"].to_numpy().astype(int)
    fields = {"item": {}, "tags": {"kind": "multi", "max_length": 4, "weights": "stress"}, "x": {"kind": "numeric"}}
    config = {"label": "click", "split": {"column": "part"}, "fields": fields}
    repeated = table.take(np.arange(rows).repeat(times))
    made = {"weights": prepare({**config, "name": "weights", "weight": "w"}, lambda: table, place)}
    made["repeated"] = prepare({**config, "name": "repeated"}, lambda: repeated, place)
    made["dropped"] = place / "dropped"
    shutil.copytree(made["weights"], made["dropped"])
    for split in ("train", "valid", "test"):
        kept = np.load(made["weights"] / split / "weight.npy") > 0
        for path in (made["dropped"] / split).glob("*.npy"):
            np.save(path, np.load(path)[kept])
    return made


@needs_lightgbm
def test_rows_of_weight_0_are_no_rows_to_either_baseline(weighted) -> None:
    whole, dropped = (baselines.baseline(weighted[n])["models"] for n in ("weights", "dropped"))
    for name in whole:
        for split in ("valid", "test"):
            assert whole[name][split] == pytest.approx(dropped[name][split], rel=1e-9), (name, split)


@needs_lightgbm
def test_weights_are_repeated_rows_to_both_baselines(weighted, monkeypatch) -> None:
    monkeypatch.setattr(linear, "MIN_COUNT", 1)
    monkeypatch.setattr(linear, "OneHot", lambda *a: OneHot(*a, min_count=1))  # else rows are counted, not weights
    got, want = (baselines.baseline(weighted[n])["models"] for n in ("weights", "repeated"))
    name = "logistic regression"
    assert got[name]["settings"]["C"] == want[name]["settings"]["C"] and got[name]["settings"]["converged"]
    for split in ("valid", "test"):
        for key in ("auc", "logloss", "ne", "calibration", "ece"):
            assert got[name][split][key] == pytest.approx(want[name][split][key], rel=1e-4), (split, key)
        assert got["LightGBM"][split]["logloss"] == pytest.approx(want["LightGBM"][split]["logloss"], abs=0.03)


@needs_lightgbm
def test_trees_stop_by_validation_rows_as_they_weigh(weighted) -> None:
    """One row in ten turns its label round, which hardly shows; if it weighs 1,000, the second tree hurts."""
    trees = []
    for weight in (1.0, 1000.0):
        shards = {s: Shards(weighted["repeated"], s) for s in ("train", "valid")}
        valid, turned = shards["valid"], np.arange(len(shards["valid"])) % 10 == 0
        valid.label_B[turned] = 1 - valid.label_B[turned]
        valid.weight_B = np.where(turned, weight, 1.0).astype(np.float32)
        train = rows_of(shards["train"], len(shards["train"]), 0)
        trees.append(trees_baseline(shards, train, 0)[1]["trees"])
    assert trees[0] > 10 and trees[1] == 1


def test_rates_and_numbers_follow_weights_as_repeated_rows(weighted) -> None:
    shards = Shards(weighted["weights"], "train")
    rows, weight = arrays(shards), np.asarray(shards.weight_B)
    coded = []
    for (ids, dense, label), w in ((rows, weight), ([r.repeat(weight.astype(int), 0) for r in rows], None)):
        one_hot, rates = OneHot(shards.schema, ids, dense, w, 1), TargetRates(shards.schema, ids, label, w)
        coded.append((one_hot.mean, one_hot.deviation, rates.mean, *rates.sums["item"], *rates.sums["tags"]))
    for got, want in zip(*coded, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-9)


def test_a_weighted_list_counts_its_ids_by_their_weights(weighted) -> None:
    shards = Shards(weighted["weights"], "train")
    ids, dense, label = arrays(shards)
    schema = shards.schema
    at, stress = schema.id_columns["tags"], dense[:, list(schema.weight_columns["tags"])]
    encode, rates = OneHot(schema, ids, dense, min_count=1), TargetRates(schema, ids, label)
    made, wide = encode(ids, dense).toarray(), rates(ids, dense)
    column = wide.shape[1] - 2 * (len(rates.wide) - rates.wide.index("tags"))
    total, rows = rates.sums["tags"]
    for row in range(0, len(ids), 31):
        weight = np.zeros(schema["tags"].cardinality)
        for i, w in zip(ids[row, at.start : at.stop], stress[row], strict=True):
            weight[i] += w * (i >= 0)
        norm = np.sqrt(sum(w * w for i, w in zip(ids[row, at.start : at.stop], stress[row], strict=True) if i >= 0))
        for i in np.flatnonzero(weight):
            assert made[row, encode.place["tags"][i]] == pytest.approx(weight[i] / norm, rel=1e-5)
        rate = (total + PRIOR * label.mean()) / (rows + PRIOR)
        slow = (weight * rate).sum() / weight.sum() if weight.sum() else label.mean()
        assert wide[row, column] == pytest.approx(slow, abs=1e-6)


@pytest.mark.parametrize(
    ("models", "told"),
    [
        ({"a": {"ne": 1.0}, "b": {"ne": 1.2}}, "is 1.000 times that"),
        ({"a": {"ne": 1.1, "recalibrated_ne": 0.99}}, ""),
        ({"a": {"ne": 0.9}, "b": {"ne": 1.2}}, ""),
        ({"constant": {"ne": 1.01}, "a": {"ne": 1.005}}, ""),
        ({"constant": {"ne": 1.01}, "a": {"ne": 1.02, "recalibrated_ne": 1.0605}}, "is 1.010 times that"),
        ({"constant": {"ne": 1.01}}, ""),
        ({}, ""),
    ],
)
def test_a_sentence_says_that_no_model_beats_the_constant(models, told) -> None:
    said = no_better_than_constant(models)
    assert bool(said) is bool(told)
    assert told in said


@needs_lightgbm
def test_the_command_says_that_no_baseline_beats_the_constant(made, tmp_path, monkeypatch, capfd) -> None:
    about = json.loads((made / "baselines.json").read_text())
    monkeypatch.setattr(baselines, "baseline", lambda *_: about)
    assert call(["data", "baseline", str(made)]) == 0
    assert "No model beats" not in capfd.readouterr().err
    for m in about["models"].values():
        m["test"] |= {"ne": 1.3, "recalibrated_ne": 1.02}
    assert call(["data", "baseline", str(made)]) == 0
    assert "No model beats always saying the label rate: the best test logloss is 1.020" in capfd.readouterr().err


@needs_lightgbm
def test_logistic_regression_converges_and_says_when_it_does_not(made, prepared, tmp_path, monkeypatch, capfd) -> None:
    about = json.loads((made / "baselines.json").read_text())["models"]["logistic regression"]["settings"]
    assert about["converged"] is True and 1 <= about["iterations"] < linear.ITERATIONS
    folder = tmp_path / "small"
    shutil.copytree(prepared, folder)
    monkeypatch.setattr(linear, "ITERATIONS", 1)
    assert call(["data", "baseline", str(folder)]) == 0
    assert "logistic regression did not converge" in capfd.readouterr().err
    assert (
        json.loads((folder / "baselines.json").read_text())["models"]["logistic regression"]["settings"]["converged"]
        is False
    )
