"""Attempts to run code, to read or write elsewhere, to forge, or to exhaust: each is refused or escaped."""

import html
import json
import logging
import os
import time
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from recsys.errors import ConfigError
from recsys.service.http.app import make_app
from recsys.service.http.gate import check_composed, gate
from recsys.service.http.settings import Limits, Settings
from recsys.service.logs import LOG, to_stream
from recsys.service.queue.queue import Queue
from tests.service.http.conftest import TOKENS, Caller, new_run

ONE = "/api/runs/20260101-000000-demo-0"
SECRET = "/etc/passwd"
OVERRIDES = {
    "target": ["model._target_=os.system"],
    "target in a new dictionary": ["model.hidden={_target_: os.system, command: id}"],
    "target deep inside": ["data.fields={a: {b: [{_target_: os.system}]}}"],
    "target in a list": ["stages=[{_target_: os.system}]"],
    "arguments": ["model._args_=[id]"],
    "added key": ["+model.x=1"],
    "forced key": ["++model._target_=os.system"],
    "deleted key": ["~seed"],
    "deleted group": ["~quantization"],
    "environment": ["name=${oc.env:RECSYS_TOKEN}"],
    "escaped interpolation": ["name='\\${oc.env:RECSYS_TOKEN}'"],
    "interpolation in a list": ["stages=['${now:%Y}']"],
    "hydra's launcher": ["hydra/launcher=basic"],
    "hydra's job": ["hydra.job.env_set={LD_PRELOAD: x.so}"],
    "hydra's folder": ["hydra.run.dir=/srv/elsewhere"],
    "hydra's search path": ["hydra.searchpath=['file:///srv']"],
    "group into hydra": ["model@hydra.job=dcn"],
    "group at the root": ["model@_global_=dcn"],
    "trusted": ["trusted=[os]"],
    "resume": ["resume=x"],
    "folder of runs": ["runs=/srv/elsewhere"],
    "MLflow's server": ["tracking.uri=http://evil.example"],
    "MLflow's server in a dictionary": ["tracking={uri: 'http://evil.example'}"],
    "a launcher elsewhere": ["launcher=ray"],
    "a launcher's environment": ["launcher=torchrun", "launcher.environment=[RECSYS_TOKEN]"],
    "a launcher's address": ["launcher.address=evil.example:6379"],
    "option by path": ["model=../../../../srv/evil"],
    "option by absolute path": ["data=/srv/evil"],
    "option in another group": ["model=[dcn,../data/rebuy]"],
    "absolute file": [f"data.source.path={SECRET}"],
    "parent folder": ["data.source.path=../../etc/passwd"],
    "parent folder behind a glob": ["data.source.path='*/../../etc/*'"],
    "home": ["data.source.path=~root/x"],
    "server": ["data.source.path='http://169.254.169.254/latest'"],
    "bucket": ["data.source.path=s3://other/x.parquet"],
    "file in a dictionary": [f"data.source.path={{train: {SECRET}}}"],
    "file in a list": [f"select.apply=[{SECRET}]"],
    "backslash": ["data.source.path='..\\..\\x'"],
    "folder to write": ["data.source.quarantine=/var/tmp/x"],
    "NUL": ["name=a\0b"],
    "CRLF": ["name='a\r\nset-cookie: x=1'"],
    "escape of a terminal": ["name='\x1b[2J'"],
    "a sweep of a million": ["seed=range(0,1e6)"],
    "sweeps that multiply": [f"{key}=range(100)" for key in ("seed", "select.top_k", "select.probes")],
    "a range without end": ["seed=range(0,inf)"],
    "a range that stands still": ["seed=range(0,10,0)"],
    "a range that a float cannot count": ["seed=range(0,1e308,1e-300)"],
    "a range of tiny steps": ["seed=range(0,1,1e-320)"],
    "a range that stands still in floats": ["seed=range(1e17,1.0000000000000002e17,1)"],
    "a range up to 400 digits": [f"seed=range(0,{'9' * 400})"],
    "a range over nothing": ["seed=range(10,0)"],
    "a range among values": ["seed=1,range(0,300)"],
    "a scheme without slashes": [f"data.source.path='file:{SECRET}'"],
    "glob": ["model=glob(*)"],
    "interval": ["train.lr=interval(0,1)"],
    "a thousand brackets": [f"stages={'[' * 1000}{']' * 1000}"],
    "many overrides": ["seed=1"] * 201,
    "a long override": [f"name={'x' * 70_000}"],
    "brackets in a key": ["model[_target_]=os.system"],
    "dots that are none": ["model․_target_=os.system"],
    "no key": ["=x"],
    "an option": ["--config-dir=/srv"],
    "another option": ["-m"],
}


