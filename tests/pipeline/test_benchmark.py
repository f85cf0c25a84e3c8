"""`recsys run experiment=selection_benchmark` as a user runs it: table, pages, the cache of retrains."""

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pipelines.benchmark_results import Benchmark
from pipelines.benchmark_settings import Settings
from recsys.commands.cli import main
from recsys.config.options import CONF
from recsys.results import read_result
from tests.pipeline.small import SMALL, recsys

SMALLER = [a for a in SMALL if not a.startswith(("selection.", "train.max_epochs", "name="))]
METHODS = ("leap", "permutation", "sfs", "random")


ARGUMENTS = [
    "experiment=selection_benchmark", *SMALLER, "train.max_epochs=1", "benchmark.seeds=[0,1]",
    "benchmark.grid=[2,4]", "benchmark.methods=[leap,permutation,sfs,random]", "benchmark.gain_shares=null",
    "benchmark.reference=sfs", "+benchmark.settings.leap={steps: 150, batch_size: 256}",
]  # fmt: skip


@pytest.fixture(scope="module")
def done(place: Path) -> tuple:
    first = recsys(place, "run", *ARGUMENTS)
    assert first.returncode == 0, first.stderr
    result = read_result(place / first.stdout.splitlines()[-1])
    return first, result.stages["benchmark"].folder, result


def test_all_selectors_are_the_default():
    options = {p.stem for p in (CONF / "selection").glob("*.yaml")}
    assert set(Settings().selectors()) == options and len(options) >= 13


def test_the_table_the_page_and_a_report_for_each_method(done):
    first, folder, _ = done
    about = json.loads((folder / "benchmark.json").read_text())
    assert set(about["methods"]) == set(METHODS) and about["grid"] == [2, 4] and about["seeds"] == [0, 1]
    for name, m in about["methods"].items():
        assert name in first.stderr
        assert set(m["curve"]["by_seed"]) == {"0", "1"} and "low" in m["area"]
        report = json.loads((folder / "reports" / name / "report.json").read_text())
        assert report["curve"]["random"] == about["methods"]["random"]["curve"]["by_seed"]
        assert (folder / "reports" / name / "kept.yaml").exists()
        assert "Retrained from scratch on the top k" in (folder / "reports" / name / "report.html").read_text()
    assert about["methods"]["leap"]["area"]["mean"] > about["methods"]["random"]["area"]["mean"]
    assert "ranks best" in (folder / "benchmark.html").read_text()


def test_a_curve_is_of_models_trained_on_the_top_k(done, place):
    _, folder, _ = done
    about = json.loads((folder / "benchmark.json").read_text())
    known = {}
    for path in (place / "runs" / "cache" / "retrains").glob("*/result.json"):
        spec = json.loads((path.parent / "model.json").read_text())
        names = frozenset(f["name"] for f in spec["schema"]["fields"])
        known[names, spec["spec"]["seed"]] = json.loads(path.read_text())["metrics"]["auc"]
    for seed in (0, 1):
        ranking = list(json.loads((folder / "searches" / "leap" / str(seed) / "report.json").read_text())["fields"])
        wanted = [known[frozenset(ranking[:k]), seed] for k in (2, 4)]
        assert about["methods"]["leap"]["curve"]["by_seed"][str(seed)] == wanted


def test_differences_hold_row_noise_and_are_corrected(done):
    """The reference − each other method at each k, worked anew from the table and from the stored test logits."""
    _, folder, _ = done
    about = json.loads((folder / "benchmark.json").read_text())
    assert set(about["differences"]) == set(METHODS) - {"sfs"}
    flat = [(n, i, d) for n, by_k in about["differences"].items() for i, d in enumerate(by_k.values())]
    assert len(flat) == 6
    for name, i, d in flat:
        ours, theirs = (about["methods"][n]["curve"]["by_seed"] for n in ("sfs", name))
        change = [ours[s][i] - theirs[s][i] for s in ("0", "1")]
        assert d["mean"] == pytest.approx(sum(change) / 2) and d["low"] <= d["mean"] <= d["high"]
        assert d["error"] >= abs(change[0] - change[1]) / 2 - 1e-12, "at least the noise of seeds"
        assert 0 <= d["p"] <= d["p_holm"] <= 1
        if change[0] != 0:
            assert d["error"] > abs(change[0] - change[1]) / 2, "and that of rows"
    assert min(d["p_holm"] for *_, d in flat) == pytest.approx(min(1, 6 * min(d["p"] for *_, d in flat)))
    assert "corrected by Holm" in (folder / "benchmark.html").read_text()


