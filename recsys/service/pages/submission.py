"""The page that submits runs: what is chosen is its address, so that it can be sent, and comes back checked."""

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import ValidationError
from starlette.datastructures import FormData, QueryParams

from recsys.errors import ConfigError
from recsys.files import Json
from recsys.service.compare import flat
from recsys.service.http.api import compose, submit
from recsys.service.http.auth import Caller, needs
from recsys.service.http.bodies import Asked
from recsys.service.http.settings import Settings
from recsys.service.options import options
from recsys.service.pages.parts.allowed import allowed
from recsys.service.pages.parts.defaults import PLACES, Defaults
from recsys.service.pages.parts.rows import Row
from recsys.service.pages.view import View
from recsys.service.queue.records import NewRun
from recsys.service.queue.sql import SqlQueue

__all__ = ["add_submission"]

_NUMBERS = {"priority": "--priority", "cores": "--cores", "memory": "--memory", "gpus": "--gpus"}
_WORDS = {"name": "--name", "client_key": "--key"}
_FIRST = ("experiment", "data", "model", "embedding", "train", "sequence", "head", "selection", "compression")
_SHOWN = 12  # runs of a sweep that are listed


@dataclass(frozen=True)
class Chosen:
    """What is chosen on the page.

    Args:
        options: Group → option.
        typed: Overrides of single settings, as they were typed.
        multirun: Whether several values of a key are a sweep.
        words: Name → text of the other fields.
        after: Ids of runs that must have finished first.
    """

    options: dict[str, str] = field(default_factory=dict[str, str])
    typed: list[str] = field(default_factory=list[str])
    multirun: bool = False
    words: dict[str, str] = field(default_factory=dict[str, str])
    after: list[str] = field(default_factory=list[str])

    @classmethod
    def read(cls, sent: QueryParams | FormData, known: Sequence[str]) -> "Chosen":
        """What an address or a form says.

        Args:
            sent: Fields named by the groups, `overrides` (a line each), `override` (one each), and the others.
            known: Names of the groups.
        """
        texts = [(key, value.strip()) for key, value in sent.multi_items() if isinstance(value, str) and value.strip()]
        options = {key: value for key, value in texts if key in known}
        typed: list[str] = []
        for key, value in texts:
            if key not in ("override", "overrides"):
                continue
            for text in (line.strip() for line in value.splitlines()):
                group, mark, option = text.partition("=")
                if mark and group in known and group not in options and option.replace("_", "").isalnum():
                    options[group] = option
                elif text:
                    typed.append(text)
        words = {key: value for key, value in texts if key in (*_NUMBERS, *_WORDS)}
        after = [word for key, value in texts if key == "after" for word in value.replace(",", " ").split()]
        return cls(options, typed, any(key == "multirun" for key, _ in texts), words, after)

    @property
    def overrides(self) -> list[str]:
        """As after `recsys submit`."""
        return [*(f"{group}={option}" for group, option in self.options.items()), *self.typed]

    @property
    def command(self) -> str:
        """The command line that does the same."""
        flags = [
            part for key, flag in (_WORDS | _NUMBERS).items() if key in self.words for part in (flag, self._unit(key))
        ]
        flags += [part for id in self.after for part in ("--after", id)]
        return shlex.join(["recsys", "submit", *(["-m"] if self.multirun else []), *self.overrides, *flags])

    def _unit(self, key: str) -> str:
        return f"{self.words[key]}GiB" if key == "memory" else self.words[key]

    def asked(self) -> Asked:
        """What the service is asked.

        Raises:
            ConfigError: If a field has no number, or one out of its range.
        """
        body: dict[str, Any] = {"overrides": self.overrides, "multirun": self.multirun, "after": self.after}
        needs: dict[str, Any] = {}
        for key, text in self.words.items():
            value = self._value(key, text)
            if key in ("cores", "memory", "gpus"):
                needs[key] = value
            else:
                body[key] = value
        try:
            return Asked.model_validate(body | ({"needs": needs} if needs else {}))
        except ValidationError as error:
            first = error.errors()[0]
            raise ConfigError(f"{'.'.join(map(str, first['loc']))}: {first['msg'].lower()}: change it") from error

    @staticmethod
    def _value(key: str, text: str) -> Any:
        if key not in _NUMBERS:
            return text
        try:
            return round(float(text) * 2**30) if key == "memory" else int(text)
        except (ValueError, OverflowError):
            raise ConfigError(f"{key}: expected a number, got {text[:20]!r}: change it") from None


def add_submission(routes: APIRouter, queue: SqlQueue, settings: Settings, view: View, defaults: Defaults) -> None:
    """Add the routes of the page."""

    def known() -> Json:
        return options(settings.cwd, settings.launchers)

    def page(request: Request, chosen: Chosen, status: int = 200, error: str | None = None) -> Response:
        listed, runs = known(), list[NewRun]()
        if error is None and (chosen.overrides or chosen.words):
            try:
                runs = [run for run in compose(chosen.asked(), settings, "") if run.kind == "run"]
            except ConfigError as problem:
                error = str(problem)
        groups = {name: listed["groups"][name]["options"] for name in _ordered(listed["groups"])}
        return view(
            request, "submit", status, groups=groups, chosen=chosen, error=error, runs=runs[:_SHOWN], count=len(runs),
            settings=_settings(runs[0], chosen, defaults, listed) if runs else [],
        )  # fmt: skip

    @routes.get("/submit", dependencies=[Depends(needs("view"))])
    def form(request: Request) -> Response:
        return page(request, Chosen.read(request.query_params, list(known()["groups"])))

    async def sent(request: Request) -> Chosen:
        return Chosen.read(await request.form(max_files=0), list(known()["groups"]))

    @routes.post("/submit")
    def submitted(
        request: Request, sender: Annotated[Caller, Depends(needs("submit"))], chosen: Annotated[Chosen, Depends(sent)]
    ) -> Response:
        try:
            rows = submit(chosen.asked(), sender, queue, settings)
        except ConfigError as problem:
            return page(request, chosen, 422, str(problem))
        return RedirectResponse(Row(rows[0], 0.0).link, 303)


def _ordered(names: Iterable[str]) -> list[str]:
    """Groups in the order in which people choose."""
    first = [name for name in _FIRST if name in names]
    return [*first, *(name for name in names if name not in first)]


@dataclass(frozen=True)
class Setting:
    """A setting of a run, for the page.

    Args:
        key: As in an override.
        value: What the run has.
        differs: Whether its experiment and options say otherwise.
        doc: What it is.
        allowed: What it may be.
    """

    key: str
    value: Any
    differs: bool
    doc: str
    allowed: str


def _settings(run: NewRun, chosen: Chosen, defaults: Defaults, listed: Json) -> list[Setting]:
    """The settings of a run."""
    groups: Json = listed["groups"]
    theirs: Json = groups["experiment"]["options"].get(run.experiment or "", {}).get("chosen", {})
    known: dict[str, Json] = {s["key"]: s for s in listed["settings"]}
    for name, group in groups.items():
        taken = chosen.options.get(name) or theirs.get(name) or group["default"] or ""
        known |= {s["key"]: s for s in group["options"].get(taken, {}).get("settings", [])}
    differs = {change["key"] for change in defaults.changes(run.overrides, run.config) or []}
    return [
        Setting(
            key, value, key in differs, known.get(key, _UNKNOWN)["doc"], allowed(known.get(key, _UNKNOWN)["schema"])
        )
        for key, value in flat(run.config).items()
        if key not in PLACES
    ]


_UNKNOWN: Json = {"doc": "", "schema": {}}
