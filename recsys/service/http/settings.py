"""Settings of the service's HTTP interface: where it works, who may call it, and its limits."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from recsys.errors import ConfigError

__all__ = ["ROLES", "Limits", "Role", "Settings", "Tokens"]

Role = Literal["view", "submit", "admin"]
"""view: read everything. submit: view, and submit, cancel, resume, retry. admin: submit, and schedules."""

ROLES: tuple[Role, ...] = ("view", "submit", "admin")
_VARIABLES: dict[Role, str] = {
    "admin": "RECSYS_TOKEN",
    "submit": "RECSYS_TOKEN_SUBMIT",
    "view": "RECSYS_TOKEN_VIEW",
}
_LEAST = 16  # letters of a token: anybody can try short ones


@dataclass(frozen=True)
class Tokens:
    """The secret of each role; without any, the service is open, which only a loopback address may be.

    Args:
        by_role: Role → token. It never appears in a message or in `repr`.
    """

    by_role: Mapping[Role, str] = field(default_factory=dict[Role, str], repr=False)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Tokens":
        """Read RECSYS_TOKEN (admin), RECSYS_TOKEN_SUBMIT and RECSYS_TOKEN_VIEW.

        Raises:
            ConfigError: If one is short or cannot stand in a header, two are equal, or there are some without the
                admin's.
        """
        given: dict[Role, str] = {role: environment[name] for role, name in _VARIABLES.items() if name in environment}
        for role, token in given.items():
            if len(token) < _LEAST or not token.isascii() or not token.isprintable() or " " in token:
                raise ConfigError(
                    f"{_VARIABLES[role]}: expected a random word of at least {_LEAST} ASCII letters or digits, got "
                    f"{len(token)} letters or others: set it to the output of `openssl rand -hex 32`"
                )
        if len(set(given.values())) < len(given):
            raise ConfigError(f"{', '.join(_VARIABLES[r] for r in given)}: two are equal: give each role its own")
        if given and "admin" not in given:
            raise ConfigError("RECSYS_TOKEN: expected the admin's token beside those of other roles: set it too")
        return cls(given)


@dataclass(frozen=True)
class Limits:
    """Limits of the service. Each refusal has the HTTP status named here.

    Args:
        body_bytes: Largest request body (413).
        overrides: Most overrides of a submission (422).
        override_letters: Most letters of all overrides together (422).
        sweep: Most runs of a sweep (422); each takes a quarter of a second to compose.
        composing: Submissions, checks, and resumed runs of recsys run that wait to be composed, one by one (503).
        queued: Most runs that wait (503).
        free_bytes: Free disk space in the folder of runs below which nothing is submitted (507).
        streams: Streams of events and logs that are open at once (503).
        heartbeat_seconds: Longest silence on a stream of events.
        poll_seconds: How often streams look for something new.
    """

    body_bytes: int = 1 << 20
    overrides: int = 200
    override_letters: int = 65_536
    sweep: int = 100
    composing: int = 16
    queued: int = 20_000
    free_bytes: int = 1 << 30
    streams: int = 64
    heartbeat_seconds: float = 15.0
    poll_seconds: float = 0.5


@dataclass(frozen=True)
class Settings:
    """All that the HTTP interface must know.

    Args:
        runs: The folder of runs, absolute.
        cwd: The folder that runs start in, absolute; its `data/`, `model/` … hold options of the team's own.
        roots: Folders in which the paths of a submitted configuration must lie, beside `runs` and `cwd`.
        tokens: See `Tokens`.
        hosts: Names that the Host header may have; None allows all, which is safe only with tokens.
        launchers: Options of the group `launcher` that may be submitted.
        mlflow: Address of MLflow's pages, for links; None without one.
        limits: See `Limits`.
    """

    runs: Path
    cwd: Path
    roots: tuple[Path, ...] = ()
    tokens: Tokens = Tokens()
    hosts: tuple[str, ...] | None = ("localhost", "127.0.0.1", "[::1]")
    launchers: frozenset[str] = frozenset(("local", "torchrun"))
    mlflow: str | None = None
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        if self.hosts is None and not self.tokens.by_role:
            raise ConfigError("the service is open to every Host and has no token: set RECSYS_TOKEN")
