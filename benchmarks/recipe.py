"""Does an untuned run lose to logistic regression, on tables that the recipe was not chosen on?

    .venv/bin/pip install --no-deps --target runs/packages -r requirements/benchmarks.txt
    .venv/bin/python benchmarks/recipe.py --packages runs/packages

For each table: baselines, then `recsys run data=NAME` with nothing set but the seed. Prints Markdown.
Test figures; ours before recalibration, mean ± sample deviation over seeds.
"""

import argparse
import contextlib
import io
import json
import sys
from pathlib import Path

import numpy as np
import package_tables
import torch

from recsys.commands.cli import main as recsys
from recsys.results import read_result

HEAD = (
    "table", "rows", "fields", "ids", "label", "LR AUC", "LightGBM AUC", "ours AUC", "LR logloss", "LightGBM logloss",
    "ours logloss",
)  # fmt: skip


def last_line(code_and_text: tuple[int, str]) -> Path:
    """The path that a command printed last."""
    code, text = code_and_text
    if code:
        sys.exit(f"a command failed with exit code {code}: the line above says why")
    return Path(text.splitlines()[-1])


def said(command: object, arguments: list[str]) -> tuple[int, str]:
    """Exit code and standard output of a command of this process."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = command(arguments)  # type: ignore[operator]
    return code, out.getvalue()


def measure(name: str, folder: Path, seeds: list[int]) -> list[str]:
    """One table's row."""
    config = package_tables.write(name, folder)
    runs = f"runs={folder / 'runs'}"
    prepared = last_line(said(recsys, ["data", "baseline", str(config), runs])).parent
    ours = []
    for seed in seeds:
        arguments = ["run", "--config-dir", str(folder / "conf"), f"data={name}", f"seed={seed}", f"name={name}", runs]
        arguments += ["stages=[prepare,train,evaluate]", f"hydra.run.dir={folder}/runs/{name}-{seed}"]
        result = read_result(last_line(said(recsys, arguments)))
        metrics = json.loads((result.stages["evaluate"].folder / "metrics.json").read_text())
        ours.append(metrics["train"])
    train = json.loads((prepared / "prepared.json").read_text())["splits"]["train"]
    fields = json.loads((prepared / "schema.json").read_text())["fields"]
    cells = [name, f"{train['rows']:,}", f"{len(fields)}", f"{sum(f['cardinality'] for f in fields):,}"]
    cells.append(f"{100 * train['label_rate']:.1f} %")
    for key in ("auc", "logloss"):
        both = [metrics[m][key] for m in ("logistic regression", "LightGBM")]
        values = [m[key] for m in ours]
        deviation = np.std(values, ddof=1) if len(values) > 1 else 0.0
        cells += [*(f"{v:.4f}" for v in both), f"{np.mean(values):.4f} ± {deviation:.4f}"]
    return cells


def main() -> None:
    """Measure each table whose package is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", help="by default, those that judge")
    parser.add_argument("--packages", type=Path, default=None, help="folder that the packages were installed into")
    parser.add_argument("--out", type=Path, default=Path("runs/recipe"), help="folder of tables and runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    if given.packages:
        sys.path.append(str(given.packages))
    torch.set_num_threads(1)
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}", flush=True)
    for name in given.tables or package_tables.JUDGED:
        try:
            print(f"| {' | '.join(measure(name, given.out.resolve(), given.seeds))} |", flush=True)
        except ModuleNotFoundError as error:
            print(f"| {name}: package {error} is not installed |", flush=True)


if __name__ == "__main__":
    main()
