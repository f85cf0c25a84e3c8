"""Compare feature-selection reports: do two searches agree, and where do they not?"""

import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from scipy.stats import kendalltau

from recsys.errors import ConfigError
from recsys.html import page, table
from recsys.selection.report import VERSION

__all__ = ["compare", "find", "jaccard", "jaccard_by_chance", "rbo", "show"]


def rbo(a: Sequence[str], b: Sequence[str], p: float = 0.9) -> float:
    """Rank-biased overlap of two rankings of the same names, 1 if they are equal.

    (1 − p)·Σ_d p^(d−1)·|A_d ∩ B_d| / d, divided by its value for equal rankings of this length, so
    that a short list can reach 1. With p = .9 the top ten carry .86 of the weight.

    Source: Webber, Moffat and Zobel, 2010, equation 4; the division is ours.
    """
    weights = [p**d for d in range(len(a))]
    agree = [len(set(a[: d + 1]) & set(b[: d + 1])) / (d + 1) for d in range(len(a))]
    return sum(w * x for w, x in zip(weights, agree, strict=True)) / sum(weights)


def jaccard(a: Sequence[str], b: Sequence[str], k: int) -> float:
    """|top k of A ∩ top k of B| / |top k of A ∪ top k of B|."""
    top_a, top_b = set(a[:k]), set(b[:k])
    return len(top_a & top_b) / len(top_a | top_b)


def jaccard_by_chance(k: int, total: int) -> float:
    """Mean of Jaccard@k between two random rankings: Σ_m P(m in common)·m / (2k − m)."""
    from scipy.stats import hypergeom

    shared = hypergeom(total, k, k)
    return float(sum(shared.pmf(m) * m / (2 * k - m) for m in range(k + 1)))


def find(name: str, runs: Path) -> Path:
    """The report.json of a run id, a run folder or a file.

    Raises:
        ConfigError: If there is none.
    """
    for base in (Path(name), runs / name):
        for path in (base, base / "report.json", base / "select" / "report.json"):
            if path.is_file() and path.suffix == ".json":
                return path
    raise ConfigError(f"no selection report for {name!r}: expected a run id in {runs}, a run's folder or a report.json")


def _read(path: Path) -> dict[str, Any]:
    try:
        report = json.loads(path.read_text())
    except ValueError as error:
        raise ConfigError(f"{path} is no selection report (not JSON): give the report.json of a run") from error
    if not isinstance(report, dict) or report.get("version") != VERSION:
        raise ConfigError(f"{path}: expected a selection report of version {VERSION}: make it again with this recsys")
    return report


