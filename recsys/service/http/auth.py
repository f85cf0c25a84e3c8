"""Who calls: a token or a session's cookie → a role; forged and foreign requests are refused.

A request changes something only if it carries a token, or comes from our own page: its Origin is ours, and a form
brings the session's CSRF token. A foreign page can send no token, no cookie (SameSite=Strict) and no JSON.
"""

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from fastapi import Request, Response

from recsys.service.http.settings import ROLES, Role, Settings

__all__ = ["COOKIE", "GUESSES", "WINDOW", "Access", "Caller", "Refusal", "caller", "needs"]

COOKIE = "recsys_session"
_SECONDS = 7 * 86_400  # life of a session
GUESSES, WINDOW = 10, 60  # so many different wrong tokens may come from an address within so many seconds
_ADDRESSES = 10_000  # that are remembered
_SAFE = ("GET", "HEAD", "OPTIONS")
_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data", "text/plain")  # what a foreign page can send


class _Wrong:
    """Wrong tokens that addresses have sent within the last minute.

    The same one again, as a script with an old token sends it, is no new guess.
    """

    def __init__(self):
        self._sent: dict[str, dict[str, float]] = {}  # address → digest of a token → when it came first

    def _recent(self, address: str) -> dict[str, float]:
        now = time.monotonic()
        return {digest: first for digest, first in self._sent.pop(address, {}).items() if now - first < WINDOW}

    def many(self, address: str, digest: str) -> bool:
        """Whether an address has sent so many that it may try no other now."""
        recent = self._recent(address)
        if recent:
            self._sent[address] = recent
        return len(recent) >= GUESSES and digest not in recent

    def add(self, address: str, digest: str) -> None:
        """Note one; the addresses that sent one longest ago are forgotten if there are too many."""
        self._sent[address] = {digest: time.monotonic(), **self._recent(address)}
        while len(self._sent) > _ADDRESSES:
            del self._sent[next(iter(self._sent))]


class Refusal(Exception):
    """Answers a request with an error.

    Args:
        status: HTTP status.
        error: One line: what was expected, what came, how to mend it. No secret is in it.
    """

    def __init__(self, status: int, error: str):
        super().__init__(error)
        self.status, self.error = status, error


@dataclass(frozen=True)
class Caller:
    """Who sent a request.

    Args:
        role: What it may do; None if it has shown nothing.
        by: How it has shown that: `open` if the service needs no token.
        csrf: What a form of its pages must send as `csrf`; "" if it has no session.
    """

    role: Role | None
    by: Literal["token", "cookie", "open", "nothing"]
    csrf: str = ""

    def may(self, role: Role) -> bool:
        """Whether its role includes another."""
        return self.role is not None and ROLES.index(self.role) >= ROLES.index(role)


def caller(request: Request) -> Caller:
    """Who sent this request."""
    return request.state.caller


