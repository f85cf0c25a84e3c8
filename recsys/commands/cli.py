"""The command `recsys`: thin; each subcommand imports only what it needs.

`verify`, `predict` and `serve` run where only a runtime (onnxruntime or torch), numpy and xxhash
are installed (and, for serve, fastapi and uvicorn).
"""

import json
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import recsys
from recsys.commands.arguments import Parser
from recsys.commands.signals import obey_sigterm
from recsys.errors import ConfigError, RecsysError, in_one_line

__all__ = ["COMMANDS", "main"]

_RUN_HELP = """recsys run [OVERRIDE …]     submit an experiment run; Hydra overrides pass through

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


def _run(arguments: Sequence[str]) -> int:
    arguments = list(arguments)
    if any(a in ("-h", "--help") for a in arguments):
        print(_RUN_HELP)
        return 0
    short = "+selection="
    arguments = [f"select.apply={a.removeprefix(short)}" if a.startswith(short) else a for a in arguments]
    arguments = _continued(arguments)
    from pipelines import submit
    from recsys.training.memory import keep_freed_memory

    keep_freed_memory()
    return submit.main(arguments)


def _continued(arguments: list[str]) -> list[str]:
    """The overrides of the run that `resume=` or `from_run=` names, under those given now.

    A resumed run works in its own folder, and finds its finished stages there.

    Raises:
        ConfigError: If there is no run to resume.
    """
    given = dict(a.split("=", 1) for a in arguments if a.startswith(("resume=", "from_run=", "runs=")))
    kind = next((k for k in ("resume", "from_run") if given.get(k)), None)
    if kind is None:
        return arguments
    folder = Path(given.get("runs", "runs")) / given[kind]
    from recsys.results import overrides

    saved = overrides(folder)
    if kind == "from_run":
        return _over(_without(saved or [], "stages", "from_run", "runs"), arguments)
    if saved is None and folder.is_dir():
        raise ConfigError(f"resume: run {given[kind]} was stopped before it had begun: give the whole command again")
    if saved is None:
        raise ConfigError(f"resume: no run {given[kind]!r} in {folder.parent}: expected the name of a folder there")
    others = [a for a in arguments if not a.startswith("resume=")]
    return [*_over(_without(saved), others), f"hydra.run.dir={folder}"]


def _without(saved: list[str], *keys: str) -> list[str]:
    """Saved overrides but for these keys, and for what only a person may type: a run's folder may be anybody's."""
    return [o for o in saved if not o.startswith("-") and not _groups(o) & {*keys, "hydra", "trusted"}]


def _groups(override: str) -> set[str]:
    """The part of the configuration that an override sets, and the one to which `@` turns it."""
    places = override.lstrip("+~ \t").partition("=")[0].split("@")
    return {re.split(r"[./]", p.removeprefix("_global_."))[0].strip() for p in places}


def _key(override: str) -> str:
    """What an override sets: `+data.fields={…}` → `data.fields`."""
    return override.lstrip("+~").partition("=")[0].partition("@")[0]


def _over(earlier: list[str], now: list[str]) -> list[str]:
    """Earlier overrides, then those given now; a key given now drops it, and what is inside it, from the earlier.

    Raises:
        ConfigError: If an earlier one calls a resolver, which may read what is secret: the environment's variables.
    """
    given = {_key(a) for a in now}
    kept = [o for o in earlier if not any(_key(o) == g or _key(o).startswith(f"{g}.") for g in given)]
    if calls := next((o for o in kept if re.search(r"\$\\*\{.*[:$]", o, re.DOTALL)), None):
        raise ConfigError(f"the run's folder: expected no ${{…:…}}, got {calls!r}: give it again on the command line")
    return [*kept, *now]


def _bench(arguments: Sequence[str]) -> int:
    from recsys.commands.bench.command import main as bench
    from recsys.training.memory import keep_freed_memory

    keep_freed_memory()
    return bench(arguments)


def _data(arguments: Sequence[str]) -> int:
    from recsys.commands.data.command import main as data

    return data(arguments)


def _doctor(arguments: Sequence[str]) -> int:
    Parser("recsys doctor", description="Check versions, device and memory.").parse_args(arguments)
    from recsys.commands import doctor

    return doctor.main()


def _compare(arguments: Sequence[str]) -> int:
    parser = Parser("recsys compare", description="Compare two or more feature-selection reports.")
    parser.add_argument("reports", nargs="+", help="run ids, run folders, report.json files or MLflow run ids")
    parser.add_argument("--runs", default="runs", help="folder of runs")
    parser.add_argument("--out", default=None, help="write an HTML page there")
    given = parser.parse_args(arguments)
    from recsys.files import check_place
    from recsys.selection.reports import find

    out = Path(given.out) if given.out else None
    paths = [find.find(r, Path(given.runs)) for r in given.reports]
    for path in paths:  # before the seconds that it takes to import what compares them
        find.read(path)
    if out:
        check_place(out)
    from recsys.commands import compare

    compare.show(paths, out)
    return 0


def _export(arguments: Sequence[str]) -> int:
    parser = Parser("recsys export", description="Export the newest model of a run as a bundle.")
    parser.add_argument("run", help="id of the run")
    parser.add_argument("overrides", nargs="*", help="Hydra overrides, such as runs=FOLDER")
    given = parser.parse_args(arguments)
    return _run([f"from_run={given.run}", "stages=[export]", f"name={Path(given.run).name}-export", *given.overrides])


def _verify(arguments: Sequence[str]) -> int:
    parser = Parser(
        "recsys verify",
        description="Prove that a bundle is whole and answers as exported. This runs graph.pt2, which is machine code "
        "that may do anything you may do: from people you do not trust, verify with --runtime onnx.",
    )
    parser.add_argument("bundle")
    parser.add_argument("--runtime", default="all", help="all, onnx or pt2")
    given = parser.parse_args(arguments)
    from recsys.serving.runtimes import RUNTIMES
    from recsys.serving.verify import verify

    runtimes = tuple(RUNTIMES) if given.runtime == "all" else (given.runtime,)
    print(json.dumps(verify(Path(given.bundle), runtimes), indent=1))
    return 0


def _predict(arguments: Sequence[str]) -> int:
    parser = Parser("recsys predict", description="Score raw rows: one JSON line a row.")
    parser.add_argument("bundle")
    parser.add_argument("rows", nargs="?", default="-", help="JSON, JSON lines, CSV or Parquet; - is standard input")
    parser.add_argument("--out", default=None, help="file to write; standard output by default")
    parser.add_argument("--runtime", default="auto", help="auto, onnx or pt2")
    given = parser.parse_args(arguments)
    from recsys.files import whole
    from recsys.serving.bundle import Bundle
    from recsys.serving.rows import predict_file

    bundle = Bundle.load(given.bundle, given.runtime)
    if given.out is None:
        predict_file(bundle, given.rows, sys.stdout)
        return 0
    with whole(Path(given.out)) as file:
        predict_file(bundle, given.rows, file)
    return 0


def _serve(arguments: Sequence[str]) -> int:
    parser = Parser("recsys serve", description="Score raw rows over HTTP: POST /predict.")
    parser.add_argument("bundle")
    parser.add_argument(
        "--host", default="127.0.0.1", help="other than this machine's own needs RECSYS_TOKEN or --anyone"
    )
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--runtime", default="auto", help="auto, onnx or pt2")
    parser.add_argument("--anyone", action="store_true", help="serve other machines without a token")
    from dataclasses import fields

    from recsys.serving.limits import Limits

    for f in fields(Limits):
        parser.add_argument(f"--{f.name.replace('_', '-')}", type=type(f.default), default=f.default)
    given = parser.parse_args(arguments)
    from recsys.serving.server import serve

    limits = Limits(**{f.name: getattr(given, f.name) for f in fields(Limits)})
    token = os.environ.get("RECSYS_TOKEN")
    serve(given.bundle, given.host, given.port, given.runtime, limits=limits, token=token, anyone=given.anyone)
    return 0


COMMANDS = {
    "run": (_run, "submit an experiment run (Hydra overrides pass through)"),
    "bench": (_bench, "measure speed, with a reference in the same run"),
    "data": (_data, "guess a table's configuration, report on it, baselines, synthetic tables"),
    "doctor": (_doctor, "check versions, device and memory"),
    "compare": (_compare, "compare feature-selection reports"),
    "export": (_export, "export the newest model of a run"),
    "verify": (_verify, "prove that a bundle is whole and answers as exported"),
    "predict": (_predict, "score raw rows with a bundle"),
    "serve": (_serve, "score raw rows over HTTP"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Dispatch a subcommand → exit code: 0, or 2 with one line for an error that the user can mend."""
    arguments = sys.argv[1:] if arguments is None else arguments
    lines = "\n".join(f"  {name:9} {what}" for name, (_, what) in COMMANDS.items())
    usage = f"usage: recsys COMMAND …\n\n{lines}\n\nrecsys COMMAND --help tells more."
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage)
        return 0
    if arguments[0] == "--version":
        print(recsys.__version__)
        return 0
    if arguments[0] not in COMMANDS:
        print(f"error: no command {arguments[0]!r}\n{usage}", file=sys.stderr)
        return 2
    obey_sigterm()
    try:
        code = COMMANDS[arguments[0]][0](arguments[1:])
        sys.stdout.flush()
    except RecsysError as error:
        print(f"error: {in_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:  # `… | head -1` has read enough; Python would flush once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:  # a full disk, a folder that may not be written to
        print(
            f"error: {error.filename or 'a file'}: {error.strerror or error}: name another place, or mend it",
            file=sys.stderr,
        )
        return 2
    return code


if __name__ == "__main__":
    sys.exit(main())