@pytest.mark.parametrize("name", OVERRIDES)
def test_an_override_that_does_harm_is_refused_before_it_is_composed(
    name: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECSYS_TOKEN", "0123456789abcdef")
    began = time.process_time()
    with pytest.raises(ConfigError) as caught:
        gate(OVERRIDES[name], Settings(place / "runs", place), sweeps=True)
    assert time.process_time() - began < 1
    said = str(caught.value)
    assert said.isprintable() and len(said) < 600 and "0123456789abcdef" not in said and "evil.example" not in said


def test_a_check_of_what_cannot_be_counted_or_named_is_an_error_in_words(here: Caller) -> None:
    for override in (
        "seed=range(0,1e308,1e-300)",
        f"seed=range(0,{'9' * 400})",
        "seed=range(0,0)",
        f"name='{'😀' * 100}'",
    ):
        answer = here.post("/api/check", json={"overrides": ["experiment=demo", override], "multirun": True})
        assert answer.status_code == 200 and "expected" in answer.json()["error"], answer.text


def test_overrides_that_do_no_harm_pass(place: Path) -> None:
    (place / "clicks.csv").touch()
    good = ["experiment=demo", "model=dcn,fm", "model.hidden=[64,32]", "train.lr=.01", "seed=range(1,4)",
            "name='käufer'",
            "data.source.path=clicks.csv", "data.fields={user: {min_count: 3}}", "model@distill.model=mlp",
            "from_run=20260101-000000-demo-0", "launcher=torchrun", "launcher.processes=2", "stages=[prepare,train]",
            "tracking.experiment=mine", "data.source.path='shards/*.parquet'",
            "select.protect=[user,item]"]  # fmt: skip
    assert gate(good, Settings(place / "runs", place), sweeps=True) == 6
    with pytest.raises(ConfigError, match="-m"):
        gate(good, Settings(place / "runs", place), sweeps=False)
    elsewhere = place.parent / "elsewhere"
    elsewhere.mkdir()
    with pytest.raises(ConfigError, match="--root"):
        gate([f"data.source.path={elsewhere}/x.csv"], Settings(place / "runs", place), sweeps=False)
    gate([f"data.source.path={elsewhere}/x.csv"], Settings(place / "runs", place, roots=(elsewhere,)), sweeps=False)


def test_a_link_in_the_folder_leads_nowhere(place: Path) -> None:
    (place / "innocent.csv").symlink_to(SECRET)
    (place / "innocent").symlink_to("/etc")
    for path in ("innocent.csv", "innocent/passwd", "./innocent/passwd"):
        with pytest.raises(ConfigError, match=r"data\.source\.path"):
            gate([f"data.source.path={path}"], Settings(place / "runs", place), sweeps=False)


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"_target_": "os.system"}},
        {"model": {"_target_": "recsys.tracking.os.system"}},
        {"model": {"_target_": "recsys.models.dcn.DCN.forward"}},
        {"data": {"source": {"_target_": "subprocess.run"}}},
        {"distill": {"model": [{"_target_": "builtins.exec"}]}},
        {"model": {"_target_": ["os.system"]}},
        {"trusted": ["os"]},
        {"launcher": {"_target_": "pipelines.launchers.ray.Ray"}},
        {"runs": "/srv/elsewhere"},
    ],
)
def test_what_options_of_the_folder_bring_along_is_checked_too(change: dict[str, Any], place: Path) -> None:
    settings = Settings(place / "runs", place)
    sound = {"runs": "runs", "trusted": [], "model": {"_target_": "recsys.models.dcn.DCN", "_partial_": True},
             "launcher": {"_target_": "pipelines.launchers.local.Local"}}  # fmt: skip
    check_composed(sound, settings)
    with pytest.raises(ConfigError):
        check_composed({**sound, **change}, settings)


