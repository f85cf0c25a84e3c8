"""The page that compares runs: only what differs. What is chosen, sorted, narrowed and pinned is its address."""

import json
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from starlette.datastructures import QueryParams

from recsys.errors import ConfigError
from recsys.files import Json
from recsys.service.compare import compare, is_time
from recsys.service.figures import is_higher_better, kind_of
from recsys.service.http.api import chosen
from recsys.service.http.auth import needs
from recsys.service.http.files import home_of
from recsys.service.http.settings import Settings
from recsys.service.outcomes import Figures
from recsys.service.pages.parts.axes import dimensions, is_number, kept_of
from recsys.service.pages.parts.front import scatter
from recsys.service.pages.parts.lines import Line, best_first, brief, columns, lines, short, usual
from recsys.service.pages.parts.reports import models_of, reports_of
from recsys.service.pages.parts.words import shown
from recsys.service.pages.view import View, changed, link
from recsys.service.queue.sql import SqlQueue

__all__ = ["add_comparison"]

_AXES = 12  # of the parallel coordinates, at most
_LEVEL = 0.05  # of significance


def add_comparison(routes: APIRouter, queue: SqlQueue, settings: Settings, view: View) -> None:
    """Add the route of the page."""
    figures = Figures(lambda run: home_of(run, settings))

    @routes.get("/compare", dependencies=[Depends(needs("view"))])
    def compared(request: Request) -> Response:
        query = request.query_params
        ids = [id for text in query.getlist("id") for id in text.split(",") if id]
        if not ids:
            return view(request, "compare", count=0)
        runs = chosen(queue, ids)
        try:
            answer = compare(runs, figures, query.get("baseline") or None)
        except ConfigError as error:
            return view(request, "compare", 422, count=0, error=str(error))
        frontiers = models_of([(run.id, run.new.name, figures.of(run)) for run in runs])
        return view(
            request, "compare", count=len(runs), reports=reports_of([(home_of(run, settings), run.id) for run in runs]),
            frontiers=frontiers, **_shown(answer, query),
        )  # fmt: skip


def _shown(answer: Json, query: QueryParams) -> dict[str, Any]:
    """What the template shows of a comparison."""
    several = len(answer["groups"]) < len(answer["runs"])
    grouped = several and query.get("by") != "runs"
    keys = [k for k in answer["keys"] if not (grouped and k == "seed")]
    names: list[str] = answer["figures"]
    figures = [n for n in query.getlist("f") if n in names] or usual(names)
    sort = query.get("sort") or (figures[0] if figures else "")
    every = best_first(lines(answer, grouped), sort)
    drawn, kept = dimensions(columns(every, keys, figures))[-_AXES:], kept_of(query)
    cost, gain = _pair(query, names)
    plane = scatter(cost, gain, [one.means for one in every])
    pins = query.getlist("pin")
    return {
        "lines": every, "inside": [kept.takes(i, drawn) for i in range(len(every))], "keys": keys, "figures": figures,
        "names": names, "same": answer["same"], "same_figures": answer["same_figures"], "several": several,
        "timed": any(is_time(name) for name in figures),
        "apart": len({group["data"] for group in answer["groups"]}) > 1,
        "grouped": grouped, "sort": sort, "axes": drawn, "kept": kept, "plane": plane, "pins": pins,
        "short": short, "brief": brief, "is_higher_better": is_higher_better,
        "to": lambda **change: changed("/compare", query, **change),
        "query": [(k, v) for k, v in query.multi_items() if v], "verdict": _verdict,
        "strokes": _strokes(every, figures),
        "values": [json.dumps([_plain(axis.values.get(i)) for axis in drawn]) for i in range(len(every))],
        "all_rows": link("/compare", **_without_ranges(query)),
    }  # fmt: skip


_COSTS, _GAINS = ("bytes", "table_bytes"), ("auc", "valid_auc", "logloss")


def _pair(query: QueryParams, names: Sequence[str]) -> tuple[str, str]:
    """The two figures of the front: what a model costs, and what it gains."""
    ranked = [*usual(names), *names]

    def first(wanted: Sequence[str]) -> str:
        return next((n for n in ranked if kind_of(n) in wanted), "")

    return query.get("x") or first(_COSTS), query.get("y") or first(_GAINS)


def _without_ranges(query: QueryParams) -> dict[str, list[str]]:
    kept = [k for k in dict.fromkeys(query.keys()) if not k.startswith(("min:", "max:", "only:"))]
    return {key: query.getlist(key) for key in kept}


def _plain(value: Any) -> float | str | None:
    """A value as the script of the page compares it: a number, or the text on the axis."""
    return value if value is None or is_number(value) else shown(value)


def _verdict(name: str, difference: Json) -> str:
    """What a difference is: `better` or `worse`; `quiet` if it is not significant, or neither."""
    higher = is_higher_better(name)
    if higher is None or difference.get("p", 1.0) >= _LEVEL:  # a time has no p
        return "quiet"
    return "better" if (difference["mean"] > 0) == higher else "worse"


def _strokes(every: Sequence[Line], figures: Sequence[str]) -> list[int]:
    """Of each line one of five colours, by its place among the others in the first figure."""
    mean_L = [one.mean(figures[0]) if figures else None for one in every]
    means = sorted(v for v in mean_L if v is not None)
    place = {v: 5 * i // len(means) for i, v in enumerate(means)}
    return [0 if v is None else place[v] for v in mean_L]