def compare(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """Agreement of two reports over the fields that both have.

    Returns:
        warnings, added and removed fields, rbo, jaccard (with chance and k = fields that A keeps),
        kendall_tau, flips (verdicts that differ) and movers (largest changes of rank first).

    Raises:
        ConfigError: If they share no field.
    """
    shared = [n for n in a["fields"] if n in b["fields"]]
    if not shared:
        raise ConfigError("the reports share no field: compare reports of the same data")
    rank_a, rank_b = ([n for n in r["fields"] if n in set(shared)] for r in (a, b))
    at_b = {n: i for i, n in enumerate(rank_b)}
    keeps = [{n for n in shared if r["fields"][n]["verdict"] != "drop"} for r in (a, b)]
    k = max(1, len(keeps[0]))
    warnings = [
        f"{what} differs: {a['provenance'][key]!r} and {b['provenance'][key]!r}"
        for what, key in (("data", "data"), ("model", "model"))
        if a["provenance"][key] != b["provenance"][key] and key != "model"
    ]
    if a["provenance"]["model"] | {"seed": 0} != b["provenance"]["model"] | {"seed": 0}:
        warnings.append("the models differ: see provenance in the reports")
    warnings += [
        f"report {n}: the model is {r['health']['verdict']}"
        for n, r in (("A", a), ("B", b))
        if r["health"]["verdict"] != "sound"
    ]
    movers = sorted(((n, i + 1, at_b[n] + 1) for i, n in enumerate(rank_a)), key=lambda m: -abs(m[1] - m[2]))
    return {
        "warnings": warnings,
        "added": [n for n in b["fields"] if n not in a["fields"]],
        "removed": [n for n in a["fields"] if n not in b["fields"]],
        "rbo": rbo(rank_a, rank_b),
        "k": k,
        "jaccard": jaccard(rank_a, rank_b, k),
        "jaccard_by_chance": jaccard_by_chance(k, len(shared)),
        "kendall_tau": float(kendalltau(range(len(rank_a)), [at_b[n] for n in rank_a]).statistic)
        if len(shared) > 1
        else 1.0,
        "flips": [
            (n, a["fields"][n]["verdict"], b["fields"][n]["verdict"])
            for n in shared
            if (n in keeps[0]) != (n in keeps[1])
        ],
        "movers": [m for m in movers if m[1] != m[2]][:10],
        "bytes_saved": [a["savings"]["table_bytes"], b["savings"]["table_bytes"]],
    }


def show(paths: Sequence[Path], out: Path | None = None) -> None:
    """Print every pair's agreement, and write a page if asked.

    Raises:
        ConfigError: If there are fewer than two reports, or two share no field.
    """
    if len(paths) < 2:
        raise ConfigError(f"compare needs at least two reports, got {len(paths)}: name another")
    reports = [_read(p) for p in paths]
    labels = [chr(ord("A") + i) for i in range(len(reports))]
    console = Console(width=None)
    for label, path, report in zip(labels, paths, reports, strict=True):
        kept = sum(f["verdict"] != "drop" for f in report["fields"].values())
        console.print(
            f"{label}: {path} ({report['method']}, keeps {kept} of {len(report['fields'])})",
            highlight=False,
            soft_wrap=True,
        )
    found = {f"{x} with {y}": compare(a, b) for (x, a), (y, b) in combinations(zip(labels, reports, strict=True), 2)}
    summary = [
        [
            pair,
            f"{c['rbo']:.3f}",
            f"{c['jaccard']:.3f} (chance {c['jaccard_by_chance']:.3f}, k = {c['k']})",
            f"{c['kendall_tau']:.3f}",
            len(c["flips"]),
        ]
        for pair, c in found.items()
    ]
    columns = ["pair", "RBO", "Jaccard@k", "Kendall τ", "verdict flips"]
    grid = Table(*columns)
    for row in summary:
        grid.add_row(*(str(v) for v in row))
    console.print(grid)
    for pair, c in found.items():
        for warning in c["warnings"]:
            console.print(f"[yellow]warning[/] {pair}: {warning}", soft_wrap=True)
        for name, was, now in c["flips"]:
            console.print(f"{pair}: {name}: {was} → {now}")
    if out:
        out.write_text(_page(labels, reports, found, columns, summary))
        console.print(f"page: {out}")


def _page(
    labels: list[str],
    reports: list[dict[str, Any]],
    found: dict[str, Any],
    columns: list[str],
    summary: list[list[Any]],
) -> str:
    names = list(dict.fromkeys(n for r in reports for n in r["fields"]))
    head = ["field", *(f"rank {x}" for x in labels), *(f"verdict {x}" for x in labels)]
    rows = [
        [
            n,
            *(r["fields"].get(n, {}).get("rank", "") for r in reports),
            *(r["fields"].get(n, {}).get("verdict", "") for r in reports),
        ]
        for n in names
    ]
    first = next(iter(found.values()))
    lead = f"RBO {first['rbo']:.2f}, Jaccard@{first['k']} {first['jaccard']:.2f} "
    lead += f"against {first['jaccard_by_chance']:.2f} by chance."
    notes = [f"{pair}: {w}" for pair, c in found.items() for w in c["warnings"]]
    movers = [[pair, *m] for pair, c in found.items() for m in c["movers"]]
    sections = [
        ("Agreement", table(columns, summary)),
        ("Biggest movers", table(["pair", "field", "rank before", "rank after"], movers)),
        ("All fields", table(head, rows)),
    ]
    return page("Feature selection reports compared", lead, notes, sections)