def test_code_in_an_option_of_the_folder_is_not_run(here: Caller, place: Path) -> None:
    (place / "model").mkdir()
    (place / "model" / "evil.yaml").write_text("_target_: os.system\ncommand: touch done\n")
    answer = here.post("/api/runs", json={"overrides": ["model=evil"]})
    assert answer.status_code == 422 and "_target_" in answer.json()["error"]
    assert not (place / "done").exists() and here.get("/api/runs").json()["runs"] == []


BODIES: dict[str, tuple[Any, dict[str, str], int]] = {
    "too large": (b" " * 2_000_000, {}, 413),
    "larger than it says": ((b"x" * 1000 for _ in range(3000)), {}, 411),
    "nested deeply": (b"[" * 100_000, {}, 400),
    "a bomb of YAML": (b'a: &a ["x"]\nb: &b [*a,*a]\n', {}, 422),
    "another type": (b"overrides=seed%3D1", {"content-type": "application/x-www-form-urlencoded"}, 403),
    "no type": (b'{"overrides": []}', {"content-type": "text/plain"}, 403),
    "a number with many digits": (b'{"overrides": [], "priority": ' + b"9" * 10_000 + b"}", {}, 400),
    "an unknown key": (b'{"overrides": [], "config": {"_target_": "os.system"}}', {}, 422),
    "a user": (b'{"overrides": [], "user": "root"}', {}, 422),
    "a name with a line": (json.dumps({"overrides": [], "name": "a\nb"}).encode(), {}, 422),
    "a long key": (json.dumps({"overrides": [], "client_key": "x" * 201}).encode(), {}, 422),
    "a priority out of range": (b'{"overrides": [], "priority": 1e300}', {}, 422),
    "needs below nothing": (b'{"overrides": [], "needs": {"cores": -1}}', {}, 422),
    "not a number": (b'{"overrides": [], "priority": NaN}', {}, 422),
    "a surrogate": (b'{"overrides": ["name=\\ud800"]}', {}, 422),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_does_harm_is_refused_and_not_sent_back(name: str, here: Caller) -> None:
    body, headers, status = BODIES[name]
    if not isinstance(body, bytes):
        parts = list(body)

        async def chunks() -> Any:
            for part in parts:
                yield part

        body = chunks()
    answer = here.post("/api/runs", content=body, headers={"content-type": "application/json", **headers})
    assert answer.status_code == status, answer.text
    assert len(answer.text) < 700 and "os.system" not in answer.text and "xxxx" not in answer.text
    assert here.get("/api/runs").json()["runs"] == []


PATHS = [
    "../service.db", "..%2fservice.db", "%2e%2e/service.db", "..%252fservice.db", "train/../../service.db",
    "/etc/passwd", "//etc/passwd", "link", "folder/passwd", "pipe", "log.txt%00.html", ".hydra/overrides.yaml",
    "owner.json", "․․/service.db", "..\\service.db", "train/.hidden", "nothing", "log.txt/x", "x" * 3000,
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p[:30])
def test_only_plain_files_of_the_run_itself_are_served(path: str, here: Caller, queue: Queue, place: Path) -> None:
    queue.submit([new_run(place)])
    folder = place / "runs" / "20260101-000000-demo-0"
    for name in ("train", ".hydra"):
        (folder / name).mkdir(parents=True)
    for name in ("log.txt", "owner.json", ".hydra/overrides.yaml", "train/.hidden"):
        (folder / name).write_text("secret")
    (folder / "link").symlink_to(SECRET)
    (folder / "folder").symlink_to("/etc")
    os.mkfifo(folder / "pipe")
    answer = here.get(f"{ONE}/files/{path}")
    assert answer.status_code in (404, 414), answer.text
    assert "secret" not in answer.text and "root:" not in answer.text and "SQLite" not in answer.text
    assert here.get(f"{ONE}/files/log.txt").text == "secret"  # the door is not simply shut
    names = {e["name"] for e in here.get(f"{ONE}/files/").json()["entries"]}
    assert names == {"log.txt", "train"}


def test_a_run_folder_that_is_a_link_is_not_followed(here: Caller, queue: Queue, place: Path) -> None:
    queue.submit([new_run(place)])
    (place / "runs" / "20260101-000000-demo-0").symlink_to("/etc")
    assert here.get(f"{ONE}/files/passwd").status_code == 404
    assert here.get(f"{ONE}/log").content == b""


@pytest.mark.parametrize("id", ["..", "../x", "%2e%2e/x", "a/../..", ".", "x%00", "a%0d%0aset-cookie:%20x=1"])
def test_an_id_is_no_path(id: str, here: Caller, place: Path) -> None:
    asked = f"/api/compare?ids={id}", f"/api/runs?text={id}", f"/api/runs?parent={id}"
    for path in (f"/api/runs/{id}", f"/api/runs/{id}/log", f"/api/runs/{id}/files/service.db", *asked):
        answer = here.get(path)
        assert answer.status_code in (404, 422) or "runs" in answer.json(), answer.text
        assert "x=1" not in answer.headers.get("set-cookie", "") and "\n" not in answer.text.replace("\\n", "")
        assert "%00" not in path or (answer.status_code == 404 and "NUL" in answer.text)


def test_markup_in_names_stays_text(here: Caller, queue: Queue, place: Path) -> None:
    markup = "<script>alert(1)</script>"
    queue.submit([new_run(place, name=markup, overrides=[f"name={markup}"])])
    for path in ("/api/runs", ONE, "/api/events"):
        answer = here.get(path)
        assert answer.headers["content-type"] == "application/json" and "nosniff" in answer.headers.values()
    answer = here.get(f"/api/runs/{markup}", headers={"accept": "text/html"})
    assert answer.headers["content-type"] == "application/json"
    assert html.escape(markup) not in answer.text  # it is JSON, and not escaped twice


def test_logs_hold_neither_tokens_nor_lines_of_others(queue: Queue, place: Path) -> None:
    written = StringIO()
    before, propagate, level = LOG.handlers[:], LOG.propagate, LOG.level
    to_stream(written)
    try:
        who = Caller(make_app(queue, Settings(place / "runs", place, tokens=TOKENS, hosts=None)))
        admin = TOKENS.by_role["admin"]
        who.post("/login", data={"token": admin})
        who.get(f"/api/runs?text={admin}", headers={"authorization": f"Bearer {admin}", "cookie": f"x={admin}"})
        who.get("/api/runs/a%0a%7b%22event%22:%22forged%22%7d", headers={"authorization": f"Bearer {admin}"})
        who.post("/api/runs", json={"overrides": [f"x={admin}"]}, headers={"authorization": f"Bearer {admin}"})
    finally:
        LOG.handlers[:], LOG.propagate, LOG.level = before, propagate, level
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    assert len(lines) == 4 and all(line["event"] == "request" for line in lines)
    assert admin not in written.getvalue() and {line["role"] for line in lines} == {"nobody", "admin"}


def test_an_error_of_the_service_shows_nothing_of_it(queue: Queue, place: Path, caplog: Any) -> None:
    class Broken:
        def __getattr__(self, name: str) -> Callable[..., Any]:
            def fail(*_: Any, **__: Any) -> Any:
                raise RuntimeError("postgresql://user:secret@host/db")

            return fail

    who = Caller(make_app(Broken(), Settings(place / "runs", place)))  # type: ignore[arg-type]
    with caplog.at_level(logging.ERROR):
        answer = who.get("/api/runs")
    assert answer.status_code == 500 and "secret" not in answer.text and "Traceback" not in answer.text


def test_streams_are_counted(queue: Queue, place: Path) -> None:
    none = Caller(make_app(queue, Settings(place / "runs", place, limits=Limits(streams=0))))
    assert none.get("/api/events/stream").status_code == 503