def folder_of(place: Path, names, seed: int) -> Path:
    """The retrain on these fields under this seed, found by what its model.json says."""
    for path in (place / "runs" / "cache" / "retrains").glob("*/model.json"):
        about = json.loads(path.read_text())
        if {f["name"] for f in about["schema"]["fields"]} == set(names) and about["spec"]["seed"] == seed:
            return path.parent
    raise AssertionError(f"no retrain on {names}")


def test_what_keeping_changes_has_an_interval_that_holds_row_noise(done, place):
    """Its error² over seeds, plus the jackknife variance over test rows of the mean change of AUC."""
    _, folder, _ = done
    about = json.loads((folder / "benchmark.json").read_text())
    every, label = about["methods"]["leap"]["curve"], None
    logit = {"kept": [], "full": []}
    for seed in (0, 1):
        report = json.loads((folder / "searches" / "sfs" / str(seed) / "report.json").read_text())
        kept = [n for n, f in report["fields"].items() if f["verdict"] != "drop"]
        for what, names in (("kept", kept), ("full", list(report["fields"]))):
            logit[what].append(np.load(folder_of(place, names, seed) / "test_logits.npy"))
        data = next((place / "runs").rglob(f"{about['data']}/test/label.npy"))
        label = np.load(data)

    def change(rows):
        areas = {w: [roc_auc_score(label[rows], z[rows]) for z in of] for w, of in logit.items()}
        return np.mean(np.subtract(areas["kept"], areas["full"]))

    everything = np.arange(len(label))
    left_out = np.array([change(np.delete(everything, part)) for part in np.array_split(everything, 60)])
    rows = 59 / 60 * np.square(left_out - left_out.mean()).sum()
    got = about["methods"]["sfs"]["kept_change"]
    seeds = [every["full"][s] for s in ("0", "1")]
    own = [about["methods"]["sfs"]["curve"]["kept"][s] - f for s, f in zip(("0", "1"), seeds, strict=True)]
    assert rows > 0 and got["mean"] == pytest.approx(np.mean(own))
    assert got["error"] ** 2 - np.var(own, ddof=1) / 2 == pytest.approx(rows, rel=0.6)
    shown = f"[{got['low']:+.4f}, {got['high']:+.4f}]"
    assert shown in (folder / "benchmark.html").read_text()
    assert about["methods"]["sfs"]["logloss_kept_change"]["error"] > 0


@pytest.mark.slow  # twelve searches more
def test_the_frontier_has_each_priced_method_at_each_price(place):
    priced = recsys(place, "run", *ARGUMENTS, "benchmark.gain_shares=[.005,.3,.99]")
    assert priced.returncode == 0, priced.stderr
    folder = read_result(place / priced.stdout.splitlines()[-1]).stages["benchmark"].folder
    about = json.loads((folder / "benchmark.json").read_text())
    for name in METHODS:
        at = about["methods"][name]["frontier"]
        assert [a["gain_share"] for a in at] == ([0.005, 0.3, 0.99] if name in ("leap", "permutation") else [])
        if at:
            assert all(few <= many for few, many in zip(at[1]["kept"], at[0]["kept"], strict=True))
    found = json.loads((folder / "searches" / "permutation_at_0.3" / "0" / "report.json").read_text())
    kept = sum(f["verdict"] != "drop" for f in found["fields"].values())
    assert about["methods"]["permutation"]["frontier"][1]["kept"][0] == kept
    nothing = about["methods"]["permutation"]["frontier"][2]
    assert 0 in nothing["kept"] and nothing["change"] is None, "hardly a field is worth all that the model gains"
    assert all("error" in a["change"] for a in about["methods"]["permutation"]["frontier"] if a["change"])
    assert "Fields kept against" in (folder / "benchmark.html").read_text()