class Access:
    """Decides who a request comes from.

    Args:
        settings: With the tokens and the names of this host.
    """

    def __init__(self, settings: Settings):
        self._tokens, self._hosts = settings.tokens.by_role, settings.hosts
        held = "\0".join(f"{role}={token}" for role, token in sorted(self._tokens.items()))
        # A session lives through a restart, and ends if a token changes.
        self._wrong = _Wrong()
        self._key = hashlib.sha256(f"recsys session\0{held}".encode()).digest() if held else secrets.token_bytes(32)

    @property
    def open(self) -> bool:
        """Whether everybody is an admin."""
        return not self._tokens

    def role_of(self, token: str, request: Request) -> Role | None:
        """The role of a token; each comparison takes the same time, whatever was sent.

        Raises:
            Refusal: 429 if too many wrong ones came from the request's address; then a right one is refused too.
        """
        sent, role = token.encode("utf-8", "surrogateescape"), None
        address, digest = request.client.host if request.client else "", hmac.new(self._key, sent, "sha256").hexdigest()
        if self._wrong.many(address, digest):
            raise Refusal(
                429, f"expected at most {GUESSES} wrong tokens from an address in {WINDOW} s, got more: wait so long"
            )
        for name, known in self._tokens.items():
            if hmac.compare_digest(sent, known.encode()):
                role = name
        if role is None and self._tokens:
            self._wrong.add(address, digest)
        return role

    def _sign(self, text: str) -> str:
        return hmac.new(self._key, text.encode(), "sha256").hexdigest()

    def _new_session(self, role: Role) -> str:
        text = f"{role}.{int(time.time()) + _SECONDS}.{secrets.token_hex(16)}"
        return f"{text}.{self._sign(text)}"

    def of_session(self, cookie: str) -> Caller | None:
        """Whose session a cookie is; None if it is none of ours, or over."""
        text, _, signature = cookie.rpartition(".")
        if not cookie.isascii() or not hmac.compare_digest(signature, self._sign(text)):
            return None
        role, until, _ = text.split(".")
        if role not in ROLES or int(until) < time.time():
            return None
        return Caller(role, "open" if self.open else "cookie", self._sign(f"csrf {text}"))

    def of(self, request: Request) -> Caller:
        """Who sent the request.

        Raises:
            Refusal: If it is for another host (400), from a foreign page (403), or its token is wrong (401; 429 after
                many).
        """
        self._check_host(request.headers.getlist("host"))
        _check_origin(request)
        sent = request.headers.get("authorization")
        if sent is not None and not self.open:
            scheme, _, token = sent.partition(" ")
            role = self.role_of(token.encode("latin-1").decode("utf-8", "surrogateescape"), request)
            if scheme.lower() != "bearer" or role is None:
                raise Refusal(401, "expected the header Authorization: Bearer TOKEN with a token of this service")
            return Caller(role, "token")
        if (session := self.of_session(request.cookies.get(COOKIE, ""))) is not None:
            return session
        return Caller("admin", "open") if self.open else Caller(None, "nothing")

    def _check_host(self, sent: list[str]) -> None:
        if self._hosts is None and len(sent) == 1:
            return
        named = sent[0] if len(sent) == 1 else ""
        host = named if named.endswith("]") else named.rpartition(":")[0] or named
        if self._hosts is None or host.lower() not in self._hosts:
            raise Refusal(400, f"expected one Host header among {', '.join(self._hosts or ('any',))}, got another")

    def begin(self, response: Response, role: Role, https: bool) -> str:
        """Give the caller a session of a role → the value of its cookie."""
        value = self._new_session(role)
        response.set_cookie(COOKIE, value, max_age=_SECONDS, httponly=True, samesite="strict", secure=https, path="/")
        return value


def _check_origin(request: Request) -> None:
    """Refuse a change that a page of another origin asks for.

    Raises:
        Refusal: 403.
    """
    if request.method in _SAFE:
        return
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site", "none")
    foreign = site not in ("none", "same-origin") if origin is None else not _same(origin, request)
    if foreign:
        raise Refusal(403, "the request comes from a page of another origin: use a page of this service, or a token")


def _same(origin: str, request: Request) -> bool:
    parts = urlsplit(origin)
    return parts.scheme in ("http", "https") and parts.netloc.lower() == request.headers.get("host", "").lower()


async def _check_forged(request: Request, sender: Caller) -> None:
    """Refuse a change that a page of ours did not ask for.

    Raises:
        Refusal: 403 without the session's CSRF token; 415 for a form that no page of ours sends.
    """
    if request.method in _SAFE or sender.by == "token":
        return
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        raise Refusal(415, "expected application/x-www-form-urlencoded or application/json, got multipart/form-data")
    sent = request.headers.get("x-csrf-token", "")
    if kind == _FORMS[0]:
        value = (await request.form(max_files=0)).get("csrf", "")
        sent = value if isinstance(value, str) else ""
    unforgeable = sender.by == "open" and kind not in _FORMS  # a foreign page cannot send it without our consent
    if unforgeable or (sender.csrf and hmac.compare_digest(sent.encode(), sender.csrf.encode())):
        return
    raise Refusal(
        403, "expected the CSRF token of your session, as the form's csrf or the header X-CSRF-Token: reload the page; "
        "a program sends the header Content-Type: application/json instead",
    )  # fmt: skip


def needs(role: Role) -> Callable[[Request], Coroutine[Any, Any, Caller]]:
    """A FastAPI dependency: the caller, who may do what the role may.

    Raises:
        Refusal: 401 if nobody has signed in, 403 if the role is another's or the request is forged.
    """

    async def check(request: Request) -> Caller:
        sender = caller(request)
        if sender.role is None:
            raise Refusal(401, "expected the header Authorization: Bearer TOKEN, or a session: sign in at /login")
        if not sender.may(role):
            raise Refusal(403, f"expected a token of role {role}, got one of role {sender.role}: ask for one")
        await _check_forged(request, sender)
        return sender

    return check
