"""The pages without script: what they show, that they escape, and that their forms work."""

import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from recsys.service.pages import static
from recsys.service.pages.parts.rows import Row, rows_of
from recsys.service.queue.queue import Queue
from recsys.service.queue.records import PRUNED, STOPPED, Live, NewRun, QueuedRun
from tests.service.http.conftest import TOKENS, Caller
from tests.service.pages.conftest import CONFIG, Bench

ONE = "20260101-000000-demo-0"
VENDOR = Path(static.__file__).parent / "static" / "vendor"


class Seen(HTMLParser):
    """What a browser would act on."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def links(self) -> list[str]:
        return [a["href"] or "" for tag, a in self.tags if tag == "a"]

    def field(self, name: str) -> str:
        return next(a.get("value") or "" for tag, a in self.tags if tag == "input" and a.get("name") == name)


def page(who: Caller, path: str, status: int = 200) -> Seen:
    answer = who.get(path, headers={"accept": "text/html"})
    assert answer.status_code == status, answer.text[:2000]
    assert "'unsafe" not in answer.headers["content-security-policy"]
    seen = Seen(answer.text)
    for tag, attributes in seen.tags:  # the policy forbids all of these
        assert tag not in ("style", "iframe", "object") and not any(
            k.startswith("on") or k == "style" for k in attributes
        )
        assert tag != "script" or (attributes.get("src") or "").startswith("/static/")
    return seen


def press(who: Caller, path: str, **fields: Any) -> Any:
    """Send a form as a browser does, with the token of the page's session."""
    token = page(who, "/").field("csrf")
    return who.post(path, data={"csrf": token, **fields}, follow_redirects=False)


def test_pages_without_runs(here: Caller) -> None:
    assert "No run yet" in page(here, "/").text
    assert "Submit a run" in page(here, "/submit").text
    assert "Runs or sweeps" in page(here, "/compare").text
    assert "no run" in page(here, "/runs/nothing", 404).text
    assert "no run" in page(here, "/sweep/nothing", 404).text
    assert "sequence item" not in page(here, "/?limit=0", 422).text


def test_the_list_says_how_each_run_stands(here: Caller, bench: Bench) -> None:
    bench.whole("20260101-000000-demo-0", 0.7512)
    bench.submit("20260102-000000-demo-0", name="second")
    bench.look(bench.claim(), 0.7321)
    bench.submit("20260103-000000-demo-0", overrides=["model=fm"])
    seen = page(here, "/")
    assert f"/runs/{ONE}" in seen.links() and "0.7321" in seen.text and "model=fm" in seen.text
    assert "250 rows/s" in seen.text and "8.0 s" in seen.text and "epoch 1 of 3" in seen.text  # (3000 − 1000) / 250
    assert "No worker is here" in seen.text
    assert "second" not in page(here, "/?state=finished").text
    assert ONE not in page(here, "/?text=second").text


def test_older_runs_are_a_page_away(here: Caller, bench: Bench) -> None:
    for i in range(5):
        bench.submit(f"2026010{i + 1}-000000-demo-0")
    first = page(here, "/?limit=3")
    assert "20260103" in first.text and "20260102" not in first.text
    second = page(here, next(link for link in first.links() if "before=" in link))
    assert "20260102" in second.text and "20260103" not in second.text
    assert not [link for link in second.links() if "before=" in link]


def test_runs_of_sweeps_are_folded_under_their_parent(here: Caller, bench: Bench) -> None:
    sweep = "20260101-000000-sweep"
    bench.sweep(sweep, [0.1, 0.2])
    bench.submit("20260102-000000-demo-0")
    folded = page(here, "/")
    assert f"/sweep/{sweep}" in folded.links() and f"/runs/{sweep}/0" not in folded.links()
    for query in ("all=yes", "state=queued", "text=lr"):
        assert f"/runs/{sweep}/0" in page(here, f"/?{query}").links(), query
    assert len([link for link in page(here, "/?limit=1").links() if "before=" in link]) == 1
    older = page(here, next(link for link in page(here, "/?limit=1&all=yes").links() if "before=" in link))
    assert f"/runs/{sweep}/1" in older.links()  # the page of older ones is of the same kind
    runs = [NewRun(f"{sweep}-{i}", ["train.batch_size=9", f"seed={i}"], {}, "0" * 16, "/runs", "/", "n", parent="s")
            for i in range(2)]  # fmt: skip
    both = [QueuedRun(run, i, "queued") for i, run in enumerate(runs)]
    assert [row.settings for row in rows_of(both, 0.0, True)] == ["seed=0", "seed=1"]
    assert [row.settings for row in rows_of(both[:1], 0.0, True)] == ["train.batch_size=9 seed=0"]
    over = NewRun(
        "s", ["train.batch_size=9", "stages=[a,b]", "seed=1,2"], {}, "0" * 16, "/runs", "/", "n", kind="sweep"
    )
    assert Row(QueuedRun(over, 3, "queued"), 0.0).settings == "seed=1,2 train.batch_size=9"


