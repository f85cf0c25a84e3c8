"""Mean ± deviation over the runs of a sweep.

    .venv/bin/recsys run experiment=demo -m seed=0,1,2
    .venv/bin/python benchmarks/over_seeds.py runs/DATE-demo-sweep

Prints a Markdown table: test figures of every model, or, where the runs only select, how well the
planted truth was found.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from sklearn.metrics import average_precision_score

from recsys.data.sets import planted

SHOWN = ("auc", "logloss", "ne", "gauc", "ece", "fields", "table_bytes")


def cell(values: list[float]) -> str:
    """Mean ± sample deviation, with as many digits as it deserves."""
    digits = 0 if max(values) > 1000 else 1 if max(values) > 2 else 4
    return f"{np.mean(values):,.{digits}f} ± {np.std(values, ddof=1) if len(values) > 1 else 0:,.{digits}f}"


def models(folders: list[Path]) -> None:
    """A row a model."""
    runs = [json.loads((f / "evaluate" / "metrics.json").read_text()) for f in folders]
    print(f"| {len(runs)} seeds | {' | '.join(SHOWN)} |\n|---|{'---|' * len(SHOWN)}")
    for name in (n for n in runs[0] if all(n in r for r in runs)):  # baselines may have come between two runs
        cells = [cell([r[name][k] for r in runs]) if k in runs[0][name] else "" for k in SHOWN]
        print(f"| {name} | {' | '.join(cells)} |")


def selections(folders: list[Path]) -> None:
    """A row a run on the planted set."""
    head = ("run", "validation AUC", "average precision", "sparse kept", "noise kept", "missed", "search, s")
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for folder in folders:
        report = json.loads((folder / "select" / "report.json").read_text())
        fields, search = report["fields"], report["search"]
        truth = [n not in planted.NOISE for n in fields]
        precision = average_precision_score(truth, [f["score"] for f in fields.values()])
        kept = {n for n, f in fields.items() if f["verdict"] != "drop"}
        sparse, noise = (f"{sum(n in kept for n in group)}/{len(group)}" for group in (planted.SPARSE, planted.NOISE))
        missed = ", ".join(n for n in planted.INFORMATIVE if n not in kept) or "none"
        cells = (folder.name, f"{report['health']['valid_auc']:.4f}", f"{precision:.3f}", sparse, noise, missed)
        print(f"| {' | '.join(cells)} | {search['seconds']:.1f} |")


def main() -> None:
    """Read every run of a sweep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sweep", type=Path)
    folders = sorted(p.parent for p in parser.parse_args().sweep.glob("*/result.json"))
    (models if (folders[0] / "evaluate").exists() else selections)(folders)


if __name__ == "__main__":
    main()
