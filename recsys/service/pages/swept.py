"""The page of one sweep: its runs, their history, the front, and which settings matter."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import RedirectResponse

from recsys.files import Json
from recsys.service.compare import MOST, compare
from recsys.service.figures import is_higher_better, kind_of
from recsys.service.http.api import get
from recsys.service.http.auth import Caller, needs
from recsys.service.http.files import home_of
from recsys.service.http.settings import Settings
from recsys.service.outcomes import Figures
from recsys.service.pages.parts.front import scatter
from recsys.service.pages.parts.history import Share, history, importance
from recsys.service.pages.parts.lines import Line, best_first, brief, lines, short, usual
from recsys.service.pages.parts.rows import Row, rows_of
from recsys.service.pages.parts.stages import pages_of, read_json_of
from recsys.service.pages.view import View
from recsys.service.queue.queue import Queue
from recsys.service.queue.records import STATES, QueuedRun

__all__ = ["add_sweep"]


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
        whole = queue.get_all([child.id for child in _competing(row, children)])
        return view(
            request, "sweep", row=Row(row, load.now, may), after=load.newest_event,
            rows=rows, typed={one.id: _without_seed(one.settings) for one in rows}, reports=pages_of(home, id),
            counts=counts, reason=_reason(row, counts),
            **(_shown(compare(whole, figures), home, row, request) if whole else _NONE),
        )  # fmt: skip


_NONE: dict[str, Any] = {
    "chart": None,
    "plane": None,
    "important": [],
    "best": None,
    "default_won": False,
    "objective": "",
    "seeds": False,
    "pedanova": False,
    "figure": "",
    "names": [],
    "lines": [],
}


def _without_seed(typed: str) -> str:
    return " ".join(word for word in typed.split(" ") if not word.startswith("seed="))


def _reason(row: QueuedRun, counts: Sequence[tuple[str, int]]) -> str:
    """Why it is in this state, unless that says no more than the counts of its runs."""
    reason = row.reason or ""
    return "" if set(reason.split(", ")) == {f"{count} {state}" for state, count in counts} else reason


def _counts(children: Sequence[QueuedRun]) -> list[tuple[str, int]]:
    counts: Mapping[str, int] = Counter(child.word for child in children)
    return sorted(counts.items(), key=lambda c: _WORDS.index(c[0]))


def _shown(answer: Json, runs: Path, row: QueuedRun, request: Request) -> dict[str, Any]:
    """What the template shows of the runs that have figures: seeds in one line, and trials of `recsys sweep` each."""
    names: list[str] = answer["figures"]
    objective = _objective(names)
    wanted = (request.query_params.get("figure", ""), objective, *usual(names))
    figure = next((name for name in wanted if name in names), "")
    said = read_json_of(runs, row.id, "sweep.json") if _is_search(row) else None
    every, each = lines(answer, grouped=not _is_search(row)), lines(answer, grouped=False)
    settings = [{k: brief(k, v) for k, v in one.config.items() if k != "seed"} for one in each]
    cost = next((n for n in [*usual(names), *names] if n.endswith("bytes") and n != figure), "")
    pedanova = _pedanova(said) if figure == objective else []
    return {
        "chart": history([one.mean(figure) for one in every], is_higher_better(figure) is True, figure),
        "figure": figure, "names": names, "lines": every, "short": short, "brief": brief,
        "objective": objective, "best": _best(every, objective, said), "default_won": said and said.get("best") is None,
        "seeds": len(every) < len(each), "plane": scatter(cost, figure, [one.means for one in every]),
        "pedanova": bool(pedanova), "important": pedanova or importance(settings, [one.mean(figure) for one in each]),
    }  # fmt: skip


def _is_search(row: QueuedRun) -> bool:
    """Whether it is one of `recsys sweep`, whose trials are called by their numbers."""
    return "search" in row.new.config


def _competing(row: QueuedRun, children: Sequence[QueuedRun]) -> list[QueuedRun]:
    """Runs that compete: of a search its trials, without the default and the finals that judge them."""
    return [c for c in children if not _is_search(row) or c.id.rpartition("/")[2].isdecimal()]


def _objective(names: Sequence[str]) -> str:
    """The figure that chooses: one of validation, for test rows that choose are no test any more; "" without one."""
    kinds = [[n for n in names if kind_of(n) == kind] for kind in ("valid_logloss", "valid_auc")]
    return next((min(one, key=lambda n: (not n.startswith("train/"), len(n))) for one in kinds if one), "")


def _best(every: Sequence[Line], objective: str, said: Json | None) -> Line | None:
    """The best line: as the search itself says once it has ended; before, the one that is best by the objective."""
    if said is not None:
        return next((one for one in every if one.id.rpartition("/")[2] == str(said.get("best"))), None)
    return next((one for one in best_first(every, objective) if one.mean(objective) is not None), None)


def _pedanova(said: Json | None) -> list[Share]:
    """What the search itself says of importance, for its objective."""
    given, trials = (said or {}).get("importance"), (said or {}).get("trials")
    count = len(trials) if isinstance(trials, list) else 0
    pairs = given.items() if isinstance(given, Mapping) else ()
    shares = [Share(str(k), float(v), count) for k, v in pairs if isinstance(v, int | float)]
    return sorted(shares, key=lambda s: -s.share)