def test_the_form_says_what_a_setting_may_be(here: Caller) -> None:
    rows = re.findall(r"<tr>.*?</tr>", here.get("/submit?experiment=demo&overrides=train.max_epochs=3").text)
    cells = [re.sub(r"<[^>]*>", "|", row).strip("|").split("||") for row in rows]
    of = {row[0]: row[1:] for row in cells}
    assert of["train.max_epochs"] == ["3", "whole number (1 to 100,000)", "Most passes over the training rows."]
    assert of["model.structure"][1] == "stacked, parallel or crossnet"
    assert of["train.warmup_steps"][1].startswith("whole number (0 to ")  # of train=fixed, which the experiment takes


def test_one_run_shows_what_it_did(here: Caller, bench: Bench) -> None:
    bench.whole(ONE, 0.7512, overrides=["experiment=demo", "model=fm"], experiment="demo")
    seen = page(here, f"/runs/{ONE}")
    for part in (
        "0.7512",
        "recsys submit experiment=demo model=fm",
        "step 300: AUC",
        "finished",
        "model._target_",
        "evaluation.html",
    ):
        assert part in seen.text, part
    assert f"/api/runs/{ONE}/files/evaluate/evaluation.html" in seen.links()
    assert "http://127.0.0.1:5000/#/runs/" + "a" * 32 in seen.links()
    assert here.get(f"/api/runs/{ONE}/files/evaluate/evaluation.html").status_code == 200
    assert [tag for tag, _ in seen.tags].count("polyline") == 3  # the losses and the AUC, drawn without script


def test_a_run_is_held_against_the_options_that_it_has_chosen(here: Caller, bench: Bench, place: Path) -> None:
    (place / "data").mkdir()
    (place / "data" / "shop.yaml").write_text(
        "defaults: [table]\nname: shop\nsource: {path: shop.csv}\nlabel: bought\nfields: {shop_id: {}}\n"
    )
    (place / "shop.csv").write_text("shop_id,bought\n1,0\n")
    chosen = ["data=shop", "model=fm"]
    config = here("POST", "/api/check", json={"overrides": [*chosen, "train.max_epochs=3"]}).json()
    assert config["error"] is None
    bench.submit(ONE, overrides=[*chosen, "train.max_epochs=3"], config=config["configs"][0])
    said = here.get(f"/runs/{ONE}").text.partition("What differs from")[2].partition("</table>")[0]
    assert "data=shop model=fm" in said and re.findall(r'<th scope="row" class="mono">(.*?)</th>', said) == [
        "train.max_epochs"
    ]


def test_a_sweep_shows_its_history_and_what_matters(here: Caller, bench: Bench) -> None:
    lrs = [0.001, 0.003, 0.01, 0.001, 0.003, 0.01, 0.001]
    bench.sweep("20260101-000000-sweep", lrs)
    for lr in lrs:
        bench.end(bench.claim(), auc=0.7 + 10 * lr)
    seen = page(here, "/sweep/20260101-000000-sweep")
    assert "Best by validation logloss" in seen.text and "train.lr=0.01" in seen.text and "100 %" in seen.text
    assert "7 finished" in seen.text and "/runs/20260101-000000-sweep/0" in seen.links()
    moved = here.get("/runs/20260101-000000-sweep", follow_redirects=False)
    assert moved.status_code == 303 and moved.headers["location"] == "/sweep/20260101-000000-sweep"
    compared = page(here, "/compare?id=20260101-000000-sweep")
    assert "3 runs, seeds 0; 2 repeated" in compared.text and "1 setting differs" in compared.text


