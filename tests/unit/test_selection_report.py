"""What a report says: repeats, savings, intervals, the page and the CSV; and what reads a selection back."""

import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import t

from recsys.data.shards import Shards
from recsys.errors import ConfigError, RecsysError
from recsys.files import write_json
from recsys.selection.figures import ProbeFindings, SearchNotes, ShuffledCost
from recsys.selection.reports.build import Measured, make_report
from recsys.selection.reports.find import kept, read
from recsys.selection.reports.redundancy import clusters, codes, redundancy
from recsys.selection.reports.report import Health, Provenance, RepeatedFields, Repeats, Report
from recsys.selection.reports.report_page import write_csv, write_html
from recsys.selection.reports.savings import median_interval, savings, size
from recsys.selection.scores import FieldScores, Verdict, decide, intervals
from recsys.training import checkpoint
from recsys.training.config import TrainConfig
from tests.pages import SCRIPT, renamed, runs

ADAMW = TrainConfig().optimizer
SPEC = {
    "embedding": {"_target_": "recsys.embeddings.per_field.per_field", "_partial_": True, "dim": 8},
    "model": {"_target_": "recsys.models.dcn.DCN", "_partial_": True},
    "embedding_dropout": 0.0,
}


@pytest.fixture(scope="module")
def model(schema):
    return checkpoint.build(schema, SPEC)


def build(schema):
    return checkpoint.build(schema, SPEC)


def mutual(a, b):
    """I(a; b) from the table of counts, cell by cell."""
    total = 0.0
    for x in np.unique(a):
        for y in np.unique(b):
            both = np.mean((a == x) & (b == y))
            if both:
                total += both * math.log(both / np.mean(a == x) / np.mean(b == y))
    return total


def test_redundancy_is_adjusted_mutual_information():
    rng = np.random.default_rng(0)
    a = rng.integers(0, 8, 3000)
    b = np.where(rng.random(3000) < 0.1, rng.integers(0, 8, 3000), (3 * a + 1) % 8)
    chance = mutual(a, np.random.default_rng(1).permutation(b))
    want = (mutual(a, b) - chance) / (max(mutual(a, a), mutual(b, b)) - chance)
    assert redundancy(a, b, 0.1, np.random.default_rng(1)) == pytest.approx(want)
    assert 0.5 < want < 0.95


@pytest.mark.parametrize("values", [2, 50, 5000])
def test_fields_without_relation_do_not_repeat_each_other_however_many_their_values(values):
    rng = np.random.default_rng(values)
    a, b = rng.integers(0, values, (2, 4000))
    assert redundancy(a, b, 0.0, rng) < 0.05
    if values < 5000:
        assert redundancy(a, rng.permutation(values)[a], 0.9, rng) == pytest.approx(1)


