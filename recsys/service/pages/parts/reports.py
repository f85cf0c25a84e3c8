"""Selection reports and models of several runs, side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from recsys.errors import DataError, RecsysError
from recsys.selection.reports.compare import compare
from recsys.selection.reports.find import read
from recsys.selection.reports.report import Report
from recsys.service.inside import open_inside
from recsys.service.pages.parts.charts import Axis, nice_axis

__all__ = ["Frontiers", "Reports", "models_of", "reports_of"]

_MOST = 12  # reports beside each other
_PLACE = "select/report.json"


@dataclass(frozen=True)
class Reports:
    """Selection reports.

    Args:
        reports: Run → its report.
        fields: All fields, by their mean rank.
        agreement: Run → how its report agrees with the first; None if they cannot be compared.
        more: How many reports are left out.
    """

    reports: dict[str, Report]
    fields: list[str]
    agreement: dict[str, tuple[float, float] | None]
    more: int


def reports_of(runs: Sequence[tuple[Path, str]]) -> Reports | None:
    """The reports of runs that have selected, each named by its folder of runs and its id; None if there is none."""
    reports: dict[str, Report] = {}
    more = 0
    for home, id in runs:
        try:
            opened = open_inside(home, id, _PLACE)
        except DataError:
            continue
        with open(opened.handle, "rb"):  # it is a file of the run, reached through no link
            if len(reports) >= _MOST or opened.is_folder:
                more += 1
                continue
            try:
                reports[id] = read(home / id / _PLACE)
            except RecsysError:
                continue
    if not reports:
        return None
    ranks: dict[str, list[int]] = {}
    for report in reports.values():
        for name, field in report.fields.items():
            ranks.setdefault(name, []).append(field.rank)
    fields = sorted(ranks, key=lambda name: (sum(ranks[name]) / len(ranks[name]), name))
    first = next(iter(reports.values()))
    agreement = {id: _agreement(first, report) for id, report in list(reports.items())[1:]}
    return Reports(reports, fields, agreement, more)


def _agreement(first: Report, other: Report) -> tuple[float, float] | None:
    """Rank-biased overlap and Jaccard of what is kept."""
    try:
        answer = compare(first, other)
    except RecsysError:
        return None
    return answer.rbo, answer.jaccard


@dataclass(frozen=True)
class Frontiers:
    """What models cost and gain, of each run a line through its models.

    Args:
        runs: Id, name (the id, if others have that name), and of each model its name, bytes and AUC on test rows, by
            bytes.
        x: Axis of bytes.
        y: Axis of AUC.
    """

    runs: list[tuple[str, str, list[tuple[str, float, float]]]]
    x: Axis
    y: Axis

    def place(self, size: float, auc: float) -> tuple[float, float]:
        """Where a model lies in a box of 100 by 100, from above left."""
        return 100 * self.x.share(size), 100 - 100 * self.y.share(auc)


def models_of(runs: Sequence[tuple[str, str, Mapping[str, float]]]) -> Frontiers | None:
    """The models of runs that have evaluated two or more; None if there is no such run.

    Args:
        runs: Id, name and figures, such as `evaluate/train.auc`.
    """
    drawn: list[tuple[str, str, list[tuple[str, float, float]]]] = []
    names = [name for _, name, _ in runs]
    for id, name, figures in runs:
        ends = [k.removesuffix(".bytes") for k in figures if k.startswith("evaluate/") and k.endswith(".bytes")]
        models = [
            (k.removeprefix("evaluate/"), figures[f"{k}.bytes"], figures[f"{k}.auc"])
            for k in ends
            if f"{k}.auc" in figures
        ]
        if len(models) > 1:
            drawn.append((id, name if names.count(name) == 1 else id, sorted(models, key=lambda m: m[1])))
    if not drawn:
        return None
    x = nice_axis([0.0, *(size for _, _, models in drawn for _, size, _ in models)])
    y = nice_axis([auc for _, _, models in drawn for _, _, auc in models])
    return Frontiers(drawn[:_MOST], x, y)