def test_a_trial_that_its_sweep_stopped_is_pruned(here: Caller, bench: Bench, queue: Queue) -> None:
    """Its worker knows only that it was told to stop; no look makes it the best."""
    bench.submit("20260101-000000-sweep", kind="direct", config={"search": {}})
    for i in range(3):
        bench.submit(f"20260101-000000-sweep/{i}", parent="20260101-000000-sweep")
    for auc in (0.7, 0.72):
        bench.end(bench.claim(), auc=auc)
    claim = bench.claim()
    bench.look(claim, 0.9)
    queue.cancel(claim.run.id, PRUNED)
    assert "1 stopping" in page(here, "/sweep/20260101-000000-sweep").text
    queue.end(claim, "cancelled", 2, STOPPED)
    for path in ("/sweep/20260101-000000-sweep", f"/runs/{claim.run.id}", f"/compare?id={claim.run.id}"):
        seen = page(here, path)
        assert ("span", {"class": "state pruned"}) in seen.tags, path
    text = " ".join(page(here, "/sweep/20260101-000000-sweep").text.split())
    assert "2 finished 1 pruned" in text and "by validation logloss: 20260101-000000-sweep/1, 0.47" in text
    assert here.get(f"/api/runs/{claim.run.id}").json()["reason"] == PRUNED