def test_a_part_of_a_field_is_no_repeat_of_it():
    """A city tells less than its postcode, so that dropping the postcode loses something."""
    a = np.random.default_rng(0).integers(0, 64, 5000)
    assert redundancy(a, a // 16, 0.0, np.random.default_rng(0)) < 0.5


def test_numbers_that_rise_together_have_the_same_codes():
    x = np.random.default_rng(0).normal(size=(2000, 1)).astype(np.float32)
    a, b = codes(x), codes(np.exp(2 * x))
    assert np.mean(a == b) > 0.99 and len(np.unique(a)) == 20
    assert len(np.unique(codes(np.array([[1, 2], [1, 2], [2, 1]])))) == 2


def test_clusters_follow_links_and_the_order_of_importance(valid, monkeypatch):
    rng = np.random.default_rng(0)
    a, other = rng.integers(0, 9, (2, 2000))
    columns = {"z": other, "copy": (a + 4) % 9, "a": a}
    monkeypatch.setattr(
        "recsys.selection.reports.redundancy.raw_blocks",
        lambda shards, rows: {n: c[:, None] for n, c in columns.items()},
    )
    (group,) = clusters(valid, ["copy", "z", "a"]).found
    assert group.fields == ["copy", "a"] and group.redundancy == pytest.approx(1)
    assert clusters(valid, ["copy", "z", "a"], most=2).found == []


def test_savings_are_those_of_the_model_on_what_is_kept(model, valid):
    names = ["item", "price", "tags"]
    found, smaller = savings(model, build, names, valid, ADAMW), build(model.schema.subset(names))
    assert {k: found.after[k] for k in size(smaller, ADAMW)} == size(smaller, ADAMW)
    assert found.figures["table_bytes"] == size(model, ADAMW)["table_bytes"] - size(smaller, ADAMW)["table_bytes"] > 0
    everything = sum(p.numel() for p in smaller.parameters())
    assert found.after["parameters"] == everything
    states = sum(v.numel() * 4 for v in smaller.embedding.optimizer_state().values())
    dense = sum(p.numel() for p in smaller.interaction.parameters())
    assert found.after["optimizer_bytes"] == states + 8 * dense
    for name in ("us_per_row", "train_us_per_row"):
        low, high = getattr(found, f"{name}_interval")
        assert low <= found.figures[name] <= high and found.before[name] > 0 < found.after[name]
    assert savings(model, build, model.schema.names, valid, ADAMW).figures["table_bytes"] == 0


@pytest.mark.parametrize("dense", ["adamw", "muon"])
@pytest.mark.parametrize(("tables", "numbers"), [("sgd", 0), ("rowwise_adagrad", 1), ("adagrad", 8)])
def test_bytes_of_the_optimisers_are_those_that_train(schema, dense, tables, numbers):
    """8 numbers a row: Adagrad remembers as many, the row-wise one remembers one. Muon keeps one number, Adam two."""
    target = f"recsys.embeddings.optimizers.{tables}.{tables}"
    model = checkpoint.build(schema, SPEC | {"table_optimizer": {"_target_": target, "_partial_": True}})
    optimizer = {"_target_": f"recsys.training.optimizers.{dense}.{dense}", "_partial_": True}
    layers = [p for m in (model.interaction, model.head) for p in m.parameters()]
    hidden = sum(p.numel() for p in layers if dense == "muon" and p.ndim == 2 and min(p.shape) > 1)
    rows = sum(t.rows for t in model.embedding.scoring().tables.values())
    want = 4 * numbers * rows + 8 * sum(p.numel() for p in layers) - 4 * hidden
    assert size(model, optimizer)["optimizer_bytes"] == want
    scores = FieldScores({n: 1.0 for n in schema.names}, None, {n: {} for n in schema.names}, SearchNotes("x"))
    measured = Measured(None, None, None, None, Repeats(0, 0, 0.9, []))
    fields = make_report(model, scores, decide(scores, 1), measured, Provenance("small", {}, 0)).fields
    assert fields["item"].optimizer_bytes == 4 * numbers * fields["item"].rows and fields["item"].rows > 0


def test_timing_a_training_step_changes_neither_weights_nor_their_history(model, valid):
    def state():
        return {**model.state_dict(), **model.embedding.optimizer_state()}

    before = {k: v.clone() for k, v in state().items()}
    savings(model, build, ["item", "price"], valid, ADAMW)
    assert not model.training and all(torch.equal(v, before[k]) for k, v in state().items())


def test_fields_that_make_no_model_are_named_not_hidden(model, valid):
    def refuse(schema):
        raise ConfigError("attention needs its candidate")

    assert "attention needs" in savings(model, refuse, ["item"], valid, ADAMW).note


def test_the_interval_of_a_median_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    found = [median_interval(rng.exponential(size=41)) for _ in range(2000)]
    assert 0.94 <= np.mean([low <= math.log(2) <= high for _, low, high in found]) < 0.985


def test_a_field_whose_interval_holds_its_price_is_uncertain():
    draws = {"a": [0.5, 0.7, 0.6], "b": [0.05, 0.2, 0.1], "c": [0.0, 0.01, 0.002]}
    score = {n: float(np.mean(v)) for n, v in draws.items()}
    details = {n: {"deviation": float(np.std(v))} for n, v in draws.items()}
    notes = SearchNotes("permutation", 0.1, repeats=3)
    scores = FieldScores(score, {n: s > 0.1 for n, s in score.items()}, details, notes)
    for n, v in draws.items():
        half = t.ppf(0.975, 2) * np.std(v, ddof=1) / math.sqrt(3)
        assert intervals(scores)[n] == pytest.approx((score[n] - half, score[n] + half))
    assert [v.verdict for v in decide(scores)] == ["keep", "uncertain", "drop"]
    assert [v.verdict for v in decide(scores, top_k=1)] == ["keep", "drop", "drop"]
    once = FieldScores(score, scores.keep, details, replace(notes, repeats=1))
    assert [v.verdict for v in decide(once)] == ["keep", "keep", "drop"] and not intervals(once)


@pytest.fixture
def report(model, valid: Shards):
    names = model.schema.names
    score = {n: 1 - i / 10 for i, n in enumerate(names)}
    notes = SearchNotes("leap", 1e-3, repeats=2, seconds=1.0)
    details = {n: {"gate": s, "closes_at": s / 10, "deviation": 0.01} for n, s in score.items()}
    scores = FieldScores(score, None, details, notes)
    verdicts = [Verdict(n, "drop" if i > 4 else "keep", "why") for i, n in enumerate(names)]
    measured = Measured(
        health=Health(0.8, 0.7, 0.1, 0.01, 0.9, "sound", ""),
        probes=ProbeFindings(5, 1, 0.2, 0.4),
        savings=savings(model, build, names[:5], valid, ADAMW),
        shuffled=ShuffledCost(0.0123, 0.001, -0.0045),
        clusters=Repeats(7, 10, 0.9, [RepeatedFields([names[1], names[2], names[5]], 0.95)]),
    )
    return make_report(model, scores, verdicts, measured, Provenance("small", {}, 0))


def test_a_report_is_the_same_after_it_was_written_and_read(report, tmp_path):
    write_json(tmp_path / "report.json", report.to_json())
    assert read(tmp_path / "report.json") == report
    assert list(json.loads((tmp_path / "report.json").read_text())["fields"]) == list(report.fields)


def test_the_page_leads_with_the_decision_and_what_it_saves(report, tmp_path):
    write_html(report, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    names = list(report.fields)
    lead = text.split('class="lead">')[1].split("</p>")[0]
    assert lead.startswith(
        f"Drop 2 of 7 fields: {', '.join(names[5:])}. With them shuffled in the model as it stands, "
    )
    assert "logloss changes by +0.01230 ± 0.00196 and AUC by -0.0045. Scoring takes " in lead
    assert "A training step" in lead and "Inputs: " in lead and lead.index("logloss") < lead.index("Inputs")
    assert ("Tables: " in lead) == (
        report.savings.figures["table_bytes"] >= 0.02 * report.savings.before["table_bytes"]
    )
    assert text.count("Plotly.newPlot") == 3 and "implies 20% false discoveries" in text
    assert "http://" not in text.split("<script")[0]


@pytest.mark.parametrize(("share", "told"), [(0.0002, False), (0.1, True)])
def test_the_lead_names_bytes_only_if_they_are_a_part_of_the_whole(report, tmp_path, share, told):
    """11 kB of 53 MB is no reason to drop 13 fields."""
    report.savings.figures["table_bytes"] = share * report.savings.before["table_bytes"]
    write_html(report, tmp_path / "report.html")
    lead = (tmp_path / "report.html").read_text().split('class="lead">')[1].split("</p>")[0]
    assert ("Tables: " in lead) == told


def test_a_kept_repeat_is_told_and_a_dropped_one_is_not(report):
    names, fields = list(report.fields), report.fields
    assert fields[names[2]].reason == f"why; repeats {names[1]}"
    assert fields[names[1]].reason == fields[names[5]].reason == "why"
    assert fields[names[5]].cluster == names[1] and fields[names[0]].cluster is None


def test_the_csv_is_the_fields_of_the_json(report, tmp_path):
    write_csv(report, tmp_path / "report.csv")
    with (tmp_path / "report.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [r["field"] for r in rows] == list(report.fields)
    for row, f in zip(rows, report.fields.values(), strict=True):
        assert float(row["score"]) == f.score and row["verdict"] == f.verdict
        assert [float(row["low"]), float(row["high"])] == f.interval
        assert row["cluster"] == (f.cluster or "")


def test_a_selection_is_read_from_whatever_names_it(report, tmp_path):
    known = list(report.fields)
    folder = tmp_path / "runs" / "r1" / "select"
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps(report.to_json()))
    (folder / "selection.json").write_text(json.dumps({"keep": known[:2]}))
    (folder / "kept.yaml").write_text(f"select:\n  apply: [{known[3]}]\n")
    runs = tmp_path / "runs"
    for source in ("r1", str(folder), str(folder / "report.json")):
        assert kept(source, runs, known) == known[:5]
    assert kept(str(folder / "selection.json"), runs, known) == known[:2]
    assert kept(str(folder / "kept.yaml"), runs, known) == known[3:4] == kept(known[3:4], runs, known)


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("{", "selection.json", "is damaged"),
        ("{}", "selection.json", "expected names of fields"),
        ("[", "kept.yaml", "is not YAML"),
        ("select: 3", "kept.yaml", "expected names of fields"),
        ("select: {apply: [a, z]}", "kept.yaml", r"keeps \['z'\], which this data lacks: expected some of a, b"),
    ],
)
def test_what_is_no_selection_is_refused(tmp_path, text, name, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(RecsysError, match=message):
        kept(str(tmp_path / name), tmp_path, ["a", "b"])


def test_no_name_in_the_page_runs(report, tmp_path):
    names = [*(set(report.fields) - {"score", "price"}), "why", "small"]  # these two are keys of the report, too
    write_html(Report.from_json(renamed(report.to_json(), names)), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert runs(page) == []
    assert page.count("alert(1)") > 3 * len(report.fields)
    assert SCRIPT not in page
