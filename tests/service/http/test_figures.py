"""/metrics, curves and options: what a monitor, a page and a form read."""

import json
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from recsys.events import CURVES
from recsys.service.http.app import make_app
from recsys.service.http.settings import Settings
from recsys.service.pages.site import make_site
from recsys.service.queue.queue import Queue
from recsys.service.queue.records import Live, Needs
from tests.service.http.conftest import TOKENS, Caller, new_run


def test_metrics_tell_the_queue_as_it_is(here: Caller, queue: Queue, place: Path) -> None:
    queue.submit([new_run(place, f"r{i}", needs=Needs(2, 1 << 30)) for i in range(3)])
    assert queue.claim("w1", "host-a", Needs(4, 8 << 30))
    answer = here.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    samples = {(s.name, *s.labels.values()): s.value for f in text_string_to_metric_families(answer.text)
               for s in f.samples}  # fmt: skip
    assert samples["recsys_runs", "queued"] == 2 and samples["recsys_runs", "running"] == 1
    assert samples["recsys_queue_length",] == 2 and 0 <= samples["recsys_queue_oldest_seconds",] < 60
    assert samples["recsys_lease_losses_total",] == 0 and samples["recsys_events_total",] >= 4
    assert samples["recsys_slots_used", "host-a", "cores"] == 2
    assert samples["recsys_streams",] == 0
    guarded = Caller(make_app(queue, Settings(place / "runs", place, tokens=TOKENS, hosts=None)))
    assert guarded.get("/metrics").status_code == 401


def test_curves_of_a_run_are_thinned(here: Caller, queue: Queue, place: Path) -> None:
    queue.submit([new_run(place, "r")])
    assert here.get("/api/runs/r/curves").json() == {"curves": {}}
    (place / "runs" / "r").mkdir()
    lines = [f'\n{{"stage": "train", "step": {i}, "valid_auc": {i % 7}, "train_loss": 1}}' for i in range(5000)]
    (place / "runs" / "r" / CURVES).write_text("".join(lines))
    curve = here.get("/api/runs/r/curves", params={"points": 100, "names": ["valid_auc"]}).json()["curves"]["train"]
    assert set(curve) == {"valid_auc"} and curve["valid_auc"]["points"] == 5000
    assert len(curve["valid_auc"]["steps"]) <= 100 and {0.0, 6.0} == set(curve["valid_auc"]["values"][1:-1])
    assert here.get("/api/runs/absent/curves").status_code == 404
    assert here.get("/api/runs/r/curves", params={"points": 10**7}).status_code == 422


def test_a_form_can_be_built_from_the_options(here: Caller, place: Path) -> None:
    (place / "model").mkdir()
    (place / "model" / "ours.yaml").write_text("# Ours.\n_target_: recsys.models.dcn.DCN\nlayers: 3 # as before\n")
    (place / "data").mkdir()
    (place / "data" / "broken.yaml").write_text("a: [")
    seen = here.get("/api/options").json()
    groups, settings = seen["groups"], {s["key"]: s for s in seen["settings"]}
    assert {"model", "data", "experiment", "train"} <= set(groups) and groups["model"]["default"] == "dcn"
    assert "hardware" not in groups  # recsys plan's
    layers = next(s for s in groups["model"]["options"]["dcn"]["settings"] if s["key"] == "model.layers")
    assert layers["default"] == 2 and layers["doc"] == "Cross layers."
    assert layers["schema"] == {"type": "integer", "minimum": 0, "maximum": 100}
    assert groups["experiment"]["options"]["demo"]["chosen"] == {"data": "rebuy_crossed", "train": "fixed"}
    assert groups["model"]["options"]["ours"]["own"] is True
    assert groups["model"]["options"]["ours"]["settings"][0]["doc"] == "as before"
    assert "cannot be read" in groups["data"]["options"]["broken"]["doc"]
    assert settings["select.repeats"]["schema"]["enum"] == ["keep", "drop"]
    assert settings["select.probes"]["doc"].startswith("shuffled copies")
    assert not {"trusted", "runs"} & set(settings)
    assert set(groups["launcher"]["options"]) == {"local", "torchrun"}  # what this service takes


def test_what_the_options_say_is_what_a_run_takes(here: Caller) -> None:
    """The range that a form shows is the one that the check enforces."""
    groups = here.get("/api/options").json()["groups"]
    rate = next(s for s in groups["train"]["options"]["fixed"]["settings"] if s["key"] == "train.lr")
    beyond = rate["schema"]["maximum"] + 1
    wrong = here.post("/api/check", json={"overrides": ["experiment=demo", f"train.lr={beyond}"]}).json()
    assert "train.lr" in wrong["error"]


def test_pages_know_which_figures_are_better_if_larger(queue: Queue, settings: Settings, place: Path) -> None:
    site, times = Caller(make_site(queue, settings)), (8.125, 8.125, 4.125, 4.125)
    for i, value in enumerate(times):
        queue.submit([new_run(place, f"r{i}", config={"seed": i % 2, "bits": 8 + i // 2})])
        claim = queue.claim("w", "h", Needs(8, 64 << 30))
        assert claim
        figures = {"compress": {"times_smaller": value, "rows": value}, "train": {"valid_auc": 0.7123}}
        queue.note(claim, Live(metrics=figures))
        (place / "runs" / f"r{i}" / "prepare").mkdir(parents=True)
        (place / "runs" / f"r{i}" / "prepare" / "data.json").write_text('{"version": 1, "folder": "../../cache/d-1"}')
        stages = {stage: {"seconds": 1.0, "metrics": of_stage} for stage, of_stage in figures.items()}
        (place / "runs" / f"r{i}" / "result.json").write_text(json.dumps({"version": 2, "stages": stages}))
        queue.end(claim, "finished", 0, None)
    assert site.get("/").text.count("0.7123") == len(times)
    query = "/compare?id=r0,r1,r2,r3&f=compress/times_smaller&f=compress/rows"
    for baseline, verdict in (("r0", "worse"), ("r2", "better")):
        page = site.get(f"{query}&baseline={baseline}").text
        assert page.count(f'<small class="{verdict}"') == 1 and page.count('<small class="quiet"') == 1