def test_validation_chooses_the_best_of_a_sweep_and_seeds_are_one_line(here: Caller, bench: Bench) -> None:
    """The first model is better on test rows, the second on validation."""
    bench.submit("s", kind="sweep", config={})
    for i in range(4):
        config = {**CONFIG, "seed": i % 2, "train": {"lr": [0.1, 0.2][i // 2]}}
        bench.submit(
            f"s/{i}", parent="s", config=config, overrides=[f"train.lr={config['train']['lr']}", f"seed={i % 2}"]
        )
    for valid, auc in ((0.50, 0.9), (0.52, 0.8), (0.40, 0.7), (0.46, 0.6)):
        claim = bench.claim()
        bench.end(claim, auc=auc)
        file = bench.place / "runs" / claim.run.id / "result.json"
        result = json.loads(file.read_text())
        result["stages"]["train"]["metrics"]["valid_logloss"] = valid
        file.write_text(json.dumps(result))
    seen = page(here, "/sweep/s")
    text = " ".join(seen.text.split())
    assert "Best by validation logloss: s/2, 0.43 mean of 2 seeds, train.lr=0.2" in text
    assert "History: validation logloss of each setting, mean over its seeds" in text
    test = " ".join(page(here, "/sweep/s?figure=evaluate/train.auc").text.split())
    assert "Best by validation logloss: s/2" in test and "History: test AUC of each setting" in test


def test_of_a_search_only_trials_compete_and_the_search_says_which_is_best(here: Caller, bench: Bench) -> None:
    ids = ["default", *map(str, range(7)), "3-seed1", "3-seed2"]
    losses = [0.1, *(0.5 + i / 100 for i in range(7)), 0.2, 0.3]
    bench.submit("s", kind="direct", config={"search": {}})
    for i, id in enumerate(ids):
        bench.submit(
            f"s/{id}", parent="s", config={**CONFIG, "train": {"lr": i / 10}}, overrides=[f"train.lr={i / 10}"]
        )
    for loss in losses:
        bench.end(bench.claim(), auc=1.19 - loss)
    text = " ".join(page(here, "/sweep/s").text.split())
    assert "by validation logloss: s/0, 0.5, train.lr=0.1" in text and "ω²" in text
    said = {"version": 1, "best": 3, "importance": {"train.lr": 0.7}, "trials": [{}] * 7}
    (bench.place / "runs" / "s").mkdir(exist_ok=True)
    (bench.place / "runs" / "s" / "sweep.json").write_text(json.dumps(said))
    text = " ".join(page(here, "/sweep/s").text.split())
    assert "by validation logloss: s/3, 0.53" in text and "PED-ANOVA" in text and "70 %" in text
    text = " ".join(page(here, "/sweep/s?figure=evaluate/train.auc").text.split())
    assert "by validation logloss: s/3" in text and "PED-ANOVA" not in text and "ω²" in text  # it is of the objective
    (bench.place / "runs" / "s" / "sweep.json").write_text(json.dumps({**said, "best": None}))
    assert "No trial is better than the default" in page(here, "/sweep/s").text


def test_a_comparison_shows_only_what_differs(here: Caller, bench: Bench) -> None:
    for model, auc in (("dcn.DCN", 0.76), ("fm.FM", 0.74)):
        for seed in range(3):
            config = {**CONFIG, "seed": seed, "model": {"_target_": f"recsys.models.{model}", "layers": 2}}
            bench.whole(
                f"2026010{seed + 1}-000000-{model[:2]}-{seed}", auc + 0.001 * seed, config=config, name=model[:2]
            )
    ids = ",".join(f"2026010{s + 1}-000000-{m}-{s}" for m in ("dc", "fm") for s in range(3))
    seen = page(here, f"/compare?id={ids}")
    assert "1 setting differs" in seen.text and "train.lr" not in seen.text and "3 runs, seeds 0, 1, 2" in seen.text
    assert "0.761 ± 0.0025" in seen.text  # Student's t, 2 degrees of freedom: 4.303 · 0.001 / √3
    assert "-0.02, p 0" in seen.text.replace("\n", "")
    by_run = page(here, f"/compare?id={ids}&by=runs")
    assert "2 settings differ" in by_run.text and "6 of 6 rows" in by_run.text
    narrow = page(here, f"/compare?id={ids}&by=runs&only:model._target_=FM&min:evaluate/train.auc=0.7405")
    assert "2 of 6 rows" in narrow.text
    assert "2 of 2 rows" in page(here, f"/compare?id={ids}&baseline=20260101-000000-fm-0").text
    assert "none of the runs" in page(here, f"/compare?id={ids}&baseline=other", 422).text
    pinned = page(here, f"/compare?id={ids}&pin=20260101-000000-fm-0")
    assert ["pin" in (a.get("class") or "") for tag, a in pinned.tags if tag == "tr" and "data-row" in a] == [
        False,
        True,
    ]
    assert "#l-1" in seen.links()  # a point leads to its row


EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{7*7}}"


def test_hostile_names_are_text(here: Caller, bench: Bench, queue: Queue) -> None:
    config = {**CONFIG, EVIL: EVIL, "name": EVIL, "stages": ["train", EVIL]}
    bench.submit(
        ONE, name=EVIL, overrides=[EVIL], config=config, user=EVIL, experiment=EVIL, git={"commit": EVIL, "dirty": True}
    )
    claim = bench.claim()
    bench.look(claim, 0.75)
    (bench.place / "runs" / ONE / "log.txt").write_text(EVIL)
    folder = bench.place / "runs" / ONE / "train"
    folder.mkdir()
    (folder / "a<img src=x onerror=alert(3)>.html").write_text("x")
    queue.note(claim, Live(EVIL, {"done": 1, "total": 2, "unit": EVIL}, {EVIL: {"step": 1.0, f"auc{EVIL}": 0.5}}, EVIL))
    bad = quote(EVIL)
    for path in ("/", f"/runs/{ONE}", f"/compare?id={ONE}", f"/?text={bad}", f"/submit?overrides={bad}",
                 f"/submit?experiment={bad}&name={bad}&cores=x", f"/compare?id={ONE}&sort={bad}&f={bad}",
                 f"/compare?id={ONE}&only:{bad}={bad}&by={bad}&x={bad}"):  # fmt: skip
        seen = page(here, path)
        assert not [tag for tag, _ in seen.tags if tag == "img"], path
        assert "49" not in seen.text or "{{7*7}}" in seen.text
    queue.end(claim, "failed", 1, EVIL)
    assert "{{7*7}}" in page(here, "/").text
    assert "<script>" in page(here, f"/runs/{quote(EVIL)}", 404).text  # as text
    bench.whole("20260102-000000-demo-0", name=EVIL)
    assert EVIL in page(here, f"/compare?id={ONE},20260102-000000-demo-0").text


def test_forms_submit_cancel_resume_and_retry_without_script(here: Caller, bench: Bench, queue: Queue) -> None:
    sent = press(
        here, "/submit", experiment="demo", overrides="seed=3\nstages=[prepare,train]", name="mine", priority="5"
    )
    assert sent.status_code == 303, sent.text[:3000]
    id = sent.headers["location"].removeprefix("/runs/")
    row = queue.get(id)
    assert row.new.name == "mine" and row.new.priority == 5 and row.new.config["seed"] == 3
    claim = bench.claim()
    bench.look(claim, 0.7)
    sent = press(here, f"/runs/{id}/cancel", next="/?state=running")
    assert sent.status_code == 303 and sent.headers["location"] == "/?state=running"
    assert queue.beat(claim) and "stopping" in page(here, "/").text
    queue.end(claim, "cancelled", 0, "stopped on request")
    assert press(here, f"/runs/{id}/cancel").status_code == 409
    assert press(here, f"/runs/{id}/resume", next="//evil.example/").headers["location"] == f"/runs/{id}"
    assert queue.get(id).state == "queued"
    assert press(here, f"/runs/{id}/cancel").status_code == 303 and queue.get(id).state == "cancelled"
    again = press(here, f"/runs/{id}/retry").headers["location"]
    assert queue.get(again.removeprefix("/runs/")).new.config["seed"] == 3


def test_a_sweep_is_submitted_by_its_form(here: Caller, queue: Queue) -> None:
    fields = {"experiment": "demo", "overrides": "seed=0,1,2", "multirun": "yes"}
    assert "3</b> runs" in here.get("/submit", params=fields).text
    sent = press(here, "/submit", **fields)
    assert sent.headers["location"].startswith("/sweep/")
    assert len(queue.find(parent=sent.headers["location"].removeprefix("/sweep/"))) == 3


def test_a_mistake_is_said_and_what_was_chosen_stays(here: Caller, queue: Queue) -> None:
    sent = press(here, "/submit", experiment="demo", model="fm", overrides="train.max_epoch=3", name="mine")
    seen = Seen(sent.text)
    assert sent.status_code == 422 and "train.max_epoch: no such key" in seen.text and "max_epochs" in seen.text
    assert "train.max_epoch=3" in seen.text and seen.field("name") == "mine"
    assert "selected" in next(a for t, a in seen.tags if t == "option" and a.get("value") == "fm")
    assert "expected a number" in page(here, "/submit?experiment=demo&cores=many").text
    assert (
        "recsys submit experiment=demo model=fm seed=3 --cores 2"
        in page(here, "/submit?experiment=demo&override=model%3Dfm&override=seed%3D3&cores=2").text
    )
    assert not queue.find()


def test_a_form_without_the_token_of_its_page_is_refused(here: Caller, bench: Bench, queue: Queue) -> None:
    bench.submit(ONE)
    page(here, "/")
    answer = here.post(f"/runs/{ONE}/cancel", data={"next": "/"}, headers={"accept": "text/html"})
    assert answer.status_code == 403 and "reload" in answer.text and queue.get(ONE).state == "queued"


def test_a_reader_sees_no_button(guarded: Callable[[str | None], Caller], bench: Bench) -> None:
    bench.submit(ONE)
    reader = guarded(None)
    assert reader.get("/", headers={"accept": "text/html"}, follow_redirects=False).headers["location"] == "/login"
    signed = reader.post("/login", data={"token": TOKENS.by_role["view"]}, follow_redirects=False)
    assert signed.status_code == 303
    seen = page(reader, "/")
    assert "Cancel" not in seen.text and "/submit" not in seen.links() and "Sign out" in seen.text
    token = seen.field("csrf")
    assert reader.post(f"/runs/{ONE}/cancel", data={"csrf": token}, headers={"accept": "text/html"}).status_code == 403


def test_static_files_are_kept_by_their_digest(here: Caller) -> None:
    for name, file in static.FILES.items():
        answer = here.get(static.address(name))
        assert answer.content == file.body and "immutable" in answer.headers["cache-control"]
        assert "immutable" not in here.get(f"/static/{name}").headers["cache-control"]
    assert here.get("/static/..%2f..%2froutes.py").status_code == 404


def test_vendored_files_are_those_of_their_packages() -> None:
    named = re.findall(r"`([\w.]+)` \| .*`([0-9a-f]{64})`", (VENDOR / "README.md").read_text())
    assert {name for name, _ in named} == {p.name for p in VENDOR.iterdir() if p.suffix in (".js", ".css")}
    for name, digest in named:
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == digest, name
    axe = Path(__file__).parent / "axe"
    assert hashlib.sha256((axe / "axe.min.js").read_bytes()).hexdigest() in (axe / "README.md").read_text()


def test_no_template_takes_text_as_markup() -> None:
    for template in (VENDOR.parents[1] / "templates").glob("*.j2"):
        text = template.read_text()
        assert not re.search(r"\|\s*safe\b|autoescape|Markup|javascript:|\son\w+=|\sstyle=|https?://", text), template


@pytest.mark.slow
def test_the_wheel_holds_templates_and_static_files(tmp_path: Path) -> None:
    import subprocess
    import sys
    import zipfile

    root = Path(static.__file__).parents[3]
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(root)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    folder = Path(static.__file__).parent
    for file in (p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts):
        assert f"recsys/service/pages/{file.relative_to(folder)}" in names