def test_two_of_its_reports_are_compared_over_seeds(done, place):
    _, folder, _ = done
    reports = [str(folder / "reports" / n) for n in ("random", "leap")]
    compared = recsys(place, "compare", *reports, "--out", "page.html")
    assert compared.returncode == 0, compared.stderr
    assert "Δauc@2" in compared.stdout and "over 2 paired seeds" in compared.stdout
    assert "Paired over seeds" in (place / "page.html").read_text()


@pytest.mark.slow
def test_a_second_run_trains_nothing_again(done, place, monkeypatch, capfd):
    _, folder, result = done
    kept = {p: p.stat().st_mtime_ns for p in (place / "runs" / "cache" / "retrains").glob("*/result.json")}
    assert kept
    monkeypatch.chdir(place)
    capfd.readouterr()
    assert main(["run", *ARGUMENTS, "benchmark.methods=[sfs,random]"]) == 0
    again = capfd.readouterr()
    assert {p: p.stat().st_mtime_ns for p in (place / "runs" / "cache" / "retrains").glob("*/result.json")} == kept
    assert "(known)" in again.err
    other = read_result(place / again.out.splitlines()[-1]).stages["benchmark"].folder
    first, second = (json.loads((f / "benchmark.json").read_text())["methods"] for f in (folder, other))
    assert {n: first[n]["curve"] for n in second} == {n: m["curve"] for n, m in second.items()}
    assert result.id != other.parent.name


@pytest.mark.slow
def test_a_benchmark_cut_off_keeps_its_settings_and_the_searches_by_its_own_code(place, monkeypatch, capfd):
    """A search by code or settings that have changed since is made again; any other is not."""
    monkeypatch.chdir(place)
    few = ["benchmark.methods=[random]", "benchmark.seeds=[0]", "benchmark.gain_shares=null", "benchmark.grid=[2]"]
    search = place / "runs" / "searching" / "benchmark" / "searches" / "random" / "0"
    with monkeypatch.context() as broken:
        broken.setattr(Benchmark, "conclude", lambda self: 1 / 0)
        assert main(["run", *ARGUMENTS, *few, "hydra.run.dir=runs/searching"]) == 1
        capfd.readouterr()
        assert main(["run", "resume=searching", "benchmark.metric=logloss"]) == 2
        assert "stage benchmark was begun with benchmark.metric=auc, not logloss" in capfd.readouterr().err
        first = (search / "kept.yaml").stat().st_mtime_ns
        assert main(["run", "resume=searching"]) == 1
        assert (search / "kept.yaml").stat().st_mtime_ns == first
    node = json.loads((search / "node.json").read_text())
    (search / "node.json").write_text(json.dumps({**node, "code": "of another day"}))
    assert main(["run", "resume=searching"]) == 0
    assert (search / "kept.yaml").stat().st_mtime_ns > first


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("benchmark.seeds=[1,1]", "benchmark.seeds: expected different seeds, got [1, 1]"),
        ("benchmark.grid=[4,2]", "benchmark.grid: expected climbing counts of fields from 1 to 7"),
        ("benchmark.gain_shares=[2]", "benchmark.gain_shares: expected shares in (0, 1), got [2"),
        ("benchmark.metric=f1", "benchmark.metric: input should be 'auc' or 'logloss', got 'f1'"),
        ("+benchmark.settings.leap.stepz=3", "benchmark.settings.leap: unknown stepz"),
        ("benchmark.methods=[magic]", "benchmark.methods: no selector ['magic']: expected some of autofield"),
        ("benchmark.reference=magic", "benchmark.methods: no selector ['magic']: expected some of autofield"),
        ("benchmark.methods=[]", "benchmark.methods: no selector named"),
        ("~benchmark", "stage benchmark needs the key benchmark: start from experiment=selection_benchmark"),
    ],
)
def test_what_cannot_be_is_one_line(place, override, message, monkeypatch, capfd):
    monkeypatch.chdir(place)
    assert main(["run", *ARGUMENTS, override]) == 2
    said = capfd.readouterr().err
    assert message in said and "Traceback" not in said
