"""The page of one sweep: its runs, their history, the front, and which settings matter."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import RedirectResponse

from recsys.files import Json
from recsys.service.compare import MOST, compare
from recsys.service.figures import is_higher_better
from recsys.service.http.api import get
from recsys.service.http.auth import Caller, needs
from recsys.service.http.files import home_of
from recsys.service.http.settings import Settings
from recsys.service.outcomes import Figures
from recsys.service.pages.parts.front import scatter
from recsys.service.pages.parts.history import history, importance
from recsys.service.pages.parts.lines import best_first, brief, lines, short, usual
from recsys.service.pages.parts.rows import Row, rows_of
from recsys.service.pages.parts.stages import pages_of, read_json_of
from recsys.service.pages.view import View
from recsys.service.queue.queue import Queue
from recsys.service.queue.records import STATES, QueuedRun

__all__ = ["add_sweep"]


_SEARCHED = "train/valid_logloss"  # what `recsys sweep` looks for
_WORDS = (*STATES, "stopping", "pruned")


def add_sweep(routes: APIRouter, queue: Queue, settings: Settings, view: View) -> None:
    """Add the route of the page."""
    figures = Figures(lambda run: home_of(run, settings))

    @routes.get("/sweep/{id:run}")
    def sweep(id: str, request: Request, sender: Annotated[Caller, Depends(needs("view"))]) -> Response:
        row, load = get(queue, id), queue.load()
        children = list(reversed(queue.find(parent=id, limit=MOST)))
        if row.new.kind != "sweep" and not children:
            return RedirectResponse(Row(row, 0.0).link, 303)
        may, home = sender.may("submit"), home_of(row, settings)
        counts = _counts(children)
        rows = rows_of(children, load.now, may)
        whole = queue.get_all([child.id for child in children])
        return view(
            request, "sweep", row=Row(row, load.now, may), after=load.newest_event,
            rows=rows, typed={one.id: one.settings for one in rows}, reports=pages_of(home, id),
            counts=counts, reason=_reason(row, counts),
            **(_shown(compare(whole, figures), home, row, request) if whole else _NONE),
        )  # fmt: skip


_NONE: dict[str, Any] = {
    "chart": None,
    "plane": None,
    "important": [],
    "best": None,
    "figure": "",
    "names": [],
    "lines": [],
}


def _reason(row: QueuedRun, counts: Sequence[tuple[str, int]]) -> str:
    """Why it is in this state, unless that says no more than the counts of its runs."""
    reason = row.reason or ""
    return "" if set(reason.split(", ")) == {f"{count} {state}" for state, count in counts} else reason


def _counts(children: Sequence[QueuedRun]) -> list[tuple[str, int]]:
    counts: Mapping[str, int] = Counter(child.word for child in children)
    return sorted(counts.items(), key=lambda c: _WORDS.index(c[0]))


def _shown(answer: Json, runs: Path, row: QueuedRun, request: Request) -> dict[str, Any]:
    """What the template shows of the runs that have figures."""
    names: list[str] = answer["figures"]
    searched = _SEARCHED if "search" in row.new.config else ""
    wanted = (request.query_params.get("figure", ""), searched, *usual(names))
    figure = next((name for name in wanted if name in names), "")
    every = lines(answer, grouped=False)
    ranked = [one for one in best_first(every, figure) if one.mean(figure) is not None]
    given = (read_json_of(runs, row.id, "sweep.json") or {}).get("importance")
    settings = [{k: brief(k, v) for k, v in one.config.items() if k != "seed"} for one in every]
    cost = next((n for n in [*usual(names), *names] if n.endswith(("bytes", "seconds")) and n != figure), "")
    return {
        "chart": history([one.mean(figure) for one in every], is_higher_better(figure) is True, figure),
        "figure": figure, "names": names, "best": ranked[0] if ranked else None, "lines": every, "short": short,
        "brief": brief,
        "plane": scatter(cost, figure, [one.means for one in every]),
        "important": importance(settings, [one.mean(figure) for one in every], given),
    }  # fmt: skip
