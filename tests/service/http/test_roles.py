"""Who may do what: tokens, sessions, forms, hosts and origins."""

from collections.abc import Callable
from pathlib import Path

import pytest

from recsys.errors import ConfigError
from recsys.service.http.app import make_app
from recsys.service.http.auth import COOKIE, GUESSES, Access
from recsys.service.http.settings import Settings, Tokens
from recsys.service.queue.queue import Queue
from tests.service.http.conftest import TOKENS, Caller, new_run

ONE = "/api/runs/20260101-000000-demo-0"
Guarded = Callable[[str | None], Caller]


def test_a_role_includes_those_below_it(guarded: Guarded, queue: Queue, place: Path) -> None:
    queue.submit([new_run(place)])
    for role, may_read, may_change in ((None, 401, 401), ("view", 200, 403), ("submit", 200, 200)):
        who = guarded(role)
        assert who.get("/api/runs").status_code == may_read
        assert who.get(ONE).status_code == may_read
        assert who.post(f"{ONE}/cancel").status_code == may_change
    assert guarded("admin").post(f"{ONE}/retry").status_code == 201
    assert guarded("view").post("/api/runs", json={"overrides": []}).status_code == 403
    assert guarded(None).get("/health").status_code == 200


@pytest.mark.parametrize("sent", ["Bearer wrong", "Bearer ", "Basic YTpi", "Bearer é", "bearer"])
def test_a_wrong_token_opens_nothing(guarded: Guarded, sent: str) -> None:
    answer = guarded(None).get("/api/runs", headers={"authorization": sent.encode()})
    assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
    assert sent.split()[-1] not in answer.json()["error"].replace("Bearer", "") or sent in ("Bearer ", "bearer")


def test_guesses_are_refused_for_a_minute(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr("recsys.service.http.auth.time.monotonic", lambda: clock[0])
    browser, right = guarded(None), TOKENS.by_role["view"]
    for _ in range(2 * GUESSES):  # a script with an old token does not shut out others
        assert browser.get("/api/runs", headers={"authorization": "Bearer old"}).status_code == 401
    for number in range(GUESSES - 1):
        assert browser.post("/login", data={"token": f"guess-{number}"}).status_code == 401
    for refused in (
        browser.post("/login", data={"token": "one-more"}),
        browser.post("/login", data={"token": right}),
        guarded("view").get("/api/runs"),
    ):
        assert refused.status_code == 429 and refused.headers["retry-after"] == "60", refused.text
        assert "wrong tokens from an address" in refused.text and right not in refused.text
    clock[0] += 61
    assert guarded("view").get("/api/runs").status_code == 200
    assert browser.post("/login", data={"token": right}).status_code == 303


def test_a_session_signs_in_changes_with_its_csrf_token_and_signs_out(
    guarded: Guarded, queue: Queue, place: Path
) -> None:
    queue.submit([new_run(place)])
    browser = guarded(None)
    sent_away = browser.get("/runs/x", headers={"accept": "text/html"})
    assert sent_away.status_code == 404 or sent_away.headers["location"] == "/login"
    assert browser.post("/login", data={"token": "wrong"}).status_code == 401
    entered = browser.post("/login", data={"token": TOKENS.by_role["submit"]})
    assert entered.status_code == 303 and entered.headers["location"] == "/"
    cookie = entered.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and TOKENS.by_role["submit"] not in cookie
    assert browser.get(ONE).status_code == 200
    assert browser.post(f"{ONE}/cancel").status_code == 403  # a foreign form could do that
    access = Access(Settings(place, place, tokens=TOKENS, hosts=None))
    session = access.of_session(browser.cookies[COOKIE])
    assert session and session.role == "submit"
    assert browser.post(f"{ONE}/cancel", headers={"x-csrf-token": session.csrf}).status_code == 200
    assert browser.post("/logout", data={"csrf": "wrong"}).status_code == 403
    gone = browser.post("/logout", data={"csrf": session.csrf})
    assert gone.status_code == 303 and 'recsys_session=""' in gone.headers["set-cookie"]


def test_a_session_ends_if_it_is_changed_or_a_token_changes(guarded: Guarded, place: Path) -> None:
    browser = guarded(None)
    browser.post("/login", data={"token": TOKENS.by_role["view"]})
    cookie = browser.cookies[COOKIE]
    for forged in (cookie.replace("view", "admin"), cookie[:-1] + ("0" if cookie[-1] != "0" else "1"), "", "a.b.c.d"):
        browser.cookies[COOKIE] = forged
        assert browser.get("/api/runs").status_code == 401
    changed = Tokens({**TOKENS.by_role, "view": "another-token-of-32-letters"})
    assert Access(Settings(place, place, tokens=changed, hosts=None)).of_session(cookie) is None


def test_an_open_service_knows_its_own_forms(here: Caller, queue: Queue, place: Path, settings: Settings) -> None:
    queue.submit([new_run(place)])
    assert here.post(f"{ONE}/cancel", data={"x": "1"}).status_code == 403  # a form without a token
    assert here.post(f"{ONE}/cancel", content=b"x", headers={"content-type": "text/plain"}).status_code == 403
    assert here.post(f"{ONE}/cancel", headers={"origin": "http://127.0.0.1:8081"}).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "https://127.0.0.1:9999"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"host": "evil.example"}, 400),
        ({"host": "evil.example:8081", "origin": "http://evil.example:8081"}, 400),  # DNS rebinding
        ({"host": "127.0.0.1.evil.example"}, 400),
        ({"host": ""}, 400),
    ],
)
def test_a_foreign_page_changes_nothing(
    here: Caller, queue: Queue, place: Path, headers: dict[str, str], status: int
) -> None:
    queue.submit([new_run(place)])
    assert here.post(f"{ONE}/cancel", headers=headers).status_code == status
    assert queue.get("20260101-000000-demo-0").state == "queued"


def test_tokens_come_from_the_environment_and_are_random_words() -> None:
    good = {"RECSYS_TOKEN": "a" * 32, "RECSYS_TOKEN_VIEW": "b" * 32}
    tokens = Tokens.from_environment(good)
    assert set(tokens.by_role) == {"admin", "view"} and "a" * 32 not in repr(tokens)
    assert not Tokens.from_environment({}).by_role
    for wrong in ({"RECSYS_TOKEN": "short"}, {"RECSYS_TOKEN": "ä" * 32}, {"RECSYS_TOKEN_VIEW": "b" * 32},
                  {"RECSYS_TOKEN": "a" * 32, "RECSYS_TOKEN_VIEW": "a" * 32}, {"RECSYS_TOKEN": "a b" * 12}):  # fmt: skip
        with pytest.raises(ConfigError) as caught:
            Tokens.from_environment(wrong)
        assert not any(value in str(caught.value) for value in wrong.values())


def test_a_service_that_everybody_reaches_needs_a_token(queue: Queue, place: Path) -> None:
    with pytest.raises(ConfigError, match="RECSYS_TOKEN"):
        make_app(queue, Settings(place / "runs", place, hosts=None))
