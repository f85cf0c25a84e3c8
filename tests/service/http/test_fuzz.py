"""Random requests, drawn from wrong words in every place: none makes the service fail."""

import os
import random
from pathlib import Path

import httpx

from recsys.events import CURVES
from recsys.service.http.settings import Settings
from recsys.service.pages.site import make_site
from recsys.service.queue.queue import Queue
from tests.service.http.conftest import Caller, new_run

WORDS = ["r", "s", "s/0", "absent", "..", "%00", "%ff%fe", "%F0%9F%98%80", "a" * 600, "'", '"', "<b>", "${x}", "null",
         "-1", "1e99", "9" * 20, "0x1", "true", "[]", "%0d%0a", "//", "r/", "%2e%2e", "="]  # fmt: skip
PATHS = ["/api/runs", "/api/runs/{}", "/api/runs/{}/log", "/api/runs/{}/curves", "/api/runs/{}/files/{}", "/",
         "/api/runs/{}/cancel", "/api/runs/{}/resume", "/api/events", "/api/compare", "/api/check", "/api/schedules/{}",
         "/metrics", "/submit", "/runs/{}", "/compare", "/sweep/{}", "/static/{}", "/login", "/logout"]  # fmt: skip
KEYS = [
    "state",
    "parent",
    "text",
    "before",
    "limit",
    "from",
    "points",
    "names",
    "after",
    "run",
    "ids",
    "baseline",
    "sort",
]
BODIES = [b"", b"{}", b"[]", b"null", b'{"overrides":[""]}', b'{"overrides":["="]}', b'{"dead":"x"}', b'"\xff"', b"\0",
          b"csrf=x&csrf=y", b"overrides=%ff&csrf=%00"]  # fmt: skip
KINDS = ["application/json", "application/x-www-form-urlencoded", "text/plain", "multipart/form-data; boundary=x", "",
         "multipart/form-data", "application/json; charset=utf-16"]  # fmt: skip


def test_no_request_makes_the_service_fail(queue: Queue, place: Path) -> None:
    draw = random.Random(0)
    parent = new_run(place, "s", kind="sweep", config={})
    queue.submit([new_run(place, "r"), parent, new_run(place, "s/0", parent="s")])
    folder = place / "runs" / "r"
    folder.mkdir()
    (folder / "log.txt").write_bytes(os.urandom(3000))
    damaged = b'\n{"stage":[],"step":"x"}\n[]\n{"stage":"t","step":1e999,"a":1}\n{"stage":"t","step":1,"a":NaN}'
    (folder / CURVES).write_bytes(os.urandom(3000) + damaged)
    (folder / "result.json").write_text('{"stages": {"a": {"metrics": {"x": "y"}, "seconds": "z"}}}')
    who = Caller(make_site(queue, Settings(place / "runs", place)))
    seen = dict[int, int]()
    for _ in range(150):
        path = draw.choice(PATHS)
        path = path.format(*(draw.choice(WORDS) for _ in range(path.count("{}"))))
        query = "&".join(f"{draw.choice(KEYS)}={draw.choice(WORDS)}" for _ in range(draw.randrange(4)))
        method, headers = (
            draw.choice(["GET", "GET", "POST", "DELETE", "HEAD"]),
            {"accept": draw.choice(["text/html", "*/*"])},
        )
        if method == "POST":
            headers["content-type"] = draw.choice(KINDS)
        if draw.random() < 0.3:
            headers["cookie"] = f"recsys_session={draw.choice(['a.b.c.d', '....', 'admin.99999999999.x.y'])}"
        try:
            body = draw.choice(BODIES) if method == "POST" else None
            answer = who(method, f"{path}?{query}", headers=headers, content=body)
        except httpx.InvalidURL:
            continue
        assert answer.status_code < 500 or answer.status_code in (503, 507), (method, path, query, answer.text)
        seen[answer.status_code] = seen.get(answer.status_code, 0) + 1
    assert seen[200] > 5 and seen[404] > 5 and seen[403]  # it reaches the inside too
