"""A search's scores and the verdicts on them → the selection report."""

from collections.abc import Sequence
from dataclasses import dataclass

from recsys.frame.ctr import CTR
from recsys.selection.figures import ProbeFindings, ShuffledCost
from recsys.selection.reports.report import FieldReport, Health, Provenance, Repeats, Report, Savings
from recsys.selection.scores import FieldScores, Verdict, intervals
from recsys.training.remembered import table_bytes

__all__ = ["Measured", "make_report"]


@dataclass(frozen=True)
class Measured:
    """Content of a report besides scores and verdicts; see `recsys.selection.reports.report.Report`."""

    health: Health
    probes: ProbeFindings | None
    savings: Savings
    shuffled: ShuffledCost | None
    clusters: Repeats


def make_report(
    model: CTR, scores: FieldScores, verdicts: Sequence[Verdict], measured: Measured, provenance: Provenance
) -> Report:
    """The report of a search.

    Args:
        model: The model whose fields were scored.
        scores: Scores of the fields.
        verdicts: Verdicts on the fields, in order of importance.
        measured: Everything else.
        provenance: Data, model and settings of the search.
    """
    return Report(
        method=scores.notes.method,
        provenance=provenance,
        search=scores.notes,
        fields=_fields(model, scores, verdicts, measured.clusters),
        **vars(measured),
    )


def _fields(model: CTR, scores: FieldScores, verdicts: Sequence[Verdict], clusters: Repeats) -> dict[str, FieldReport]:
    sizes = _table_sizes(model)
    width = dict(zip(model.schema.names, model.widths, strict=True))
    interval_of = intervals(scores)
    first_of_cluster = {n: group.fields[0] for group in clusters.found for n in group.fields}
    kept = {v.field for v in verdicts if v.verdict != "drop"}
    fields: dict[str, FieldReport] = {}
    for rank, v in enumerate(verdicts, 1):
        name, first = v.field, first_of_cluster.get(v.field)
        repeats = name in kept and first in kept and first != name
        tables_bytes, rows, remembered = sizes[name]
        fields[name] = FieldReport(
            rank=rank,
            score=scores.score[name],
            interval=list(interval_of[name]) if name in interval_of else None,
            verdict=v.verdict,
            reason=f"{v.reason}; repeats {first}" if repeats else v.reason,
            kind=model.schema[name].kind,
            cardinality=model.schema[name].cardinality,
            width=width[name],
            rows=rows,
            table_bytes=tables_bytes,
            optimizer_bytes=remembered,
            cluster=first,
            figures=scores.details[name],
        )
    return fields


def _table_sizes(model: CTR) -> dict[str, tuple[int, int, int]]:
    """Field → bytes, rows and optimiser bytes of the tables that only this field reads.

    A shared table belongs to no field.
    """
    plain, remembered = model.embedding.scoring(), table_bytes(model)
    readers: dict[str, set[str]] = {}
    for lookup in plain.lookups:
        readers.setdefault(lookup.table, set()).add(lookup.field)
    alone = {n: [t for t, fields in readers.items() if fields == {n}] for n in model.schema.names}
    return {
        n: (
            sum(plain.tables[t].nbytes for t in tables),
            sum(plain.tables[t].rows for t in tables),
            sum(remembered.get(t, 0) for t in tables),
        )
        for n, tables in alone.items()
    }
